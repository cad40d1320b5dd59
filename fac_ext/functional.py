"""The public functions: arguments.py checks what they get; derivatives.py and predicted.py have the operators."""

from typing import Literal

import torch
from torch import Tensor

from fac_ext import derivatives, predicted
from fac_ext.arguments import (
    SOFTMAX,
    Geometry,
    IntPair,
    Padding,
    PaddingMode,
    check_activation,
    check_block_bytes,
    check_normalize,
    check_tensors,
    check_window,
    resolve,
    resolve_correlation,
    resolve_predicted,
    resolve_transpose,
)
from fac_ext.block_plan import BLOCK_BYTES, plan_blocks
from fac_ext.devices import warn_of_expression
from fac_ext.reference import shift_correlation, shift_sum, shift_transpose

# Ask once: torch.compile cannot trace the question.
AUTOCAST_DEVICES = tuple(
    d for d in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia") if torch.amp.is_autocast_available(d)
)


def fac(
    input: Tensor,
    filters: Tensor,
    kernel_size: IntPair,
    *,
    stride: IntPair = 1,
    dilation: IntPair = 1,
    padding: Padding = "same",
    padding_mode: PaddingMode = "zeros",
    normalize: Literal["softmax"] | None = None,
) -> Tensor:
    """Filter adaptive convolution: each output pixel of each channel has its own kh x kw filter.

    With G filter groups, g(c) = c // (C / G), and the input continued beyond its border by `padding_mode`::

        out[n, c, y, x] = sum_ij input[n, c, y*sh + i*dh - ph, x*sw + j*dw - pw]
                                 * filters[n, g(c)*kh*kw + i*kw + j, y, x]

    This is a cross-correlation: no flip. G = C is the filter adaptive convolution of "Spatio-Temporal Filter Adaptive
    Network for Video Deblurring", Zhou et al., ICCV 2019; G = 1 is a kernel prediction network; what lies between is
    involution. Computes what :func:`fac_ext.fac_reference` does, at the speed of the memory.

    Args:
        input: (N, C, H, W), float64, float32, float16 or bfloat16. The last two are summed in float32.
        filters: (N, G*kh*kw, Ho, Wo), same dtype and device, G any divisor of C. Row-major and channels_last
            filters are read as they are, and decide the layout of the result; others are made row-major.
        kernel_size, stride, dilation: int or (height, width), in pixels. Kernels may be odd, even and rectangular.
        padding: pixels on both sides, an int or (height, width); or, as in torch.nn.Conv2d, "valid" (none) or "same"
            (Ho = H, Wo = W; needs stride 1; an even kernel gets its odd pixel at the bottom and right).
        padding_mode: "zeros", "replicate", "reflect" or "circular", as in torch.nn.Conv2d.
        normalize: "softmax" applies softmax(filters), over the taps of each filter, which is made in blocks and never
            stored, forward and backward.

    Returns:
        (N, C, Ho, Wo) with Ho = (H + 2*ph - dh*(kh - 1) - 1) // sh + 1, Wo likewise. Differentiable in both tensors,
        any number of times, in reverse and forward mode. Autocast casts the tensors as it does a convolution's.

    Raises:
        TypeError: an argument is not a tensor or not an int; a dtype is unsupported or the dtypes differ; a tensor is
            sparse.
        ValueError: the shapes do not fit each other or the other arguments; the tensors are on different devices.

    Warns:
        UserWarning: once, where the device has no kernels (build_info()["kernels"]) and PyTorch's own operators do
            the work, slower and with more memory.
    """
    check_tensors(input=input, filters=filters)
    input, filters = _autocast(input, filters)
    geometry = resolve(input, filters, check_window(kernel_size, stride, dilation, padding, padding_mode))
    check_normalize(normalize)
    if normalize == "softmax":
        return fac_of_softmax(input, filters, geometry)
    call = derivatives.fac if _has_kernels(input) else shift_sum
    return call(input, filters, geometry)


