"""The operator: values, gradients of every order, what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import oracle
from fac_ext import derivatives, fac, fac_reference
from fac_ext.reference import fac_shift_sum

MODES = ("zeros", "replicate")
# (N, C, H, W), k: H != W, k > H, one pixel, one row, one column, N > k * k, nothing at all
CASES = [
    ((2, 3, 5, 7), 3),
    ((1, 2, 6, 4), 5),
    ((1, 2, 3, 2), 7),
    ((1, 1, 4, 3), 9),
    ((2, 2, 3, 5), 1),
    ((1, 3, 1, 1), 5),
    ((1, 2, 1, 6), 3),
    ((1, 2, 6, 1), 3),
    ((11, 2, 3, 2), 3),
    ((0, 2, 3, 3), 3),
    ((2, 0, 3, 3), 3),
    ((2, 2, 0, 3), 3),
    ((2, 2, 3, 0), 3),
]


def tensors(shape, k, dtype=torch.float64, device="cpu"):
    n, c, h, w = shape
    input = torch.randn(shape, dtype=dtype, device=device, requires_grad=True)
    filters = torch.randn(n, c * k * k, h, w, dtype=dtype, device=device, requires_grad=True)
    return input, filters, torch.randn(shape, dtype=dtype, device=device)


def check_all(function, input, filters, grad, k, mode):
    output = function(input, filters, k, padding_mode=mode)
    got = (output, *torch.autograd.grad(output, (input, filters), grad))
    exact = oracle.fac_and_gradients(input, filters, grad, k, mode)
    magnitude = oracle.fac_and_gradients(input.abs(), filters.abs(), grad.abs(), k, mode)
    terms = (k * k, k * k * max(k, 1) ** 2, 1)  # a replicated corner is seen by up to k^2 pixels
    for mine, right, size, count in zip(got, exact, magnitude, terms, strict=True):
        assert mine.dtype == input.dtype and mine.is_contiguous()
        oracle.check(mine, right, size, count)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "k"), CASES)
def test_value_and_both_gradients(shape, k, dtype, mode, device):
    check_all(fac, *tensors(shape, k, dtype, device), k, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", [fac_reference, fac_shift_sum])
def test_the_pytorch_forms_are_the_same_operator(function, mode):
    for shape, k in CASES[:9]:
        check_all(function, *tensors(shape, k), k, mode)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 3, 5, 7, 9, 11]),
    st.sampled_from(MODES),
)
def test_any_shape(shape, k, mode):
    """Against the reference, itself held to the formula above: shapes too large for the oracle's loops."""
    input, filters, grad = tensors(shape, k)
    results = []
    for function in (fac, fac_reference):
        output = function(input, filters, k, padding_mode=mode)
        results.append((output, *torch.autograd.grad(output, (input, filters), grad)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_planes_of_several_bands(mode, device):
    """More rows than the CPU kernels take at once, and more pixels than a CUDA block has threads."""
    input, filters, grad = tensors((1, 2, 150, 260), 5, torch.float64, device)
    for function in (fac, fac_reference):
        output = function(input, filters, 5, padding_mode=mode)
        results = (output, *torch.autograd.grad(output, (input, filters), grad))
        if function is fac:
            mine = results
    for a, b in zip(mine, results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "k"), [((1, 2, 4, 3), 3), ((2, 1, 2, 3), 5), ((1, 1, 1, 1), 3)])
def test_gradcheck(shape, k, mode, device):
    input, filters, _ = tensors(shape, k, device=device)

    def f(input, filters):
        return fac(input, filters, k, padding_mode=mode)

    assert gradcheck(f, (input, filters), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(f, (input, filters))


def test_third_order():
    input, filters, _ = tensors((1, 1, 3, 2), 3)

    def grad_of_grad(input, filters):
        (g,) = torch.autograd.grad(fac(input, filters, 3).pow(3).sum(), filters, create_graph=True)
        return torch.autograd.grad(g.pow(2).sum(), input, create_graph=True)

    assert gradcheck(grad_of_grad, (input, filters))


class Calls(TorchDispatchMode):
    """The names of our operators that were called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "fac_ext":
            self.names.append(function.name().removeprefix("fac_ext::"))
        return function(*args, **(kwargs or {}))


def test_only_the_gradient_that_is_asked_for(device):
    input, filters, grad = tensors((1, 2, 4, 5), 3, device=device)
    both = torch.autograd.grad(fac(input, filters, 3), (input, filters), grad)
    for a, b, wanted, right, op in (
        (input, filters.detach(), input, both[0], "fac_grad_input"),
        (input.detach(), filters, filters, both[1], "fac_grad_filters"),
    ):
        with Calls() as calls:
            (alone,) = torch.autograd.grad(fac(a, b, 3), wanted, grad)
        assert calls.names == ["fac", op]
        assert torch.equal(alone, right)
    with Calls() as calls:
        for first, second, op in ((filters, grad, "fac_grad_input"), (input, grad, "fac_grad_filters")):
            for one in (0, 1):  # the second derivatives too
                pair = [t.detach().requires_grad_(i == one) for i, t in enumerate((first, second))]
                out = getattr(derivatives, op)(*pair, 3, 0)
                calls.names.clear()
                torch.autograd.grad(out.sum(), pair[one])
                assert len(calls.names) == 1
    assert not fac(input.detach(), filters.detach(), 3).requires_grad


def test_vmap_jacobians_and_hessian():
    input, filters, _ = tensors((2, 2, 3, 3), 3)
    many = torch.randn(4, *filters.shape, dtype=torch.float64)
    mapped = torch.func.vmap(fac, in_dims=(None, 0, None))(input, many, 3)
    torch.testing.assert_close(mapped, torch.stack([fac(input, one, 3) for one in many]))
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        for argnum in (0, 1):
            mine, theirs = (transform(f, argnum)(input, filters, 3) for f in (fac, fac_reference))
            torch.testing.assert_close(mine, theirs)
    mine, theirs = (
        torch.func.hessian(lambda x, f=f: f(x, filters, 3).pow(2).sum())(input) for f in (fac, fac_reference)
    )
    torch.testing.assert_close(mine, theirs)


def test_same_bits_every_time(device):
    input, filters, grad = tensors((2, 4, 33, 47), 5, torch.float32, device)
    runs = []
    for _ in range(3):
        output = fac(input, filters, 5, padding_mode="replicate")
        runs.append((output, *torch.autograd.grad(output, (input, filters), grad)))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_any_strides(device):
    input, filters, grad = tensors((2, 3, 6, 8), 3, device=device)
    straight = fac(input, filters, 3)
    wanted = torch.autograd.grad(straight, (input, filters), grad)

    def stridden(tensor):
        return tensor.detach().repeat_interleave(2, 3)[..., ::2].transpose(2, 3).contiguous().transpose(2, 3)

    a, b = stridden(input).requires_grad_(), stridden(filters).requires_grad_()
    assert not a.is_contiguous() and not b.is_contiguous()
    output = fac(a, b, 3)
    assert torch.equal(output, straight)
    got = torch.autograd.grad(output, (a, b), stridden(grad))
    assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))
    expanded = torch.autograd.grad(fac(input, filters, 3).sum(), (input, filters))  # a gradient of stride 0
    dense = torch.autograd.grad(fac(input, filters, 3), (input, filters), torch.ones_like(grad))
    assert all(torch.equal(x, y) for x, y in zip(expanded, dense, strict=True))


def test_compiles_whole(device):
    input, filters, grad = tensors((1, 2, 5, 6), 3, torch.float32, device)

    def f(input, filters):
        return fac(input, filters, 3, padding_mode="replicate") * 2

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for function in (f, compiled):
        output = function(input, filters)
        results = (output, *torch.autograd.grad(output, (input, filters), grad))
        if function is f:
            plain = results
    assert all(torch.equal(a, b) for a, b in zip(plain, results, strict=True))


@pytest.mark.xfail(strict=True, reason="torch drops a custom jvp when compiling: pytorch#192985")
def test_compiled_forward_mode():
    input, filters, _ = tensors((1, 1, 3, 4), 3)

    def tangent(input, filters):
        return torch.func.jvp(lambda x: fac(x, filters, 3), (input,), (torch.ones_like(input),))[1]

    compiled = torch.compile(tangent, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(input.detach(), filters.detach()), tangent(input.detach(), filters.detach())
    )


@pytest.mark.xfail(strict=True, reason="torch.func of a registered operator: pytorch#170834, #193279")
def test_compiled_functional_gradient():
    input, filters, _ = tensors((1, 1, 3, 4), 3)

    def gradient(input, filters):
        return torch.func.grad(lambda x: fac(x, filters, 3).pow(2).sum())(input)

    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(input.detach(), filters.detach()), gradient(input.detach(), filters.detach())
    )


def test_fake_and_meta_tensors_have_shapes():
    input, filters, _ = tensors((2, 3, 4, 5), 3, device="meta")
    output = fac(input, filters, 3)
    assert output.shape == input.shape and output.device.type == "meta"


def test_any_number_of_threads_gives_the_same_bits():
    input, filters, grad = tensors((2, 16, 40, 50), 5, torch.float32)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = fac(input, filters, 5)
            runs.append((output, *torch.autograd.grad(output, (input, filters), grad)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_operators_are_registered_right(device):
    input, filters, grad = tensors((1, 2, 4, 5), 3, device=device)
    ops = torch.ops.fac_ext
    for op, a, b in (
        (ops.fac, input, filters),
        (ops.fac_grad_input, filters, grad),
        (ops.fac_grad_filters, input, grad),
    ):
        torch.library.opcheck(op.default, (a, b, 3, 1))


def test_operators_guard_memory():
    """What would read out of bounds is refused below the public function too."""
    image, filters = torch.zeros(1, 2, 4, 4), torch.zeros(1, 18, 4, 4)
    ops = torch.ops.fac_ext
    for bad in (
        lambda: ops.fac(image, filters[:, :17], 3, 0),
        lambda: ops.fac(image, filters[..., :3], 3, 0),
        lambda: ops.fac(image, filters.double(), 3, 0),
        lambda: ops.fac(image[0], filters, 3, 0),
        lambda: ops.fac(image, torch.zeros(1, 8, 4, 4), 2, 0),
        lambda: ops.fac(image, filters, 3, 2),
        lambda: ops.fac(image.half(), filters.half(), 3, 0),
        lambda: ops.fac_grad_input(filters, image[:, :1], 3, 0),
        lambda: ops.fac_grad_filters(image, image[..., :3], 3, 0),
    ):
        with pytest.raises(RuntimeError, match="fac"):
            bad()


def test_under_autocast_it_runs_in_float32(device):
    input, filters, _ = tensors((1, 2, 4, 5), 3, torch.bfloat16, device)
    with torch.autocast(device, torch.bfloat16):
        output = fac(input, filters, 3)
    assert output.dtype == torch.float32
    assert torch.equal(output, fac(input.float(), filters.float(), 3))
    output.sum().backward()
    assert input.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (TypeError, r"input must be a torch.Tensor, got list", {"input": [1.0]}),
        (TypeError, r"filters must be a torch.Tensor, got NoneType", {"filters": None}),
        (TypeError, r"input must be float32 or float64, got torch.int64", {"input": torch.zeros(1, 2, 4, 5).long()}),
        (TypeError, r"filters must be float32 or float64, got torch.float16", {"filters": torch.zeros(1, 18, 4, 5).half()}),
        (TypeError, r"filters must have input's dtype torch.float32, got torch.float64", {"filters": torch.zeros(1, 18, 4, 5).double()}),
        (TypeError, r"kernel_size must be an int, got 3.0", {"kernel_size": 3.0}),
        (TypeError, r"kernel_size must be an int, got True", {"kernel_size": True}),
        (ValueError, r"kernel_size must be positive and odd, got 4", {"kernel_size": 4}),
        (ValueError, r"kernel_size must be positive and odd, got 0", {"kernel_size": 0}),
        (ValueError, r"kernel_size must be positive and odd, got -3", {"kernel_size": -3}),
        (ValueError, r"padding_mode must be one of zeros, replicate, got 'reflect'", {"padding_mode": "reflect"}),
        (ValueError, r"padding_mode must be one of zeros, replicate, got \['zeros'\]", {"padding_mode": ["zeros"]}),
        (ValueError, r"input must be \(N, C, H, W\), got \(2, 4, 5\)", {"input": torch.zeros(2, 4, 5)}),
        (ValueError, r"filters must be \(N, C\*k\*k, H, W\) = \(1, 18, 4, 5\), got \(1, 17, 4, 5\)", {"filters": torch.zeros(1, 17, 4, 5)}),
        (ValueError, r"= \(1, 18, 4, 5\), got \(1, 18, 5, 4\)", {"filters": torch.zeros(1, 18, 5, 4)}),
        (ValueError, r"= \(1, 18, 4, 5\), got \(2, 18, 4, 5\)", {"filters": torch.zeros(2, 18, 4, 5)}),
        (ValueError, r"filters must be on input's device cpu, got meta", {"filters": torch.zeros(1, 18, 4, 5, device="meta")}),
    ],
)  # fmt: skip
def test_errors_name_argument_rule_and_value(error, words, change):
    arguments = {
        "input": torch.zeros(1, 2, 4, 5),
        "filters": torch.zeros(1, 18, 4, 5),
        "kernel_size": 3,
    } | change
    with pytest.raises(error, match="fac: .*" + words):
        fac(**arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_runs_on_the_current_stream():
    input, filters, _ = tensors((1, 64, 128, 128), 5, torch.float32, "cuda")
    wanted = fac(input, filters, 5)
    late = torch.empty_like(filters)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on another stream would read `late` before it is written
        late.copy_(filters)
        output = fac(input, late, 5)
    stream.synchronize()
    assert torch.equal(output, wanted)
