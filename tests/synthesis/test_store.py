"""Stored clips: what is cut from them, and which folders and sizes are refused."""

import numpy as np
import pytest
import torch

from stfan.synthesis.clip import SynthesisConfig
from stfan.synthesis.dataset import SyntheticDataset
from stfan.synthesis.store import StoredClips


@pytest.fixture
def source(pictures):
    return SyntheticDataset(
        pictures, length=3, crop=(24, 32), settings=SynthesisConfig(layers=(0, 0), h264_part=0.0)
    )


def test_a_sequence_is_a_part_of_a_clip_in_one_of_its_attitudes(source, tmp_path):
    stored = StoredClips(tmp_path / "clips", source, 4, length=2, crop=(16, 16), seed=5)
    clips = [torch.stack(source.render(i)[:2]).numpy() for i in range(4)]
    places, attitudes = set(), set()
    for draw in range(40):
        sequence = stored[draw]
        number = int(sequence["name"].partition("-")[0])
        pair = torch.stack([sequence["blurry"], sequence["sharp"]]).numpy()
        assert pair.dtype == np.uint8
        assert pair.shape == (2, 2, 3, 16, 16)
        found = [
            (first, top, left, flips)
            for flips in np.ndindex(2, 2, 2, 2)
            for first in range(2)
            for top in range(9)
            for left in range(17)
            if np.array_equal(
                attitude(pair, flips),
                clips[number][:, first : first + 2, :, top : top + 16, left : left + 16],
            )
        ]
        assert found
        if len(found) == 1:  # elsewhere the picture is too plain to tell
            places.add(found[0][:3])
            attitudes.add(found[0][3])
    assert len(places) > 10
    assert all({attitude[i] for attitude in attitudes} == {0, 1} for i in range(4))


def attitude(pair, flips):
    """Turn a pair back."""
    pair = pair.swapaxes(3, 4) if flips[3] else pair
    for axis, flip in zip((1, 3, 4), flips, strict=False):
        pair = np.flip(pair, axis) if flip else pair
    return pair


def test_the_target_of_the_mean_pose_is_stored_too(source, pictures, tmp_path):
    twin = SyntheticDataset(pictures, length=3, crop=(24, 32), settings=source.settings, target="mean")
    for made, target in ((source, "middle"), (twin, "mean")):
        stored = StoredClips(tmp_path / "clips", made, 1, length=3, crop=(24, 32), seed=5)
        clip = made.render(0)
        assert not torch.equal(clip.middle, clip.mean)
        wanted, sharp = (
            side.sort(0)[0].flatten().sort()[0] for side in (getattr(clip, target), stored[0]["sharp"])
        )
        assert torch.equal(wanted, sharp)  # in whatever attitude


def test_two_runs_that_render_the_same_clip_at_once(source, tmp_path, monkeypatch):
    one, other = (StoredClips(tmp_path / "clips", source, 4, length=2, crop=(16, 16)) for _ in range(2))
    save = np.save

    def meanwhile(file, array):
        monkeypatch.setattr(np, "save", save)
        other.load_clip(0)
        save(file, array)

    monkeypatch.setattr(np, "save", meanwhile)
    clip = one.load_clip(0)
    assert np.array_equal(clip, other.load_clip(0)) and clip.any()
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["00000.npy", "clips.json"]


def test_each_round_takes_each_clip_once_in_another_order(source, tmp_path):
    stored = StoredClips(tmp_path / "clips", source, 6, length=1, crop=(8, 8))
    rounds = [[int(stored[6 * turn + i]["name"][:5]) for i in range(6)] for turn in range(3)]
    assert all(sorted(order) == list(range(6)) for order in rounds) and len(set(map(tuple, rounds))) > 1


def test_draws_depend_on_nothing_but_their_number(source, tmp_path):
    first = StoredClips(tmp_path / "a", source, 4, length=2, crop=(16, 16), seed=1)
    later = StoredClips(tmp_path / "b", source, 4, length=2, crop=(16, 16), seed=1)
    later[7], later[2]
    for draw in (0, 3, 9):
        assert torch.equal(first[draw]["blurry"], later[draw]["blurry"])
    other = StoredClips(tmp_path / "b", source, 4, length=2, crop=(16, 16), seed=2)
    assert any(not torch.equal(first[draw]["blurry"], other[draw]["blurry"]) for draw in range(4))


def test_a_clip_is_rendered_once(source, tmp_path, monkeypatch):
    stored = StoredClips(tmp_path / "clips", source, 2, length=1, crop=(8, 8))
    stored[0], stored[1]
    monkeypatch.setattr(source, "render", None)
    for draw in range(2, 6):
        stored[draw]


def test_a_folder_of_other_clips_is_refused(pictures, source, tmp_path):
    StoredClips(tmp_path / "clips", source, 2, length=1, crop=(8, 8))
    other = SyntheticDataset(pictures, length=3, crop=(24, 32), seed=3)
    with pytest.raises(
        ValueError, match="clips: its clips are made with other seed and settings; take another"
    ):
        StoredClips(tmp_path / "clips", other, 2, length=1, crop=(8, 8))


def test_what_does_not_fit_a_clip(source, tmp_path):
    with pytest.raises(ValueError, match="length must be at most the 3 frames of the stored clips, got 4"):
        StoredClips(tmp_path / "clips", source, 2, length=4, crop=(8, 8))
    with pytest.raises(
        ValueError, match=r"crop must be at most the 24x32 of the stored clips, got \(32, 32\)"
    ):
        StoredClips(tmp_path / "clips", source, 2, length=1, crop=(32, 32))
    with pytest.raises(IndexError, match="sequences are numbered from 0, got -1"):
        StoredClips(tmp_path / "clips", source, 2, length=1, crop=(8, 8))[-1]
