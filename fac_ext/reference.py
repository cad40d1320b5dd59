"""The definition of the operator in plain PyTorch, and its lean form. Tests and benchmarks stand on them."""

import torch.nn.functional as F

from fac_ext.geometry import check_tensors, margins, resolve


def fac_reference(input, filters, kernel_size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"):
    """The definition: unfold every kh x kw patch, multiply by its filter, sum. Same signature and errors as fac.

    Holds kh*kw copies of the input and of the product in memory; sums in the tensors' own dtype.
    """
    padded, (n, g, shared, kh, kw, h, w), stride, dilation = _prepare(
        input, filters, kernel_size, stride, dilation, padding, padding_mode
    )
    patches = F.unfold(padded, (kh, kw), dilation=dilation, stride=stride)  # (N, C*kh*kw, Ho*Wo)
    patches = patches.reshape(n, g, shared, kh * kw, h, w)
    return (patches * filters.reshape(n, g, 1, kh * kw, h, w)).sum(3).reshape(n, g * shared, h, w)


def fac_shift_sum(input, filters, kernel_size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"):
    """The same sum as kh*kw shifted images, with no kh*kw copies: what good PyTorch code would do.

    Under torch.compile it becomes one loop, and is the peer to beat. fac runs it on devices that it has no
    kernels for, and exports it to ONNX.
    """
    padded, (n, g, shared, kh, kw, h, w), (sh, sw), (dh, dw) = _prepare(
        input, filters, kernel_size, stride, dilation, padding, padding_mode
    )
    padded = padded.reshape(n, g, shared, *padded.shape[2:])
    filters = filters.reshape(n, g, 1, kh, kw, h, w)
    total = 0
    for i in range(kh):
        for j in range(kw):
            rows, columns = (
                slice(a, a + s * (m - 1) + 1, s) for a, s, m in ((i * dh, sh, h), (j * dw, sw, w))
            )
            total = total + padded[..., rows, columns] * filters[:, :, :, i, j]
    return total.reshape(n, g * shared, h, w)


def _prepare(input, filters, kernel_size, stride, dilation, padding, padding_mode):
    """The padded input, (N, G, C / G, kh, kw, Ho, Wo), and stride and dilation as pairs."""
    check_tensors(input, filters)
    geometry = resolve(input, filters, kernel_size, stride, dilation, padding, padding_mode)
    (top, bottom), (left, right) = margins(*geometry[:3], padding)
    mode = "constant" if padding_mode == "zeros" else padding_mode
    padded = F.pad(input, (left, right, top, bottom), mode)
    n, _, h, w = filters.shape
    shared = geometry.channels_per_filter
    sizes = (n, input.shape[1] // shared, shared, *geometry.kernel_size, h, w)
    return padded, sizes, geometry.stride, geometry.dilation
