"""The card of weights and the record of a run: where they come from and what they score."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stfan.data.paired_videos import find_videos
from stfan.model import weights
from stfan.model.deblurrer import Deblurrer
from stfan.model.network import STFAN
from stfan.synthesis.export import synthesize_set
from stfan.training import vgg
from stfan.training.losses import Perceptual
from stfan.training.recipe import read

pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState

from stfan.model.network import initialise
from stfan.training.card import build_card, build_record, card_text, data_provenance, hours_in_all, judge
from stfan.training.trainer import Trainer
from support.runs import small


def test_the_card_tells_what_eval_finds(clips, tmp_path):
    from stfan.evaluation.evaluate import evaluate
    from stfan.evaluation.metrics import PROTOCOLS

    trainer = Trainer(small(clips), tmp_path, cpu=True)
    trainer.train()
    card = json.loads(card_text(build_card(trainer, judge(trainer))))
    found = evaluate(
        Deblurrer(weights.load(tmp_path / "weights.safetensors")),
        find_videos(clips, "test").clips,
        PROTOCOLS["rgb8"],
    )
    for side in ("input", "output"):
        assert card["scores"]["overall"][side] == found["overall"][side]
    assert card["iterations"] == 8 and card["data"]["test_clips"] == 1
    record = build_record(trainer, found)
    assert record["recipe"]["iterations"] == 8 and record["test"] == ["d"]
    assert record["scores"]["d"]["output"] == found["clips"]["d"]["output"]


def test_no_card_of_older_weights(clips, tmp_path):
    trainer = Trainer(small(clips), tmp_path, cpu=True)
    (tmp_path / "weights.json").write_text("{}")
    trainer.save()
    assert not (tmp_path / "weights.json").exists()
    assert "scores" not in build_card(trainer)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A run with synthetic clips, two losses, bfloat16, weights to begin from, sources and validation clips."""
    folder, rng = tmp_path_factory.mktemp("everything"), np.random.default_rng(0)
    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(pictures / f"{i}.png")
    synthesize_set(pictures, folder / "set", 1, 2, 3, 16)
    weights.save(initialise(STFAN("compact", 3), "identity", 0), folder / "first.safetensors")
    (folder / "first.json").write_text('{"iterations": 7, "hours": 1, "begun_from": {"hours": 0.5}}')
    (folder / "sources.json").write_text('{"0.png": "mine"}')
    drawn = Perceptual("random")
    names = vgg.names("{}.weight", "{}.bias")
    buffers = (drawn.get_buffer(name) for name in vgg.names("weight{}", "bias{}"))
    torch.save({f"features.{name}": b for name, b in zip(names, buffers, strict=True)}, folder / "vgg19.pth")
    files = {"weights": "first.safetensors", "sources": "sources.json", "validation": "set"}
    recipe = small(
        pictures,
        window=3,
        gradient_checkpointing=True,
        iterations=4,
        synthetic=True,
        perceptual_weight=0.01,
        backbone_weights=str(folder / "vgg19.pth"),
        precision="bfloat16",
        workers=1,
        **{name: str(folder / file) for name, file in files.items()},
    )
    trainer = Trainer(recipe, folder / "run", cpu=True)
    assert trainer.train()
    scores = judge(trainer)
    card = json.loads(card_text(build_card(trainer, scores)))
    record = json.loads(json.dumps(build_record(trainer, scores)))
    AcceleratorState._reset_state(reset_partial_state=True)
    return SimpleNamespace(folder=folder, recipe=recipe, trainer=trainer, card=card, record=record)


def test_a_run_keeps_the_kernel_size_of_the_weights_it_begins_from(everything):
    assert everything.trainer.model.kernel_size == 3


def test_the_curve_has_each_term_of_the_loss(everything):
    assert {"loss", "mse", "perceptual"} <= set(everything.record["curve"][0])


def test_the_card_adds_up_the_hours_of_what_it_was_begun_from(everything):
    first = str(everything.folder / "first.safetensors")
    assert everything.card["begun_from"] == {"weights": first, "iterations": 7, "hours": 1.5}


def test_the_card_says_where_the_pictures_are_from(everything):
    data = everything.card["data"]
    assert data["sources"] == {"0.png": "mine"}
    assert (data["pictures"], data["test_clips"], data["test_pictures"]) == (5, 2, 1)


def test_the_record_lists_pictures_clips_and_scores(everything):
    record = everything.record
    assert record["pictures"] == [f"{i}.png" for i in range(5)]
    assert [clip["pictures"] for clip in record["test"].values()] == [["5.png"]] * 2
    assert set(record["scores"]) == {"00000", "00001"}


def test_clips_on_disk_say_what_they_were_made_of(everything):
    on_disk = data_provenance(small(everything.folder / "set"))
    assert len(on_disk["pictures"]) == 1 and set(on_disk["pictures"]) <= {f"{i}.png" for i in range(5)}
    assert on_disk["clips"] == everything.record["test"]


def test_a_clips_json_of_another_program_says_nothing(tmp_path):
    (tmp_path / "clips.json").write_text('{"clips": ["of another program"]}')
    assert data_provenance(small(tmp_path)) == {}


def test_missing_sources_are_named(everything):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        Trainer(everything.recipe.changed({"sources": "nowhere.json"}), everything.folder / "run", cpu=True)


def test_one_gpu_has_a_number_in_the_card(clips, tmp_path, monkeypatch):
    trainer = Trainer(small(clips), tmp_path, cpu=True)
    trainer.device = torch.device("cuda")
    monkeypatch.setattr("stfan.training.card.devices", lambda: {"cpu": "slow", "cuda:0": "fast"})
    assert build_card(trainer)["device"] == "fast"


@pytest.mark.parametrize("name", weights.BUNDLED)
def test_bundled_weights_and_their_card(name):
    """The card is of a page, about this very file, and no clean bucket is worse than no network."""
    text = weights.locate(name).with_suffix(".json").read_text()
    card, model = json.loads(text), weights.load(name)
    assert len(text.splitlines()) <= 60 and text == card_text(card)
    assert card["parameters"] == weights.count(model) and card["preset"] == model.preset
    recipe = read(weights.PRETRAINED / card["recipe"])
    assert 0 < card["iterations"] <= recipe.iterations and card["hours"] > 0
    assert hours_in_all(card) >= card["hours"]
    buckets = [score for drifts in card["buckets"].values() for score in drifts.values()]
    clips = sum(score["clips"] for score in buckets)
    assert clips == card["data"]["test_clips"]
    assert all(score["gain"] > -0.1 for score in card["buckets"]["clean"].values())
    assert len(card["data"]["sources"]) > 0 and card["data"]["pictures"] > 0 < card["data"]["test_pictures"]
