"""Adapt the operators that people use now, with their own names and layouts, to the kernels of fac.

The adapters pass filters on as views: [N, H, W, taps] in memory is channels_last to fac, which reads it as it is and
lays out the result alike. Errors that are not raised here come from fac, and call the filters `filters`.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fac_ext import derivatives
from fac_ext.arguments import DTYPES, INSIDE, Geometry, IntPair, PaddingMode, pair
from fac_ext.functional import HAS_CUDA, fac
from fac_ext.modules import FAC


def _check(op: str, name: str, value: Tensor, layout: str) -> None:
    """Require a dense tensor with the dimensions of layout, such as "(N, C, H, W)"."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested:
        kind = "a nested tensor" if value.is_nested else value.layout
        raise TypeError(f"{op}: {name} must be a dense tensor, got {kind}")
    if value.dim() != len(layout.split()):
        raise ValueError(f"{op}: {name} must be {layout}, got {tuple(value.shape)}")


def _check_taps(op: str, name: str, value: Tensor, size: torch.Size) -> None:
    if min(size) < 1:
        raise ValueError(f"{op}: {name} must have taps, got {tuple(value.shape)}")


def _odd_pair(op: str, kernel_size: IntPair) -> tuple[int, int]:
    """Return (height, width) of kernel_size, both odd."""
    h, w = pair("kernel_size", kernel_size, 1)
    if h % 2 == 0 or w % 2 == 0:
        raise ValueError(f"{op}: kernel_size must be odd, got {kernel_size!r}")
    return h, w


class KernelConv2D(FAC):
    """Filter adaptive convolution layer of STFAN's release, which replicates the border.

    Make it with an odd kernel_size and call it as layer(input, kernel) with (N, C, H, W) and (N, C*k*k, H, W). It
    returns (N, C, H, W). The release's CUDA code computes wrong gradients of the filters if N > k*k.

    Raises:
        TypeError, ValueError: kernel_size is no odd int or pair of them; in forward, what :func:`fac_ext.fac` refuses.
    """

    def __init__(self, kernel_size: IntPair) -> None:
        super().__init__(_odd_pair("KernelConv2D", kernel_size), padding_mode="replicate")

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, kernel: Tensor) -> Tensor: ...

    def forward(self, input: Tensor, kernel: Tensor) -> Tensor:
        return super().forward(input, kernel)


def involution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
) -> Tensor:
    """Compute involution as `_involution_cuda` of d-li14/involution does: G filters at each pixel, zero padding.

    Args:
        input: (N, C, H, W).
        weight: (N, G, kh, kw, Ho, Wo), G dividing C; channel c has the filter of group c // (C / G).
        bias: (C,), added to the result, or None.
        stride, padding, dilation: int or (height, width).

    Returns:
        (N, C, Ho, Wo) with Ho = (H + 2*ph - dh*(kh - 1) - 1) // sh + 1, Wo likewise.

    Raises:
        TypeError, ValueError: the shapes do not fit; there are two dtypes; what else :func:`fac_ext.fac` refuses.
    """
    _check("involution", "input", input, "(N, C, H, W)")
    _check("involution", "weight", weight, "(N, G, kh, kw, Ho, Wo)")
    _check_taps("involution", "weight", weight, weight.shape[2:4])
    if bias is not None:
        _check("involution", "bias", bias, "(C,)")
        if bias.shape[0] != input.shape[1]:
            raise ValueError(f"involution: bias must be (C,) = ({input.shape[1]},), got {tuple(bias.shape)}")
        if bias.dtype != input.dtype:
            raise TypeError(f"involution: bias must have input's dtype {input.dtype}, got {bias.dtype}")
        if bias.device != input.device:
            raise ValueError(f"involution: bias must be on input's device {input.device}, got {bias.device}")
    filters, size = weight.flatten(1, 3), weight.shape[2:4]
    output = fac(input, filters, size, stride=stride, dilation=dilation, padding=padding)
    return output if bias is None else output + bias.to(output.dtype)[:, None, None]  # autocast casts output


