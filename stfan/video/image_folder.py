"""Folders of pictures in and out: the frames of a video one by one, under the same names."""

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from stfan.images import SUFFIXES, in_order, to_8bit

KEPT = ("dpi", "exif", "icc_profile")  # what pictures say of themselves
QUALITY = {"quality": 95, "subsampling": 0}  # of JPEG and WebP; the others lose nothing


class Pictures:
    """The pictures of a folder, in the order of the numbers in their names.

    Args:
        path: the folder; what else is in it is passed over.
        start, end: numbers of pictures, from 0; those from start on and before end are read.
        max_frames: at most so many.

    Raises:
        ValueError: no pictures there.
    """

    def __init__(self, path, start=0, end=None, max_frames=None):
        self.path = Path(path)
        found = (file for file in self.path.iterdir() if file.suffix.lower() in SUFFIXES)
        found = sorted((file for file in found if not file.name.startswith(".")), key=in_order)
        if not found:
            raise ValueError(f"{path}: holds no pictures ({', '.join(SUFFIXES)})")
        self.files = found[start:end][:max_frames]
        if not self.files:
            raise ValueError(f"{path}: holds {len(found)} pictures, but none from --start to --end")
        self.expected_frames = len(self.files)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def identity(self):
        """What tells this input from another, for a run that is to go on."""
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        return {"input": f"{len(states)} pictures, {hashlib.sha256(repr(states).encode()).hexdigest()[:16]}"}

    def frames(self, skip=0):
        """((name, picture), its tensor (3, H, W) in [0, 1]) of all pictures but the first `skip`.

        Raises:
            ValueError: a picture cannot be read, or is of another size than the first.
        """
        size = _read(self.files[0]).size
        for file in self.files[skip:]:
            picture = _read(file)
            if picture.size != size:
                is_, was = ("x".join(map(str, both)) for both in (picture.size, size))
                raise ValueError(f"{file}: is {is_}, but {self.files[0].name} is {was}")
            pixels = torch.from_numpy(np.array(picture.convert("RGB")))
            yield (file.name, picture), pixels.permute(2, 0, 1).float() / 255


class PictureTarget:
    """A folder of pictures in the making, each of the kind of the one it is made of."""

    job = {}  # noqa: RUF012  what the result depends on, beside the input

    def __init__(self, path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path}: is a file; pictures go into a folder")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: no such folder")

    def begin(self, folder, saved):
        """Go on in a folder from what :meth:`checkpoint` returned, or begin if that is None."""
        self._folder = folder / "pictures"
        self._folder.mkdir(exist_ok=True)

    def write(self, like, pixels):
        """Add a frame (3, H, W) in [0, 1] by the name and in the manner of a picture."""
        name, picture = like
        new = Image.fromarray(to_8bit(pixels).permute(1, 2, 0).cpu().numpy())
        if picture.mode in ("1", "L", "LA"):
            new = new.convert("L")
        if picture.has_transparency_data:
            alpha = np.array(picture.convert("RGBA").getchannel("A"))
            alpha = np.tile(
                alpha, new.width // picture.width
            )  # once more where before and after are compared
            new.putalpha(Image.fromarray(alpha))
        kept = {key: picture.info[key] for key in KEPT if picture.info.get(key) and picture.mode != "CMYK"}
        data = io.BytesIO()  # or Pillow hides the reason where the disk is full
        new.save(data, Image.registered_extensions()[Path(name).suffix.lower()], **kept, **QUALITY)
        (self._folder / name).write_bytes(data.getbuffer())

    def checkpoint(self):
        """What to go on from, as tensors; all that was written is on the disk."""
        return {}

    def finish(self, part):
        """The folder with all that was written."""
        return self._folder

    def abandon(self):
        """Leave all as it is."""


def _read(file):
    """A picture as it is shown, upright."""
    try:
        with Image.open(file) as picture:
            pages = getattr(picture, "n_frames", 1)
            if pages > 1 and picture.format != "MPO":  # in which cameras put previews behind a JPEG
                raise ValueError(f"it holds {pages} pictures, and a frame is one")
            if picture.mode.startswith(("I", "F")) or ";16" in str(picture.tile):
                raise ValueError("more than 8 bits a colour")
            return ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
