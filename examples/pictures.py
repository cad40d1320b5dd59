"""Pictures for the examples: random shapes and textures, and a strip of them as a file. Needs pillow."""

import math

import torch
from PIL import Image
from torch import Tensor


def random_picture(size: int, seed: int) -> Tensor:
    """Return a picture (3, size, size) in [0, 1]: discs and half planes, each with its own colour and grating."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=draw))

    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    picture = torch.rand(3, 1, 1, generator=draw).expand(3, size, size)
    for _ in range(14):
        colour, angle = torch.rand(3, 1, 1, generator=draw), uniform(0, math.pi)
        wave = torch.sin((x * math.cos(angle) + y * math.sin(angle)) * size / uniform(1, 4))
        if uniform(0, 1) < 0.7:
            inside = (x - uniform(0, 1)) ** 2 + (y - uniform(0, 1)) ** 2 < uniform(0.05, 0.25) ** 2
        else:
            inside = x * math.cos(angle) + y * math.sin(angle) > uniform(0.6, 1.2)
        picture = torch.where(inside, colour + uniform(0, 0.2) * wave, picture)
    return picture.clamp(0, 1)


def in_bytes(picture: Tensor) -> Image.Image:
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def save_strip(path: str, pictures: list[Tensor], scale: int = 1) -> None:
    """Save pictures (3, H, W) side by side, each pixel `scale` pixels wide."""
    strip = in_bytes(torch.cat(pictures, 2))
    strip.resize((strip.width * scale, strip.height * scale), Image.Resampling.NEAREST).save(path)


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    return -10 * math.log10(float((a - b).square().mean()))
