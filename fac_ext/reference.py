"""Define the operators in plain PyTorch, and give their lean forms. Tests and benchmarks rest on both."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fac_ext.arguments import (
    PADDING_MODES,
    Geometry,
    IntPair,
    Padding,
    PaddingMode,
    check_tensors,
    check_window,
    resolve,
    resolve_correlation,
    resolve_transpose,
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
    check_tensors(input=input, filters=filters)
    window = check_window(kernel_size, stride, dilation, padding, padding_mode)
    geometry = resolve(input, filters, window)
    patches, (n, _, h, w) = _patches(input, geometry), filters.shape
    filters = filters.reshape(n, patches.shape[1], 1, geometry.taps, h, w)
    return (patches * filters).sum(3).flatten(1, 2)


def fac_correlation_reference(
    input: Tensor,
    query: Tensor,
    kernel_size: IntPair,
    *,
    groups: int | None = None,
    stride: IntPair = 1,
    dilation: IntPair = 1,
    padding: Padding = "same",
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """Define fac_correlation: unfold every kh x kw patch, multiply it by its query, and sum over the channels."""
    check_tensors(input=input, query=query)
    window = check_window(kernel_size, stride, dilation, padding, padding_mode)
    geometry = resolve_correlation(input, query, window, groups)
    patches = _patches(input, geometry)
    query = query.unflatten(1, patches.shape[1:3])[:, :, :, None]
    return (patches * query).sum(2).flatten(1, 2)


def fac_transpose_reference(
    filters: Tensor,
    input: Tensor,
    kernel_size: IntPair,
    *,
    stride: IntPair = 1,
    dilation: IntPair = 1,
    padding: Padding = "same",
    padding_mode: PaddingMode = "zeros",
    output_padding: IntPair = 0,
    output_size: IntPair | None = None,
) -> Tensor:
    """Define fac_transpose: multiply every pixel by its filter, fold the kh x kw patches, and fold the border back."""
    check_tensors(filters=filters, input=input)
    window = check_window(kernel_size, stride, dilation, padding, padding_mode)
    geometry = resolve_transpose(filters, input, window, output_padding, output_size)
    n, c, h, w = input.shape
    groups = c // geometry.channels_per_filter
    patches = filters.reshape(n, groups, 1, geometry.taps, h, w) * input.reshape(n, groups, -1, 1, h, w)
    size = (_span(geometry, 0, h), _span(geometry, 1, w))
    arguments = (geometry.kernel_size, geometry.dilation, 0, geometry.stride)
    return unpad(F.fold(patches.reshape(n, c * geometry.taps, h * w), size, *arguments), geometry)


def _patches(input: Tensor, geometry: Geometry) -> Tensor:
    """Return the windows of the input, (N, G, C/G, kh*kw, Ho, Wo)."""
    padded, shared = pad(input, geometry), geometry.channels_per_filter
    patches = F.unfold(padded, geometry.kernel_size, geometry.dilation, stride=geometry.stride)
    size = [
        (padded.shape[2 + axis] - _span(geometry, axis, 1)) // geometry.stride[axis] + 1 for axis in (0, 1)
    ]
    n, c = input.shape[:2]
    return patches.reshape(n, c // shared, shared, geometry.taps, *size)  # from (N, C*kh*kw, Ho*Wo)


def _span(geometry: Geometry, axis: int, output: int) -> int:
    """Return the rows or columns that so many outputs read, border included."""
    reach = (geometry.kernel_size[axis] - 1) * geometry.dilation[axis] + 1
    return (output - 1) * geometry.stride[axis] + reach


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
    check_tensors(input=input, filters=filters)
    window = check_window(kernel_size, stride, dilation, padding, padding_mode)
    return shift_sum(input, filters, resolve(input, filters, window))


def pad(input: Tensor, geometry: Geometry) -> Tensor:
    """Add the border to the input. What the stride leaves over may stay: no window reaches it."""
    top, bottom, left, right = (max(pixels, 0) for pixels in geometry.padding)
    mode = PADDING_MODES[geometry.padding_mode].replace("zeros", "constant")
    return F.pad(input, (left, right, top, bottom), mode)


def unpad(padded: Tensor, geometry: Geometry) -> Tensor:
    """Add the border back to the pixels it shows: pad's adjoint, for the rows and columns that windows reach."""
    top, bottom, left, right = geometry.padding
    # what no window reaches is zero
    padded = F.pad(padded, (0, max(-right, 0), 0, max(-bottom, 0)))
    mode = PADDING_MODES[geometry.padding_mode]
    if mode == "zeros":
        return F.pad(padded, (-left, min(-right, 0), -top, min(-bottom, 0)))
    for axis, (before, after) in ((2, (top, max(bottom, 0))), (3, (left, max(right, 0)))):
        if before or after:
            size = padded.shape[axis] - before - after
            pixels = torch.arange(size, dtype=torch.float32, device=padded.device)[None, None]
            shown = F.pad(pixels, (before, after), mode)[0, 0].long()
            inside = padded.narrow(axis, 0, size)
            padded = torch.zeros_like(inside).index_add(axis, shown, padded)
    return padded


