"""What the tests of fac_predicted are held to: its witness, its definition, and operands of random cases."""

import torch
import torch.nn.functional as F

from fac_ext import fac
from support import oracle
from support.operands import tensors

HIDDEN = 5  # channels
NAMES = ("input", "hidden", "weight", "bias")
BLOCKS = (1, 700, None)  # bytes: one filter and row; some; all
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def witness(
    input, hidden, weight, bias, kernel_size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"
):
    """The sum over h of hidden[h] * depthwise(input, weight[:, h]), and depthwise(input, bias): no filters anywhere."""
    (kh, kw), c = oracle.two(kernel_size), input.shape[1]
    (top, bottom), (left, right) = oracle.margins(kernel_size, dilation, padding)
    if top or bottom or left or right:
        mode = "constant" if padding_mode == "zeros" else padding_mode
        input = F.pad(input, (left, right, top, bottom), mode)

    def depthwise(taps):
        taps = taps.reshape(-1, 1, kh, kw)
        taps = taps.repeat_interleave(c // taps.shape[0], 0)
        return F.conv2d(input, taps, None, stride, 0, dilation, c)

    total = 0 if bias is None else depthwise(bias)
    for h in range(hidden.shape[1]):
        total = total + hidden[:, h, None] * depthwise(weight[:, h])
    return total


def defined(input, hidden, weight, bias, kernel_size, *, activation=None, block_bytes=None, **keywords):
    """The definition."""
    filters = F.conv2d(hidden, weight.reshape(*weight.shape[:2], 1, 1), bias)
    if activation is not None:
        filters = F.leaky_relu(filters, activation)
    return fac(input, filters, kernel_size, **keywords)


def operands(case, *, bias=True, whole=False, hidden=HIDDEN, **options):
    """([input, hidden, weight, bias], the output's gradient) of a case; whole: small whole numbers."""
    shape, groups, kernel_size, keywords = case
    input, filters, grad = (t.detach() for t in tensors(shape, groups, kernel_size, **options, **keywords))
    features = torch.randn(shape[0], hidden, *filters.shape[2:], device=input.device).to(input.dtype)
    features = features.contiguous(memory_format=options.get("layout", torch.contiguous_format))
    weight = torch.randn(filters.shape[1], hidden, device=input.device).to(input.dtype)
    made = [input, features, weight, torch.randn_like(weight[:, 0]) if bias else None]
    if whole:
        made = [None if t is None else t.round().clamp(-2, 2) for t in made]
    return made, grad


def results(function, made, grad, *args, wanted=(True,) * 4, **keywords):
    """[output, gradients of those that are wanted]"""
    leaves = [t if t is None else t.detach().requires_grad_(one) for t, one in zip(made, wanted, strict=True)]
    output = function(*leaves, *args, **keywords)
    asked = [t for t in leaves if t is not None and t.requires_grad]
    return [output, *torch.autograd.grad(output, asked, grad)]


def bounds(made, grad, kernel_size, wanted=(True,) * 4, **keywords):
    """Exact values, magnitudes and numbers of terms of the results, by the witness in float64."""
    exact, size, ones = (
        [None if t is None else change(t.cpu().double()) for t in (*made, grad)]
        for change in (lambda t: t, torch.abs, torch.ones_like)
    )
    return [
        results(witness, one[:4], one[4], kernel_size, wanted=wanted, **keywords)
        for one in (exact, size, ones)
    ]


def check(got, wanted, kernel_size, dtype):
    """The filters or their gradients are rounded, their products in each block, the sum over the blocks, and, of the
    input's gradient, the sum at each of up to kh bands that see a row."""
    for mine, right, size, terms in zip(got, *wanted, strict=True):
        assert mine.dtype == dtype
        oracle.check(mine, right, size, terms + 4, roundings=3 + oracle.two(kernel_size)[0])


def events(function):
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    return profile.events()
