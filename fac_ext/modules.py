"""The public functions as torch.nn.Modules."""

import math
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor

from fac_ext.arguments import (
    IntPair,
    Padding,
    PaddingMode,
    check_activation,
    check_block_bytes,
    check_groups,
    check_normalize,
    check_window,
    pair,
)
from fac_ext.functional import fac, fac_correlation, fac_predicted, fac_transpose


class _Settings(TypedDict):
    stride: IntPair
    dilation: IntPair
    padding: Padding
    padding_mode: PaddingMode


class _Windowed(torch.nn.Module):
    """Hold the arguments that all functions have, refused where they do not fit each other."""

    def __init__(
        self,
        kernel_size: IntPair,
        *,
        stride: IntPair = 1,
        dilation: IntPair = 1,
        padding: Padding = "same",
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        window = check_window(kernel_size, stride, dilation, padding, padding_mode)
        self.kernel_size, self.stride, self.dilation = window[:3]
        self.padding, self.padding_mode = padding, padding_mode

    @property
    def _settings(self) -> _Settings:
        return {
            "stride": self.stride,
            "dilation": self.dilation,
            "padding": self.padding,
            "padding_mode": self.padding_mode,
        }

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={value!r}" for name, value in {"kernel_size": self.kernel_size, **self._settings}.items()
        )


class FAC(_Windowed):
    """Filter adaptive convolution as a layer without parameters: its second input is the filters.

    Args:
        kernel_size, stride, dilation, padding, padding_mode, normalize: as in :func:`fac_ext.fac`, which lists shapes
            and errors.

    Example:
        >>> layer = FAC(5, padding_mode="replicate")
        >>> layer(torch.randn(1, 8, 32, 32), torch.randn(1, 8 * 25, 32, 32)).shape
        torch.Size([1, 8, 32, 32])
    """

    def __init__(
        self,
        kernel_size: IntPair,
        *,
        stride: IntPair = 1,
        dilation: IntPair = 1,
        padding: Padding = "same",
        padding_mode: PaddingMode = "zeros",
        normalize: Literal["softmax"] | None = None,
    ) -> None:
        super().__init__(
            kernel_size, stride=stride, dilation=dilation, padding=padding, padding_mode=padding_mode
        )
        check_normalize(normalize)
        self.normalize = normalize

    # torch.nn.Module says Any
    if TYPE_CHECKING:

        def __call__(self, input: Tensor, filters: Tensor) -> Tensor: ...

    def forward(self, input: Tensor, filters: Tensor) -> Tensor:
        return fac(input, filters, self.kernel_size, normalize=self.normalize, **self._settings)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", normalize={self.normalize!r}" if self.normalize else "")


class FACCorrelation(_Windowed):
    """Local correlation as a layer without parameters: its second input is the queries.

    Args:
        kernel_size, groups, stride, dilation, padding, padding_mode: as in :func:`fac_ext.fac_correlation`, which lists
            shapes and errors.

    Example:
        >>> layer = FACCorrelation(9, groups=1)
        >>> layer(torch.randn(1, 8, 32, 32), torch.randn(1, 8, 32, 32)).shape
        torch.Size([1, 81, 32, 32])
    """

    def __init__(
        self,
        kernel_size: IntPair,
        *,
        groups: int | None = None,
        stride: IntPair = 1,
        dilation: IntPair = 1,
        padding: Padding = "same",
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__(
            kernel_size, stride=stride, dilation=dilation, padding=padding, padding_mode=padding_mode
        )
        check_groups(groups)
        self.groups = groups

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, query: Tensor) -> Tensor: ...

    def forward(self, input: Tensor, query: Tensor) -> Tensor:
        return fac_correlation(input, query, self.kernel_size, groups=self.groups, **self._settings)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


