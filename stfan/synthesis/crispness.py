"""Find the scale at which a picture is crisp at the pixel, so that a network can learn what crisp is."""

import torch
from torch import Tensor
from torch.nn import functional as F

from stfan.evaluation.metrics import LUMA

STEP = 0.84  # from one scale that is tried to the next


def neighbour_correlation(picture: Tensor) -> float:
    """Correlate the differences of neighbouring pixels along rows and columns, from -1 to 1.

    Where an edge takes one pixel, the next difference says nothing about it, and the correlation is about 0; in a soft
    picture an edge is spread over many pixels, and the correlation comes near 1. Noise brings it towards -0.5. Contrast
    does not matter.

    Args:
        picture: (3, H, W) uint8, or float of any scale.
    """
    luma = torch.tensor(LUMA, device=picture.device) @ picture.float().flatten(1)
    luma = luma.view(picture.shape[1:])
    correlations = []
    for axis in (0, 1):
        steps = luma.diff(dim=axis)
        before, after = (
            steps.narrow(axis, 0, steps.shape[axis] - 1),
            steps.narrow(axis, 1, steps.shape[axis] - 1),
        )
        power = (before.square().sum() * after.square().sum()).sqrt().clamp_min(1e-12)
        correlations.append(float((before * after).sum() / power))
    return sum(correlations) / 2


def crisp_scale(picture: Tensor, limit: float, least: float) -> float:
    """Find the largest scale, of 1, 0.84, 0.71, ..., at which a picture is crisp.

    Args:
        picture: (3, H, W) uint8.
        limit: the largest neighbour correlation that counts as crisp.
        least: scales below it are not tried.

    Returns:
        that scale; if there is none, the scale with the least correlation.
    """
    scale, best = 1.0, (2.0, 1.0)
    while scale >= least or scale == 1.0:
        reduced = picture.float()[None]
        if scale < 1:
            height, width = (max(2, round(side * scale)) for side in picture.shape[1:])
            reduced = F.interpolate(
                reduced, (height, width), mode="bilinear", antialias=True, align_corners=False
            )
        correlation = neighbour_correlation(reduced[0])
        if correlation <= limit:
            return scale
        best = min(best, (correlation, scale))
        scale *= STEP
    return best[1]
