"""Clips on disk: ROOT/{train,test}/<clip>/{input,GT}/<frame>.png, the layout of the paper's own release."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image


def read_image(path):
    """An image file as a (3, H, W) uint8 RGB tensor."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def write_image(path, image):
    """A (3, H, W) uint8 RGB tensor as an image file."""
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def write_clip(folder, blurry, sharp):
    """Two (T, 3, H, W) uint8 tensors as folder/input and folder/GT."""
    for name, frames in (("input", blurry), ("GT", sharp)):
        (folder / name).mkdir(parents=True)
        for t, frame in enumerate(frames):
            write_image(folder / name / f"{t:05d}.png", frame)


def find_clips(root, part):
    """The clips of ROOT/part: {name: (input paths, GT paths)}, both sorted and of one length."""
    folder = Path(root, part)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; it should hold <clip>/input and <clip>/GT")
    clips = {}
    for clip in sorted(path for path in folder.iterdir() if path.is_dir()):
        blurry, sharp = (sorted(path for path in (clip / name).glob("*.*")) for name in ("input", "GT"))
        if not blurry or [path.stem for path in blurry] != [path.stem for path in sharp]:
            raise ValueError(
                f"{clip}: input has {len(blurry)} frames, GT {len(sharp)}; every frame needs both"
            )
        clips[clip.name] = blurry, sharp
    if not clips:
        raise ValueError(f"{folder}: holds no clips")
    return clips


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
