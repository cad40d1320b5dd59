"""FAC: fac() as a torch.nn.Module."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fac_ext.functional import fac
from fac_ext.geometry import IntPair, Padding, PaddingMode, check_mode, margins, pair


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
