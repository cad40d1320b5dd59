"""Folders of images as videos: one image file for each frame, written under the same name."""

import hashlib
import io
import logging
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from stfan.files import check_parent, first_names, visible_files, wait_for_disk
from stfan.images import (
    SUFFIXES,
    check_depth,
    image_files,
    natural_sort_key,
    open_image,
    to_8bit,
    to_pillow,
    to_tensor,
    upright,
)
from stfan.video.colour import CodedFrame, SampleCoding

log = logging.getLogger("stfan")
VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".vob", ".wmv", ".flv", ".3gp", ".ogv", ".mxf"),
)
METADATA = ("dpi", "exif", "icc_profile")  # what is copied from image to image
GBR = SampleCoding(bits=8, matrix=None, show=lambda rgb: rgb)
QUALITY = {"quality": 95, "subsampling": 0}  # of JPEG and WebP; the other formats lose nothing


class ImageFolderReader:
    """Reads the images of a folder, in the order of the numbers in their names.

    Args:
        path: the folder; other files in it are ignored, with a warning that names them.
        start, end: numbers of images, from 0; those from `start` on and before `end` are read.
        max_frames: the most images to read.

    Attributes:
        damaged: 0; a file with an error is refused.

    Raises:
        ValueError: the folder holds no images, or as many videos as images or more.
    """

    damaged = 0

    def __init__(
        self, path: str | Path, start: int = 0, end: int | None = None, max_frames: int | None = None
    ):
        self.path = Path(path)
        found = sorted(image_files(self.path), key=natural_sort_key)
        others = sorted(set(visible_files(self.path)).difference(found), key=natural_sort_key)
        videos = [file for file in others if file.suffix.lower() in VIDEOS and file.is_file()]
        if videos and len(videos) >= len(found):
            raise ValueError(
                f"{path}: a folder must hold the images of one video, got {len(videos)} video files "
                f"({first_names(file.name for file in videos)}) and {len(found)} images; give one of the videos"
            )
        if not found:
            if any(path.suffix in (".safetensors", ".pth") for path in visible_files(self.path)):
                raise ValueError(
                    f"{path}: holds weights; give a file of them as the weights, and a video as the input"
                )
            raise ValueError(f"{path}: holds no images ({', '.join(SUFFIXES)})")
        if others:
            names = first_names(file.name + "/" * file.is_dir() for file in others)
            log.warning("%s: %d left out, no images: %s", path, len(others), names)
        self.files = found[start:end][:max_frames]
        if not self.files:
            raise ValueError(f"{path}: holds {len(found)} images, but none from start to end")
        self.expected_frames = len(self.files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this input from another; a run resumes only with the same."""
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        return {"input": f"{len(states)} images, {hashlib.sha256(repr(states).encode()).hexdigest()[:16]}"}

    def frames(self, skip: int = 0) -> Iterator[tuple[tuple[str, Image.Image], torch.Tensor]]:
        """Yield ((name, image), tensor (3, H, W) in [0, 1]) of all images but the first `skip`.

        Raises:
            ValueError: see :meth:`coded_frames`.
        """
        for tag, coded in self.coded_frames(skip):
            yield tag, coded.coding.to_rgb(coded.samples)

    def coded_frames(
        self, skip: int = 0
    ) -> Generator[tuple[tuple[str, Image.Image], CodedFrame], None, None]:
        """Yield ((name, image), its integers) of all images but the first `skip`.

        Raises:
            ValueError: an image cannot be read, or is of another size than the first.
        """
        first = _read_upright(self.files[0]).size
        for file in self.files[skip:]:
            image = _read_upright(file)
            if image.size != first:
                size, first_size = ("x".join(map(str, both)) for both in (image.size, first))
                raise ValueError(f"{file}: is {size}, but {self.files[0].name} is {first_size}")
            yield (file.name, image), CodedFrame(to_tensor(image.convert("RGB"))[[1, 2, 0]], GBR)


class ImageFolderWriter:
    """Writes a folder of images, each in the format of the one that it is made from.

    Attributes:
        settings: what the result depends on, beside the input.

    Raises:
        ValueError: `path` has the ending of a video or of an image, and is no folder.
        OSError: `path` is a file, or its folder does not exist.
    """

    settings: Mapping[str, Any] = {}

    def __init__(self, path: Path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path}: is a file; images go into a folder")
        if path.suffix.lower() in (*VIDEOS, *SUFFIXES) and not path.exists():
            raise ValueError(
                f"{path}: the output must be the name of a folder if the input is one, got that of a {path.suffix} file"
            )
        check_parent(path)

    def begin(self, folder: Path, saved: Mapping[str, torch.Tensor] | None) -> None:
        """Begin in a folder, or go on there from `saved`, which :meth:`checkpoint` returned."""
        self._folder = folder / "images"
        self._folder.mkdir(exist_ok=True)
        self._unsaved: list[Path] = []

    def quantise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Round a frame (3, H, W) in [0, 1] to the uint8 that is written, on its device."""
        return to_8bit(pixels)

    def write(self, like: tuple[str, Image.Image], samples: torch.Tensor) -> None:
        """Add a frame that :meth:`quantise` returned, under the name and in the manner of an image."""
        name, image = like
        new = to_pillow(samples)
        if image.mode in ("1", "L", "LA"):
            new = new.convert("L")
        if image.has_transparency_data:
            alpha = np.array(image.convert("RGBA").getchannel("A"))
            alpha = np.tile(alpha, new.width // image.width)  # twice if before and after are side by side
            new.putalpha(Image.fromarray(alpha))
        info = {key: image.info[key] for key in METADATA if image.info.get(key) and image.mode != "CMYK"}
        data = io.BytesIO()  # Pillow would hide the reason why a disk cannot be written
        new.save(data, Image.registered_extensions()[Path(name).suffix.lower()], **info, **QUALITY)
        (self._folder / name).write_bytes(data.getbuffer())
        self._unsaved.append(self._folder / name)

    def checkpoint(self, segment_ends: bool) -> dict[str, torch.Tensor]:
        """Return what :meth:`begin` goes on from; all that was written is on the disk."""
        while self._unsaved:
            wait_for_disk(self._unsaved.pop())
        return {}

    def finish(self, incomplete: bool) -> Path:
        """Return the folder with all that was written."""
        return self._folder

    def abandon(self) -> None:
        """Leave everything as it is."""


def _read_upright(file: Path) -> Image.Image:
    """Read an image as viewers show it, turned by its Exif orientation."""
    try:
        with open_image(file) as image:
            count = getattr(image, "n_frames", 1)
            if count > 1 and image.format != "MPO":  # in which cameras put previews behind a JPEG
                raise ValueError(f"it holds {count} images, and a frame is one")
            check_depth(image)
            return upright(image).copy()
    except OSError as error:
        raise ValueError(str(error)) from error  # an OSError would be taken for one of the output's disk
