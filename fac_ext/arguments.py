"""Check the arguments of a call and make them explicit. The error messages of the operators are in this file."""

import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

IntPair: TypeAlias = int | tuple[int, int] | list[int] | torch.Size  # one for both, or (height, width)
Padding: TypeAlias = IntPair | Literal["same", "valid"]
PaddingMode: TypeAlias = Literal["zeros", "replicate", "reflect", "circular"]
PADDING_MODES: tuple[PaddingMode, ...] = get_args(PaddingMode)  # their indices are csrc/fac.h's numbers
SOFTMAX = (
    -1.0
)  # in the place of leaky_relu's slope, which is 0 or more: a softmax over the taps of each filter
INSIDE = 4  # csrc/fac.h: move a window that would leave the image inside it (neighbourhood attention)
# Geometry's fields, as a registered operator takes them
Fields: TypeAlias = tuple[
    tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int, int, int], int, int
]
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Geometry(NamedTuple):
    """The operators' arguments beside their tensors. Flattened at the registered operators alone."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    # top, bottom, left, right; bottom and right less what the stride leaves over
    padding: tuple[int, int, int, int]
    padding_mode: int
    channels_per_filter: int

    @property
    def taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    def input_size(self, axis: int, output: int) -> int:
        """Return the input's height (axis 0) or width (axis 1) that belongs to the output's."""
        before, after = self.padding[2 * axis : 2 * axis + 2]
        span = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        return (output - 1) * self.stride[axis] + span - before - after


class Window(NamedTuple):
    """The arguments of a public function that are no tensors, checked and as pairs."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    same: bool  # padding is "same"
    margins: tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)
    padding_mode: PaddingMode

    @property
    def taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    def span(self, axis: int) -> int:
        return (self.kernel_size[axis] - 1) * self.dilation[axis] + 1

    def geometry(self, after: list[int], channels: int, groups: int) -> Geometry:
        """Return the Geometry; after: the pixels of padding below and at the right that windows reach."""
        (top, _), (left, _) = self.margins
        padding, shared = (top, after[0], left, after[1]), int(channels // groups) if groups else 1
        mode = PADDING_MODES.index(self.padding_mode)
        return Geometry(self.kernel_size, self.stride, self.dilation, padding, mode, shared)


def check_window(
    kernel_size: IntPair,
    stride: IntPair = 1,
    dilation: IntPair = 1,
    padding: Padding = "same",
    padding_mode: PaddingMode = "zeros",
) -> Window:
    """Check the arguments that are no tensors, in their order."""
    kernel_size = pair("kernel_size", kernel_size, 1)
    stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
    margins = _margins(kernel_size, stride, dilation, padding)
    if not isinstance(padding_mode, str) or padding_mode not in PADDING_MODES:
        raise ValueError(f"fac: padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
    return Window(kernel_size, stride, dilation, padding == "same", margins, padding_mode)


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


def _margins(
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


def check_groups(groups: int | None) -> None:
    if groups is not None and (isinstance(groups, bool) or not isinstance(groups, int)):
        raise TypeError(f"fac: groups must be None or a positive int, got {groups!r}")
    if groups is not None and groups < 1:
        raise ValueError(f"fac: groups must be 1 or more, got {groups!r}")


def check_normalize(normalize: str | None) -> None:
    if normalize not in (None, "softmax"):
        raise ValueError(f"fac: normalize must be None or 'softmax', got {normalize!r}")


def check_activation(activation: float | str | None) -> float | None:
    """Return leaky_relu's slope, or SOFTMAX, or None."""
    if activation is None:
        return None
    if isinstance(activation, str) and activation == "softmax":
        return SOFTMAX
    if isinstance(activation, bool) or not isinstance(activation, int | float):
        rule = "None, 'softmax' or a number, leaky_relu's slope"
        raise TypeError(f"fac: activation must be {rule}, got {activation!r}")
    if not 0 <= activation < math.inf:
        raise ValueError(f"fac: activation must be a slope of 0 or more, got {activation!r}")
    return float(activation)


def check_block_bytes(block_bytes: int | None) -> int | None:
    if block_bytes is not None and (isinstance(block_bytes, bool) or not isinstance(block_bytes, int)):
        raise TypeError(f"fac: block_bytes must be None or a positive int, got {block_bytes!r}")
    if block_bytes is not None and not 1 <= block_bytes < 2**63:
        raise ValueError(f"fac: block_bytes must be 1 or more and less than 2**63, got {block_bytes!r}")
    return block_bytes


def check_tensors(**tensors: object) -> None:
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


def resolve(input: Tensor, filters: Tensor, window: Window) -> Geometry:
    """Check the arguments of fac() against each other and return their Geometry."""
    check_kind(input, filters=filters)
    _check_rank("input", input, "(N, C, H, W)")
    _check_rank("filters", filters, "(N, G*kh*kw, Ho, Wo)")
    output, after = _output_size(input, window)
    groups = _filter_groups(input, filters, window, "Ho, Wo", output)
    return window.geometry(after, input.shape[1], groups)


def resolve_correlation(input: Tensor, query: Tensor, window: Window, groups: int | None) -> Geometry:
    """Check the arguments of fac_correlation() against each other and return their Geometry."""
    check_groups(groups)
    check_kind(input, query=query)
    _check_rank("input", input, "(N, C, H, W)")
    _check_rank("query", query, "(N, C, Ho, Wo)")
    output, after = _output_size(input, window)
    n, c = input.shape[:2]
    if tuple(query.shape) != (n, c, *output):
        expected = f"(N, C, Ho, Wo) = ({n}, {c}, {output[0]}, {output[1]})"
        raise ValueError(f"fac: query must be {expected}, got {tuple(query.shape)}")
    groups = c if groups is None else groups
    if not _divides(groups, c):
        raise ValueError(f"fac: groups must divide C = {c}, got {groups}")
    return window.geometry(after, c, groups)


def resolve_transpose(
    filters: Tensor, input: Tensor, window: Window, output_padding: IntPair, output_size: IntPair | None
) -> Geometry:
    """Check the arguments of fac_transpose() against each other and return their Geometry."""
    extra = pair("output_padding", output_padding, 0)
    if output_size is not None:
        if extra != (0, 0):
            raise ValueError("fac: give output_size or output_padding, not both")
        output_size = pair("output_size", output_size, 0)
    check_kind(input, filters=filters)
    _check_rank("filters", filters, "(N, G*kh*kw, H, W)")
    _check_rank("input", input, "(N, C, H, W)")
    size = input.shape[2:]
    groups = _filter_groups(input, filters, window, "H, W", [size[0], size[1]])
    after = []
    for axis, name in enumerate(("height", "width")):
        stride, (before, behind) = window.stride[axis], window.margins[axis]
        if not window.same and size[axis] < 1:
            raise ValueError(f"fac: input must have pixels, got {name} {size[axis]}")
        least = (size[axis] - 1) * stride + window.span(axis) - before - behind
        if output_size is not None and not max(least, 0) <= output_size[axis] < least + stride:
            raise ValueError(
                f"fac: output_size's {name} must be from {max(least, 0)} to {least + stride - 1}, got {output_size[axis]}"
            )
        if output_size is None and extra[axis] >= stride:
            raise ValueError(
                f"fac: output_padding must be less than stride, got {extra[axis]}, stride {stride}"
            )
        output = least + extra[axis] if output_size is None else output_size[axis]
        if output < 0:
            raise ValueError(f"fac: padding must leave an output, got {name} {output}")
        _check_padding(window.padding_mode, name, output, max(before, behind))
        after.append(behind - (output - least))
    return window.geometry(after, input.shape[1], groups)


def resolve_predicted(
    input: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, window: Window
) -> Geometry:
    """Check the arguments of fac_predicted() against each other and return their Geometry."""
    check_kind(input, hidden=hidden, weight=weight, **({} if bias is None else {"bias": bias}))
    _check_rank("input", input, "(N, C, H, W)")
    _check_rank("hidden", hidden, "(N, Ch, Ho, Wo)")
    output, after = _output_size(input, window)
    n, c = input.shape[:2]
    channels, taps = hidden.shape[1], window.taps
    if tuple(hidden.shape) != (n, channels, *output):
        expected = f"(N, Ch, Ho, Wo) = ({n}, Ch, {output[0]}, {output[1]})"
        raise ValueError(f"fac: hidden must be {expected}, got {tuple(hidden.shape)}")
    if weight.dim() not in (2, 4) or tuple(weight.shape[1:]) not in ((channels,), (channels, 1, 1)):
        expected = f"(G*kh*kw, Ch) = (G*{taps}, {channels}) or (G*{taps}, {channels}, 1, 1)"
        raise ValueError(f"fac: weight must be {expected}, got {tuple(weight.shape)}")
    groups = weight.shape[0] // taps
    if weight.shape[0] != groups * taps or not _divides(groups, c):
        raise ValueError(
            f"fac: weight must have G*{taps} rows with G dividing C = {c}, got {tuple(weight.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"fac: bias must be (G*kh*kw,) = ({weight.shape[0]},), got {tuple(bias.shape)}")
    return window.geometry(after, c, groups)


def _check_rank(name: str, tensor: Tensor, layout: str) -> None:
    if tensor.dim() != 4:
        raise ValueError(f"fac: {name} must be {layout}, got {tuple(tensor.shape)}")


def _output_size(input: Tensor, window: Window) -> tuple[list[int], list[int]]:
    """Return [Ho, Wo], and the pixels of padding below and at the right that windows reach."""
    size = input.shape[2:]
    output: list[int] = []
    reached: list[int] = []
    for axis, name in enumerate(("height", "width")):
        (before, after), stride = window.margins[axis], window.stride[axis]
        _check_padding(window.padding_mode, name, size[axis], max(before, after))
        room = size[axis] + before + after - window.span(axis)
        if not window.same and room < 0:
            raise ValueError(
                f"fac: input's {name} with its padding must cover the kernel: {size[axis]} + {before} + {after} "
                f"pixels are fewer than dilation * (kernel_size - 1) + 1 = {window.span(axis)}"
            )
        output.append(room // stride + 1)
        reached.append(after if stride == 1 else after - int(room % stride))
    return output, reached


def _filter_groups(input: Tensor, filters: Tensor, window: Window, names: str, size: list[int]) -> int:
    """Return G of filters (N, G*kh*kw, *size); `names` are those of size."""
    (n, c), taps = input.shape[:2], window.taps
    groups = filters.shape[1] // taps
    if filters.shape[1] == groups * taps and tuple(filters.shape) == (n, groups * taps, *size):
        if _divides(groups, c):
            return groups
        rule = f" with G dividing C = {c}, got G = {groups}"
    else:
        rule = f", got {tuple(filters.shape)}"
    # Only for an error: under torch.compile, a size that is printed is a size that is fixed.
    expected = f"(N, G*kh*kw, {names}) = ({n}, G*{taps}, {size[0]}, {size[1]})"
    raise ValueError(f"fac: filters must be {expected}{rule}")


def _divides(groups: int, channels: int) -> bool:
    return channels == groups if channels == 0 or groups == 0 else channels % groups == 0


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
