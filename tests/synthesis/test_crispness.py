"""Crispness of a picture: known autocorrelations, and the scale at which a blurred picture is crisp."""

import pytest
import torch
from torch.nn import functional as F

from stfan.synthesis.crispness import STEP, crisp_scale, neighbour_correlation


def blocks(size, edge):
    """Make a random picture of squares of so many pixels, with edges of one pixel."""
    cells = torch.randint(0, 256, (3, size // edge, size // edge)).float()
    return F.interpolate(cells[None], scale_factor=edge)[0]


def test_known_correlations():
    noise = torch.rand(3, 400, 400)
    # differences of white noise have the autocovariance -1 at one step, by 2 at none
    assert neighbour_correlation(noise) == pytest.approx(
        -0.5, abs=6 / 400
    )  # 6 standard errors of 400^2 samples
    ramp = torch.arange(100.0).expand(3, 100, 100)
    assert neighbour_correlation(ramp + ramp.transpose(1, 2)) == pytest.approx(1)
    assert neighbour_correlation(blocks(96, 8)) == pytest.approx(0)
    assert neighbour_correlation(100 * ramp + 7) == pytest.approx(neighbour_correlation(ramp))


def test_a_blurred_picture_is_reduced_until_it_is_crisp():
    sharp = blocks(384, 8)
    soft = F.avg_pool2d(sharp, 5, 1, 2)
    scale = crisp_scale(soft.byte(), 0.25, 0.1)
    assert crisp_scale(sharp.byte(), 0.25, 0.1) == 1 and scale < 0.6
    correlation, before = (
        neighbour_correlation(
            F.interpolate(soft[None], size=round(384 * at), mode="bilinear", antialias=True)[0]
        )
        for at in (scale, scale / STEP)
    )
    assert correlation <= 0.25 < before


def test_where_nothing_is_crisp_the_least_bad_scale_within_bounds():
    ramp = torch.arange(256).expand(3, 256, 256).byte()
    assert crisp_scale(ramp, 0.25, 0.5) >= 0.5
