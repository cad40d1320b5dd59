"""Check the arguments of a call and make them explicit. The error messages of fac are in this file."""

from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

IntPair: TypeAlias = int | tuple[int, int] | list[int] | torch.Size  # one for both, or (height, width)
Padding: TypeAlias = IntPair | Literal["same", "valid"]
PaddingMode: TypeAlias = Literal["zeros", "replicate", "reflect", "circular"]
PADDING_MODES: tuple[PaddingMode, ...] = get_args(PaddingMode)  # their indices are csrc/fac.h's numbers
INSIDE = 4  # csrc/fac.h: move a window that would leave the image inside it (neighbourhood attention)
# Geometry's fields, as an operator takes them
Fields: TypeAlias = tuple[
    tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int, int, int], int, int
]
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Geometry(NamedTuple):
    """The operators' arguments beside their tensors."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    # top, bottom, left, right; bottom and right less what the stride leaves over
    padding: tuple[int, int, int, int]
    padding_mode: int
    channels_per_filter: int

    def input_size(self, axis: int, output: int) -> int:
        """Return the input's height (axis 0) or width (axis 1) that belongs to the output's."""
        before, after = self.padding[2 * axis : 2 * axis + 2]
        span = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        return (output - 1) * self.stride[axis] + span - before - after


def pair(name: str, value: IntPair, least: int) -> tuple[int, int]:
    """Return (height, width) of an int or a pair of ints, each `least` or more."""
    values: tuple[int, ...]
    values = tuple(value) if isinstance(value, tuple | list | torch.Size) else (value, value)
    if len(values) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise TypeError(f"fac: {name} must be an int or a pair of ints (height, width), got {value!r}")
    if min(values) < least:
        raise ValueError(f"fac: {name} must be {least} or more, got {value!r}")
    if max(values) >= 2**31:
        raise ValueError(f"fac: {name} must be less than 2**31, got {value!r}")
    height, width = values
    return height, width


def margins(
    kernel_size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], padding: Padding
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return ((top, bottom), (left, right)) of torch.nn.Conv2d's padding argument."""
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(
                f"fac: padding 'same' needs stride 1, got stride {stride}; give padding as an int or a pair"
            )
        rows, columns = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
        return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
    if padding == "valid":
        return (0, 0), (0, 0)
    if isinstance(padding, str):
        raise ValueError(f"fac: padding must be 'same', 'valid', an int or a pair of ints, got {padding!r}")
    height, width = pair("padding", padding, 0)
    return (height, height), (width, width)


def check_mode(padding_mode: str) -> None:
    if not isinstance(padding_mode, str) or padding_mode not in PADDING_MODES:
        raise ValueError(f"fac: padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")


def check_tensors(input: object, filters: object) -> None:
    check_all_tensors(input=input, filters=filters)


def check_all_tensors(**tensors: object) -> None:
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"fac: {name} must be a torch.Tensor, got {type(value).__name__}")


def check_kind(input: Tensor, **others: Tensor) -> None:
    """Require dense tensors of one dtype that there are kernels for, on one device."""
    for name, tensor in {"input": input, **others}.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f"fac: {name} must be float64, float32, float16 or bfloat16, got {tensor.dtype}")
        if tensor.layout != torch.strided or tensor.is_nested:
            kind = "a nested tensor" if tensor.is_nested else tensor.layout
            raise TypeError(f"fac: {name} must be a dense tensor, got {kind}")
    for name, tensor in others.items():
        if tensor.dtype != input.dtype:
            raise TypeError(f"fac: {name} must have input's dtype {input.dtype}, got {tensor.dtype}")
        if tensor.device != input.device:
            raise ValueError(f"fac: {name} must be on input's device {input.device}, got {tensor.device}")


def resolve(
    input: Tensor,
    filters: Tensor,
    kernel_size: IntPair,
    stride: IntPair,
    dilation: IntPair,
    padding: Padding,
    padding_mode: PaddingMode,
) -> Geometry:
    """Check the arguments of fac() against each other and return their Geometry."""
    settings = _settings(kernel_size, stride, dilation, padding, padding_mode)
    check_kind(input, filters=filters)
    _check_image(input)
    if filters.dim() != 4:
        raise ValueError(f"fac: filters must be (N, G*kh*kw, Ho, Wo), got {tuple(filters.shape)}")
    geometry, output = _axes(input, settings, padding, padding_mode)
    n, c = input.shape[:2]
    taps = geometry.kernel_size[0] * geometry.kernel_size[1]
    groups = filters.shape[1] // taps
    if filters.shape[1] != groups * taps or tuple(filters.shape) != (n, groups * taps, *output):
        raise ValueError(
            f"fac: filters must be {_filters_shape(n, taps, output)}, got {tuple(filters.shape)}"
        )
    if not _divides(groups, c):
        raise ValueError(
            f"fac: filters must be {_filters_shape(n, taps, output)} with G dividing C = {c}, got G = {groups}"
        )
    return geometry._replace(channels_per_filter=_shared(c, groups))


