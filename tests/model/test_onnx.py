"""The step of the network as ONNX: in torch what a Deblurrer does, and in onnxruntime the same."""

import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from stfan import STFAN, Deblurrer
from stfan.model import weights
from stfan.model.network import PRESETS, initialise
from stfan.model.onnx_export import Step
from support.checkout import ROOT

FRAMES = 5


def network(preset):
    model = initialise(STFAN(preset, 3), "identity", 0).eval()
    with torch.no_grad():  # so that the output shows errors of what is added
        last = [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]
        last.weight.mul_(30)
    return model


def tolerance(model, clip):
    """Bound the difference of two ways to compute a clip in float32.

    Each layer rounds what it makes, by eps times its size, and the order of its sums changes it by as much, since
    roundings have either sign. A layer hands on errors as it hands on values, without growth: that is what
    initialise() is for. So errors add up: over the layers of a step, one after the other at most as many as there are
    convolutions, and over the steps. All values are as large as the largest.
    """
    sizes = []
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [m.register_forward_hook(lambda *a: sizes.append(float(a[2].abs().max()))) for m in convolutions]
    deblurrer = Deblurrer(model)
    changes = [float((deblurrer(frame) - frame).abs().max()) for frame in clip]
    for hook in hooks:
        hook.remove()
    bound = torch.finfo(torch.float32).eps * max(1.0, *sizes) * len(convolutions) * len(clip)
    assert bound < min(changes) / 50  # it is much smaller than what the network does
    return bound


def compare(step, model, clip):
    """Run the loop of docs/video.md, and compare each frame and state with a Deblurrer's."""
    deblurrer, bound = Deblurrer(model), tolerance(model, clip)
    previous = output = np.zeros_like(clip[:1].numpy())
    state = np.zeros((1, model.channels, clip.shape[2] // 4, clip.shape[3] // 4), np.float32)
    for i, frame in enumerate(clip):
        feed = {"frame": frame[None].numpy(), "previous": previous, "previous_output": output, "state": state}
        output, state = step(feed | {"first": np.array(i == 0)})
        previous = frame[None].numpy()
        assert np.abs(output[0] - deblurrer(frame).numpy()).max() < bound
        assert np.abs(state - deblurrer.state()["state"].numpy()).max() < bound


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_is_what_a_deblurrer_does(preset):
    model = network(preset)
    step = Step(model)

    @torch.no_grad()
    def run(feed):
        return [one.numpy() for one in step(**{k: torch.from_numpy(np.asarray(v)) for k, v in feed.items()})]

    compare(run, model, torch.rand(FRAMES, 3, 16, 24))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small network and the file that the command makes of it."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    app = pytest.importorskip("stfan.cli.app", reason="typer is not installed")
    folder = tmp_path_factory.mktemp("onnx")
    weights.save(network("compact"), folder / "small.safetensors")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(
            sys,
            "argv",
            ["stfan", "export", "onnx", str(folder / "small.safetensors"), str(folder / "step.onnx")],
        )
        app.main()
    assert not end.value.code
    return weights.load(folder / "small.safetensors"), folder / "step.onnx"


def test_onnxruntime_does_what_torch_does(exported):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, path = exported
    session = runtime.InferenceSession(path)
    facts = session.get_modelmeta().custom_metadata_map
    assert facts == {"preset": "compact", "channels": "48", "kernel_size": "3"}
    for size in ((16, 24), (28, 20), (8, 8)):  # none of them is the one that was traced
        compare(lambda feed: session.run(None, feed), model, torch.rand(FRAMES, 3, *size))


def test_the_file_has_standard_nodes(exported):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    made = onnx.load(exported[1])
    onnx.checker.check_model(made)
    assert {node.domain for node in made.graph.node} <= {"", "ai.onnx"} and not made.functions
    assert {one.domain for one in made.opset_import} <= {"", "ai.onnx"}


def test_the_loop_of_the_document(exported, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    block = re.findall(r"```python\n(.*?)```", (ROOT / "docs/video.md").read_text(), re.S)[1]
    monkeypatch.chdir(exported[1].parent)
    exec(compile(block, "video.md", "exec"), {})
    assert capsys.readouterr().out == "(1, 3, 24, 32)\n"


def test_what_cannot_be_written(tmp_path, monkeypatch, capsys):
    app = pytest.importorskip("stfan.cli.app", reason="typer is not installed")
    (tmp_path / "there.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    for out, words in (
        ("step.pt", "step.pt: OUT must be the name of a file that ends in .onnx"),
        ("there.onnx", "there.onnx: exists already; --overwrite"),
        ("new.onnx", "stfan export onnx needs onnxscript; run: pip install 'fac-ext[onnx]'"),
    ):
        monkeypatch.setattr(sys, "argv", ["stfan", "export", "onnx", "compact", str(tmp_path / out)])
        with pytest.raises((SystemExit, ImportError)) as end:
            app.main()
        assert words in capsys.readouterr().err + str(end.value)
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
