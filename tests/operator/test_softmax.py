"""Filters normalised by a softmax over their taps: fac(normalize="softmax"), fac_predicted(activation="softmax")."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from fac_ext import FAC, PredictedFAC, block_plan, derivatives, fac, fac_predicted
from support import oracle
from support.geometries import PLAIN, every_layout, nothing_compiled, same  # noqa: F401
from support.operands import CASES, all_three, tensors

SOME = [case for case in CASES if 0 not in case[0]][::2]
HIDDEN = 5  # channels


def weights(filters, kernel_size):
    """Return the softmax over the taps."""
    taps = oracle.two(kernel_size)
    return filters.unflatten(1, (-1, taps[0] * taps[1])).softmax(2).flatten(1, 2)


def close(mine, right, dtype, terms):
    """The sum, the softmax of each term (a sum of as many), and the gradient of each are stored."""
    for a, b in zip(mine, right, strict=True):
        assert a.dtype == dtype
        allowed = 4 * oracle.spread(dtype, terms, 10 * b.abs().max()) if b.numel() else 0.0
        oracle.assert_within(a.double().cpu(), b.double(), allowed)


@pytest.fixture(params=(1, 700, None), ids=("one row", "some rows", "default"))
def blocks(request, monkeypatch):
    if request.param:
        monkeypatch.setitem(block_plan.BLOCK_BYTES, "cpu", request.param)


@every_layout
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_value_and_both_gradients(dtype, layout, blocks):
    for shape, groups, kernel_size, keywords in SOME:
        operands = tensors(shape, groups, kernel_size, dtype=dtype, layout=layout, **keywords)
        mine = all_three(functools.partial(fac, normalize="softmax", **keywords), *operands, kernel_size)
        assert mine[0].is_contiguous(memory_format=layout)
        right = oracle.all_three(
            lambda x, f, k, kw=keywords: oracle.output(x, weights(f, k), k, **kw), *operands, kernel_size
        )
        close(mine, right, dtype, 9**4)


@every_layout
@pytest.mark.parametrize("block_bytes", [1, 700, None])
def test_predicted(layout, block_bytes):
    for shape, groups, kernel_size, keywords in SOME[::2]:
        input, filters, gradient = tensors(shape, groups, kernel_size, layout=layout, **keywords)
        hidden = torch.randn(shape[0], HIDDEN, *filters.shape[2:], dtype=torch.float64)
        hidden = hidden.contiguous(memory_format=layout).requires_grad_()
        weight = torch.randn(filters.shape[1], HIDDEN, dtype=torch.float64, requires_grad=True)
        leaves = (input, hidden, weight, torch.randn_like(weight[:, 0]).requires_grad_())

        def defined(x, h, w, b, k=kernel_size, keywords=keywords):
            return oracle.output(x, weights(F.conv2d(h, w[..., None, None], b), k), k, **keywords)

        def mine(*leaves, k=kernel_size, keywords=keywords):
            return fac_predicted(*leaves, k, activation="softmax", block_bytes=block_bytes, **keywords)

        got, right = (
            (f(*leaves), *torch.autograd.grad(f(*leaves), leaves, gradient)) for f in (mine, defined)
        )
        close(got, right, torch.float64, 10**6)


@every_layout
def test_the_weights_are_never_stored(layout, monkeypatch):
    """Allocate nothing of the filters' size in the forward pass, and only their gradient in the backward pass."""
    monkeypatch.setitem(block_plan.BLOCK_BYTES, "cpu", 1 << 20)
    input, filters, gradient = tensors((1, 8, 128, 64), 8, 5, dtype=torch.float32, layout=layout)
    fac(input, filters, 5, normalize="softmax")
    with torch.profiler.profile(profile_memory=True) as profile:
        output = fac(input, filters, 5, normalize="softmax")
    assert max(event.self_cpu_memory_usage for event in profile.events()) <= 1 << 20 < filters.nbytes / 4
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.grad(output, (input, filters), gradient)
    taken = [one.self_cpu_memory_usage for one in profile.events() if one.self_cpu_memory_usage > 2 << 20]
    assert taken == [filters.nbytes]


def test_derivatives_of_every_kind():
    input, filters, _ = tensors(*PLAIN[:3])
    function = lambda x, f: fac(x, f, 3, normalize="softmax")  # noqa: E731
    right = lambda x, f: oracle.output(x, weights(f, 3), 3)  # noqa: E731
    fast = {"fast_mode": True}
    assert gradcheck(function, (input, filters), check_forward_ad=True, check_batched_grad=True, **fast)
    assert gradgradcheck(function, (input, filters), check_fwd_over_rev=True, **fast)
    x, f = input.detach(), filters.detach()
    for transform in (
        lambda g: jvp(g, (x, f), (x.cos(), f.cos())),
        lambda g: jvp(lambda f: grad(lambda x: (g(x, f) ** 3).sum())(x), (f,), (f.cos(),)),
        lambda g: vmap(g)(torch.stack([x, x.cos()]), torch.stack([f, f.sin()])),
        lambda g: vmap(grad(lambda f: (g(x, f) ** 2).sum()))(torch.stack([f, f.cos()])),
    ):
        same(transform(function), transform(right))


def test_compiles_and_exports():
    input, filters, gradient = tensors((2, 4, 6, 7), 2, 3, dtype=torch.float32)
    layer = FAC(3, padding_mode="reflect", normalize="softmax")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for mine, right in zip(*(all_three(f, input, filters, gradient) for f in (compiled, layer)), strict=True):
        assert torch.equal(mine, right)
    program = torch.export.export(layer, (input.detach(), filters.detach()))
    nodes = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert nodes == ["fac_ext.predicted.default"]
    assert "normalize='softmax'" in repr(layer)
    assert "activation='softmax'" in repr(PredictedFAC(3, 2, 3, activation="softmax"))


def test_devices_without_kernels_run_the_pytorch_expression(monkeypatch):
    operands = tensors(*PLAIN[:3])
    expected = all_three(functools.partial(fac, normalize="softmax"), *operands, 3)
    monkeypatch.setattr(derivatives, "DEVICES", ("cuda",))
    same(all_three(functools.partial(fac, normalize="softmax"), *operands, 3), expected)


def test_autocast_keeps_the_type():
    input, filters, _ = tensors(*PLAIN[:3], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = fac(input, filters, 3, normalize="softmax")
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert input.grad.dtype == filters.grad.dtype == torch.float32


def test_other_words_are_refused():
    input, filters, _ = tensors(*PLAIN[:3])
    with pytest.raises(ValueError, match=r"^fac: normalize must be None or 'softmax', got 'sum'"):
        fac(input, filters, 3, normalize="sum")
    with pytest.raises(ValueError, match=r"^fac: normalize must be None or 'softmax', got True"):
        FAC(3, normalize=True)