def resolve_predicted(
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_size: IntPair,
    stride: IntPair,
    dilation: IntPair,
    padding: Padding,
    padding_mode: PaddingMode,
) -> Geometry:
    """Check the arguments of fac_predicted() against each other and return their Geometry."""
    settings = _settings(kernel_size, stride, dilation, padding, padding_mode)
    check_kind(input, hidden=hidden, weight=weight, **({} if bias is None else {"bias": bias}))
    _check_image(input)
    if hidden.dim() != 4:
        raise ValueError(f"fac: hidden must be (N, Ch, Ho, Wo), got {tuple(hidden.shape)}")
    geometry, output = _axes(input, settings, padding, padding_mode)
    n, c = input.shape[:2]
    channels, taps = hidden.shape[1], geometry.kernel_size[0] * geometry.kernel_size[1]
    if tuple(hidden.shape) != (n, channels, *output):
        wanted = f"(N, Ch, Ho, Wo) = ({n}, Ch, {output[0]}, {output[1]})"
        raise ValueError(f"fac: hidden must be {wanted}, got {tuple(hidden.shape)}")
    if weight.dim() not in (2, 4) or tuple(weight.shape[1:]) not in ((channels,), (channels, 1, 1)):
        wanted = f"(G*kh*kw, Ch) = (G*{taps}, {channels}) or (G*{taps}, {channels}, 1, 1)"
        raise ValueError(f"fac: weight must be {wanted}, got {tuple(weight.shape)}")
    groups = weight.shape[0] // taps
    if weight.shape[0] != groups * taps or not _divides(groups, c):
        raise ValueError(
            f"fac: weight must have G*{taps} rows with G dividing C = {c}, got {tuple(weight.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"fac: bias must be (G*kh*kw,) = ({weight.shape[0]},), got {tuple(bias.shape)}")
    return geometry._replace(channels_per_filter=_shared(c, groups))


class _Settings(NamedTuple):
    """The arguments of a call that are no tensors, as pairs."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    margins: tuple[tuple[int, int], tuple[int, int]]


def _settings(
    kernel_size: IntPair, stride: IntPair, dilation: IntPair, padding: Padding, padding_mode: PaddingMode
) -> _Settings:
    """Check the arguments that are no tensors, in their order."""
    kernel_size = pair("kernel_size", kernel_size, 1)
    stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
    around = margins(kernel_size, stride, dilation, padding)
    check_mode(padding_mode)
    return _Settings(kernel_size, stride, dilation, around)


def _check_image(input: Tensor) -> None:
    if input.dim() != 4:
        raise ValueError(f"fac: input must be (N, C, H, W), got {tuple(input.shape)}")


def _axes(
    input: Tensor, settings: _Settings, padding: Padding, padding_mode: PaddingMode
) -> tuple[Geometry, list[int]]:
    """Return the Geometry, its channels_per_filter still 1, and [Ho, Wo]."""
    kernel_size, stride, dilation, around = settings
    size = input.shape[2:]
    output: list[int] = []
    padded: list[int] = []
    for axis, name in enumerate(("height", "width")):
        before, after = around[axis]
        _check_padding(padding_mode, name, size[axis], max(before, after))
        room = size[axis] + before + after - (kernel_size[axis] - 1) * dilation[axis] - 1
        if padding != "same" and room < 0:
            raise ValueError(
                f"fac: input's {name} with its padding must cover the kernel: {size[axis]} + {before} + {after} "
                f"pixels are fewer than dilation * (kernel_size - 1) + 1 = {size[axis] + before + after - room}"
            )
        output.append(room // stride[axis] + 1)
        padded += [before, after if stride[axis] == 1 else after - int(room % stride[axis])]
    top, bottom, left, right = padded
    mode = PADDING_MODES.index(padding_mode)
    return Geometry(kernel_size, stride, dilation, (top, bottom, left, right), mode, 1), output


def _divides(groups: int, channels: int) -> bool:
    return channels == groups if channels == 0 or groups == 0 else channels % groups == 0


def _shared(channels: int, groups: int) -> int:
    """Return the channels of each filter group."""
    return int(channels // groups) if groups else 1


def _filters_shape(n: int, taps: int, output: list[int]) -> str:
    """Describe the shape that filters must have.

    Called only for an error: under torch.compile, a size that is printed is a size that is fixed.
    """
    return f"(N, G*kh*kw, Ho, Wo) = ({n}, G*{taps}, {output[0]}, {output[1]})"


def _check_padding(mode: PaddingMode, name: str, size: int, padding: int) -> None:
    """Require, as torch.nn.functional.pad does, that the pixels shown beyond an end exist."""
    if mode == "replicate" and padding > 0 and size < 1:
        raise ValueError(f"fac: padding_mode 'replicate' needs an input with pixels, got {name} {size}")
    if mode == "reflect" and padding > 0 and padding >= size:
        raise ValueError(
            f"fac: padding_mode 'reflect' needs padding < {name}, got padding {padding}, {name} {size}"
        )
    if mode == "circular" and padding > size:
        raise ValueError(
            f"fac: padding_mode 'circular' needs padding <= {name}, got padding {padding}, {name} {size}"
        )
