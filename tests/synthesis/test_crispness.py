"""Crispness of a picture: known autocorrelations, and the scale at which a blurred picture is crisp."""

import pytest
import torch
from torch.nn import functional as F

from stfan.synthesis.clip import SynthesisConfig
from stfan.synthesis.crispness import STEP, crisp_scale, neighbour_correlation
from stfan.synthesis.dataset import synthesize


def blocks(size, edge):
    """Make a random picture of squares of so many pixels, with edges of one pixel."""
    cells = torch.randint(0, 256, (3, size // edge, size // edge)).float()
    return F.interpolate(cells[None], scale_factor=edge)[0]


def test_known_correlations():
    noise = torch.rand(3, 400, 400)
    # differences of white noise have the autocovariance -1 at one step, by 2 at none
    # 6 standard errors of 400^2 samples
    assert neighbour_correlation(noise) == pytest.approx(-0.5, abs=6 / 400)
    ramp = torch.arange(100.0).expand(3, 100, 100)
    assert neighbour_correlation(ramp + ramp.transpose(1, 2)) == pytest.approx(1)
    for one_way in (ramp, ramp.transpose(1, 2)):  # the mean of both directions
        assert neighbour_correlation(one_way) == pytest.approx(0.5)
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


def test_a_clip_of_a_soft_picture_is_crisp():
    """The truth of a still clip, of a picture that is soft at its own size."""
    soft = F.avg_pool2d(blocks(384, 8), 5, 1, 2).byte()
    settings = {"speed": (1e-6, 1e-6), "scale": (1.0, 1.0), "layers": (0, 0), "gain": (0.0, 0.0)}
    settings |= {"compressed_part": 0.0, "highlights": (1.0, 1.0), "gap_part": 0.0, "cut_part": 0.0}
    found = []
    for crisp in (1.0, 0.25):
        config = SynthesisConfig(crisp=crisp, **settings)
        _, sharp = synthesize([soft], [], 1, 64, torch.Generator().manual_seed(0), config)
        found.append(neighbour_correlation(sharp[0]))
    assert found[1] < 0.35 < 0.5 < found[0]
