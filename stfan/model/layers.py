"""Layers of the presets: encoders, heads that predict filters, decoders.

B is the batch, H and W the frame's size, C the preset's number of channels.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn


class ResBlock(nn.Module):
    """Residual block: two 3x3 convolutions with a LeakyReLU between them."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(nn.functional.leaky_relu(self.conv1(x), 0.1, inplace=True))


class LeakyConv2d(nn.Conv2d):
    """Convolution with a LeakyReLU after it."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.leaky_relu(super().forward(input), 0.1, inplace=True)


class LeakyConvTranspose2d(nn.ConvTranspose2d):
    """Up-convolution with a LeakyReLU after it."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return nn.functional.leaky_relu(super().forward(input, output_size), 0.1, inplace=True)


@dataclass(frozen=True)
class FullSizeLayers:
    """The article's layers: from the frame's size down to a quarter and up again, two residual blocks at each size.

    Attributes:
        conv: makes all convolutions outside the residual blocks.
        up_conv: makes the up-convolutions.
        last_up_kernel: kernel size of the second up-convolution.
        channels: C.
    """

    conv: type[nn.Conv2d]
    up_conv: type[nn.ConvTranspose2d]
    last_up_kernel: int
    channels: int = 128

    def encoder(self, images: int) -> nn.Sequential:
        """Make the layers (B, images, H, W) -> (B, C, H/4, W/4)."""
        return nn.Sequential(
            *_stage(self.conv(images, 32, 3, 1, 1), 32),
            *_stage(self.conv(32, 64, 3, 2, 1), 64),
            *_stage(self.conv(64, 128, 3, 2, 1), 128),
        )

    def filter_head(self, channels: int, taps: int) -> nn.Sequential:
        """Make the layers (B, channels, H/4, W/4) -> (B, taps, H/4, W/4)."""
        return nn.Sequential(*_stage(self.conv(channels, 128, 3, 1, 1), 128), self.conv(128, taps, 1))

    def summary(self, taps: int) -> nn.Conv2d | None:
        """Make the 1x1 convolution of all the alignment filters that the deblurring filters' head reads."""
        return self.conv(taps, 128, 1)

    def decoder(self) -> nn.Module:
        """Make the layers that turn the filtered features into what is added to the frame."""
        k = self.last_up_kernel
        return FullSizeDecoder(
            *_stage(self.up_conv(256, 64, 4, 2, 1), 64),
            *_stage(self.up_conv(64, 32, k, 2, 1, output_padding=4 - k), 32),
            self.conv(32, 3, 3, 1, 1),
        )


def _stage(first: nn.Module, channels: int) -> list[nn.Module]:
    """Return a convolution and two residual blocks."""
    return [first, ResBlock(channels), ResBlock(channels)]


class FullSizeDecoder(nn.Sequential):
    """Maps (B, 2C, H/4, W/4) to (B, 3, H, W); it does not read the frame."""

    def forward(self, fused: Tensor, frame: Tensor) -> Tensor:  # type: ignore[override]
        return cast(Tensor, super().forward(fused))


@dataclass(frozen=True)
class HalfSizeLayers:
    """Layers for a CPU: none at the frame's size. First 2 x 2 pixels become channels, last channels become pixels.

    Attributes:
        half: number of channels at half the size.
        channels: C, at a quarter of the size.
        encoder_blocks: number of residual blocks at a quarter; at a half there is one.
        head_blocks: number of residual blocks in each filter head.
        decoder_blocks: number of residual blocks at a quarter in the decoder; at a half there is one.
    """

    half: int
    channels: int
    encoder_blocks: int
    head_blocks: int
    decoder_blocks: int

    conv: ClassVar[type[nn.Conv2d]] = nn.Conv2d

    def encoder(self, images: int) -> nn.Sequential:
        """Make the layers (B, images, H, W) -> (B, C, H/4, W/4)."""
        return nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * images, self.half, 3, 1, 1),
            ResBlock(self.half),
            nn.Conv2d(self.half, self.channels, 3, 2, 1),
            *self._blocks(self.encoder_blocks),
        )

    def _blocks(self, count: int) -> list[ResBlock]:
        return [ResBlock(self.channels) for _ in range(count)]

    def filter_head(self, channels: int, taps: int) -> nn.Sequential:
        """Make the layers (B, channels, H/4, W/4) -> (B, taps, H/4, W/4)."""
        return nn.Sequential(
            nn.Conv2d(channels, self.channels, 3, 1, 1),
            *self._blocks(self.head_blocks),
            nn.Conv2d(self.channels, taps, 1),
        )

    def summary(self, taps: int) -> nn.Conv2d | None:
        """Return None: the deblurring filters' head reads what the alignment filters are made of."""
        return None

    def decoder(self) -> nn.Module:
        """Make the layers that turn the filtered features and the frame into what is added to the frame."""
        return HalfSizeDecoder(
            nn.Conv2d(2 * self.channels, self.channels, 3, 1, 1),
            *self._blocks(self.decoder_blocks),
            nn.Conv2d(self.channels, 4 * self.half, 3, 1, 1),
            nn.PixelShuffle(2),
            ResBlock(self.half),
            last=nn.Conv2d(self.half + 12, 12, 3, 1, 1),
        )


class HalfSizeDecoder(nn.Module):
    """Maps (B, 2C, H/4, W/4) to (B, 3, H, W); its last layer reads the frame too."""

    def __init__(self, *layers: nn.Module, last: nn.Conv2d):
        super().__init__()
        self.trunk, self.last, self.shuffle = nn.Sequential(*layers), last, nn.PixelShuffle(2)

    def forward(self, fused: Tensor, frame: Tensor) -> Tensor:
        frame = nn.functional.pixel_unshuffle(frame, 2)
        return cast(Tensor, self.shuffle(self.last(torch.cat([self.trunk(fused), frame], 1))))
