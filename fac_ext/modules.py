"""FAC and PredictedFAC: fac() and fac_predicted() as torch.nn.Modules."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fac_ext.arguments import IntPair, Padding, PaddingMode, check_mode, margins, pair
from fac_ext.functional import check_activation, check_block_bytes, fac, fac_predicted


class FAC(torch.nn.Module):
    """Filter adaptive convolution as a layer without parameters: its second input is the filters.

    Args:
        kernel_size, stride, dilation, padding, padding_mode: as in :func:`fac_ext.fac`, which lists shapes and errors.

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
    ) -> None:
        super().__init__()
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride, self.dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
        margins(self.kernel_size, self.stride, self.dilation, padding)
        check_mode(padding_mode)
        self.padding, self.padding_mode = padding, padding_mode

    if TYPE_CHECKING:  # torch.nn.Module says Any

        def __call__(self, input: Tensor, filters: Tensor) -> Tensor: ...

    def forward(self, input: Tensor, filters: Tensor) -> Tensor:
        return fac(
            input,
            filters,
            self.kernel_size,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            padding_mode=self.padding_mode,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}, "
            f"padding={self.padding!r}, padding_mode={self.padding_mode!r}"
        )


class PredictedFAC(torch.nn.Module):
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
        activation: float | None = None,
        bias: bool = True,
        block_bytes: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kh, kw = pair("kernel_size", kernel_size, 1)
        self.stride, self.dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
        margins(self.kernel_size, self.stride, self.dilation, padding)
        check_mode(padding_mode)
        self.padding, self.padding_mode = padding, padding_mode
        self.activation, self.block_bytes = check_activation(activation), check_block_bytes(block_bytes)
        taps = groups * kh * kw
        weight = torch.empty(taps, hidden_channels, 1, 1, device=device, dtype=dtype)
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(weight.new_empty(taps)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as torch.nn.Conv2d does."""
        torch.nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None and self.weight.shape[1]:
            bound = 1 / math.sqrt(self.weight.shape[1])
            torch.nn.init.uniform_(self.bias, -bound, bound)

    if TYPE_CHECKING:  # torch.nn.Module says Any

        def __call__(self, input: Tensor, hidden: Tensor) -> Tensor: ...

    def forward(self, input: Tensor, hidden: Tensor) -> Tensor:
        return fac_predicted(
            input,
            hidden,
            self.weight,
            self.bias,
            self.kernel_size,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            padding_mode=self.padding_mode,
            activation=self.activation,
            block_bytes=self.block_bytes,
        )

    def extra_repr(self) -> str:
        taps = self.kernel_size[0] * self.kernel_size[1]
        return (
            f"{self.weight.shape[1]}, {self.weight.shape[0] // taps}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, dilation={self.dilation}, padding={self.padding!r}, "
            f"padding_mode={self.padding_mode!r}, activation={self.activation}, bias={self.bias is not None}"
        )
