"""Make up shots of a moving view."""

import torch
from torch.nn import functional as F


def shot(seed, frames, size=(72, 96), speed=(0, 0)):
    """Move a view over a still picture of soft spots, by speed pixels a frame; each seed has a light of its own."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size[0] + abs(speed[0]) * frames, size[1] + abs(speed[1]) * frames
    spots = torch.rand(1, 3, height // 12 + 2, width // 12 + 2, generator=generator)
    picture = F.interpolate(spots, (height, width), mode="bicubic")[0].clamp(0, 1)
    low, high = torch.rand(2, generator=generator).sort().values
    picture = low * 0.7 + picture * (0.3 + (high - low) * 0.7)
    tops = [t * speed[0] if speed[0] >= 0 else (t - frames) * speed[0] for t in range(frames)]
    lefts = [t * speed[1] if speed[1] >= 0 else (t - frames) * speed[1] for t in range(frames)]
    return torch.stack(
        [picture[:, y : y + size[0], x : x + size[1]] for y, x in zip(tops, lefts, strict=True)]
    )
