"""Image files: find them, open them, write them; and clips of them, <clip>/{input,GT}/<frame>.png, as the
authors' own release has them."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from stfan.files import visible_files

if TYPE_CHECKING:  # it takes seconds to import, and who lists files does not need it
    import torch

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def image_files(folder: Path) -> list[Path]:
    """List the image files of a folder, in no particular order; hidden ones are left out."""
    return [path for path in visible_files(folder) if path.suffix.lower() in SUFFIXES]


def natural_sort_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort by the numbers in the names: frame9 before frame10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file with Pillow, and close it when the block ends.

    Raises:
        OSError: the file cannot be read. Whatever Pillow raises within the block becomes one that names the file.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        raise OSError(f"{path}: cannot be read: {str(error) or 'out of memory'}") from error


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its Exif orientation asks for, as cameras mean it and viewers show it."""
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _orientation(image: Image.Image) -> int:
    # a PNG would be read whole to look for Exif behind its pixels
    known = image.format != "PNG" or "exif" in image.info
    return image.getexif().get(ExifTags.Base.Orientation, 1) if known else 1


def check_depth(image: Image.Image) -> None:
    """Raise ValueError if an image, just opened, has more than 8 bits per channel."""
    if image.mode.startswith(("I", "F")) or ";16" in str(getattr(image, "tile", "")):
        raise ValueError(f"more than 8 bits per channel ({image.mode})")


def open_rgb(
    path: str | Path, box: tuple[int, int, int, int] | None = None, size: tuple[int, int] | None = None
) -> "torch.Tensor":
    """Read an image file, or a box of it, as a (3, H, W) uint8 RGB tensor, upright.

    Args:
        path: the file.
        box: (left, top, right, bottom) of the part to read; all of it if None.
        size: the (width, height) that the file must have, if given.

    Raises:
        OSError: it cannot be read, has more than 8 bits per channel, or is of another size.
    """
    with open_image(path) as image:
        check_depth(image)
        image = upright(image)
        if size is not None and image.size != size:
            raise ValueError("is {}x{}, not {}x{}".format(*image.size, *size))
        return to_tensor((image if box is None else image.crop(box)).convert("RGB"))


def open_rgba(path: str | Path) -> "torch.Tensor":
    """Read a cut-out as a (4, H, W) uint8 RGBA tensor, without its transparent margins.

    Raises:
        OSError: it cannot be read.
    """
    with open_image(path) as image:
        rgba = upright(image).convert("RGBA")
        return to_tensor(rgba.crop(rgba.getchannel("A").getbbox()))


def image_size(path: str | Path) -> tuple[int, int]:
    """Read (width, height) in pixels, of the upright image, from an image file's header.

    Raises:
        OSError: it cannot be read.
    """
    with open_image(path) as image:
        # Some versions of Pillow turn a TIFF's size already when they open it.
        size = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            size = int(image.tag_v2[ExifTags.Base.ImageWidth]), int(image.tag_v2[ExifTags.Base.ImageLength])
        return size[::-1] if _orientation(image) >= 5 else size


def to_tensor(image: Image.Image) -> "torch.Tensor":
    """Convert a Pillow image with several channels to a (C, H, W) uint8 tensor."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_pillow(image: "torch.Tensor") -> Image.Image:
    """Convert a (3, H, W) uint8 tensor to a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def to_8bit(frames: "torch.Tensor") -> "torch.Tensor":
    """Clamp float frames to [0, 1] and round them to uint8, as they would be stored."""
    import torch

    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def write_image(path: str | Path, image: "torch.Tensor") -> None:
    """Write a (3, H, W) uint8 RGB tensor as an image file."""
    to_pillow(image).save(path)


def write_clip(folder: Path, blurry: Iterable["torch.Tensor"], sharp: Iterable["torch.Tensor"]) -> None:
    """Write two (T, 3, H, W) uint8 tensors as folder/input and folder/GT."""
    for name, frames in (("input", blurry), ("GT", sharp)):
        (folder / name).mkdir(parents=True)
        for t, frame in enumerate(frames):
            write_image(folder / name / f"{t:05d}.png", frame)
