"""Scene cuts: find where a video changes from one shot to another."""

import torch
from torch.nn import functional as F

SIDE = 32  # pixels; frames are compared as small grey images of this width and height
SHIFT = 8  # pixels; the furthest that one image is shifted against the other: a quarter of its side
BINS = 16  # of the histograms
CHANGED = 0.15  # least part of the pixels that change their bin at a cut
ALIKE = 0.6  # least correlation of two frames of one shot
FLAT = 1 / 255  # standard deviation below which an image shows nothing


def find_cuts(before: torch.Tensor, after: torch.Tensor) -> list[bool]:
    """Say for each of B frames whether a new shot begins with it; see :func:`cut_mask`."""
    cuts: list[bool] = cut_mask(before, after).tolist()
    return cuts


def cut_mask(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Find for each of B frames whether a new shot begins with it, without waiting for the frames' device.

    A cut shows in small grey images by two things together. The histograms differ, which motion within the frame
    changes little. And the images do not correlate, however one is shifted against the other. So a pan by up to a
    quarter of the frame is no cut, and a flash is none either, since correlation ignores brightness and contrast.
    To or from an image of one grey there is no cut: it holds nothing that could be carried over.

    Args:
        before: frames (B, 3, H, W) in [0, 1].
        after: the frames that follow them.

    Returns:
        bool, (B,), on the device of the frames.
    """
    before, after = (
        F.interpolate(frame.float().mean(1, keepdim=True), (SIDE, SIDE), mode="area").double()
        for frame in (before, after)
    )
    cuts = [
        (torch.minimum(a.std(), b.std()) > FLAT)
        & (_difference(a, b) > CHANGED)
        & (_correlation(a, b) < ALIKE)
        for a, b in zip(before, after, strict=True)
    ]
    return torch.stack(cuts)


def _difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compare two histograms: the part of the pixels by which they differ, in [0, 1]."""
    first, second = (torch.histc(image, BINS, 0, 1) for image in (a, b))
    return (first - second).abs().sum() / (2 * SIDE**2)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Find the greatest correlation coefficient of two images (1, SIDE, SIDE) where they overlap, over all shifts."""
    first, second = (torch.stack([image, image.square(), torch.ones_like(image)]) for image in (a, b))
    # each: a sum for every shift
    (ab, _, a1), (_, _, a2), (b1, b2, n) = F.conv2d(first, second, padding=SHIFT)
    covariance = ab - a1 * b1 / n
    variances = (a2 - a1.square() / n) * (b2 - b1.square() / n)
    return (covariance / variances.clamp(min=1e-12).sqrt()).max()
