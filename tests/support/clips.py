"""Read clips as tensors."""

import torch

from stfan.images import open_rgb


def read_clip(paths):
    """Read a clip's input and GT as (T, 3, H, W) float tensors in [0, 1]."""
    return tuple(torch.stack([open_rgb(path) for path in side]).float() / 255 for side in paths)
