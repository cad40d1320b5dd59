"""Scene cuts are found, and not confused with motion or flashes."""

import copy

import pytest
import torch

from stfan import Deblurrer
from stfan.scene_cuts import find_cuts
from support import oracle
from support.shots import shot


def cuts_of(video):
    return [t for t in range(1, len(video)) if find_cuts(video[t - 1 : t], video[t : t + 1])[0]]


def test_cuts_are_found():
    video = torch.cat([shot(seed, 3, speed=(0, 5)) for seed in range(12)])
    assert cuts_of(video) == list(range(3, 36, 3))


@pytest.mark.parametrize("speed", [(0, 24), (18, 0), (-18, -24), (7, -20)])
def test_fast_pans_are_no_cuts(speed):
    """Pan by up to a quarter of the frame from one frame to the next."""
    for seed in range(5):
        assert cuts_of(shot(seed, 6, speed=speed)) == []


def test_flashes_and_fades_are_no_cuts():
    for seed in range(5):
        video = shot(seed, 9, speed=(0, 4))
        video[2] = (video[2] * 1.8).clamp(0, 1)
        video[4] = (video[4] + 0.4).clamp(0, 1)
        video[6] = video[6] * 0.2
        video[8] = 1.0
        assert cuts_of(video) == []
        assert cuts_of(torch.cat([video[:1], torch.zeros(2, 3, 72, 96), video[:1]])) == []


def test_moving_things_and_noise_are_no_cuts():
    for seed in range(5):
        video, thing = shot(seed, 5), shot(seed + 100, 1, (40, 30))[0]
        for t, frame in enumerate(video):
            frame[:, 10:50, 15 * t : 15 * t + 30] = thing
        video += 0.05 * torch.randn_like(video)
        assert cuts_of(video.clamp(0, 1)) == []


def test_cuts_of_real_videos(shared_video):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    for name, wanted in (("bikes.mp4", [30, 76, 137, 187, 242]), ("carphone_pristine.mp4", [])):
        with av.open(str(shared_video(name))) as container:
            frames = (
                torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
            )
            video = [frame.permute(2, 0, 1)[None] / 255 for frame in frames]
        found = [t for t in range(1, len(video)) if find_cuts(video[t - 1], video[t])[0]]
        assert found == wanted


def test_a_cut_resets(small):
    first, second = shot(0, 3), shot(1, 3)
    deblurrer, never, afresh = Deblurrer(small, reset_on_cut=True), Deblurrer(small), Deblurrer(small)
    for frame in first:
        assert torch.equal(deblurrer(frame), never(frame))
    for frame in second:
        output = deblurrer(frame)
        assert torch.equal(output, afresh(frame)) and not torch.equal(output, never(frame))


def test_of_videos_side_by_side_that_one_is_reset_which_is_cut(small):
    steady, cut = shot(0, 6), torch.cat([shot(1, 3), shot(2, 3)])
    steady, cut, model = steady.double(), cut.double(), copy.deepcopy(small).double()
    together, alone, afresh = Deblurrer(model, reset_on_cut=True), Deblurrer(model), Deblurrer(model)
    allowed = oracle.network(model, torch.float64, frames=6)
    for t in range(6):
        output = together(torch.stack([steady[t], cut[t]]))
        oracle.assert_within(output[0], alone(steady[t]), allowed)
        if t >= 3:
            oracle.assert_within(output[1], afresh(cut[t]), allowed)