def carafe_naive(
    features: Tensor, masks: Tensor, kernel_size: IntPair, group_size: int, scale_factor: IntPair = 1
) -> Tensor:
    """Upsample by s = scale_factor with CARAFE's content-aware reassembly, as mmcv.ops.carafe_naive does.

    Computes fac's sum over the features enlarged s times, with the taps s pixels apart.

    Args:
        features: (N, C, H, W), continued by zeros.
        masks: (N, group_size*k*k, H*s, W*s), group_size dividing C.
        kernel_size: odd int.
        scale_factor: int.

    Returns:
        (N, C, H*s, W*s).

    Raises:
        TypeError, ValueError: kernel_size is even; scale_factor is below 1; what else :func:`fac_ext.fac` refuses.
    """
    kh, kw = _odd_pair("carafe_naive", kernel_size)
    scale = pair("scale_factor", scale_factor, 1)
    _check("carafe_naive", "features", features, "(N, C, H, W)")
    _check("carafe_naive", "masks", masks, "(N, group_size*k*k, H*s, W*s)")
    if isinstance(group_size, bool) or not isinstance(group_size, int):
        raise TypeError(f"carafe_naive: group_size must be an int, got {group_size!r}")
    if masks.shape[1] != group_size * kh * kw:
        rule = f"group_size*k*k = {group_size!r}*{kh * kw} channels"
        raise ValueError(f"carafe_naive: masks must have {rule}, got {tuple(masks.shape)}")
    if scale != (1, 1):
        if features.dtype not in DTYPES or min(features.shape[2:]) < 1:
            rule = "pixels, in float64, float32, float16 or bfloat16"
            raise ValueError(
                f"carafe_naive: features must have {rule}, got {tuple(features.shape)}, {features.dtype}"
            )
        features = torch.nn.functional.interpolate(features, scale_factor=scale, mode="nearest")
    return fac(features, masks, (kh, kw), dilation=scale)


def adaptive_conv(input: Tensor, filters: Tensor) -> Tensor:
    """Apply one filter at each pixel to all channels, without padding, as FeatUp's AdaptiveConv.apply does.

    Args:
        input: (N, C, Ho + kh - 1, Wo + kw - 1), padded by the caller.
        filters: (N, Ho, Wo, kh, kw).

    Returns:
        (N, C, Ho, Wo).

    Raises:
        TypeError, ValueError: the shapes do not fit; what else :func:`fac_ext.fac` refuses.
    """
    _check("adaptive_conv", "filters", filters, "(N, Ho, Wo, kh, kw)")
    _check_taps("adaptive_conv", "filters", filters, filters.shape[3:])
    return fac(input, filters.flatten(3).permute(0, 3, 1, 2), filters.shape[3:], padding="valid")


