"""Fast dtypes of a device: by what torch says of it, not timed."""

import pytest
import torch

from stfan.cli.options import resolve_dtype
from stfan.devices import fast_bfloat16


@pytest.mark.parametrize(
    ("features", "fast"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(monkeypatch, features, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert fast_bfloat16("cpu") is fast
    assert resolve_dtype("auto", "cpu") == ("bf16" if fast else "fp32")
    assert resolve_dtype("fp16", "cpu") == "fp16"


def test_a_torch_that_does_not_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_bfloat16("cpu") is False


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_is_asked_for_its_generation(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_bfloat16("cuda:1") is fast and resolve_dtype("auto", "cuda") == "fp16"
