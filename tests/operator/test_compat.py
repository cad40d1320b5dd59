"""Compare each adapter of fac_ext.compat with its peer's definition, written in loops and indexing."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fac_ext import block_plan, compat, derivatives
from support import oracle

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def run(function, tensors, grad):
    """Return the value of function and the gradients of all its tensors."""
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    output = function(*tensors)
    return output.detach(), *torch.autograd.grad(output, tensors, grad)


def check(function, statement, tensors, roundings=(1, 1, 1, 1), more=0):
    """Check that function computes what statement does, up to the rounding of its dtype.

    roundings: how often the output and each gradient are stored. more: roundings of a product beyond its own.
    """
    grad = torch.randn_like(function(*tensors))
    got = run(function, tensors, grad)
    exact, magnitude, terms = (
        run(statement, [change(tensor.cpu().double()) for tensor in tensors], change(grad.cpu().double()))
        for change in (torch.clone, torch.abs, torch.ones_like)  # products of ones count themselves
    )
    for mine, right, size, count, stored in zip(got, exact, magnitude, terms, roundings, strict=False):
        assert mine.dtype == tensors[0].dtype and mine.device == tensors[0].device
        oracle.check(mine, right, size, count + more, stored)


def look(image, rows, columns, mode="zeros"):
    """Return image at the given rows and columns, which may lie outside."""
    h, w = image.shape[2:]
    seen = image[:, :, rows.clamp(0, h - 1)][..., columns.clamp(0, w - 1)]
    if mode == "replicate":
        return seen
    return seen * (((rows >= 0) & (rows < h))[:, None] & (columns >= 0) & (columns < w))


def taps(*kernel_size):
    return itertools.product(*map(range, kernel_size))


def kernel_conv2d(input, kernel, k):
    (_, c, h, w), y, x = input.shape, torch.arange(input.shape[2]), torch.arange(input.shape[3])
    kernel = kernel.reshape(-1, c, k, k, h, w)
    return sum(
        look(input, y + i - k // 2, x + j - k // 2, "replicate") * kernel[:, :, i, j] for i, j in taps(k, k)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "k"), [((2, 3, 5, 7), 3), ((1, 2, 3, 2), 5), ((11, 2, 3, 4), 3), ((2, 1, 4, 1), 1)]
)
def test_kernel_conv2d(shape, k, dtype, device):
    n, c, h, w = shape
    tensors = [torch.randn(size, dtype=dtype, device=device) for size in (shape, (n, c * k * k, h, w))]
    check(compat.KernelConv2D(k), lambda *two: kernel_conv2d(*two, k), tensors)


def involution(input, weight, stride, padding, dilation, bias=0):
    _, g, kh, kw, h, w = weight.shape
    weight = weight.repeat_interleave(input.shape[1] // g, 1)
    y, x = torch.arange(h) * stride[0] - padding[0], torch.arange(w) * stride[1] - padding[1]
    output = sum(
        look(input, y + i * dilation[0], x + j * dilation[1]) * weight[:, :, i, j] for i, j in taps(kh, kw)
    )
    return output + bias


INVOLUTIONS = [  # input, weight, stride, padding, dilation
    ((2, 4, 7, 9), (2, 2, 3, 3, 7, 9), (1, 1), (1, 1), (1, 1)),
    ((1, 6, 8, 5), (1, 3, 5, 3, 4, 2), (2, 3), (2, 1), (1, 1)),
    ((2, 4, 9, 11), (2, 1, 3, 5, 3, 6), (3, 2), (2, 4), (2, 2)),
    ((1, 3, 6, 7), (1, 3, 2, 3, 4, 3), (1, 2), (0, 0), (2, 1)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("input", "weight", "stride", "padding", "dilation"), INVOLUTIONS)
def test_involution(input, weight, stride, padding, dilation, dtype, device):
    tensors = [torch.randn(size, dtype=dtype, device=device) for size in (input, weight)]
    check(
        lambda x, f: compat.involution(x, f, None, stride, padding, dilation),
        lambda x, f: involution(x, f, stride, padding, dilation),
        tensors,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_involution_with_bias_and_numbers_for_pairs(dtype, device):
    sizes = (2, 4, 7, 9), (2, 2, 3, 3, 4, 5), (4,)
    check(
        lambda x, f, bias: compat.involution(x, f, bias, stride=2, padding=1),
        lambda x, f, bias: involution(x, f, (2, 2), (1, 1), (1, 1), bias[:, None, None]),
        [torch.randn(size, dtype=dtype, device=device) for size in sizes],
    )


def carafe(features, masks, k, groups, scale=1):
    (_, c, h, w), p = features.shape, k // 2
    masks = masks.reshape(-1, groups, k, k, h * scale, w * scale).repeat_interleave(c // groups, 1)
    y, x = torch.arange(h * scale) // scale, torch.arange(w * scale) // scale
    return sum(look(features, y + i - p, x + j - p) * masks[:, :, i, j] for i, j in taps(k, k))


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "k", "groups"),
    [((2, 4, 5, 7), 3, 2), ((1, 6, 4, 3), 5, 1), ((2, 3, 3, 6), 3, 3), ((1, 4, 2, 3), 1, 2)],
)
def test_carafe_naive(shape, k, groups, dtype, scale, device):
    n, _, h, w = shape
    sizes = (shape, (n, groups * k * k, h * scale, w * scale))
    tensors = [torch.randn(size, dtype=dtype, device=device) for size in sizes]
    # the gradient of the enlarged features is stored, and its sum over each feature's pixels
    check(
        lambda *two: compat.carafe_naive(*two, k, groups, scale),
        lambda *two: carafe(*two, k, groups, scale),
        tensors,
        roundings=(1, 1 if scale == 1 else 2, 1),
    )


def adaptive_conv(input, filters):
    _, h, w, kh, kw = filters.shape
    return sum(input[:, :, i : i + h, j : j + w] * filters[:, None, :, :, i, j] for i, j in taps(kh, kw))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("input", "filters"),
    [((2, 5, 6, 8), (2, 4, 6, 3, 3)), ((1, 1, 7, 4), (1, 3, 2, 5, 3)), ((1, 8, 2, 6), (1, 2, 3, 1, 4))],
)
def test_adaptive_conv(input, filters, dtype, device):
    tensors = [torch.randn(size, dtype=dtype, device=device) for size in (input, filters)]
    check(compat.adaptive_conv, adaptive_conv, tensors)


def neighbours(at, length, k, dilation):
    """Return the k nearest of the pixels that are whole dilations away."""
    same = range(at % dilation, length, dilation)
    return sorted(sorted(same, key=lambda other: abs(other - at))[:k])


def na2d_av(attn, value, kernel_size, dilation):
    rows, columns = (
        torch.tensor([neighbours(at, length, k, d) for at in range(length)])
        for length, k, d in zip(value.shape[2:4], kernel_size, dilation, strict=True)
    )
    seen = value[:, :, rows[:, None, :, None], columns[:, None, :]]  # (B, heads, H, W, kh, kw, d)
    return (seen * attn.unflatten(4, kernel_size)[..., None]).sum((4, 5))


ATTENTIONS = [  # value, kernel_size, dilation
    ((2, 2, 6, 9, 3), (3, 3), (1, 1)),
    ((1, 3, 7, 5, 1), (5, 3), (1, 1)),
    ((1, 2, 3, 5, 4), (3, 5), (1, 1)),  # the image is one window
    ((2, 1, 6, 10, 2), (3, 5), (2, 2)),  # one for each phase
    ((1, 2, 11, 8, 2), (3, 1), (3, 2)),
    ((1, 1, 13, 9, 1), (3, 3), (4, 3)),
    ((1, 2, 4, 3, 5), (1, 1), (1, 1)),
    ((2, 1, 20, 33, 17), (7, 7), (2, 4)),
    ((1, 1, 70, 40, 2), (3, 5), (2, 3)),
]


def attention(size, kernel_size, like_convolution=False, **options):
    """Return attn and value; attn has NATTEN's order in memory or that of a convolution's output."""
    b, heads, h, w, _ = size
    attn = torch.randn(b, heads, h, w, kernel_size[0] * kernel_size[1], **options)
    if like_convolution:
        attn = attn.movedim(4, 2).contiguous().movedim(2, 4)
    return attn, torch.randn(size, **options)


@pytest.mark.parametrize("like_convolution", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "kernel_size", "dilation"), ATTENTIONS)
def test_na2d_av(size, kernel_size, dilation, dtype, like_convolution, device):
    check(
        lambda attn, value: compat.na2d_av(attn, value, kernel_size, dilation),
        lambda attn, value: na2d_av(attn, value, kernel_size, dilation),
        attention(size, kernel_size, like_convolution, dtype=dtype, device=device),
    )


def na2d_qk(query, key, kernel_size, dilation):
    rows, columns = (
        torch.tensor([neighbours(at, length, k, d) for at in range(length)])
        for length, k, d in zip(key.shape[2:4], kernel_size, dilation, strict=True)
    )
    seen = key[:, :, rows[:, None, :, None], columns[:, None, :]]  # (B, heads, H, W, kh, kw, d)
    return (seen * query[:, :, :, :, None, None]).sum(6).flatten(4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "kernel_size", "dilation"), ATTENTIONS)
def test_na2d_qk(size, kernel_size, dilation, dtype, device):
    check(
        lambda query, key: compat.na2d_qk(query, key, kernel_size, dilation),
        lambda query, key: na2d_qk(query, key, kernel_size, dilation),
        [torch.randn(size, dtype=dtype, device=device) for _ in range(2)],
    )


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize(("size", "kernel_size", "dilation"), ATTENTIONS[:8])
def test_na2d(size, kernel_size, dilation, scale, device):
    b, heads, h, w, d = size
    tensors = [torch.randn(b, h, w, heads, d, dtype=torch.float64, device=device) for _ in range(3)]

    def statement(query, key, value):
        query, key, value = (t.movedim(3, 1) for t in (query, key, value))
        query = query * (size[4] ** -0.5 if scale is None else scale)
        scores = na2d_qk(query, key, kernel_size, dilation).softmax(4)
        return na2d_av(scores, value, kernel_size, dilation).movedim(1, 3)

    grad = torch.randn_like(tensors[0])
    got = run(lambda *three: compat.na2d(*three, kernel_size, dilation, scale=scale), tensors, grad)
    terms = size[4] * kernel_size[0] * kernel_size[1]
    for mine, right in zip(got, run(statement, tensors, grad), strict=True):
        # each sum has fewer terms, and no exponential strays by more than the sum in its exponent
        oracle.assert_within(mine, right, oracle.spread(torch.float64, 10 * terms**2, 10 * right.abs().max()))


def test_na2d_stores_the_scores_alone(monkeypatch):
    """Beside them, the softmax of one head of four, as all of a head is more than a block."""
    monkeypatch.setitem(block_plan.BLOCK_BYTES, "cpu", 1 << 18)
    tensors = [torch.randn(1, 30, 30, 4, 4) for _ in range(3)]
    head = 30 * 30 * 81 * 4
    with torch.profiler.profile(profile_memory=True) as profile:
        compat.na2d(*tensors, 9)
    large = sorted(e.self_cpu_memory_usage for e in profile.events() if e.self_cpu_memory_usage >= head)
    assert large == [head, 4 * head]


def correlation_sample(first, second, patch, stride, padding, apart):
    sizes = [(first.shape[2 + i] + 2 * padding[i] - 1) // stride[i] + 1 for i in (0, 1)]
    y, x = (torch.arange(sizes[i]) * stride[i] - padding[i] for i in (0, 1))
    parts = [
        (
            look(first, y, x)
            * look(second, y + (i - (patch[0] - 1) // 2) * apart[0], x + (j - (patch[1] - 1) // 2) * apart[1])
        ).sum(1)
        for i, j in taps(*patch)
    ]
    return torch.stack(parts, 1).unflatten(1, patch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "patch", "stride", "padding", "apart"),
    [
        ((2, 5, 6, 7), (3, 3), (1, 1), (0, 0), (1, 1)),
        ((1, 3, 7, 9), (5, 3), (2, 3), (0, 1), (2, 1)),
        ((1, 2, 5, 4), (4, 2), (1, 2), (2, 0), (1, 3)),
        ((1, 9, 8, 20), (7, 7), (1, 1), (0, 0), (1, 2)),
        ((1, 4, 3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ],
)
def test_spatial_correlation_sample(shape, patch, stride, padding, apart, dtype, device):
    check(
        lambda a, b: compat.spatial_correlation_sample(a, b, 1, patch, stride, padding, 1, apart),
        lambda a, b: correlation_sample(a, b, patch, stride, padding, apart),
        [torch.randn(shape, dtype=dtype, device=device) for _ in range(2)],
    )


def test_neighbours_are_the_ones_that_one_expects():
    assert [neighbours(y, 5, 3, 1) for y in range(5)] == [
        [0, 1, 2],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [2, 3, 4],
    ]
    phases = [0, 2, 4], [1, 3, 5], [0, 2, 4], [1, 3, 5], [2, 4, 6], [1, 3, 5], [2, 4, 6]
    assert [neighbours(y, 7, 3, 2) for y in range(7)] == list(phases)


@pytest.mark.parametrize(("size", "kernel_size", "dilation"), ATTENTIONS[:7])
def test_na2d_av_looks_at_the_neighbours_in_their_order(size, kernel_size, dilation, device):
    h, w = size[2:4]
    count = kernel_size[0] * kernel_size[1]
    number = (
        torch.arange(h * w, dtype=torch.float64, device=device)
        .view(1, 1, h, w, 1)
        .expand(count, -1, -1, -1, -1)
    )
    one_tap = (
        torch.eye(count, dtype=torch.float64, device=device)
        .view(count, 1, 1, 1, count)
        .expand(-1, -1, h, w, -1)
    )
    seen = compat.na2d_av(one_tap, number, kernel_size, dilation)[:, 0, :, :, 0]
    for y, x in taps(h, w):
        rows = neighbours(y, h, kernel_size[0], dilation[0])
        columns = neighbours(x, w, kernel_size[1], dilation[1])
        assert seen[:, y, x].tolist() == [row * w + column for row in rows for column in columns]


def test_na2d_av_derivatives(device):
    attn, value = attention((1, 2, 4, 6, 2), (3, 3), dtype=torch.float64, device=device)
    tensors = attn.requires_grad_(), value.requires_grad_()

    def function(attn, value):
        return compat.na2d_av(attn, value, 3, (1, 2))

    assert gradcheck(function, tensors, check_forward_ad=True)
    assert gradgradcheck(function, tensors)


def test_na2d_av_compiles_whole(device):
    def function(attn, value):
        return compat.na2d_av(attn.softmax(4), value, 3, dilation=(1, 2)) * 2

    tensors = attention((2, 2, 5, 7, 3), (3, 3), device=device)
    grad = torch.randn(2, 2, 5, 7, 3, device=device)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for mine, right in zip(run(compiled, tensors, grad), run(function, tensors, grad), strict=True):
        # softmax's sum of 9 exponentials, each product with it, and the sum of 9 more
        oracle.assert_within(mine, right, oracle.spread(torch.float32, 9 + 9 + 1, 9 * right.abs().max()))


def test_na2d_av_of_nothing():
    for size in ((0, 2, 3, 3, 4), (2, 0, 3, 3, 4)):
        attn, value = attention(size, (3, 3))
        output, *gradients = run(lambda *two: compat.na2d_av(*two, 3), (attn, value), value)
        assert output.shape == size and [g.shape for g in gradients] == [attn.shape, value.shape]


def copied(function, tensors, grad):
    """Return the sizes of the tensors that were copied on the way, within the operators too."""
    with torch.profiler.profile(record_shapes=True) as profile:
        run(function, tensors, grad)
    return [
        torch.Size(event.input_shapes[0]).numel() for event in profile.events() if event.name == "aten::copy_"
    ]


def test_filters_are_not_copied(device):
    n, h, w, c = 2, 6, 7, 4

    def by_pixel(*sizes):
        return torch.randn(n, h, w, *sizes, device=device)

    def by_channel(*sizes):
        return by_pixel(*sizes).movedim((1, 2), (-2, -1)).contiguous().movedim((-2, -1), (1, 2))

    image = torch.randn(n, c, h, w, device=device)
    wide = torch.nn.functional.pad(image, (1, 1, 1, 1))
    value = torch.randn(n, 2, h, w, c, device=device)
    attn, attn_by_channel = attention(value.shape, (3, 3), device=device)[0], by_channel(2, 9).movedim(3, 1)
    for function, tensors in (
        (lambda *two: compat.na2d_av(*two, 3), (attn, value)),
        (lambda *two: compat.na2d_av(*two, 3), (attn_by_channel, value)),
        (compat.adaptive_conv, (wide, by_pixel(3, 3))),
        (compat.adaptive_conv, (wide, by_channel(3, 3))),
        (
            lambda *two: compat.involution(*two, padding=1),
            (image, by_pixel(2, 3, 3).movedim((1, 2), (-2, -1))),
        ),
        (
            lambda *two: compat.involution(*two, padding=1),
            (image, by_channel(2, 3, 3).movedim((1, 2), (-2, -1))),
        ),
    ):
        filters = max(tensors, key=torch.numel)
        grad = torch.randn_like(function(*tensors))
        assert all(size < filters.numel() for size in copied(function, tensors, grad))
    gaps = torch.randn(n, 2, h, w, 18, device=device)[..., ::2]  # which the operator has to close
    assert gaps.numel() in copied(lambda *two: compat.na2d_av(*two, 3), (gaps, value), value)


def test_autocast(device):
    attn, value = attention((1, 2, 4, 5, 3), (3, 3), device=device)
    input, weight, bias = (
        torch.randn(size, device=device) for size in ((1, 2, 4, 5), (1, 1, 3, 3, 4, 5), (2,))
    )
    with torch.autocast(device, torch.bfloat16):
        assert compat.na2d_av(attn, value, 3).dtype == torch.float32
        assert compat.na2d_av(attn.bfloat16(), value.bfloat16(), 3).dtype == torch.bfloat16
        mixed = compat.na2d_av(attn, value.bfloat16(), 3)  # what softmax under autocast leaves
        assert torch.equal(mixed, compat.na2d_av(attn.bfloat16(), value.bfloat16(), 3))
        assert compat.involution(input, weight, bias, padding=1).dtype == torch.bfloat16


def separable(input, vertical, horizontal, kernel_size, dilation, mode):
    (_, c, h, w), (kh, kw), (dh, dw) = input.shape, kernel_size, dilation
    vertical, horizontal = vertical.unflatten(1, (-1, kh)), horizontal.unflatten(1, (-1, kw))
    vertical, horizontal = (f.repeat_interleave(c // f.shape[1], 1) for f in (vertical, horizontal))
    y, x = torch.arange(h), torch.arange(w)
    top, left = (kh - 1) * dh // 2, (kw - 1) * dw // 2
    rows = sum(look(input, y + i * dh - top, x, mode) * vertical[:, :, i] for i in range(kh))
    return sum(look(rows, y, x + j * dw - left, mode) * horizontal[:, :, j] for j in range(kw))


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("shape", "groups", "kernel_size", "dilation"),
    [
        ((2, 3, 5, 7), (3, 3), (3, 3), (1, 1)),
        ((1, 4, 6, 4), (2, 1), (5, 3), (1, 2)),
        ((2, 2, 4, 5), (1, 2), (2, 4), (2, 1)),
        ((1, 2, 3, 4), (2, 2), (1, 5), (1, 1)),
    ],
)
def test_separable_fac(shape, groups, kernel_size, dilation, dtype, mode, device):
    n, _, h, w = shape
    sizes = shape, *((n, g * k, h, w) for g, k in zip(groups, kernel_size, strict=True))
    check(
        lambda *three: compat.separable_fac(*three, kernel_size, dilation=dilation, padding_mode=mode),
        lambda *three: separable(*three, kernel_size, dilation, mode),
        more=1,  # a product of three
        tensors=[torch.randn(size, dtype=dtype, device=device) for size in sizes],
    )


Z = torch.zeros
INVOLUTION = {"input": Z(1, 2, 4, 5), "weight": Z(1, 1, 3, 3, 4, 5), "padding": 1}
CARAFE = {"features": Z(1, 2, 4, 5), "masks": Z(1, 18, 4, 5), "kernel_size": 3, "group_size": 2}
ADAPTIVE = {"input": Z(1, 2, 4, 5), "filters": Z(1, 2, 3, 3, 3)}
NA2D = {"attn": Z(1, 2, 4, 5, 9), "value": Z(1, 2, 4, 5, 3), "kernel_size": 3}
QK = {"query": Z(1, 2, 4, 5, 3), "key": Z(1, 2, 4, 5, 3), "kernel_size": 3}
ATTENTION = {**dict.fromkeys(("query", "key", "value"), Z(1, 4, 5, 2, 3)), "kernel_size": 3}
SAMPLE = {"input1": Z(1, 2, 4, 5), "input2": Z(1, 2, 4, 5), "patch_size": 3}
SEPARABLE = {"input": Z(1, 2, 4, 5), "vertical": Z(1, 6, 4, 5), "horizontal": Z(1, 6, 4, 5), "kernel_size": 3}


@pytest.mark.parametrize(
    ("function", "arguments", "change", "error", "words"),
    [
        (compat.KernelConv2D, {"kernel_size": 3}, {"kernel_size": 4}, ValueError, "KernelConv2D: kernel_size must be odd, got 4"),
        (compat.KernelConv2D, {"kernel_size": 3}, {"kernel_size": 3.0}, TypeError, "kernel_size must be an int or a pair of ints .*, got 3.0"),
        (compat.KernelConv2D, {"kernel_size": 3}, {"kernel_size": -1}, ValueError, "kernel_size must be 1 or more, got -1"),
        (compat.involution, INVOLUTION, {"input": [1.0]}, TypeError, "involution: input must be a torch.Tensor, got list"),
        (compat.involution, INVOLUTION, {"input": Z(2, 4, 5)}, ValueError, r"input must be \(N, C, H, W\), got \(2, 4, 5\)"),
        (compat.involution, INVOLUTION, {"weight": None}, TypeError, "weight must be a torch.Tensor, got NoneType"),
        (compat.involution, INVOLUTION, {"weight": Z(1, 9, 4, 5)}, ValueError, r"weight must be \(N, G, kh, kw, Ho, Wo\), got \(1, 9, 4, 5\)"),
        (compat.involution, INVOLUTION, {"weight": Z(1, 1, 3, 3, 4, 5).to_sparse()}, TypeError, "weight must be a dense tensor, got torch.sparse_coo"),
        (compat.involution, INVOLUTION, {"weight": Z(1, 1, 3, 3, 2, 5)}, ValueError, r"= \(1, G\*9, 4, 5\), got \(1, 9, 2, 5\)"),
        (compat.involution, INVOLUTION, {"weight": Z(1, 3, 3, 3, 4, 5)}, ValueError, "G dividing C = 2, got G = 3"),
        (compat.involution, INVOLUTION, {"weight": Z(1, 1, 3, 3, 4, 5).double()}, TypeError, "filters must have input's dtype torch.float32, got torch.float64"),
        (compat.involution, INVOLUTION, {"bias": 1.0}, TypeError, "bias must be a torch.Tensor, got float"),
        (compat.involution, INVOLUTION, {"bias": Z(1, 2)}, ValueError, r"bias must be \(C,\), got \(1, 2\)"),
        (compat.involution, INVOLUTION, {"bias": Z(3)}, ValueError, r"bias must be \(C,\) = \(2,\), got \(3,\)"),
        (compat.involution, INVOLUTION, {"bias": Z(2).double()}, TypeError, "bias must have input's dtype torch.float32, got torch.float64"),
        (compat.involution, INVOLUTION, {"stride": 0}, ValueError, "stride must be 1 or more, got 0"),
        (compat.carafe_naive, CARAFE, {"group_size": 1.0}, TypeError, "group_size must be an int, got 1.0"),
        (compat.carafe_naive, CARAFE, {"scale_factor": 2, "features": Z(1, 2, 4, 5).int()}, ValueError, r"features must have pixels, .*, got \(1, 2, 4, 5\), torch.int32"),
        (compat.involution, INVOLUTION, {"weight": Z(1, 1, 0, 3, 4, 5)}, ValueError, "weight must have taps, got"),
        (compat.involution, INVOLUTION, {"bias": Z(2, device="meta")}, ValueError, "bias must be on input's device cpu, got meta"),
        (compat.carafe_naive, CARAFE, {"scale_factor": 0}, ValueError, "scale_factor must be 1 or more, got 0"),
        (compat.carafe_naive, CARAFE, {"scale_factor": 2}, ValueError, r"filters must be .* = \(1, G\*9, 8, 10\), got"),
        (compat.carafe_naive, CARAFE, {"kernel_size": 2}, ValueError, "carafe_naive: kernel_size must be odd, got 2"),
        (compat.carafe_naive, CARAFE, {"masks": "m"}, TypeError, "masks must be a torch.Tensor, got str"),
        (compat.carafe_naive, CARAFE, {"masks": Z(18, 4, 5)}, ValueError, r"masks must be \(N, group_size\*k\*k, H\*s, W\*s\), got \(18, 4, 5\)"),
        (compat.carafe_naive, CARAFE, {"group_size": 1}, ValueError, r"masks must have group_size\*k\*k = 1\*9 channels, got \(1, 18, 4, 5\)"),
        (compat.carafe_naive, CARAFE, {"features": Z(1, 3, 4, 5)}, ValueError, "G dividing C = 3, got G = 2"),
        (compat.carafe_naive, CARAFE, {"masks": Z(1, 18, 8, 10)}, ValueError, r"= \(1, G\*9, 4, 5\), got \(1, 18, 8, 10\)"),
        (compat.adaptive_conv, ADAPTIVE, {"filters": 3}, TypeError, "adaptive_conv: filters must be a torch.Tensor, got int"),
        (compat.adaptive_conv, ADAPTIVE, {"filters": Z(1, 2, 3, 9)}, ValueError, r"filters must be \(N, Ho, Wo, kh, kw\), got \(1, 2, 3, 9\)"),
        (compat.adaptive_conv, ADAPTIVE, {"filters": Z(1, 4, 5, 3, 3)}, ValueError, r"= \(1, G\*9, 2, 3\), got \(1, 9, 4, 5\)"),
        (compat.na2d_av, NA2D, {"attn": None}, TypeError, "na2d_av: attn must be a torch.Tensor, got NoneType"),
        (compat.na2d_av, NA2D, {"value": None}, TypeError, "na2d_av: value must be a torch.Tensor, got NoneType"),
        (compat.na2d_av, NA2D, {"attn": Z(2, 4, 5, 9)}, ValueError, r"attn must be \(B, heads, H, W, kh\*kw\), got \(2, 4, 5, 9\)"),
        (compat.na2d_av, NA2D, {"value": Z(2, 4, 5, 3)}, ValueError, r"value must be \(B, heads, H, W, d\), got \(2, 4, 5, 3\)"),
        (compat.na2d_av, NA2D, {"value": Z(1, 2, 4, 5, 3).to_sparse()}, TypeError, "value must be a dense tensor, got torch.sparse_coo"),
        (compat.na2d_av, NA2D, {"attn": Z(1, 2, 4, 5, 8)}, ValueError, r"attn must be .* = \(1, 2, 4, 5, 9\), got \(1, 2, 4, 5, 8\)"),
        (compat.na2d_av, NA2D, {"attn": Z(1, 1, 4, 5, 9)}, ValueError, r"attn must be .* = \(1, 2, 4, 5, 9\), got \(1, 1, 4, 5, 9\)"),
        (compat.na2d_av, NA2D, {"value": Z(1, 2, 4, 5, 3).long()}, TypeError, "value must be float64, .*, got torch.int64"),
        (compat.na2d_av, NA2D, {"attn": NA2D["attn"].int(), "value": NA2D["value"].int()}, TypeError, "attn must be float64, .*, got torch.int32"),
        (compat.na2d_av, NA2D, {"value": Z(1, 2, 4, 5, 3, device="meta")}, ValueError, "value must be on attn's device cpu, got meta"),
        (compat.na2d_av, NA2D, {"kernel_size": (3, 2)}, ValueError, r"na2d_av: kernel_size must be odd, got \(3, 2\)"),
        (compat.na2d_av, NA2D, {"kernel_size": "3"}, TypeError, "kernel_size must be an int or a pair of ints .*, got '3'"),
        (compat.na2d_av, NA2D, {"dilation": 0}, ValueError, "dilation must be 1 or more, got 0"),
        (compat.na2d_av, NA2D, {"dilation": (1, 2)}, ValueError, r"H >= kernel_size \* dilation = 3, W >= 6 and d >= 1, got \(1, 2, 4, 5, 3\)"),
        (compat.na2d_av, NA2D, {"dilation": (2, 1)}, ValueError, r"H >= kernel_size \* dilation = 6, W >= 3 and d >= 1, got \(1, 2, 4, 5, 3\)"),
        (compat.na2d_av, NA2D, {"value": Z(1, 2, 4, 5, 0)}, ValueError, r"d >= 1, got \(1, 2, 4, 5, 0\)"),
        (compat.na2d_qk, QK, {"key": None}, TypeError, "na2d_qk: key must be a torch.Tensor, got NoneType"),
        (compat.na2d_qk, QK, {"query": Z(2, 4, 5, 3)}, ValueError, r"query must be \(B, heads, H, W, d\), got \(2, 4, 5, 3\)"),
        (compat.na2d_qk, QK, {"kernel_size": 2}, ValueError, "na2d_qk: kernel_size must be odd, got 2"),
        (compat.na2d_qk, QK, {"key": Z(1, 2, 4, 5, 4)}, ValueError, r"key must have query's shape \(1, 2, 4, 5, 3\), got \(1, 2, 4, 5, 4\)"),
        (compat.na2d_qk, QK, {"key": Z(1, 2, 4, 5, 3).double()}, TypeError, "key must have query's dtype torch.float32, got torch.float64"),
        (compat.na2d_qk, QK, {"key": Z(1, 2, 4, 5, 3, device="meta")}, ValueError, "key must be on query's device cpu, got meta"),
        (compat.na2d_qk, QK, {"dilation": 2}, ValueError, r"key must have H >= kernel_size \* dilation = 6, W >= 6 and d >= 1"),
        (compat.na2d, ATTENTION, {"value": Z(1, 4, 5, 2)}, ValueError, r"na2d: value must be \(B, H, W, heads, d\), got \(1, 4, 5, 2\)"),
        (compat.na2d, ATTENTION, {"kernel_size": (3, 4)}, ValueError, r"na2d: kernel_size must be odd, got \(3, 4\)"),
        (compat.na2d, ATTENTION, {"key": Z(1, 4, 5, 2, 4)}, ValueError, "na2d: key must have query's shape"),
        (compat.na2d, ATTENTION, {"value": Z(1, 4, 5, 2, 3).half()}, TypeError, "na2d: value must have query's dtype torch.float32, got torch.float16"),
        (compat.na2d, ATTENTION, {"dilation": (1, 2)}, ValueError, r"na2d: value must have H >= kernel_size \* dilation = 3, W >= 6"),
        (compat.spatial_correlation_sample, SAMPLE, {"kernel_size": 3}, ValueError, "spatial_correlation_sample: kernel_size must be 1, got 3"),
        (compat.spatial_correlation_sample, SAMPLE, {"input2": Z(1, 2, 4, 6)}, ValueError, r"input2 must have input1's shape \(1, 2, 4, 5\), .*, got \(1, 2, 4, 6\)"),
        (compat.spatial_correlation_sample, SAMPLE, {"input1": Z(2, 4, 5)}, ValueError, r"input1 must be \(N, C, H, W\), got \(2, 4, 5\)"),
        (compat.spatial_correlation_sample, SAMPLE, {"patch_size": 0}, ValueError, "patch_size must be 1 or more, got 0"),
        (compat.separable_fac, SEPARABLE, {"input": 1}, TypeError, "separable_fac: input must be a torch.Tensor, got int"),
        (compat.separable_fac, SEPARABLE, {"vertical": None}, TypeError, "vertical must be a torch.Tensor, got NoneType"),
        (compat.separable_fac, SEPARABLE, {"horizontal": Z(6, 4, 5)}, ValueError, r"horizontal must be \(N, G\*k, H, W\), got \(6, 4, 5\)"),
        (compat.separable_fac, SEPARABLE, {"vertical": Z(1, 5, 4, 5)}, ValueError, r"vertical must be \(N, G\*k, H, W\) = \(1, G\*3, 4, 5\), got \(1, 5, 4, 5\)"),
        (compat.separable_fac, SEPARABLE, {"horizontal": Z(1, 6, 5, 4)}, ValueError, r"horizontal must be .* = \(1, G\*3, 4, 5\), got \(1, 6, 5, 4\)"),
        (compat.separable_fac, SEPARABLE, {"kernel_size": (3, 0)}, ValueError, r"kernel_size must be 1 or more, got \(3, 0\)"),
        (compat.separable_fac, SEPARABLE, {"padding_mode": "mirror"}, ValueError, "padding_mode must be one of zeros, .*, got 'mirror'"),
    ],
)  # fmt: skip
def test_errors_name_argument_rule_and_value(function, arguments, change, error, words):
    function(**arguments)
    with pytest.raises(error, match=words):
        function(**arguments | change)


def test_na2d_av_says_where_it_has_no_kernels(monkeypatch):
    monkeypatch.setattr(derivatives, "DEVICES", ("cuda",))
    with pytest.raises(
        RuntimeError, match="na2d_av: attn is on cpu, for which this build of fac_ext has no kernels"
    ):
        compat.na2d_av(**NA2D)
