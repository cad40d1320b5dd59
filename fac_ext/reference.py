"""The definition of the operator in plain PyTorch, and its lean form. Tests and benchmarks stand on them."""

import torch.nn.functional as F


def _pad(input, radius, padding_mode):
    mode = "constant" if padding_mode == "zeros" else padding_mode
    return F.pad(input, (radius, radius, radius, radius), mode)


def fac_reference(input, filters, kernel_size, *, padding_mode="zeros"):
    """The definition: unfold every k x k patch, multiply by its filter, sum. Same signature as fac.

    Holds k*k copies of the input and of the product in memory.
    """
    n, c, h, w = input.shape
    patches = F.unfold(_pad(input, kernel_size // 2, padding_mode), kernel_size)  # (N, C*k*k, H*W)
    taps = (n, c, kernel_size * kernel_size, h, w)
    return (patches.reshape(taps) * filters.reshape(taps)).sum(2)


def fac_shift_sum(input, filters, kernel_size, *, padding_mode="zeros"):
    """The same sum as k*k shifted images, with no k*k copies: what good PyTorch code would do.

    Under torch.compile it becomes one loop, and is the peer to beat.
    """
    n, c, h, w = input.shape
    padded = _pad(input, kernel_size // 2, padding_mode)
    filters = filters.reshape(n, c, kernel_size, kernel_size, h, w)
    return sum(
        padded[:, :, i : i + h, j : j + w] * filters[:, :, i, j]
        for i in range(kernel_size)
        for j in range(kernel_size)
    )