class FACTranspose(_Windowed):
    """Transposed filter adaptive convolution as a layer without parameters: its first input is the filters.

    Args:
        kernel_size, stride, dilation, padding, padding_mode, output_padding: as in :func:`fac_ext.fac_transpose`,
            which lists shapes and errors. forward takes its output_size, in the place of output_padding.

    Example:
        >>> layer = FACTranspose(4, stride=2, padding=1)
        >>> layer(torch.randn(1, 8 * 16, 32, 32), torch.randn(1, 8, 32, 32)).shape
        torch.Size([1, 8, 64, 64])
    """

    def __init__(
        self,
        kernel_size: IntPair,
        *,
        stride: IntPair = 1,
        dilation: IntPair = 1,
        padding: Padding = "same",
        padding_mode: PaddingMode = "zeros",
        output_padding: IntPair = 0,
    ) -> None:
        super().__init__(
            kernel_size, stride=stride, dilation=dilation, padding=padding, padding_mode=padding_mode
        )
        self.output_padding = pair("output_padding", output_padding, 0)

    if TYPE_CHECKING:

        def __call__(self, filters: Tensor, input: Tensor, output_size: IntPair | None = None) -> Tensor: ...

    def forward(self, filters: Tensor, input: Tensor, output_size: IntPair | None = None) -> Tensor:
        return fac_transpose(
            filters,
            input,
            self.kernel_size,
            output_padding=self.output_padding if output_size is None else 0,
            output_size=output_size,
            **self._settings,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, output_padding={self.output_padding}"


class PredictedFAC(_Windowed):
    """A 1x1 convolution that predicts filters, and filter adaptive convolution by them, in one layer.

    Its parameters are those of torch.nn.Conv2d(hidden_channels, groups*kh*kw, 1), with the same names, shapes and
    initial values, so that such a layer's state_dict loads.

    Args:
        hidden_channels: of the features that the filters are predicted from.
        groups: filters at each pixel, a divisor of the input's channels.
        bias: whether the filters have one.
        kernel_size, stride, dilation, padding, padding_mode, activation, block_bytes: as in
            :func:`fac_ext.fac_predicted`, which gives shapes and errors.

    Example:
        >>> layer = PredictedFAC(16, 8, 5, padding_mode="replicate")
        >>> layer(torch.randn(1, 8, 32, 32), torch.randn(1, 16, 32, 32)).shape
        torch.Size([1, 8, 32, 32])
    """

    def __init__(
        self,
        hidden_channels: int,
        groups: int,
        kernel_size: IntPair,
        *,
        stride: IntPair = 1,
        dilation: IntPair = 1,
        padding: Padding = "same",
        padding_mode: PaddingMode = "zeros",
        activation: float | Literal["softmax"] | None = None,
        bias: bool = True,
        block_bytes: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            kernel_size, stride=stride, dilation=dilation, padding=padding, padding_mode=padding_mode
        )
        check_activation(activation)
        self.activation, self.block_bytes = activation, check_block_bytes(block_bytes)
        rows = groups * self.kernel_size[0] * self.kernel_size[1]
        weight = torch.empty(rows, hidden_channels, 1, 1, device=device, dtype=dtype)
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(weight.new_empty(rows)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as torch.nn.Conv2d does."""
        torch.nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None and self.weight.shape[1]:
            bound = 1 / math.sqrt(self.weight.shape[1])
            torch.nn.init.uniform_(self.bias, -bound, bound)

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, hidden: Tensor) -> Tensor: ...

    def forward(self, input: Tensor, hidden: Tensor) -> Tensor:
        return fac_predicted(
            input,
            hidden,
            self.weight,
            self.bias,
            self.kernel_size,
            activation=self.activation,
            block_bytes=self.block_bytes,
            **self._settings,
        )

    def extra_repr(self) -> str:
        taps = self.kernel_size[0] * self.kernel_size[1]
        return (
            f"{self.weight.shape[1]}, {self.weight.shape[0] // taps}, {super().extra_repr()}, "
            f"activation={self.activation!r}, bias={self.bias is not None}"
        )
