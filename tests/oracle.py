"""The operator once more, as its formula reads: numpy, float64, a loop over every index. Slow; small tensors only."""

import itertools

import numpy as np
import torch


def _terms(height, width, k, padding_mode):
    """(y, x, i, j, row, column): output pixel, tap, and the input pixel under it; without those under zeros."""
    for y, x, i, j in itertools.product(range(height), range(width), range(k), range(k)):
        row, column = y + i - (k - 1) // 2, x + j - (k - 1) // 2
        if padding_mode == "replicate":
            row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
        if 0 <= row < height and 0 <= column < width:
            yield y, x, i, j, row, column


def fac_and_gradients(input, filters, grad, k, padding_mode):
    """(output, gradient of the input, gradient of the filters) of <grad, fac(input, filters)>."""
    x, f, g = (tensor.detach().cpu().double().numpy() for tensor in (input, filters, grad))
    n, c, h, w = x.shape
    f = f.reshape(n, c, k, k, h, w)
    out, grad_x, grad_f = np.zeros_like(x), np.zeros_like(x), np.zeros_like(f)
    for y, column_out, i, j, row, column in _terms(h, w, k, padding_mode):
        here = (slice(None), slice(None), y, column_out)
        there = (slice(None), slice(None), row, column)
        tap = (slice(None), slice(None), i, j, y, column_out)
        out[here] += x[there] * f[tap]
        grad_x[there] += f[tap] * g[here]
        grad_f[tap] += x[there] * g[here]
    return tuple(torch.from_numpy(a) for a in (out, grad_x, grad_f.reshape(n, c * k * k, h, w)))


def check(got, exact, magnitude, terms):
    """got is within rounding of exact: |error| <= eps (terms + 1) sum |products|, the bound of any summation order.

    magnitude is the sum of the products' absolute values, element by element, in float64.
    """
    assert got.shape == exact.shape
    allowed = torch.finfo(got.dtype).eps * (terms + 1) * magnitude + torch.finfo(got.dtype).tiny
    used = ((got.detach().cpu().double() - exact).abs() / allowed).max() if got.numel() else 0
    assert used <= 1, f"error is {float(used):.1f} times what rounding explains"
