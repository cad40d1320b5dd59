"""Scene cuts: does a frame begin a new shot?"""

import torch
from torch.nn import functional as F

SIDE = 32  # of the small grey pictures that are compared
SHIFT = 8  # how far the one is moved against the other: a quarter of the frame
BINS = 16
CHANGED = 0.15  # the least part of the pixels that change their bin at a cut
ALIKE = 0.6  # the least correlation within a shot
FLAT = 1 / 255  # the standard deviation of a picture with nothing in it


def find_cuts(before, after):
    """Where a new shot begins: a list of B bools, for frames (B, 3, H, W) in [0, 1] and those that follow them.

    Two things come together at a cut, seen in small grey pictures. Their histograms differ, which motion within the
    frame changes little. And they do not correlate, however the one is moved against the other: so pans by up to a
    quarter of the frame are no cuts, nor are flashes, as a correlation does not see brightness and contrast.
    To or from a picture of one grey there is no cut: there is nothing in it to hand on.
    """
    before, after = (
        F.interpolate(frame.float().mean(1, keepdim=True), (SIDE, SIDE), mode="area").double().cpu()
        for frame in (before, after)
    )
    return [
        bool(min(a.std(), b.std()) > FLAT and _difference(a, b) > CHANGED and _correlation(a, b) < ALIKE)
        for a, b in zip(before, after, strict=True)
    ]


def _difference(a, b):
    """The part of the pixels by which two histograms differ, in [0, 1]."""
    counts = [torch.histc(picture, BINS, 0, 1) for picture in (a, b)]
    return (counts[0] - counts[1]).abs().sum() / (2 * SIDE**2)


def _correlation(a, b):
    """The greatest correlation coefficient of the common part of two pictures (1, SIDE, SIDE), over all shifts."""
    powers = [torch.stack([picture, picture.square(), torch.ones_like(picture)]) for picture in (a, b)]
    (ab, _, a1), (_, _, a2), (b1, b2, n) = F.conv2d(*powers, padding=SHIFT)  # each: a sum for every shift
    covariance = ab - a1 * b1 / n
    variances = (a2 - a1.square() / n) * (b2 - b1.square() / n)
    return (covariance / variances.clamp(min=1e-12).sqrt()).max()
