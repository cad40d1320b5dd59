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
from fac_ext import FAC, fac, fac_reference
from fac_ext.compat import KernelConv2D, involution


class Layer(nn.Module):
    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.predict = nn.Conv2d(channels, channels * kernel_size**2, 1)
        self.apply_filters = FAC(kernel_size, padding_mode="replicate")

    def forward(self, features: Tensor) -> Tensor:
        return self.apply_filters(features, self.predict(features))


def compare(x: Tensor, f: Tensor) -> float:
    error = fac(x, f, (3, 3), padding=1) - fac_reference(x, f, 3, dilation=1, padding_mode="zeros")
    return float(error.abs().max())


x, weight = torch.randn(1, 8, 16, 16), torch.randn(1, 2, 3, 3, 16, 16)
maps: list[Tensor] = [Layer(8, 3)(x), KernelConv2D(3)(x, weight), involution(x, weight, None, 1, 1)]
toolkit: str | None = fac_ext.build_info()["cuda"]
print(compare(x, maps[0]), toolkit, fac_ext.__version__)
fac_ext.release_memory()
"""
CASES = {"fac_ext": FAC_EXT}

# (statement, what mypy says of it)
MISUSES = [
    ('fac(x, x, "3")', 'has incompatible type "str"'),
    ('fac(x, x, 3, padding_mode="reflected")', "has incompatible type \"Literal['reflected']\""),
    ("fac(x, x)", 'Missing positional argument "kernel_size"'),
    ("number: int = fac(x, x, 1)", "Incompatible types in assignment"),
    ('fac_ext.build_info()["gpu"]', 'has no key "gpu"'),
]


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """check(name, text) -> what `mypy --strict` says of a user's file with that text."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("user")

    def run(name, text):
        path = folder / f"user_of_{name}.py"
        path.write_text(text)
        options = ("--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={folder / 'cache'}")
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
