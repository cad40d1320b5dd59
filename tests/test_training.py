"""From pictures to weights: synthesis, clips, the trainer, the scores; and the bundled weights' card."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SHARED
from stfan import weights
from stfan.clips import augment, find_clips, read_clip, write_clip
from stfan.metrics import psnr, to_8bit
from stfan.model import STFAN
from stfan.stream import Deblurrer
from stfan.synth import synthesize, synthesize_set
from stfan.train import evaluate, initialise, train


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures of discs and stripes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :160]
    for i in range(12):
        image = np.full((120, 160, 3), rng.integers(40, 200, 3), np.float64)
        for _ in range(25):
            disc = (x - rng.integers(160)) ** 2 + (y - rng.integers(120)) ** 2 < rng.integers(4, 20) ** 2
            image[disc] = rng.integers(0, 255, 3)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def clips(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("clips") / "set"
    synthesize_set(pictures, root, train=10, test=4, frames=4, size=48)
    return root


def test_clips_come_back_from_disk(tmp_path):
    blurry, sharp = torch.randint(0, 256, (2, 3, 3, 8, 12), dtype=torch.uint8)
    write_clip(tmp_path / "train" / "a", blurry, sharp)
    back = read_clip(find_clips(tmp_path, "train")["a"])
    assert all(torch.equal(to_8bit(x), y) for x, y in zip(back, (blurry, sharp), strict=True))


def test_broken_clips_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="train: no such folder"):
        find_clips(tmp_path, "train")
    frames = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    write_clip(tmp_path / "train" / "a", frames, frames)
    (tmp_path / "train" / "a" / "GT" / "00001.png").unlink()
    with pytest.raises(ValueError, match="a: input has 3 frames, GT 2"):
        find_clips(tmp_path, "train")


def test_augmentation_is_one_draw_for_both_sides():
    sharp = torch.rand(5, 3, 20, 24)
    seen = set()
    for seed in range(40):
        a, b = augment(sharp, sharp + 1, 16, torch.Generator().manual_seed(seed))
        assert a.shape == (5, 3, 16, 16)
        torch.testing.assert_close(a + 1, b)
        seen.add(tuple(a.flatten()[:3].tolist()))
    assert len(seen) > 20
    with pytest.raises(ValueError, match="crop must be a multiple of 4, at most the frames' 24x20, got 32"):
        augment(sharp, sharp, 32, torch.Generator())


def test_psnr_by_its_definition():
    target = torch.full((3, 8, 8), 0.5)
    output = target.clone()
    output[0, 0, 0] = 0.5 + 10 / 255
    assert psnr(output, target).item() == pytest.approx(10 * math.log10(255**2 * 192 / 100))
    assert psnr(target + 0.001, target).item() == math.inf  # less than half a step of 8 bits
    assert psnr(torch.full((3, 4, 4), 7.0), torch.ones(3, 4, 4)).item() == math.inf  # clamped
    assert psnr(torch.rand(2, 5, 3, 4, 4), torch.rand(2, 5, 3, 4, 4)).shape == (2, 5)


def test_weights_come_back_in_half_precision(tmp_path):
    model = initialise(STFAN(kernel_size=3))
    weights.save(model, tmp_path / "w.safetensors")
    back = weights.load(tmp_path / "w.safetensors")
    assert back.kernel_size == 3 and not back.training
    for mine, theirs in zip(back.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs.half().float())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_training_learns_and_its_card_is_true(clips, tmp_path):
    said = []
    card = train(clips, tmp_path / "w.safetensors", minutes=0.25, crop=32, report=said.append)
    assert card == json.loads((tmp_path / "w.json").read_text())
    model = weights.load(tmp_path / "w.safetensors")
    assert card["psnr"]["clips"] == evaluate(model, find_clips(clips, "test"))
    mean = card["psnr"]["mean"]
    assert mean["output"] > mean["input"] - 0.5  # a few seconds break nothing
    assert card["recipe"]["steps"] > 3 and all(map(math.isfinite, (c["loss"] for c in card["curve"])))
    assert said[-1].startswith("test PSNR (rgb8)")


def test_a_loss_that_is_not_finite_stops_and_names_the_clip(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("stfan.train.F.l1_loss", lambda a, b: (a - b).sum() * math.nan)
    with pytest.raises(FloatingPointError, match=r"step 0: the loss is nan on .*train/0000\d"):
        train(clips, tmp_path / "w.safetensors", minutes=0.1, crop=32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["w.json", "nowhere/w.safetensors"])
def test_a_weight_file_that_can_not_be_is_refused_before_the_work(clips, tmp_path, name):
    with pytest.raises(ValueError, match=r"must be a file \*.safetensors in a folder that exists"):
        train(clips, tmp_path / name, minutes=9)


def test_clips_of_any_origin_can_be_trained_on(tmp_path):
    for part in ("train", "test"):
        write_clip(tmp_path / part / "a", *torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8))
    card = train(tmp_path, tmp_path / "w.safetensors", minutes=0.01, crop=32)
    assert set(card["psnr"]["clips"]) == {"a"}


def test_the_commands_make_clips_and_train(pictures, tmp_path, stfan):
    root = tmp_path / "set"
    counts = ("--clips", 3, "--test-clips", 2, "--frames", 3, "--size", 32)
    done = stfan("data", "synth", pictures, root, *counts)
    assert done.returncode == 0, done.stderr
    assert len(find_clips(root, "train")) == 3 and len(find_clips(root, "test")) == 2
    again = stfan("data", "synth", pictures, root)
    assert again.returncode == 1 and "exists already" in again.stderr
    done = stfan("train", root, "-o", tmp_path / "w.safetensors", "--minutes", 0.02, "--crop", 32)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w.json").exists()
    few = tmp_path / "few"
    few.mkdir()
    done = stfan("data", "synth", few, tmp_path / "other")
    assert done.returncode == 1 and "holds no pictures" in done.stderr


def test_bundled_weights_beat_the_blurry_input():
    """The card is the trainer's own, about this very file, and says so."""
    card = json.loads(weights.BUNDLED.with_suffix(".json").read_text())
    scores = card["psnr"]["clips"].values()
    for side in ("input", "output"):
        assert card["psnr"]["mean"][side] == pytest.approx(
            sum(s[side] for s in scores) / len(scores), abs=1e-3
        )
    assert card["psnr"]["mean"]["output"] > card["psnr"]["mean"]["input"]
    assert weights.count(weights.load()) == card["parameters"]
    trained, tested = (
        {file for clip, file in card["data"]["clips"].items() if clip.startswith(part)}
        for part in ("train", "test")
    )
    assert trained and tested and not trained & tested


def test_bundled_weights_deblur_an_unseen_picture():
    """Made again here: clips of pictures that were held out of the training."""
    card = json.loads(weights.BUNDLED.with_suffix(".json").read_text())
    held_out = sorted({file for clip, file in card["data"]["clips"].items() if clip.startswith("test")})
    if not all((SHARED / "photos" / file).exists() for file in held_out):
        pytest.skip("the pictures that the bundled weights were judged on are not on this machine")
    model, gains = weights.load(), []
    for seed, file in enumerate(held_out):
        pair = synthesize([SHARED / "photos" / file], [], 4, 128, torch.Generator().manual_seed(1000 + seed))
        blurry, sharp = (clip / 255 for clip in pair)
        output = torch.stack([*map(Deblurrer(model), blurry)])
        gains.append(float((psnr(output, sharp) - psnr(blurry, sharp)).mean()))
    assert sum(gains) / len(gains) > 0
