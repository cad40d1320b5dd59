"""Clips as tensors."""

import torch

from stfan.images import open_rgb


def read_clip(paths):
    """The (T, 3, H, W) float tensors in [0, 1] of a clip's input and GT."""
    return tuple(torch.stack([open_rgb(path) for path in side]).float() / 255 for side in paths)
