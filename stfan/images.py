"""Frames as image files, and clips of them: <clip>/{input,GT}/<frame>.png, as the paper's own release has them."""

import re
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def read_image(path, box=None, size=None):
    """An image file, or the box (left, top, right, bottom) of it, as a (3, H, W) uint8 RGB tensor.

    Raises:
        OSError: it can not be read, has more than 8 bits a colour, or is not of the size (width, height).
    """
    with _readable(path), Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise OSError(f"8 bits a colour are read, this has more ({image.mode})")
        if size is not None and image.size != size:
            raise OSError("is {}x{}, not {}x{}".format(*image.size, *size))
        image = image if box is None else image.crop(box)
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def read_cutout(file):
    """A picture with an alpha channel as a (4, H, W) uint8 RGBA tensor, without transparent margins."""
    try:
        with Image.open(file) as image:
            image = image.convert("RGBA")
            return torch.from_numpy(np.array(image.crop(image.getchannel("A").getbbox()))).permute(2, 0, 1)
    except (OSError, Image.DecompressionBombError) as error:
        raise OSError(f"{file}: can not be read: {error}") from error


def image_size(path):
    """(width, height) in pixels, from an image file's header.

    Raises:
        OSError: it can not be read.
    """
    with _readable(path), Image.open(path) as image:
        return image.size


@contextmanager
def _readable(path):
    """Whatever Pillow says of a file that it can not read, as an OSError with the file's name."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{path}: can not be read: {error}") from error


def write_image(path, image):
    """A (3, H, W) uint8 RGB tensor as an image file."""
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def write_clip(folder, blurry, sharp):
    """Two (T, 3, H, W) uint8 tensors as folder/input and folder/GT."""
    for name, frames in (("input", blurry), ("GT", sharp)):
        (folder / name).mkdir(parents=True)
        for t, frame in enumerate(frames):
            write_image(folder / name / f"{t:05d}.png", frame)


def to_8bit(frames):
    """Float frames in [0, 1] as they would be stored: clamped and rounded to uint8."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def in_order(file):
    """For sorting: names by the numbers in them, frame9 before frame10."""
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], file.name
