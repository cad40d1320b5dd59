"""Adapt the operators that people use now, with their own names and layouts, to the kernels of fac.

The adapters pass filters on as views: [N, H, W, taps] in memory is channels_last to fac, which reads it as it is and
lays out the result alike. Errors that are not raised here come from fac, and call the filters `filters`.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fac_ext import derivatives
from fac_ext.arguments import DTYPES, INSIDE, Geometry, IntPair, PaddingMode, check_kind, pair
from fac_ext.functional import correlate, fac, fac_of_softmax
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


def na2d_qk(query: Tensor, key: Tensor, kernel_size: IntPair, dilation: IntPair = 1) -> Tensor:
    """Compute neighbourhood attention's scores, as natten.functional.na2d_qk did until NATTEN 0.20 removed it.

    Each query is multiplied with the keys of its window, by :func:`na2d_av`'s rule.

    Args:
        query: (B, heads, H, W, d), scaled by the caller.
        key: (B, heads, H, W, d), same dtype and device.
        kernel_size: odd int or pair (height, width), with H >= kh*dh and W >= kw*dw.
        dilation: int or pair.

    Returns:
        (B, heads, H, W, kh*kw), before softmax. NATTEN's causal masks, additional keys, biases (rpb) and nested tensors
        are not supported.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`na2d_av`.
    """
    _check("na2d_qk", "query", query, "(B, heads, H, W, d)")
    _check("na2d_qk", "key", key, "(B, heads, H, W, d)")
    geometry = _inside("na2d_qk", kernel_size, dilation, query.shape[4], query=query, key=key)
    if key.shape != query.shape:
        raise ValueError(f"na2d_qk: key must have query's shape {tuple(query.shape)}, got {tuple(key.shape)}")
    if key.dtype != query.dtype:
        raise TypeError(f"na2d_qk: key must have query's dtype {query.dtype}, got {key.dtype}")
    image, queries = (tensor.flatten(0, 1).permute(0, 3, 1, 2) for tensor in (key, query))
    scores = derivatives.fac_grad_filters(image, queries, geometry).permute(0, 2, 3, 1)
    result: Tensor = scores.unflatten(0, query.shape[:2])
    return result


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
    _odd_pair("na2d_av", kernel_size)
    _check("na2d_av", "attn", attn, "(B, heads, H, W, kh*kw)")
    _check("na2d_av", "value", value, "(B, heads, H, W, d)")
    batch, heads, h, w, d = value.shape
    geometry = _inside("na2d_av", kernel_size, dilation, d, attn=attn, value=value)
    if attn.shape != (batch, heads, h, w, geometry.taps):
        shape = f"(B, heads, H, W, kh*kw) = {(batch, heads, h, w, geometry.taps)}"
        raise ValueError(f"na2d_av: attn must be {shape}, got {tuple(attn.shape)}")
    image, filters = (tensor.flatten(0, 1).permute(0, 3, 1, 2) for tensor in (value, attn.to(value.dtype)))
    output: Tensor = (
        derivatives.fac(image, filters, geometry).permute(0, 2, 3, 1).unflatten(0, (batch, heads))
    )
    return output


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: IntPair,
    dilation: IntPair = 1,
    scale: float | None = None,
) -> Tensor:
    """Compute neighbourhood attention, as natten.functional.na2d does: na2d_qk, softmax, na2d_av, in this layout.

    Args:
        query, key, value: (B, H, W, heads, d), same dtype and device.
        kernel_size, dilation: as in :func:`na2d_av`.
        scale: of the query; by default d ** -0.5.

    Returns:
        (B, H, W, heads, d). The scores are stored; their softmax is made for some heads at a time.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`na2d_av`.
    """
    tensors = {"query": query, "key": key, "value": value}
    for name, tensor in tensors.items():
        _check("na2d", name, tensor, "(B, H, W, heads, d)")
    geometry = _inside("na2d", kernel_size, dilation, query.shape[4], axes=(1, 2), **tensors)
    for name, tensor in tensors.items():
        if tensor.shape != query.shape:
            raise ValueError(
                f"na2d: {name} must have query's shape {tuple(query.shape)}, got {tuple(tensor.shape)}"
            )
        if tensor.dtype != query.dtype:
            raise TypeError(f"na2d: {name} must have query's dtype {query.dtype}, got {tensor.dtype}")
    scaled = query * (query.shape[4] ** -0.5 if scale is None else scale)
    images = (tensor.flatten(3).permute(0, 3, 1, 2) for tensor in (key, scaled, value))
    key, scaled, value = images
    scores = derivatives.fac_grad_filters(key, scaled, geometry)
    output = fac_of_softmax(value, scores, geometry).permute(0, 2, 3, 1)
    result: Tensor = output.unflatten(3, query.shape[3:])
    return result


def _inside(
    op: str,
    kernel_size: IntPair,
    dilation: IntPair,
    channels: int,
    *,
    axes: tuple[int, int] = (2, 3),
    **tensors: Tensor,
) -> Geometry:
    """Check dtypes, devices, and the window against the last tensor's size; return the Geometry of moved windows."""
    (kh, kw), (dh, dw) = _odd_pair(op, kernel_size), pair("dilation", dilation, 1)
    first, *others = tensors
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{op}: {name} must be float64, float32, float16 or bfloat16, got {tensor.dtype}")
    device = tensors[first].device
    for name in others:
        if tensors[name].device != device:
            raise ValueError(f"{op}: {name} must be on {first}'s device {device}, got {tensors[name].device}")
    name = others[-1]
    h, w = (tensors[name].shape[axis] for axis in axes)
    if h < kh * dh or w < kw * dw or channels < 1:
        rule = f"H >= kernel_size * dilation = {kh * dh}, W >= {kw * dw} and d >= 1"
        raise ValueError(f"{op}: {name} must have {rule}, got {tuple(tensors[name].shape)}")
    if device.type not in derivatives.DEVICES:
        raise RuntimeError(
            f"{op}: {first} is on {device.type}, for which this build of fac_ext has no kernels"
        )
    top, left = kh // 2 * dh, kw // 2 * dw
    return Geometry((kh, kw), (1, 1), (dh, dw), (top, top, left, left), INSIDE, channels)


