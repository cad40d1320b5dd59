"""Measure the width of edges: how much blur is in a frame, without the sharp one."""

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from stfan.evaluation.metrics import LUMA

SPAN = 10  # pixels of a window along a line
PART = 0.05  # of all windows, those with the highest edges
HEIGHT = 0.05  # least height of an edge, of the range from black to white
LITTLE_BLUR = 2.3  # pixels; docs/video.md derives it


def edge_width(frame: Tensor) -> float | None:
    """Measure how many pixels the strong edges of a frame (3, H, W) in [0, 1] take; None if it has none.

    In each window of SPAN pixels along a line, the height of the edge is the largest less the smallest luma, and its
    width is the height divided by the steepest step from pixel to pixel: 1 for a step, n for a ramp over n pixels. Of
    the PART of the windows with the highest edges the median counts; of rows and columns the larger one, since motion
    blurs along one direction. Two lines at a time are averaged first, against noise.

    Source: Marziliano et al., "A no-reference perceptual blur metric", ICIP 2002, measures blur by the width of edges.
    There edges are found by a Sobel filter and end at the next extremes; the division needs no search.
    """
    luma = torch.tensor(LUMA, device=frame.device) @ frame.float().flatten(1)
    rows = luma.view(frame.shape[1:])
    widths = [width for lines in (rows, rows.T) if (width := _width_along(lines)) is not None]
    return max(widths, default=None)


def _width_along(lines: Tensor) -> float | None:
    """Return the median width of the highest edges along the lines (n, pixels), None if there are none."""
    if len(lines) < 2 or lines.shape[1] < SPAN:
        return None
    lines = ((lines[:-1] + lines[1:]) / 2)[None]
    height = F.max_pool1d(lines, SPAN, 1) + F.max_pool1d(-lines, SPAN, 1)
    steepest = F.max_pool1d(lines.diff().abs(), SPAN - 1, 1)
    highest = height.flatten().topk(max(1, int(PART * height.numel())))
    edges = highest.indices[highest.values >= HEIGHT]
    if not len(edges):
        return None
    return float((height.flatten()[edges] / steepest.flatten()[edges]).median())


def has_little_blur(widths: Sequence[float]) -> bool:
    """Say whether the frames whose :func:`edge_width` these are have little blur: their median is below LITTLE_BLUR."""
    return bool(widths) and median(widths) < LITTLE_BLUR
