"""Clips on disk: ROOT/{train,test}/<clip>/{input,GT}/<frame>.png, the layout of the paper's own release."""

import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image


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


def find_clips(root, part=None):
    """The clips of ROOT/part: {name: (input paths, GT paths)}, both sorted and of one length.

    part: "train", "test" or another folder; if None, ROOT/test where there is one, and else ROOT itself.
    """
    if part is None:
        part = "test" if Path(root, "test").is_dir() else "."
    folder = Path(root, part)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; it should hold <clip>/input and <clip>/GT")
    clips = {}
    for clip in sorted(path for path in folder.iterdir() if path.is_dir()):
        blurry, sharp = (_files(clip / name) for name in ("input", "GT"))
        alone = sorted({path.stem for path in blurry} ^ {path.stem for path in sharp})
        if not blurry or alone or len(blurry) != len(sharp):
            raise ValueError(
                f"{clip}: input has {len(blurry)} frames, GT {len(sharp)}; every frame needs both"
                + (f", these lack one: {', '.join(alone[:5])}{', ...' if alone[5:] else ''}" if alone else "")
            )
        clips[clip.name] = blurry, sharp
    if not clips:
        raise ValueError(f"{folder}: holds no clips; it should hold <clip>/input and <clip>/GT")
    return clips


def _files(folder):
    """The files with an ending, sorted, less the hidden ones."""
    return sorted((path for path in folder.glob("*.*") if not path.name.startswith(".")), key=in_order)


def in_order(file):
    """For sorting: names by the numbers in them, frame9 before frame10."""
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], file.name


def read_clip(paths):
    """The (T, 3, H, W) float tensors in [0, 1] of a clip's input and GT."""
    return tuple(torch.stack([read_image(path) for path in side]).float() / 255 for side in paths)


def augment(blurry, sharp, crop, generator):
    """One draw for a whole clip: a crop (of three the one with the most blur), flips, and the reversal of time."""

    def below(n):
        return int(torch.randint(n, (), generator=generator))

    height, width = blurry.shape[-2:]
    if crop % 4 or crop > min(height, width):
        raise ValueError(f"crop must be a multiple of 4, at most the frames' {width}x{height}, got {crop}")
    corners = [(below(height - crop + 1), below(width - crop + 1)) for _ in range(3)]
    axes = [axis for axis in (0, 2, 3) if below(2)]  # time, vertical, horizontal

    def crops(top, left):
        return [clip[..., top : top + crop, left : left + crop].flip(axes) for clip in (blurry, sharp)]

    return max(
        (crops(*corner) for corner in corners), key=lambda pair: float((pair[0] - pair[1]).abs().mean())
    )