def spatial_correlation_sample(
    input1: Tensor,
    input2: Tensor,
    kernel_size: IntPair = 1,
    patch_size: IntPair = 1,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    dilation_patch: IntPair = 1,
) -> Tensor:
    """Compute the cost volume of Pytorch-Correlation-extension's spatial_correlation_sample, for its kernel_size 1.

    Args:
        input1, input2: (N, C, H, W), same shape, dtype and device. Both are continued by zeros.
        kernel_size: 1, which is FlowNet-C's and PWC-Net's choice.
        patch_size: int or (height, width), the displacements on each axis, `dilation_patch` pixels apart.
        stride: int or pair, between the pixels of input1 that are compared.
        padding: int or pair, of both inputs.
        dilation: of the kernel: without effect.
        dilation_patch: int or pair.

    Returns:
        (N, patch height, patch width, Ho, Wo), the sum over the channels, with Ho = (H + 2*padding - 1) // stride + 1.

    Raises:
        TypeError, ValueError: kernel_size is not 1; the shapes differ; what else :func:`fac_ext.fac_correlation`
            refuses.
    """
    op = "spatial_correlation_sample"
    if pair("kernel_size", kernel_size, 1) != (1, 1):
        raise ValueError(f"{op}: kernel_size must be 1, got {kernel_size!r}")
    patch, step = pair("patch_size", patch_size, 1), pair("stride", stride, 1)
    around, apart = pair("padding", padding, 0), pair("dilation_patch", dilation_patch, 1)
    pair("dilation", dilation, 1)
    _check(op, "input1", input1, "(N, C, H, W)")
    _check(op, "input2", input2, "(N, C, H, W)")
    if input1.shape != input2.shape or min(input1.shape[1:]) < 1:
        rule = f"input1's shape {tuple(input1.shape)}, with channels and pixels"
        raise ValueError(f"{op}: input2 must have {rule}, got {tuple(input2.shape)}")
    check_kind(input1, input2=input2)
    pixels = torch.nn.functional.pad(input1, (around[1], around[1], around[0], around[0]))
    query = pixels[:, :, :: step[0], :: step[1]]
    sides: list[int] = []
    for axis in (0, 1):
        before = around[axis] + (patch[axis] - 1) // 2 * apart[axis]
        reach = (query.shape[2 + axis] - 1) * step[axis] + (patch[axis] - 1) * apart[axis] + 1
        sides += [before, reach - before - input2.shape[2 + axis]]
    top, bottom, left, right = sides
    geometry = Geometry(patch, step, apart, (top, bottom, left, right), 0, input2.shape[1])
    volume: Tensor = correlate(input2, query, geometry).unflatten(1, patch)
    return volume


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