def na2d_av(attn: Tensor, value: Tensor, kernel_size: IntPair, dilation: IntPair = 1) -> Tensor:
    """Compute neighbourhood attention's weighted sum, as natten.functional.na2d_av did until NATTEN 0.20 removed it.

    Each pixel sees kh x kw pixels around it, `dilation` apart. A window that would leave the image is moved
    inside it by multiples of `dilation`, so all its pixels have the same y mod dh and x mod dw.

    Args:
        attn: (B, heads, H, W, kh*kw), after softmax. A contiguous one is read without a copy.
        value: (B, heads, H, W, d), same device. attn is cast to its dtype, as NATTEN does: under autocast
            softmax makes a float32 attn for a half value.
        kernel_size: odd int or pair (height, width), with H >= kh*dh and W >= kw*dw.
        dilation: int or pair.

    Returns:
        (B, heads, H, W, d), differentiable as :func:`fac_ext.fac` is. NATTEN's causal masks, additional
        values and nested tensors are not supported.

    Raises:
        TypeError: an argument is no dense tensor or no int; the dtype has no kernels.
        ValueError: kernel_size is even; the shapes do not fit each other or the window; there are two devices.
        RuntimeError: this build of fac_ext has no kernels for the device.
    """
    (kh, kw), (dh, dw) = _odd_pair("na2d_av", kernel_size), pair("dilation", dilation, 1)
    _check("na2d_av", "attn", attn, "(B, heads, H, W, kh*kw)")
    _check("na2d_av", "value", value, "(B, heads, H, W, d)")
    for name, tensor in (("attn", attn), ("value", value)):
        if tensor.dtype not in DTYPES:
            raise TypeError(
                f"na2d_av: {name} must be float64, float32, float16 or bfloat16, got {tensor.dtype}"
            )
    if value.device != attn.device:
        raise ValueError(f"na2d_av: value must be on attn's device {attn.device}, got {value.device}")
    batch, heads, h, w, d = value.shape
    if attn.shape != (batch, heads, h, w, kh * kw):
        shape = f"(B, heads, H, W, kh*kw) = {(batch, heads, h, w, kh * kw)}"
        raise ValueError(f"na2d_av: attn must be {shape}, got {tuple(attn.shape)}")
    if h < kh * dh or w < kw * dw or d < 1:
        rule = f"H >= kernel_size * dilation = {kh * dh}, W >= {kw * dw} and d >= 1"
        raise ValueError(f"na2d_av: value must have {rule}, got {tuple(value.shape)}")
    device = attn.device.type
    if device not in derivatives.DEVICES or (device == "cuda" and not HAS_CUDA):
        raise RuntimeError(f"na2d_av: attn is on {device}, for which this build of fac_ext has no kernels")
    top, left = kh // 2 * dh, kw // 2 * dw
    geometry = Geometry((kh, kw), (1, 1), (dh, dw), (top, top, left, left), INSIDE, d)
    image, filters = (tensor.flatten(0, 1).permute(0, 3, 1, 2) for tensor in (value, attn.to(value.dtype)))
    output: Tensor = (
        derivatives.fac(image, filters, geometry).permute(0, 2, 3, 1).unflatten(0, (batch, heads))
    )
    return output


def separable_fac(
    input: Tensor,
    vertical: Tensor,
    horizontal: Tensor,
    kernel_size: IntPair,
    *,
    dilation: IntPair = 1,
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """Separable filter adaptive convolution (IFAN): kh + kw filter values for a window of kh x kw pixels.

    Calls fac twice, with kernels (kh, 1) and (1, kw), each with its own filters. The published code (codeslake/IFAN,
    padding_mode "replicate") uses the first filters for both; for its weights give `vertical` twice.

    Args:
        input: (N, C, H, W).
        vertical, horizontal: (N, G*kh, H, W) and (N, G*kw, H, W), each with a G that divides C.
        kernel_size, dilation: int or (height, width).
        padding_mode: as in :func:`fac_ext.fac`.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError, ValueError: the shapes do not fit; what else :func:`fac_ext.fac` refuses.
    """
    (kh, kw), (dh, dw) = pair("kernel_size", kernel_size, 1), pair("dilation", dilation, 1)
    _check("separable_fac", "input", input, "(N, C, H, W)")
    n, _, h, w = input.shape
    for name, filters, k in (("vertical", vertical, kh), ("horizontal", horizontal, kw)):
        _check("separable_fac", name, filters, "(N, G*k, H, W)")
        if filters.shape != (n, filters.shape[1] // k * k, h, w):
            shape = f"(N, G*k, H, W) = ({n}, G*{k}, {h}, {w})"
            raise ValueError(f"separable_fac: {name} must be {shape}, got {tuple(filters.shape)}")
    output = fac(input, vertical, (kh, 1), dilation=(dh, 1), padding_mode=padding_mode)
    return fac(output, horizontal, (1, kw), dilation=(1, dw), padding_mode=padding_mode)
