"""The operator once more, from torch.nn.functional.pad and indexing alone, in float64, and what rounding allows.

All tolerances of the tests come from here: EPS and SMALLEST are their table. Three rules use it, each a multiple of
eps, of the number of terms and of the size of what is summed:

- check: the worst that any order of a sum can do. For results whose products are known one by one.
- spread: what independent roundings do to a sum. For sums of which the size is known, but not each product.
- network: spread, with the terms of all layers of a network. For two ways to compute the same frames.
"""

import math

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
    """(size, kernel): the pixels under each pixel's taps, its window moved inside the image where it would leave."""
    rows = torch.empty(size, kernel, dtype=torch.long)
    for o in range(size):
        mine = torch.arange(o % dilation, size, dilation)  # the pixels that o's window may show
        first = min(max(o // dilation - kernel // 2, 0), len(mine) - kernel)
        rows[o] = mine[first : first + kernel]
    return rows


def patches(input, kernel_size, size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"):
    """Return (N, C, Ho, Wo, kh, kw): the pixels under the taps of each of (Ho, Wo) = size output pixels."""
    (kh, kw), (sh, sw), (dh, dw), (h, w) = two(kernel_size), two(stride), two(dilation), size
    (top, bottom), (left, right) = margins(kernel_size, dilation, padding)
    inside = padding_mode == "inside"
    if not inside and (top or bottom or left or right):
        mode = "constant" if padding_mode == "zeros" else padding_mode
        input = F.pad(input, (left, right, top, bottom), mode)
    rows = torch.arange(h).mul(sh)[:, None, None, None] + torch.arange(kh).mul(dh)[:, None]
    columns = torch.arange(w).mul(sw)[:, None, None] + torch.arange(kw).mul(dw)
    if inside:
        rows, columns = windows(h, kh, dh)[:, None, :, None], windows(w, kw, dw)[:, None]
    return input[:, :, rows, columns]


def output(input, filters, kernel_size, **keywords):
    c, (kh, kw), (h, w) = input.shape[1], two(kernel_size), filters.shape[2:]
    return (patches(input, kernel_size, (h, w), **keywords) * per_channel(filters, c, kh, kw)).sum((4, 5))


def per_channel(filters, c, kh, kw):
    """Return (N, C, Ho, Wo, kh, kw): each channel's filters."""
    n, taps, h, w = filters.shape
    groups = taps // (kh * kw)
    mine = filters.reshape(n, groups, kh, kw, h, w).permute(0, 1, 4, 5, 2, 3)
    return mine[:, torch.arange(c) // max(c // max(groups, 1), 1)]


def correlation(input, query, kernel_size, *, groups=None, **keywords):
    (n, c), (kh, kw), (h, w) = input.shape[:2], two(kernel_size), query.shape[2:]
    groups = c if groups is None else groups
    products = patches(input, kernel_size, (h, w), **keywords) * query[..., None, None]
    sums = products.reshape(n, groups, c // max(groups, 1), h, w, kh, kw).sum(2)
    return sums.permute(0, 1, 4, 5, 2, 3).reshape(n, groups * kh * kw, h, w)


def shown(position, size, mode):
    """Return the pixel that a position beyond an end shows, or -1."""
    if 0 <= position < size:
        return position
    beyond = {
        "zeros": -1,
        "replicate": 0 if position < 0 else size - 1,
        "reflect": -position if position < 0 else 2 * (size - 1) - position,
        "circular": position + size if position < 0 else position - size,
    }
    return beyond[mode]


def transposed(
    filters, input, kernel_size, size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"
):
    """Spread input's pixels over an output of (Ho, Wo) = size, tap by tap."""
    (n, c, *_), (kh, kw) = input.shape, two(kernel_size)
    around = margins(kernel_size, dilation, padding)
    rows, columns = (
        torch.tensor(
            [
                [
                    shown(o * two(stride)[a] + t * two(dilation)[a] - around[a][0], size[a], padding_mode)
                    for t in range(k)
                ]
                for o in range(input.shape[2 + a])
            ]
        ).reshape(input.shape[2 + a], k)
        for a, k in enumerate((kh, kw))
    )
    places = rows[:, None, :, None] * size[1] + columns[:, None]
    places = torch.where((rows < 0)[:, None, :, None] | (columns < 0)[:, None], size[0] * size[1], places)
    products = input[..., None, None] * per_channel(filters, c, kh, kw)
    sums = products.new_zeros(n, c, size[0] * size[1] + 1).index_add(2, places.flatten(), products.flatten(2))
    return sums[..., :-1].reshape(n, c, *size)


def all_three(function, input, filters, grad, *args, **kwargs):
    """(output, gradient of the input, gradient of the filters) of <grad, function(input, filters)>, in float64."""
    x, f = (t.detach().cpu().double().requires_grad_() for t in (input, filters))
    out = function(x, f, *args, **kwargs)
    return (out.detach(), *torch.autograd.grad(out, (x, f), grad.detach().cpu().double()))


def bounds(input, filters, grad, *args, function=output, **kwargs):
    """What check() needs for a function's value and both gradients: (exact values, magnitudes, numbers of terms)."""
    one = (torch.ones_like(t) for t in (input, filters, grad))
    exact = all_three(function, input, filters, grad, *args, **kwargs)
    magnitude = all_three(function, input.abs(), filters.abs(), grad.abs(), *args, **kwargs)
    return exact, magnitude, all_three(function, *one, *args, **kwargs)


def check(got, exact, magnitude, terms, roundings=1):
    """got is within rounding of exact, the bound of any order of summation and of so many roundings of stored values:

        |error| <= ((eps + eps of exact) (terms + 1) + eps_stored roundings) * sum |products| + the smallest number

    magnitude is the sum of the products' absolute values, element by element, in float64; terms their number. exact
    is a sum of as many terms itself, in float64: of a float64 result each side may err by all of eps (terms + 1).
    """
    assert got.shape == exact.shape
    eps, stored = EPS[got.dtype]
    eps += EPS[torch.float64][0]
    allowed = (eps * (terms + 1) + stored * roundings) * magnitude + SMALLEST[got.dtype] * roundings
    got = got.detach().cpu().double()
    used = ((got - exact).abs() / allowed).max() if got.numel() else torch.zeros(())
    assert used <= 1, f"error is {float(used):.2f} times what rounding explains"


def spread(dtype, terms, size=1.0):
    """What a sum strays by: 8 eps sqrt(terms) size, with size at least the sum of its products' absolute values.

    Roundings of single operations are at most eps and as good as independent of each other: such a sum strays by more
    than lambda eps sqrt(terms) size with a probability of at most 2 terms exp(-lambda^2 / 2) (Higham and Mary 2019,
    doi 10.1137/18M1226312, theorem 2.4), which is 3e-14 terms for lambda = 8. The worst case, eps terms size, is
    hundreds of times as large where there are as many terms as in a network, and would hide mistakes.
    """
    eps, stored = EPS[dtype]
    return (8 * eps * math.sqrt(terms) + stored) * float(torch.as_tensor(size).detach())


def network(model, dtype, frames=1, size=1.0):
    """What two ways to compute a network's frames differ by: spread of all layers' terms, size the largest value.

    Taken for granted: a layer passes on the errors of earlier ones as they are, and its products' absolute values sum
    up to the largest value, as in layers that keep the size of what they are given; a state carries errors on to the
    next frame. Tests compare in float64 where they can: this is then 1e-12, and no mistake is so small.
    """
    layers = sum(math.prod(p.shape[1:]) + 1 for p in model.parameters() if p.dim() == 4)
    return spread(dtype, frames * layers, size)


def assert_within(got, wanted, allowed, **options):
    """got and wanted differ by at most allowed, one of the numbers above."""
    torch.testing.assert_close(got, wanted, rtol=0, atol=allowed, **options)