def shift_sum(input: Tensor, filters: Tensor, geometry: Geometry) -> Tensor:
    """Compute fac without its kernels: for ONNX, and for devices that have none. Sums half types in float32."""
    (kh, kw), (h, w) = geometry.kernel_size, filters.shape[2:]
    groups = input.shape[1] // geometry.channels_per_filter
    padded = pad(input, geometry).unflatten(1, (groups, geometry.channels_per_filter))
    filters = filters.reshape(input.shape[0], groups, 1, kh, kw, h, w)
    total: Tensor = 0  # type: ignore[assignment]  # until the first product
    for i, j, rows, columns in _taps(geometry, h, w):
        total = total + _widen(padded[..., rows, columns] * filters[:, :, :, i, j])
    return total.flatten(1, 2).to(input.dtype)


def shift_correlation(input: Tensor, query: Tensor, geometry: Geometry) -> Tensor:
    """Compute fac_grad_filters likewise."""
    split = (input.shape[1] // geometry.channels_per_filter, geometry.channels_per_filter)
    padded, query = pad(input, geometry).unflatten(1, split), query.unflatten(1, split)
    h, w = query.shape[3:]
    parts = [(padded[..., rows, columns] * query).sum(2) for _, _, rows, columns in _taps(geometry, h, w)]
    return torch.stack(parts, 2).flatten(1, 2)


def shift_transpose(filters: Tensor, input: Tensor, geometry: Geometry) -> Tensor:
    """Compute fac_grad_input likewise."""
    (kh, kw), (dh, dw), (n, c, h, w) = geometry.kernel_size, geometry.dilation, input.shape
    groups = c // geometry.channels_per_filter
    images = input.unflatten(1, (groups, geometry.channels_per_filter))
    filters = filters.reshape(n, groups, 1, kh, kw, h, w)
    total: Tensor = 0  # type: ignore[assignment]  # until the first product
    for i, j, _, _ in _taps(geometry, h, w):
        product = _spread((images * filters[:, :, :, i, j]).flatten(1, 2), geometry.stride)
        around = (j * dw, (kw - 1 - j) * dw, i * dh, (kh - 1 - i) * dh)
        total = total + _widen(F.pad(product, around))
    return unpad(total, geometry).to(input.dtype)


def _widen(product: Tensor) -> Tensor:
    """Convert half types to the float32 that they are summed in."""
    return product.float() if product.dtype in (torch.float16, torch.bfloat16) else product


def _spread(image: Tensor, stride: tuple[int, int]) -> Tensor:
    """Put stride - 1 zeros between the pixels."""
    if stride == (1, 1):
        return image
    (sh, sw), (h, w) = stride, image.shape[2:]
    image = F.pad(image[:, :, :, None, :, None], (0, sw - 1, 0, 0, 0, sh - 1))
    return image.flatten(4, 5).flatten(2, 3)[:, :, : (h - 1) * sh + 1, : (w - 1) * sw + 1]


def _taps(geometry: Geometry, h: int, w: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield each tap's row and column in the filter, and the rows and columns that it reads of a padded image."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel_size, geometry.stride, geometry.dilation
    for i in range(kh):
        for j in range(kw):
            rows, columns = (
                slice(a, a + s * (m - 1) + 1, s) for a, s, m in ((i * dh, sh, h), (j * dw, sw, w))
            )
            yield i, j, rows, columns
