"""fac() and fac_predicted(): the public functions. arguments.py checks what they get; they call the operators."""

import math

import torch
from torch import Tensor

from fac_ext import _C, derivatives, predicted
from fac_ext.arguments import (
    Fields,
    Geometry,
    IntPair,
    Padding,
    PaddingMode,
    check_all_tensors,
    check_tensors,
    resolve,
    resolve_predicted,
)
from fac_ext.blocks import BLOCK_BYTES, blocks
from fac_ext.reference import shift_sum

# Ask once: torch.compile cannot trace these questions.
HAS_CUDA = _C.build_info()["cuda"] is not None
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

    Returns:
        (N, C, Ho, Wo) with Ho = (H + 2*ph - dh*(kh - 1) - 1) // sh + 1, Wo likewise. Differentiable in both tensors,
        any number of times, in reverse and forward mode. Autocast casts the tensors as it does a convolution's.

    Raises:
        TypeError: an argument is no tensor or no int; the dtype is another one, or there are two; a tensor is sparse.
        ValueError: the shapes do not fit each other or the other arguments; there are two devices.
        RuntimeError: the tensors are on CUDA, but the package was built without it.
    """
    check_tensors(input, filters)
    input, filters = _autocast(input, filters)
    geometry = resolve(input, filters, kernel_size, stride, dilation, padding, padding_mode)
    if not _has_kernels(input):
        return shift_sum(input, filters, geometry)
    return derivatives.fac(input, filters, *geometry)


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
    activation: float | None = None,
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
        activation: the slope, 0 or more, of a leaky_relu that the filters go through; None for none.
        block_bytes: the most that the filters of one block may take, in bytes, as long as they are more than one
            group's in one row. By default 8 MiB on the CPU and 16 MiB elsewhere (docs/predicted.md).

    Returns:
        (N, C, Ho, Wo), as :func:`fac`. Half types: each filter is rounded, as conv2d's are, and applied in float32;
        gradients of weight and bias are summed in float32.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`fac`, of input, hidden, weight and bias; block_bytes or
            activation is not as above.
    """
    given = {"input": input, "hidden": hidden, "weight": weight, **({} if bias is None else {"bias": bias})}
    check_all_tensors(**given)
    input, hidden, weight, *rest = _autocast(*given.values())
    bias = rest[0] if rest else None
    arguments = (kernel_size, stride, dilation, padding, padding_mode)
    geometry = resolve_predicted(input, hidden, weight, bias, *arguments)
    slope, most = check_activation(activation), check_block_bytes(block_bytes)
    most = BLOCK_BYTES["cpu" if input.device.type == "cpu" else "others"] if most is None else most
    call = predicted.predicted if _has_kernels(input) else _predicted_by_shifts
    return call(input, hidden, weight.flatten(1), bias, slope, most, *geometry)


def _predicted_by_shifts(
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float | None,
    block_bytes: int,
    *geometry: *Fields,
) -> Tensor:
    """Compute fac_predicted() where there are no kernels: block by block in plain PyTorch."""
    parts = []
    for block in blocks(hidden, weight, block_bytes, Geometry(*geometry), rows=False):
        own = None if bias is None else bias[block.filters]
        filters = predicted.filters(hidden, weight[block.filters], own, slope)
        parts.append(shift_sum(input[:, block.channels], filters, Geometry(*geometry)))
    return torch.cat(parts, 1) if parts else input.new_zeros(*input.shape[:2], *hidden.shape[2:])


def check_activation(activation: float | None) -> float | None:
    if activation is None:
        return None
    if isinstance(activation, bool) or not isinstance(activation, int | float):
        raise TypeError(f"fac: activation must be None or a number, leaky_relu's slope, got {activation!r}")
    if not 0 <= activation < math.inf:
        raise ValueError(f"fac: activation must be a slope of 0 or more, got {activation!r}")
    return float(activation)


def check_block_bytes(block_bytes: int | None) -> int | None:
    if block_bytes is not None and (isinstance(block_bytes, bool) or not isinstance(block_bytes, int)):
        raise TypeError(f"fac: block_bytes must be None or a positive int, got {block_bytes!r}")
    if block_bytes is not None and not 1 <= block_bytes < 2**63:
        raise ValueError(f"fac: block_bytes must be 1 or more and less than 2**63, got {block_bytes!r}")
    return block_bytes


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
    device = input.device.type
    if device == "cuda" and not HAS_CUDA:
        raise RuntimeError(
            "fac: input is on CUDA, but fac_ext was built without it; reinstall it with nvcc on the PATH"
        )
    return device in derivatives.DEVICES and not torch.onnx.is_in_onnx_export()
