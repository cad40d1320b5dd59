"""fac(): the public function. It checks and hands over; it computes nothing."""

import torch

from fac_ext import _C, derivatives
from fac_ext.geometry import check_tensors, resolve
from fac_ext.reference import shift_sum

# Asked once, because torch.compile cannot trace the questions.
HAS_CUDA = _C.build_info()["cuda"] is not None
AUTOCAST_DEVICES = tuple(
    d for d in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia") if torch.amp.is_autocast_available(d)
)


def fac(input, filters, kernel_size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"):
    """Filter adaptive convolution: each output pixel of each channel has its own kh x kw filter.

    With G = the number of filter groups, g(c) = c // (C / G), and the input continued beyond its border by
    `padding_mode`::

        out[n, c, y, x] = sum_ij input[n, c, y*sh + i*dh - ph, x*sw + j*dw - pw]
                                 * filters[n, g(c)*kh*kw + i*kw + j, y, x]

    (a cross-correlation, no flip). G = C is the filter adaptive convolution of "Spatio-Temporal Filter Adaptive
    Network for Video Deblurring", Zhou et al., ICCV 2019; G = 1 a kernel prediction network; between, involution.
    Equivalent to :func:`fac_ext.fac_reference`, at the speed of the memory.

    Args:
        input: (N, C, H, W), float64, float32, float16 or bfloat16 (the last two are summed in float32).
        filters: (N, G*kh*kw, Ho, Wo), same dtype and device, G any divisor of C. Row-major and channels_last
            filters are read as they are, and decide the layout of the result; others are made row-major.
        kernel_size, stride, dilation: int or (height, width), in pixels; odd, even and rectangular kernels.
        padding: pixels on both sides, an int or (height, width); or "same" (Ho = H, Wo = W, for stride 1: an
            even kernel gets its odd pixel at the bottom and right) or "valid" (none), as in torch.nn.Conv2d.
        padding_mode: "zeros", "replicate", "reflect" or "circular", as in torch.nn.Conv2d.

    Returns:
        (N, C, Ho, Wo) with Ho = (H + 2*ph - dh*(kh - 1) - 1) // sh + 1, Wo likewise. Differentiable in both tensors,
        any number of times, in both modes. Under autocast the tensors are cast as a convolution's are.

    Raises:
        TypeError: an argument that is no tensor or no int, another dtype, two dtypes, a sparse tensor.
        ValueError: shapes that do not fit each other or the other arguments, two devices.
        RuntimeError: a CUDA tensor where the package was built without CUDA.
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
