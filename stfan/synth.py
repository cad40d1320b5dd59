"""Blurred and sharp clips from single pictures: a moving camera seen through an exposure.

A window wanders over the picture (shift, rotation and zoom). Each frame is the mean, in linear light, of the
sub-frames that fall into the exposure; its target is the sub-frame in the middle. Then sensor noise, 8 bits.
"""

import json
from pathlib import Path

import torch
from torch.nn import functional as F

from stfan.clips import read_image, write_clip

SUBFRAMES = 16  # per frame
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def to_linear(srgb):
    """sRGB values in [0, 1] as linear light (IEC 61966-2-1)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear):
    linear = linear.clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055
    )


def camera_path(steps, speed, generator):
    """(steps, 4): shift x, y in pixels, rotation in radians, relative zoom. speed is in pixels per frame.

    The velocities are Ornstein-Uhlenbeck processes that forget within a few frames: a hand that wanders.
    """
    memory = 1 - 1 / (SUBFRAMES * (1.5 + 4 * float(torch.rand((), generator=generator))))
    noise = torch.randn(steps, 4, generator=generator)
    velocity = torch.empty(steps, 4)
    velocity[0] = noise[0]
    for step in range(1, steps):
        velocity[step] = memory * velocity[step - 1] + (1 - memory**2) ** 0.5 * noise[step]
    return (velocity * speed / SUBFRAMES).cumsum(0) * torch.tensor([1, 1, 0.0015, 0.001])


def _busiest(grey, places, size):
    """Of the relative places (x, y) in an image the one with most contrast around it, in pixels."""
    height, width = grey.shape

    def contrast(place):
        left, top = (max(0, round(at * n - size / 2)) for at, n in zip(place, (width, height), strict=True))
        return float(grey[top : top + size, left : left + size].diff().abs().mean())

    x, y = max(places, key=contrast)
    return torch.tensor([x * width, y * height])


def synthesize(picture, frames, size, generator):
    """One clip from a picture (3, H, W) uint8: blurry and sharp, both (frames, 3, size, size) uint8."""

    def uniform(low, high):
        return low + (high - low) * float(torch.rand((), generator=generator))

    light = to_linear(picture.float() / 255)
    scale = max(uniform(0.3, 0.8), 1.5 * size / min(picture.shape[1:]))
    light = F.interpolate(
        light[None], scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
    )
    height, width = light.shape[2:]

    speed = 2.5 * (25 / 2.5) ** uniform(0, 1)  # pixels per frame
    exposure = 0.06 if uniform(0, 1) < 0.12 else uniform(0.4, 1.0)  # some clips are sharp already
    path = camera_path(frames * SUBFRAMES, speed, generator)
    centre = _busiest(light[0].mean(0), [(uniform(0.3, 0.7), uniform(0.3, 0.7)) for _ in range(6)], size)
    window = torch.arange(size) - (size - 1) / 2
    open_steps = max(1, round(exposure * SUBFRAMES)) // 2 * 2 + 1
    blurry, sharp = [], []
    for t in range(frames):
        start = t * SUBFRAMES + (SUBFRAMES - open_steps) // 2
        shift_x, shift_y, angle, zoom = path[max(0, start) : start + open_steps].T[..., None, None]
        x, y = window[None, None, :], window[None, :, None]
        cos, sin = zoom.exp() * angle.cos(), zoom.exp() * angle.sin()
        at_x = centre[0] + shift_x + cos * x - sin * y
        at_y = centre[1] + shift_y + sin * x + cos * y
        grid = torch.stack([at_x * 2 / (width - 1) - 1, at_y * 2 / (height - 1) - 1], -1)
        views = F.grid_sample(
            light.expand(len(grid), -1, -1, -1), grid, padding_mode="reflection", align_corners=True
        )
        seen = views.mean(0)
        seen = seen + (1e-4 * seen + 1.5e-5).sqrt() * torch.randn(seen.shape, generator=generator)
        blurry.append(to_srgb(seen))
        sharp.append(to_srgb(views[len(views) // 2]))
    return tuple((torch.stack(clip) * 255).round().to(torch.uint8) for clip in (blurry, sharp))


def synthesize_set(pictures, root, train=400, test=24, frames=10, size=192, seed=0, progress=iter):
    """Write clips to root/{train,test}. Every sixth picture, in the order of names, is for the test clips alone.

    Which clip came from which picture is written to root/clips.json, last: a set without it is unfinished.
    """
    pictures, root = Path(pictures), Path(root)
    files = sorted(path for path in pictures.iterdir() if path.suffix.lower() in PICTURES)
    if len(files) < 6:
        raise ValueError(f"{pictures}: needs at least 6 pictures ({', '.join(PICTURES)}), has {len(files)}")
    if root.exists():
        raise FileExistsError(f"{root}: exists already; choose a new folder")
    held_out = files[5::6]
    pools = {"train": [file for file in files if file not in held_out], "test": held_out}
    made = {}
    for part, index in progress([("train", i) for i in range(train)] + [("test", i) for i in range(test)]):
        file = pools[part][index % len(pools[part])]
        generator = torch.Generator().manual_seed((seed * 2 + (part == "test")) * 1_000_003 + index)
        folder = root / part / f"{index:05d}"
        write_clip(folder, *synthesize(read_image(file), frames, size, generator))
        made[f"{part}/{index:05d}"] = file.name
    card = {"frames": frames, "size": size, "seed": seed, "clips": made}
    (root / "clips.json").write_text(json.dumps(card, indent=1) + "\n")
