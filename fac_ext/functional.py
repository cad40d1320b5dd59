"""fac(): the public function and its checks, which speak to people. It picks nothing and computes nothing."""

import torch

from fac_ext import _C, derivatives

PADDING = {"zeros": 0, "replicate": 1}  # csrc/fac.h
DTYPES = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)


def fac(input, filters, kernel_size, *, padding_mode="zeros"):
    """Filter adaptive convolution: each pixel of each channel is filtered with its own k x k filter.

    With p = (k - 1) / 2 and the input continued beyond its border by `padding_mode`::

        out[n, c, y, x] = sum_ij input[n, c, y + i - p, x + j - p] * filters[n, c*k*k + i*k + j, y, x]

    (a cross-correlation, no flip). Equivalent to :func:`fac_ext.fac_reference`, at the speed of the memory.
    From "Spatio-Temporal Filter Adaptive Network for Video Deblurring", Zhou et al., ICCV 2019.

    Args:
        input: (N, C, H, W), float32 or float64, CPU or CUDA.
        filters: (N, C*k*k, H, W), same dtype and device: channel c*k*k + i*k + j is row i, column j.
        kernel_size: k, a positive odd int.
        padding_mode: "zeros" or "replicate", as in torch.nn.Conv2d.

    Returns:
        (N, C, H, W), contiguous. Differentiable in both tensors, any number of times, in both modes.
        Under autocast half-precision tensors are taken to float32 first.

    Raises:
        TypeError: an argument that is no tensor or no int, another dtype, two dtypes.
        ValueError: another shape, an even kernel, an unknown padding mode, two devices.
        RuntimeError: a CUDA tensor where the package was built without CUDA.
    """
    _check_types(input, filters, kernel_size)
    kind = input.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        input, filters = (t.float() if t.dtype in HALVES else t for t in (input, filters))
    _check(input, filters, kernel_size, padding_mode)
    return derivatives.fac(input, filters, kernel_size, PADDING[padding_mode])


def _check_types(input, filters, kernel_size):
    for name, value in (("input", input), ("filters", filters)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"fac: {name} must be a torch.Tensor, got {type(value).__name__}")
    if isinstance(kernel_size, bool) or not isinstance(kernel_size, int):
        raise TypeError(f"fac: kernel_size must be an int, got {kernel_size!r}")


def _check(input, filters, kernel_size, padding_mode):
    for name, tensor in (("input", input), ("filters", filters)):
        if tensor.dtype not in DTYPES:
            raise TypeError(f"fac: {name} must be float32 or float64, got {tensor.dtype}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"fac: kernel_size must be positive and odd, got {kernel_size}")
    if not isinstance(padding_mode, str) or padding_mode not in PADDING:
        raise ValueError(f"fac: padding_mode must be one of {', '.join(PADDING)}, got {padding_mode!r}")
    if input.dim() != 4:
        raise ValueError(f"fac: input must be (N, C, H, W), got {tuple(input.shape)}")
    n, c, h, w = input.shape
    wanted = (n, c * kernel_size * kernel_size, h, w)
    if tuple(filters.shape) != wanted:
        raise ValueError(f"fac: filters must be (N, C*k*k, H, W) = {wanted}, got {tuple(filters.shape)}")
    if filters.dtype != input.dtype:
        raise TypeError(f"fac: filters must have input's dtype {input.dtype}, got {filters.dtype}")
    if filters.device != input.device:
        raise ValueError(f"fac: filters must be on input's device {input.device}, got {filters.device}")
    if input.is_cuda and _C.build_info()["cuda"] is None:
        raise RuntimeError(
            "fac: input is on CUDA, but fac_ext was built without it; reinstall it with nvcc on the PATH"
        )
