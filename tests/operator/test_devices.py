"""Devices that have no kernels of ours: which they are, what runs there, and that a warning says so once."""

import re
import warnings
from types import SimpleNamespace

import pytest
import torch

from fac_ext import _C, build_info, derivatives, devices, fac, fac_predicted, functional
from fac_ext.reference import fac_shift_sum


@pytest.fixture
def built(monkeypatch):
    """built(cuda, hip) -> what a build with that CUDA toolkit has kernels for, under a torch for ROCm if hip."""

    def build(cuda, hip=None, torch_cuda=None):
        facts = _C.build_info() | {"cuda": cuda}
        monkeypatch.setattr(devices._C, "build_info", lambda: facts)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.version, "cuda", torch_cuda)
        kernels = build_info()["kernels"]
        monkeypatch.setattr(derivatives, "DEVICES", (*kernels, "meta"))
        monkeypatch.setattr(devices, "_warned_of", set())
        return kernels

    return build


@pytest.mark.parametrize(
    ("cuda", "hip", "torch_cuda", "kernels", "words"),
    [
        ("13.0", None, "13.0", ("cpu", "cuda"), None),
        (None, None, "12.8", ("cpu",), r"built without CUDA; .* put nvcc of CUDA 12.8 on the PATH"),
        (None, None, None, ("cpu",), "built without CUDA; .* put nvcc on the PATH"),
        ("13.0", "6.4", None, ("cpu",), "no kernels for ROCm"),
        (None, "6.4", None, ("cpu",), "no kernels for ROCm"),
    ],
)
def test_what_a_build_has_kernels_for(built, cuda, hip, torch_cuda, kernels, words):
    assert built(cuda, hip, torch_cuda) == kernels
    assert devices.why_no_kernels("cpu") is devices.why_no_kernels("meta") is None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [has_kernels(device) for device in ("cpu", "meta", "cuda:0", "cuda:1")]
    assert found == [True, True, "cuda" in kernels, "cuda" in kernels]
    if words is None:
        assert caught == []
    else:
        (warning,) = caught
        assert re.match(f"fac: runs as a PyTorch expression on cuda, .*{words}", str(warning.message))


def has_kernels(device):
    """Ask for a tensor on a device that this machine need not have."""
    return functional._has_kernels(SimpleNamespace(device=torch.device(device)))


@pytest.mark.parametrize("other", ["xpu", "mps"])
def test_other_devices_have_none(built, other):
    built("13.0")
    with pytest.warns(UserWarning, match=f"on {other}, .* no kernels for {other}"):
        assert not has_kernels(other)


def test_the_expression_runs_on_the_tensors_device(monkeypatch):
    monkeypatch.setattr(derivatives, "DEVICES", ("cpu",))
    monkeypatch.setattr(devices, "_warned_of", set())
    input, filters, weight = (torch.empty(*s, device="meta") for s in ((1, 4, 5, 6), (1, 36, 5, 6), (36, 7)))
    hidden = torch.empty(1, 7, 5, 6, device="meta")
    leaves = [t.requires_grad_() for t in (input, filters, hidden, weight)]
    with pytest.warns(UserWarning, match="on meta, ") as caught:
        output = fac(input, filters, 3, padding_mode="reflect")
        output = output + fac_predicted(input, hidden, weight, None, 3)
        output.sum().backward()
    assert [w.filename for w in caught] == [__file__]
    assert output.device.type == "meta" and output.shape == input.shape
    assert [t.grad.shape for t in leaves] == [t.shape for t in leaves]


def test_compiled_code_warns_too(monkeypatch):
    monkeypatch.setattr(derivatives, "DEVICES", ("cuda",))
    monkeypatch.setattr(devices, "_warned_of", set())
    monkeypatch.setattr(devices, "why_no_kernels", lambda device: "a test")
    input, filters = torch.randn(1, 2, 5, 6), torch.randn(1, 18, 5, 6)
    compiled = torch.compile(lambda a, b: fac(a, b, 3), fullgraph=True, backend="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = [compiled(input, filters) for _ in range(2)]
    assert [str(w.message).split(": ")[-1] for w in caught if "fac: " in str(w.message)] == ["a test"]
    torch.testing.assert_close(got[0], fac(input, filters, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32(dtype):
    """Sum 1 and 624 numbers, each too small to change a half 1: their sum is not."""
    small = torch.finfo(dtype).eps / 4
    input = torch.ones(1, 1, 25, 25, dtype=dtype)
    filters = torch.full((1, 625, 1, 1), small, dtype=dtype)
    filters[:, 0] = 1
    got = fac_shift_sum(input, filters, 25, padding="valid")
    assert got.dtype == dtype and got.item() == torch.tensor(1 + 624 * small).to(dtype).item()
