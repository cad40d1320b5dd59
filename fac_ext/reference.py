"""Define the operator in plain PyTorch, and give its lean form. Tests and benchmarks rest on both."""

import torch.nn.functional as F
from torch import Tensor

from fac_ext.arguments import (
    PADDING_MODES,
    Geometry,
    IntPair,
    Padding,
    PaddingMode,
    check_tensors,
    resolve,
)


def fac_reference(
    input: Tensor,
    filters: Tensor,
    kernel_size: IntPair,
    *,
    stride: IntPair = 1,
    dilation: IntPair = 1,
    padding: Padding = "same",
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """Unfold every kh x kw patch, multiply it by its filter, and sum: the definition of fac.

    Takes the arguments of fac and raises its errors. Holds kh*kw copies of the input and of the product in memory;
    sums in the tensors' own dtype.
    """
    check_tensors(input, filters)
    geometry = resolve(input, filters, kernel_size, stride, dilation, padding, padding_mode)
    (kh, kw), shared = geometry.kernel_size, geometry.channels_per_filter
    (n, _, h, w), groups = filters.shape, input.shape[1] // shared
    patches = F.unfold(pad(input, geometry), (kh, kw), geometry.dilation, stride=geometry.stride)
    patches = patches.reshape(n, groups, shared, kh * kw, h, w)  # from (N, C*kh*kw, Ho*Wo)
    return (patches * filters.reshape(n, groups, 1, kh * kw, h, w)).sum(3).flatten(1, 2)


def fac_shift_sum(
    input: Tensor,
    filters: Tensor,
    kernel_size: IntPair,
    *,
    stride: IntPair = 1,
    dilation: IntPair = 1,
    padding: Padding = "same",
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """Sum kh*kw shifted images, without kh*kw copies: what good PyTorch code would do.

    torch.compile makes one loop of it: the peer to beat.
    """
    check_tensors(input, filters)
    return shift_sum(
        input, filters, resolve(input, filters, kernel_size, stride, dilation, padding, padding_mode)
    )


def pad(input: Tensor, geometry: Geometry) -> Tensor:
    """Add the border to the input. What the stride leaves over may stay: no window reaches it."""
    top, bottom, left, right = (max(pixels, 0) for pixels in geometry.padding)
    mode = PADDING_MODES[geometry.padding_mode].replace("zeros", "constant")
    return F.pad(input, (left, right, top, bottom), mode)


def shift_sum(input: Tensor, filters: Tensor, geometry: Geometry) -> Tensor:
    """Compute fac without its kernels: for ONNX, and for devices that have none."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel_size, geometry.stride, geometry.dilation
    n, c, _, _ = input.shape
    h, w = filters.shape[2:]
    groups = c // geometry.channels_per_filter
    padded = pad(input, geometry).unflatten(1, (groups, geometry.channels_per_filter))
    filters = filters.reshape(n, groups, 1, kh, kw, h, w)
    total: Tensor = 0  # type: ignore[assignment]  # until the first product
    for i in range(kh):
        for j in range(kw):
            rows, columns = (
                slice(a, a + s * (m - 1) + 1, s) for a, s, m in ((i * dh, sh, h), (j * dw, sw, w))
            )
            total = total + padded[..., rows, columns] * filters[:, :, :, i, j]
    return total.flatten(1, 2)
