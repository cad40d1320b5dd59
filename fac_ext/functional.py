"""fac(): the public function. It checks its arguments and calls the operator; it computes nothing."""

import torch
from torch import Tensor

from fac_ext import _C, derivatives
from fac_ext.geometry import IntPair, Padding, PaddingMode, check_tensors, resolve
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
    device = input.device.type
    if device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device):
        dtype, castable = torch.get_autocast_dtype(device), (torch.float32, torch.float16, torch.bfloat16)
        if input.dtype in castable and filters.dtype in castable:
            input, filters = input.to(dtype), filters.to(dtype)
    geometry = resolve(input, filters, kernel_size, stride, dilation, padding, padding_mode)
    if device == "cuda" and not HAS_CUDA:
        raise RuntimeError(
            "fac: input is on CUDA, but fac_ext was built without it; reinstall it with nvcc on the PATH"
        )
    if device not in derivatives.DEVICES or torch.onnx.is_in_onnx_export():
        return shift_sum(input, filters, geometry)
    return derivatives.fac(input, filters, *geometry)
