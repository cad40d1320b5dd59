"""Which device a command runs on, as a function of what torch reports."""

import pytest
import torch

pytest.importorskip("typer", reason="typer is not installed")
from stfan import devices
from stfan.cli import app
from stfan.cli.options import resolve_dtype


@pytest.fixture
def machine(monkeypatch):
    """machine(cuda=1) -> torch reports a GPU of CUDA, or of other kinds."""

    def make(cuda=0, xpu=0, mps=False):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.xpu, "device_count", lambda: xpu)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({}, "cpu"),
        ({"mps": True}, "mps"),
        ({"mps": True, "xpu": 1}, "xpu"),
        ({"mps": True, "xpu": 1, "cuda": 2}, "cuda"),
    ],
)
def test_auto(machine, there, chosen):
    machine(**there)
    assert devices.resolve_device("auto") == chosen


@pytest.mark.parametrize(
    ("there", "known", "unknown", "words"),
    [
        ({}, ["cpu"], ["mps", "xpu", "cuda", "cpu:1", "magic", ""], "cpu"),
        ({"mps": True}, ["cpu", "mps", "mps:0"], ["mps:1", "cuda", "meta"], "mps, cpu"),
        (
            {"cuda": 2, "xpu": 1},
            ["cuda:1", "xpu", "xpu:0"],
            ["cuda:2", "xpu:1"],
            "cuda:0, cuda:1, xpu:0, cpu",
        ),
    ],
)
def test_a_device_is_there_or_refused(machine, there, known, unknown, words):
    machine(**there)
    assert [devices.resolve_device(device) for device in known] == known
    for device in unknown:
        with pytest.raises(devices.NoSuchDeviceError) as error:
            devices.resolve_device(device)
        assert str(error.value) == f"device {device!r}: there is none; this machine has {words}"


@pytest.mark.parametrize(("name", "dtype"), [("mps", "fp32"), ("xpu:0", "fp32"), ("cuda", "fp16")])
def test_precision(name, dtype):
    assert resolve_dtype("auto", name) == dtype and resolve_dtype("fp16", name) == "fp16"


def test_info_says_what_has_kernels(machine, monkeypatch):
    machine(mps=True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    found = devices.devices()
    assert (
        found["mps"] == "Apple's GPU; without kernels: fac_ext has no kernels for mps, only for CPUs and CUDA"
    )
    assert found["cpu"].endswith("AVX2")


def test_the_operators_warning_is_a_line_like_the_others():
    assert app.format_warning(UserWarning("fac: is slow"), UserWarning, "f.py", 1) == "stfan: fac: is slow\n"
    assert app.format_warning(UserWarning("other"), UserWarning, "f.py", 1).startswith(
        "f.py:1: UserWarning: other"
    )
