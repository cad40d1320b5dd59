"""Compare the operator's values and gradients with the oracle, for every shape, type and layout, within rounding."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fac_ext import FAC, derivatives, fac, fac_reference
from fac_ext.arguments import PADDING_MODES, Geometry
from fac_ext.reference import fac_shift_sum
from support import oracle
from support.operands import CASES, LAYOUTS, Seen, all_three, check_all, tensors

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("shape", "groups", "kernel_size", "keywords"), CASES)
def test_value_and_both_gradients(shape, groups, kernel_size, keywords, dtype, layout, device):
    operands = tensors(shape, groups, kernel_size, dtype=dtype, device=device, layout=layout, **keywords)
    check_all(fac, *operands, kernel_size, **keywords)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("width", [180, 213, 214, 318, 854])
def test_value_in_rows_of_any_width(width, dtype, mode, device):
    """Take rows of multiples of 8, 4 and 2 bytes: a CUDA thread owns as many of one."""
    for kernel_size in (3, 5, 7):
        operands = tensors((1, 2, 9, width), 2, kernel_size, dtype=dtype, device=device)
        check_all(fac, *operands, kernel_size, padding_mode=mode)


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
@pytest.mark.parametrize(
    ("kernel_size", "dtype"),
    [
        pytest.param(k, dtype, marks=() if k == 3 else pytest.mark.long)
        for k in (3, 5, (3, 4))
        for dtype in DTYPES
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_results_larger_than_the_caches(kernel_size, dtype, layout, device):
    """Store results past the caches, sixteen bytes at a time: these rows begin at any byte, channels are left over."""
    most, image = 8 << 20, (43, 29, 33)
    bytes_of_filters = math.prod((*image, *oracle.two(kernel_size), dtype.itemsize))
    shape = (most // bytes_of_filters + 1, *image)
    operands = tensors(shape, 43, kernel_size, dtype=dtype, device=device, layout=layout)
    assert operands[1].nbytes > most
    check_all(fac, *operands, kernel_size)


@pytest.mark.parametrize("function", [fac_reference, fac_shift_sum])
def test_the_pytorch_forms_are_the_same_operator(function):
    for shape, groups, kernel_size, keywords in CASES:
        if shape[1] == 0 and function is fac_reference:
            continue  # torch's unfold wants a channel
        check_all(function, *tensors(shape, groups, kernel_size, **keywords), kernel_size, **keywords)


@st.composite
def any_call(draw):
    """Draw (operands' description, kernel_size, keywords) from all arguments that torch's own pad accepts."""
    small = st.integers(1, 3)
    groups, shared = draw(small), draw(small)
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    kernel_size = draw(st.one_of(st.integers(1, 8), st.tuples(st.integers(1, 15), st.integers(1, 15))))
    dilation = draw(st.one_of(small, st.tuples(small, small)))
    padding = draw(
        st.one_of(st.sampled_from(["same", "valid"]), st.integers(0, 9), st.tuples(st.integers(0, 9), small))
    )
    stride = 1 if padding == "same" else draw(st.one_of(small, st.tuples(small, small)))
    mode = draw(st.sampled_from(PADDING_MODES))
    keywords = {"stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode}
    output = oracle.output_size(*size, kernel_size, **keywords)
    around = oracle.margins(kernel_size, dilation, padding)
    most = {"reflect": -1, "circular": 0}.get(mode, 99)
    allowed = all(max(around[i]) <= size[i] + most for i in range(2)) and min(output) > 0
    shape = (draw(small), groups * shared, *size)
    return (
        (shape, groups),
        kernel_size,
        keywords,
        allowed,
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from(LAYOUTS)),
    )


@given(any_call(), st.data())
def test_any_call(call, data):
    (shape, groups), kernel_size, keywords, allowed, dtype, layout = call
    torch.manual_seed(0)
    if not allowed:
        taps = oracle.two(kernel_size)
        filters = torch.zeros(shape[0], groups * taps[0] * taps[1], *shape[2:])
        with pytest.raises(ValueError, match="fac: "):
            fac(torch.zeros(shape), filters, kernel_size, **keywords)
        return
    operands = tensors(shape, groups, kernel_size, dtype=dtype, layout=layout, **keywords)
    check_all(fac, *operands, kernel_size, **keywords)


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
@pytest.mark.parametrize("mode", PADDING_MODES)
def test_planes_of_several_bands(mode, layout, device):
    """Take more rows than the CPU kernels do at once, and more pixels than a CUDA block has threads."""
    operands = tensors((1, 2, 150, 260), 2, 5, device=device, layout=layout)
    check_all(fac, *operands, 5, padding_mode=mode)


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
@pytest.mark.parametrize(("channels", "groups"), [(4, 2), (4, 1), (140, 140), (140, 2)])
def test_several_bands_and_blocks_of_channels(channels, groups, layout, device):
    """Share filters, for which bands are smaller; 140 channels are two blocks of the channels_last kernels."""
    shape = (1, channels, 100, 60) if channels == 4 else (1, channels, 100, 5)
    check_all(fac, *tensors(shape, groups, 3, device=device, layout=layout), 3, padding_mode="replicate")


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
def test_results_have_the_filters_layout(layout, device):
    operands = tensors((2, 4, 5, 6), 2, 3, device=device, layout=layout)
    results = all_three(fac, *operands, 3)
    assert all(result.is_contiguous(memory_format=layout) for result in results)
    mixed = fac(operands[0].contiguous(), operands[1], 3)  # a small input in the other layout changes nothing
    assert mixed.is_contiguous(memory_format=layout) and torch.equal(mixed, results[0])


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
def test_no_copy_of_the_filters(layout):
    """Allocate nothing of the filters' size in the forward pass, and only their gradient in the backward pass."""
    operands = tensors((1, 8, 64, 64), 8, 5, dtype=torch.float32, layout=layout)
    size = operands[1].numel() * operands[1].element_size()
    with torch.profiler.profile(profile_memory=True) as profile:
        output = fac(*operands[:2], 5)
    taken = [event.cpu_memory_usage for event in profile.events() if event.cpu_memory_usage > 0]
    assert max(taken) == output.numel() * 4
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.grad(output, operands[:2], operands[2])
    taken = [event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage >= size]
    assert taken == [size]


def test_only_the_gradient_that_is_asked_for(device):
    input, filters, grad = tensors((1, 2, 4, 5), 2, 3, device=device)
    _, *both = all_three(fac, input, filters, grad, 3)
    for a, b, expected, right, op in (
        (input, filters.detach(), input, both[0], "fac_grad_input"),
        (input.detach(), filters, filters, both[1], "fac_grad_filters"),
    ):
        with Seen() as seen:
            (alone,) = torch.autograd.grad(fac(a, b, 3), expected, grad)
        assert seen.ours == ["fac", op]
        assert torch.equal(alone, right)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 0, 1)
    with Seen() as seen:
        for first, second, op in ((filters, grad, "fac_grad_input"), (input, grad, "fac_grad_filters")):
            for one in (0, 1):  # the second derivatives too
                pair = [t.detach().requires_grad_(i == one) for i, t in enumerate((first, second))]
                out = getattr(derivatives, op)(*pair, geometry)
                seen.ours.clear()
                torch.autograd.grad(out.sum(), pair[one])
                assert len(seen.ours) == 1
    assert not fac(input.detach(), filters.detach(), 3).requires_grad


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
def test_same_bits_every_time(layout, device):
    for groups in (4, 2):
        operands = tensors((2, 4, 33, 47), groups, 5, dtype=torch.float32, device=device, layout=layout)
        runs = [all_three(fac, *operands, 5, padding_mode="replicate") for _ in range(3)]
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
@pytest.mark.parametrize("groups", [16, 2])
def test_any_number_of_threads_gives_the_same_bits(groups, layout):
    operands = tensors((2, 16, 40, 50), groups, 5, dtype=torch.float32, layout=layout)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(all_three(fac, *operands, 5))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_operators_guard_memory():
    """Refuse calls that would read out of bounds below the public function too."""
    image, filters = torch.zeros(1, 2, 4, 4), torch.zeros(1, 18, 4, 4)
    ops = torch.ops.fac_ext
    good = {"kernel_size": [3, 3], "stride": [1, 1], "dilation": [1, 1], "padding": [1, 1, 1, 1]}
    good |= {"padding_mode": 0, "channels_per_filter": 1}
    ops.fac(image, filters, **good)
    for change in (
        {"kernel_size": [3, 5]},
        {"kernel_size": [0, 3]},
        {"kernel_size": [3]},
        {"stride": [2, 1]},
        {"stride": [0, 1]},
        {"dilation": [1, -1]},
        {"dilation": [1, 2]},
        {"padding": [1, 1, 1]},
        {"padding": [2, 0, 1, 1]} | {"padding_mode": 9},
        {"padding": [-1, 3, 1, 1]},
        {"padding": [3, -1, 1, 1]},
        {"padding_mode": -1},
        {"padding_mode": 5},
        {"channels_per_filter": 0},
        {"channels_per_filter": 3},
        {"channels_per_filter": 2},
        {"kernel_size": [2**62 + 1, 3]},
        {"stride": [2**63 - 1, 1], "padding": [0, 0, 1, 1]},
        {"dilation": [2**63 - 1] * 2, "padding": [0] * 4},
        {"padding": [2**62, 2**62, 1, 1]},
    ):
        with pytest.raises(RuntimeError):
            ops.fac(image, filters, **good | change)
    inside = {"padding_mode": 4, "padding": [0] * 4}
    one, tap = torch.ones(1, 1, 40, 40), {"kernel_size": [1, 1]}
    for bad in (  # kInside, with settings that no window moved inside has
        lambda: ops.fac_grad_input(torch.ones(1, 9, 4, 4), torch.ones(1, 1, 4, 4), **good | inside),
        lambda: ops.fac_grad_input(one, one, **good | inside | tap | {"stride": [200, 200]}),
        lambda: ops.fac_grad_input(
            torch.ones(1, 9, 3, 3), torch.ones(1, 1, 3, 3), **good | {"stride": [2**31] * 2}
        ),
    ):
        with pytest.raises(RuntimeError):
            bad()
    wide = {"kernel_size": [9, 9], "padding": [4, 4, 4, 4]}
    for mode in (2, 4):  # reflect by as much as the image, a window larger than the image
        with pytest.raises(RuntimeError, match="larger than the input"):
            ops.fac(image, torch.zeros(1, 162, 4, 4), **good | wide | {"padding_mode": mode})
    for bad in (
        lambda: ops.fac(image, filters[:, :17], **good),
        lambda: ops.fac(image, filters[..., :3], **good),
        lambda: ops.fac(image, filters.double(), **good),
        lambda: ops.fac(image[0], filters, **good),
        lambda: ops.fac(image, torch.zeros(2, 18, 4, 4), **good),
        lambda: ops.fac(image.long(), filters.long(), **good),
        lambda: ops.fac_grad_input(filters, image[:, :1], **good),
        lambda: ops.fac_grad_input(filters, image, **good | {"padding": [4, 4, 4, 4]}),
        lambda: ops.fac_grad_filters(image, image[..., :3], **good),
        lambda: ops.fac_grad_filters(image, image[:, :1], **good),
    ):
        with pytest.raises(RuntimeError, match="fac"):
            bad()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_a_convolutions(dtype, device):
    """Autocast casts float32 and half tensors and leaves float64; gradients have each tensor's own dtype."""
    input, filters, _ = tensors((1, 2, 4, 5), 2, 3, dtype=torch.float32, device=device)
    mixed = filters.detach().to(dtype).requires_grad_()
    weight = torch.randn(2, 2, 3, 3, device=device)
    with torch.autocast(device, dtype):
        output, convolved = fac(input, mixed, 3), torch.nn.functional.conv2d(input, weight, padding=1)
        double = fac(input.double(), filters.double(), 3)
    assert output.dtype == convolved.dtype == dtype and double.dtype == torch.float64
    assert torch.equal(output, fac(input.to(dtype), mixed, 3))
    output.sum().backward()
    assert input.grad.dtype == torch.float32 and mixed.grad.dtype == dtype


