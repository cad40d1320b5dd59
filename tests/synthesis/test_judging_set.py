"""Clips to judge weights on: buckets of drift, each with and without noise."""

import json

import pytest
import torch

from stfan.data.paired_videos import find_videos
from stfan.evaluation.buckets import NAME
from stfan.images import open_rgb
from stfan.synthesis.export import BUCKETS, synthesize_judging_set


@pytest.fixture(scope="module")
def judging_set(pictures, cutouts, tmp_path_factory):
    root = tmp_path_factory.mktemp("judging") / "set"
    synthesize_judging_set(pictures, root, cutouts, clips=2, frames=2, size=48)
    return root


def read(paths):
    return torch.stack([open_rgb(path) for path in paths]).float()


def test_noisy_clips_are_the_clean_ones_with_noise(judging_set):
    clips = find_videos(judging_set, "test").clips
    assert len(clips) == 2 * 2 * len(BUCKETS) and all(NAME.fullmatch(name) for name in clips)
    for name, (blurry, sharp) in clips.items():
        if "clean" in name:
            noisy, truth = clips[name.replace("clean", "noisy")]
            assert torch.equal(read(truth), read(sharp))
            # shot noise of at most 1e-2 in linear light is some ten levels; on average there is none
            difference = read(noisy) - read(blurry)
            assert 0.2 < difference.abs().mean() < 10 and difference.mean().abs() < 1


def test_a_still_camera_blurs_what_moves_alone(judging_set):
    clips = find_videos(judging_set, "test").clips

    def changed(drift):
        sides = [clips[f"drift-{drift}-clean-{i:02d}"] for i in range(2)]
        return sum((read(blurry) - read(sharp)).abs().amax(1).gt(4).float().mean() for blurry, sharp in sides)

    assert changed(0) < changed(8)


def test_the_card_names_bucket_and_pictures(judging_set):
    card = json.loads((judging_set / "clips.json").read_text())
    assert set(card["settings"]) == {"0", "2", "4", "8"}
    facts = card["clips"]["test/drift-4-noisy-01"]
    assert facts["speed"] == 4 and facts["gain"] == 0.5 and facts["compression"] is None and facts["pictures"]


def test_a_folder_that_exists_is_refused(judging_set, pictures, cutouts):
    with pytest.raises(FileExistsError, match="exists already"):
        synthesize_judging_set(pictures, judging_set, cutouts)
