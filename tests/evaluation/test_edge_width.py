"""The width of edges, in pixels."""

import pytest
import torch
from torch.nn import functional as F

from stfan.evaluation.edge_width import LITTLE_BLUR, edge_width, has_little_blur
from support import oracle


def ramp(width, size=(40, 60)):
    """A frame of grey ramps over so many pixels, between black and white flats of 20 pixels."""
    step = torch.zeros(size[1])
    step[size[1] // 2 :] = 1
    kernel = torch.ones(1, 1, width) / width
    line = F.conv1d(F.pad(step[None, None], (width // 2, (width - 1) // 2), mode="replicate"), kernel)[0, 0]
    return line.expand(3, *size).clone()


def rounding(width, step):
    """What a width strays by, as a part of it: a step is a sum over a ramp, three colours, two lines, and two more."""
    return oracle.spread(torch.float32, width + 3 + 2 + 2, 1 / step)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("turned", [False, True])
def test_a_ramp_has_its_width(width, turned):
    """Exact but for roundings, of values up to 1 and of which the steepest step is a small part."""
    frame = ramp(width)
    frame = frame.transpose(1, 2) if turned else frame
    for contrast in (1, 0.2):
        measured = edge_width(0.3 + contrast * (frame - 0.5) * 0.6)
        assert measured == pytest.approx(width, rel=rounding(width, contrast * 0.6 / width))


def test_the_blurred_direction_counts():
    rows, columns = ramp(1, (60, 60)), ramp(4, (60, 60)).transpose(1, 2)
    assert edge_width((rows + columns) / 2) == pytest.approx(4, rel=rounding(4, 0.5 / 4))


def test_motion_makes_edges_wider():
    sharp = F.interpolate(torch.rand(1, 3, 12, 16), (96, 128))[0]
    widths = [edge_width(F.avg_pool2d(sharp, (1, n), 1)) for n in (1, 3, 5, 7)]
    assert widths == sorted(widths) and widths[0] < LITTLE_BLUR < widths[2]
    noisy = [edge_width(F.avg_pool2d(sharp, (1, n), 1) + 0.01 * torch.randn(3, 96, 129 - n)) for n in (1, 7)]
    assert noisy[0] < LITTLE_BLUR < noisy[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (9, 9), (16, 16)])
def test_where_there_is_no_edge(size):
    assert edge_width(torch.full((3, *size), 0.4)) is None
    assert not has_little_blur([])


def test_the_median_decides():
    assert has_little_blur([1, 2, 9]) and not has_little_blur([2, LITTLE_BLUR, 9])
