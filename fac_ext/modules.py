"""FAC: fac() as a torch.nn.Module."""

import torch

from fac_ext.functional import fac
from fac_ext.geometry import check_mode, margins, pair


class FAC(torch.nn.Module):
    """Filter adaptive convolution as a layer without parameters: the filters are its second input.

    Args:
        kernel_size, stride, dilation, padding, padding_mode: as in :func:`fac_ext.fac`, which gives shapes and errors.

    Example:
        >>> layer = FAC(5, padding_mode="replicate")
        >>> layer(torch.randn(1, 8, 32, 32), torch.randn(1, 8 * 25, 32, 32)).shape
        torch.Size([1, 8, 32, 32])
    """

    def __init__(self, kernel_size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"):
        super().__init__()
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride, self.dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
        margins(self.kernel_size, self.stride, self.dilation, padding)
        check_mode(padding_mode)
        self.padding, self.padding_mode = padding, padding_mode

    def forward(self, input, filters):
        return fac(
            input,
            filters,
            self.kernel_size,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            padding_mode=self.padding_mode,
        )

    def extra_repr(self):
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}, "
            f"padding={self.padding!r}, padding_mode={self.padding_mode!r}"
        )
