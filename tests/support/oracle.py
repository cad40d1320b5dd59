"""The operator once more, from torch.nn.functional.pad and indexing alone, in float64, and what rounding allows."""

import torch
import torch.nn.functional as F

# Relative error of one product or sum, and of the result where it is rounded once more when stored.
EPS = {
    torch.float64: (2.0**-53, 0.0),
    torch.float32: (2.0**-24, 0.0),
    torch.float16: (2.0**-24, 2.0**-11),  # summed in float32, stored in half
    torch.bfloat16: (2.0**-24, 2.0**-8),
}
SMALLEST = {
    torch.float64: 2.0**-1022,
    torch.float32: 2.0**-126,
    torch.float16: 2.0**-25,
    torch.bfloat16: 2.0**-126,
}


def two(value):
    return value if isinstance(value, tuple) else (value, value)


def margins(kernel_size, dilation, padding):
    """((top, bottom), (left, right))"""
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(two(dilation), two(kernel_size), strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in ((0, 0) if padding == "valid" else two(padding))]


def output_size(h, w, kernel_size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"):
    around = margins(kernel_size, dilation, padding)
    rules = zip((h, w), around, two(kernel_size), two(stride), two(dilation), strict=True)
    return [(size + sum(p) - d * (k - 1) - 1) // s + 1 for size, p, k, s, d in rules]


def windows(size, kernel, dilation):
    """(size, kernel): the pixels under the taps of each pixel, its window moved inside the image where it would leave."""
    rows = torch.empty(size, kernel, dtype=torch.long)
    for o in range(size):
        mine = torch.arange(o % dilation, size, dilation)  # the pixels that o's window may show
        first = min(max(o // dilation - kernel // 2, 0), len(mine) - kernel)
        rows[o] = mine[first : first + kernel]
    return rows


def output(input, filters, kernel_size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"):
    (kh, kw), (sh, sw), (dh, dw) = two(kernel_size), two(stride), two(dilation)
    (top, bottom), (left, right) = margins(kernel_size, dilation, padding)
    inside = padding_mode == "inside"
    if not inside and (top or bottom or left or right):
        mode = "constant" if padding_mode == "zeros" else padding_mode
        input = F.pad(input, (left, right, top, bottom), mode)
    n, c, _, _ = input.shape
    groups = filters.shape[1] // (kh * kw)
    h, w = filters.shape[2:]
    rows = torch.arange(h).mul(sh)[:, None, None, None] + torch.arange(kh).mul(dh)[:, None]
    columns = torch.arange(w).mul(sw)[:, None, None] + torch.arange(kw).mul(dw)
    if inside:
        rows, columns = windows(h, kh, dh)[:, None, :, None], windows(w, kw, dw)[:, None]
    patches = input[:, :, rows, columns]  # (N, C, Ho, Wo, kh, kw)
    mine = filters.reshape(n, groups, kh, kw, h, w).permute(0, 1, 4, 5, 2, 3)
    mine = mine[:, torch.arange(c) // max(c // max(groups, 1), 1)]
    return (patches * mine).sum((4, 5))


def all_three(function, input, filters, grad, *args, **kwargs):
    """(output, gradient of the input, gradient of the filters) of <grad, function(input, filters)>, in float64."""
    x, f = (t.detach().cpu().double().requires_grad_() for t in (input, filters))
    out = function(x, f, *args, **kwargs)
    return (out.detach(), *torch.autograd.grad(out, (x, f), grad.detach().cpu().double()))


def bounds(input, filters, grad, *args, **kwargs):
    """What check() needs for the output and both gradients: (exact values, magnitudes, numbers of terms)."""
    one = (torch.ones_like(t) for t in (input, filters, grad))
    exact = all_three(output, input, filters, grad, *args, **kwargs)
    magnitude = all_three(output, input.abs(), filters.abs(), grad.abs(), *args, **kwargs)
    return exact, magnitude, all_three(output, *one, *args, **kwargs)


def check(got, exact, magnitude, terms, roundings=1):
    """got is within rounding of exact, the bound of any order of summation and of so many roundings of stored values:

        |error| <= (eps (terms + 1) + eps_stored roundings) * sum |products| + the smallest number

    magnitude is the sum of the products' absolute values, element by element, in float64; terms their number.
    """
    assert got.shape == exact.shape
    eps, stored = EPS[got.dtype]
    allowed = (eps * (terms + 1) + stored * roundings) * magnitude + SMALLEST[got.dtype] * roundings
    got = got.detach().cpu().double()
    used = ((got - exact).abs() / allowed).max() if got.numel() else torch.zeros(())
    assert used <= 1, f"error is {float(used):.2f} times what rounding explains"
