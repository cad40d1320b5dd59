"""The package's types, as a user's checker sees them."""

import os
import subprocess
import sys

import pytest

from support.checkout import ROOT

FAC_EXT = """\
import torch
from torch import Tensor, nn

import fac_ext
from fac_ext import FAC, PredictedFAC, fac, fac_predicted, fac_reference
from fac_ext.compat import KernelConv2D, involution


class Layer(nn.Module):
    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.predict = nn.Conv2d(channels, channels * kernel_size**2, 1)
        self.apply_filters = FAC(kernel_size, padding_mode="replicate")

    def forward(self, features: Tensor) -> Tensor:
        return self.apply_filters(features, self.predict(features))


class ShortLayer(nn.Module):
    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.apply_filters = PredictedFAC(channels, channels, kernel_size, activation=0.1, block_bytes=1 << 20)

    def forward(self, features: Tensor) -> Tensor:
        return self.apply_filters(features, features)


def compare(x: Tensor, f: Tensor) -> float:
    error = fac(x, f, (3, 3), padding=1) - fac_reference(x, f, 3, dilation=1, padding_mode="zeros")
    return float(error.abs().max())


x, weight = torch.randn(1, 8, 16, 16), torch.randn(1, 2, 3, 3, 16, 16)
maps: list[Tensor] = [Layer(8, 3)(x), ShortLayer(8, 3)(x), fac_predicted(x, x, torch.ones(8, 8), None, 1)]
maps += [KernelConv2D(3)(x, weight), involution(x, weight, None, 1, 1)]
toolkit: str | None = fac_ext.build_info()["cuda"]
print(compare(x, maps[0]), toolkit, fac_ext.__version__)
fac_ext.release_memory()
"""
STFAN_USER = """\
from pathlib import Path

import torch
from torch import Tensor

import stfan
from stfan import STFAN, Deblurrer
from stfan.training.recipe import Recipe
from stfan.video.encoder import Encoding
from stfan.video.pipeline import DeblurResult, deblur_video
from stfan.video.reader import VideoReader
from stfan.video.writer import VideoWriter


def deblur(source: Path, out: Path) -> DeblurResult:
    model: STFAN = stfan.load("compact", device="cpu", dtype=torch.float32)
    with VideoReader(source, end=2.0) as reader:
        writer = VideoWriter(out, reader, Encoding(crf=18))
        return deblur_video(reader, writer, out, Deblurrer(model, tile=256), overwrite=True)


def deblur_frames(frames: Tensor, model: STFAN) -> list[Tensor]:
    deblurrer = Deblurrer(model.eval(), reset_on_cut=True)
    outputs = [deblurrer(frame) for frame in frames]
    state: dict[str, Tensor] = deblurrer.state()
    deblurrer.restore(state)
    return outputs


result = deblur(Path("in.mp4"), Path("out.mp4"))
path: Path = result.path
network = STFAN("compact", kernel_size=3)
size: tuple[int, ...] = deblur_frames(torch.rand(2, 3, 16, 16), network)[0].shape
recipe: Recipe = Recipe(data="clips", batch=2).changed(["batch=4"])
rate: float = recipe.rate(0) * recipe.learning_rate
print(path, result.complete, size, rate, network.channels)
"""
CASES = {"fac_ext": FAC_EXT, "stfan": STFAN_USER}

# (statement, what mypy says of it)
MISUSES = [
    ('fac(x, x, "3")', 'has incompatible type "str"'),
    ('fac(x, x, 3, padding_mode="reflected")', "has incompatible type \"Literal['reflected']\""),
    ("fac(x, x)", 'Missing positional argument "kernel_size"'),
    ("number: int = fac(x, x, 1)", "Incompatible types in assignment"),
    ('fac_ext.build_info()["gpu"]', 'has no key "gpu"'),
]


# Of torch's own sources, most of which say nothing of what a user sees, and which take half a minute.
SKIPPED = (
    "_decomp _dispatch _dynamo _export _functorch _guards _higher_order_ops _inductor _library _logging _meta_registrations "
    "_ops _prims _prims_common _refs _subclasses ao backends compiler cuda distributed distributions export func fx jit "
    "library masked nested onnx optim package profiler quantization sparse testing utils"
)


@pytest.fixture(
    scope="module",
    params=[SKIPPED, pytest.param("", marks=pytest.mark.long)],
    ids=["some of torch", "all of torch"],
)
def check(tmp_path_factory, request):
    """check(name, text) -> what `mypy --strict` says of a user's file with that text."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("user")
    skipped = ",".join(["sympy.*", *(f"torch.{name}.*" for name in request.param.split())])
    (folder / "mypy.ini").write_text(f"[mypy]\n[mypy-{skipped}]\nfollow_imports = skip\n")

    def run(name, text):
        path = folder / f"user_of_{name}.py"  # a file fac_ext.py would hide the package
        path.write_text(text)
        options = (
            "--strict",
            "--follow-imports=silent",
            "--config-file=mypy.ini",
            f"--cache-dir={folder / 'cache'}",
        )
        command = [sys.executable, "-m", "mypy", *options, path]
        environment = os.environ | {"MYPYPATH": str(ROOT)}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout

    return run


@pytest.mark.parametrize("name", CASES)
def test_a_users_file_is_typed(check, name):
    assert check(name, CASES[name]).startswith("Success")


def test_misuses_are_found(check):
    head = "import torch\n\nimport fac_ext\nfrom fac_ext import fac\n\nx = torch.ones(1, 1, 1, 1)\n"
    said = check("misuses", head + "\n".join(statement for statement, _ in MISUSES) + "\n")
    errors = [line for line in said.splitlines() if ": error: " in line]
    assert len(errors) == len(MISUSES), said
    for line, (_, words) in zip(errors, MISUSES, strict=True):
        assert words in line