def test_module_is_the_function():
    for shape, groups, kernel_size, keywords in CASES:
        input, filters, _ = tensors(shape, groups, kernel_size, **keywords)
        layer = FAC(kernel_size, **keywords)
        assert torch.equal(layer(input, filters), fac(input, filters, kernel_size, **keywords))
        assert not list(layer.parameters()) and f"kernel_size={oracle.two(kernel_size)}" in repr(layer)


def test_not_a_number_passes_through(device):
    """Let a NaN spoil the pixels that read it, under a zero of the padding too, and no others."""
    for layout in LAYOUTS:
        input, filters, grad = tensors((1, 2, 6, 7), 2, 3, device=device, layout=layout)
        with torch.no_grad():
            filters[0, 0, 0, 0] = filters[0, 13, 3, 4] = torch.nan  # the first looks beyond the corner
            input[0, 1, 5, 6] = torch.inf
        results = all_three(fac, input, filters, grad, 3)
        expected = oracle.all_three(oracle.output, input, filters, grad, 3)
        assert results[0].isnan()[0, 0, 0, 0] and results[0].isnan()[0, 1, 3, 4]
        for mine, right in zip(results, expected, strict=True):
            # of what is finite; a filter's or pixel's 9 products
            size = right.nan_to_num(0, 0, 0).abs().max()
            allowed = oracle.spread(torch.float64, 9, 9 * size)
            oracle.assert_within(mine.cpu(), right, allowed, equal_nan=True)