def fac_of_softmax(input: Tensor, filters: Tensor, geometry: Geometry) -> Tensor:
    """Compute fac(..., normalize="softmax") of arguments that are checked."""
    if not _has_kernels(input):
        return shift_sum(input, predicted.softmax(filters, geometry.taps), geometry)
    max_bytes = BLOCK_BYTES["cpu" if input.device.type == "cpu" else "others"]
    return predicted.predicted(input, filters, None, None, SOFTMAX, max_bytes, geometry)


def fac_correlation(
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
    """Local correlation: compare each pixel's query with the kh x kw pixels of the input around it.

    With the channels in G groups, and the input continued beyond its border by `padding_mode`::

        out[n, g*kh*kw + i*kw + j, y, x] = sum_c input[n, c, y*sh + i*dh - ph, x*sw + j*dw - pw] * query[n, c, y, x]

    over the channels c of group g. G = 1 is the cost volume of optical flow, and the product of query and key in
    neighbourhood attention, with heads in the place of groups; G = C keeps the channels apart. It is the gradient of
    :func:`fac` by its filters, at `query`. Computes what :func:`fac_ext.fac_correlation_reference` does.

    Args:
        input: (N, C, H, W), float64, float32, float16 or bfloat16. The last two are summed in float32.
        query: (N, C, Ho, Wo), same dtype and device. Row-major and channels_last queries decide the layout of the
            result; where a query is not dense, the input does.
        groups: a divisor of C, by default C.
        kernel_size, stride, dilation, padding, padding_mode: as in :func:`fac`.

    Returns:
        (N, G*kh*kw, Ho, Wo) with Ho, Wo as in :func:`fac`. Differentiable as :func:`fac` is.

    Raises:
        TypeError, ValueError: as :func:`fac`, of input and query; groups does not divide C.
    """
    check_tensors(input=input, query=query)
    input, query = _autocast(input, query)
    window = check_window(kernel_size, stride, dilation, padding, padding_mode)
    geometry = resolve_correlation(input, query, window, groups)
    return correlate(input, query, geometry)


def correlate(input: Tensor, query: Tensor, geometry: Geometry) -> Tensor:
    """Compute fac_correlation() of arguments that are checked."""
    call = derivatives.fac_grad_filters if _has_kernels(input) else shift_correlation
    return call(input, query, geometry)


def fac_transpose(
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
    """Transposed filter adaptive convolution: each input pixel is spread over kh x kw output pixels by its own filter.

    It is to :func:`fac` what torch.nn.functional.conv_transpose2d is to conv2d, the adjoint in its input::

        (out * z).sum() == (input * fac(z, filters, kernel_size, ...)).sum()    for any z of out's shape

    so a padding mode other than zeros adds what falls beyond the border to the pixels that the border shows. This is
    splatting and, with a stride, upsampling by predicted filters. Computes what
    :func:`fac_ext.fac_transpose_reference` does.

    Args:
        filters: (N, G*kh*kw, H, W), G any divisor of C. Row-major and channels_last filters are read as they are, and
            decide the layout of the result; others are made row-major.
        input: (N, C, H, W), float64, float32, float16 or bfloat16. The last two are summed in float32.
        kernel_size, stride, dilation, padding, padding_mode: those of the call of :func:`fac` that this one is the
            adjoint of; "same" needs stride 1.
        output_padding: rows and columns, fewer than stride, that the output has more at the bottom and right, as in
            torch.nn.functional.conv_transpose2d.
        output_size: (Ho, Wo), instead of output_padding, as in torch.nn.ConvTranspose2d's forward.

    Returns:
        (N, C, Ho, Wo) with Ho = (H - 1)*sh - 2*ph + dh*(kh - 1) + 1 + output_padding, Wo likewise. Differentiable as
        :func:`fac` is.

    Raises:
        TypeError, ValueError: as :func:`fac`; output_padding or output_size does not fit the stride.
    """
    check_tensors(filters=filters, input=input)
    filters, input = _autocast(filters, input)
    window = check_window(kernel_size, stride, dilation, padding, padding_mode)
    geometry = resolve_transpose(filters, input, window, output_padding, output_size)
    call = derivatives.fac_grad_input if _has_kernels(input) else shift_transpose
    return call(filters, input, geometry)


def fac_predicted(
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_size: IntPair,
    *,
    stride: IntPair = 1,
    dilation: IntPair = 1,
    padding: Padding = "same",
    padding_mode: PaddingMode = "zeros",
    activation: float | Literal["softmax"] | None = None,
    block_bytes: int | None = None,
) -> Tensor:
    """Filter adaptive convolution with filters that a 1x1 convolution predicts, and that are never stored::

        fac_predicted(input, hidden, weight, bias, k, ...) == fac(input, conv2d(hidden, weight, bias), k, ...)

    up to rounding. Makes the filters for some channels and rows at a time, uses and forgets them; the backward pass
    makes them again where it needs them. Beyond its results, a call and its first derivatives hold two blocks of
    filters, whatever the size of the image. Derivatives of higher order, forward mode and torch.func go through the
    definition and may store filters.

    Args:
        input: (N, C, H, W), as in :func:`fac`.
        hidden: (N, Ch, Ho, Wo), the features that the filters are predicted from; same dtype and device as input.
            channels_last or not, it decides the layout of the result.
        weight: (G*kh*kw, Ch) or (G*kh*kw, Ch, 1, 1), G any divisor of C: row g*kh*kw + i*kw + j predicts tap
            (i, j) of group g.
        bias: (G*kh*kw,) or None.
        kernel_size, stride, dilation, padding, padding_mode: as in :func:`fac`.
        activation: the slope, 0 or more, of a leaky_relu that the filters go through, or "softmax", over the taps of
            each filter; None for none.
        block_bytes: the most that the filters of one block may take, in bytes, as long as they are more than one
            group's in one row. By default 8 MiB on the CPU and 128 MiB elsewhere (docs/predicted.md).

    Returns:
        (N, C, Ho, Wo), as :func:`fac`. Half types: each filter is rounded, as conv2d's are, and applied in float32;
        gradients of weight and bias are summed in float32.

    Raises:
        TypeError, ValueError: as :func:`fac`, of input, hidden, weight and bias; block_bytes or
            activation is not as above.
    """
    given = {"input": input, "hidden": hidden, "weight": weight, **({} if bias is None else {"bias": bias})}
    check_tensors(**given)
    input, hidden, weight, *rest = _autocast(*given.values())
    bias = rest[0] if rest else None
    window = check_window(kernel_size, stride, dilation, padding, padding_mode)
    geometry = resolve_predicted(input, hidden, weight, bias, window)
    slope, max_bytes = check_activation(activation), check_block_bytes(block_bytes)
    if max_bytes is None:
        max_bytes = BLOCK_BYTES["cpu" if input.device.type == "cpu" else "others"]
    call = predicted.predicted if _has_kernels(input) else _predicted_by_shifts
    return call(input, hidden, weight.flatten(1), bias, slope, max_bytes, geometry)


def _predicted_by_shifts(
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float | None,
    block_bytes: int,
    geometry: Geometry,
) -> Tensor:
    """Compute fac_predicted() where there are no kernels: block by block in plain PyTorch."""
    parts = []
    for block in plan_blocks(hidden, weight, block_bytes, geometry, bands=False):
        own = None if bias is None else bias[block.filters]
        filters = predicted.filters(hidden, weight[block.filters], own, slope, geometry.taps)
        parts.append(shift_sum(input[:, block.channels], filters, geometry))
    return torch.cat(parts, 1) if parts else input.new_zeros(*input.shape[:2], *hidden.shape[2:])


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast the tensors as autocast, where it is on, casts a convolution's."""
    device = tensors[0].device.type
    if device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device):
        dtype, castable = torch.get_autocast_dtype(device), (torch.float32, torch.float16, torch.bfloat16)
        if all(tensor.dtype in castable for tensor in tensors):
            return tuple(tensor.to(dtype) for tensor in tensors)
    return tensors


def _has_kernels(input: Tensor) -> bool:
    """Tell whether the operators take the tensor; if not, the PyTorch expression does."""
    if torch.onnx.is_in_onnx_export():
        return False
    device = input.device.type
    if device not in derivatives.DEVICES:
        warn_of_expression(device)
    return device in derivatives.DEVICES
