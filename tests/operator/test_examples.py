"""Run the examples with few steps."""

import importlib
import sys

import pytest
import torch

from support.checkout import ROOT

pytest.importorskip("PIL")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield importlib.import_module
    for name in ("pictures", "kernel_prediction", "neighbourhood_attention", "optical_flow"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("name", "steps"), [("kernel_prediction", 40), ("neighbourhood_attention", 20)])
def test_training_helps(name, steps, example, tmp_path):
    before, after = example(name).main(["--steps", str(steps), "--picture", str(tmp_path / "strip.png")])
    assert after > before + 1
    assert (tmp_path / "strip.png").stat().st_size > 1000


def test_the_flow_is_found(example, tmp_path):
    assert example("optical_flow").main(["--size", "72", "--picture", str(tmp_path / "flow.png")]) < 0.5
    assert (tmp_path / "flow.png").stat().st_size > 1000


def test_a_still_frame_has_no_flow(example):
    flow = example("optical_flow")
    frame = torch.rand(3, 48, 48)
    found = flow.estimate(frame, frame)[:, 12:-12, 12:-12]
    assert found.norm(dim=0).mean() < 0.3 and torch.isfinite(found).all()
