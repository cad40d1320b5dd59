"""The network: filters for alignment and for deblurring are predicted for every pixel, and applied with fac.

Source: "Spatio-Temporal Filter Adaptive Network for Video Deblurring", Zhou et al., ICCV 2019. B is the batch,
H and W the frame's size, C the preset's number of channels, k the filters' size; features live at a quarter of the
resolution.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fac_ext import fac_predicted

HALVES = torch.float16, torch.bfloat16


class ResBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x):
        return x + self.conv2(nn.functional.leaky_relu(self.conv1(x), 0.1, inplace=True))


class LeakyConv2d(nn.Conv2d):
    def forward(self, x):
        return nn.functional.leaky_relu(super().forward(x), 0.1, inplace=True)


class LeakyConvTranspose2d(nn.ConvTranspose2d):
    def forward(self, x):
        return nn.functional.leaky_relu(super().forward(x), 0.1, inplace=True)


class FullSizeLayers(NamedTuple):
    """The article's layers: from the frame's size down to a quarter and up again, two residual blocks at each size."""

    conv: type  # all convolutions outside the residual blocks
    up_conv: type
    last_up_kernel: int  # of the second up-convolution
    channels: int = 128

    def encoder(self, images):
        """(B, images, H, W) -> (B, C, H/4, W/4)"""
        return nn.Sequential(
            *(self.conv(images, 32, 3, 1, 1), ResBlock(32), ResBlock(32)),
            *(self.conv(32, 64, 3, 2, 1), ResBlock(64), ResBlock(64)),
            *(self.conv(64, 128, 3, 2, 1), ResBlock(128), ResBlock(128)),
        )

    def filter_head(self, channels, taps):
        """(B, channels, H/4, W/4) -> (B, taps, H/4, W/4)"""
        conv = self.conv
        return nn.Sequential(conv(channels, 128, 3, 1, 1), ResBlock(128), ResBlock(128), conv(128, taps, 1))

    def summary(self, taps):
        """The 1x1 convolution of all the alignment filters that the deblurring filters' head reads."""
        return self.conv(taps, 128, 1)

    def decoder(self):
        k = self.last_up_kernel
        return FullSizeDecoder(
            *(self.up_conv(256, 64, 4, 2, 1), ResBlock(64), ResBlock(64)),
            *(self.up_conv(64, 32, k, 2, 1, output_padding=4 - k), ResBlock(32), ResBlock(32)),
            self.conv(32, 3, 3, 1, 1),
        )


class FullSizeDecoder(nn.Sequential):
    """(B, 2C, H/4, W/4) -> (B, 3, H, W)"""

    def forward(self, fused, frame):
        return super().forward(fused)


class HalfSizeLayers(NamedTuple):
    """Layers for a CPU: none at the frame's size. 2 x 2 pixels become channels at first, and channels pixels at last."""

    half: int  # channels at half the size
    channels: int  # at a quarter
    encoder_blocks: int  # residual blocks at a quarter; at a half there is one
    head_blocks: int
    decoder_blocks: int

    conv = nn.Conv2d

    def encoder(self, images):
        """(B, images, H, W) -> (B, C, H/4, W/4)"""
        half, c = self.half, self.channels
        return nn.Sequential(
            *(nn.PixelUnshuffle(2), nn.Conv2d(4 * images, half, 3, 1, 1), ResBlock(half)),
            *(nn.Conv2d(half, c, 3, 2, 1), *self._blocks(self.encoder_blocks)),
        )

    def _blocks(self, count):
        return [ResBlock(self.channels) for _ in range(count)]

    def filter_head(self, channels, taps):
        """(B, channels, H/4, W/4) -> (B, taps, H/4, W/4)"""
        c = self.channels
        return nn.Sequential(
            nn.Conv2d(channels, c, 3, 1, 1), *self._blocks(self.head_blocks), nn.Conv2d(c, taps, 1)
        )

    def summary(self, taps):
        """None: the deblurring filters' head reads what the alignment filters are made of."""

    def decoder(self):
        half, c = self.half, self.channels
        return HalfSizeDecoder(
            *(nn.Conv2d(2 * c, c, 3, 1, 1), *self._blocks(self.decoder_blocks)),
            *(nn.Conv2d(c, 4 * half, 3, 1, 1), nn.PixelShuffle(2), ResBlock(half)),
            last=nn.Conv2d(half + 12, 12, 3, 1, 1),
        )


class HalfSizeDecoder(nn.Module):
    """(B, 2C, H/4, W/4) -> (B, 3, H, W): the last layer reads the frame too."""

    def __init__(self, *layers, last):
        super().__init__()
        self.trunk, self.last, self.shuffle = nn.Sequential(*layers), last, nn.PixelShuffle(2)

    def forward(self, fused, frame):
        frame = nn.functional.pixel_unshuffle(frame, 2)
        return self.shuffle(self.last(torch.cat([self.trunk(fused), frame], 1)))


class Preset(NamedTuple):
    """What the presets differ in."""

    layers: FullSizeLayers | HalfSizeLayers
    padding_mode: str  # of fac


PRESETS = {
    "article": Preset(FullSizeLayers(nn.Conv2d, nn.ConvTranspose2d, 3), "zeros"),
    "official": Preset(FullSizeLayers(LeakyConv2d, LeakyConvTranspose2d, 4), "replicate"),
    "compact": Preset(HalfSizeLayers(24, 48, 2, 1, 2), "zeros"),
}


class STFAN(nn.Module):
    """Deblurs one frame of a video, given the one before it.

    Args:
        preset: "article": zero-padded FAC, no activation outside the residual blocks;
            "official", the authors' release: replicate-padded FAC, LeakyReLU(0.1) after every convolution outside the
            residual blocks, those that make the filters and the image among them, and a larger second up-convolution;
            or "compact", our own for a CPU: the same steps at a tenth of the cost, with no layer at the frame's size.
        kernel_size: k of both filters.

    Attributes:
        channels: C, of features and state.

    RGB frames are (B, 3, H, W) in [0, 1], H and W multiples of 4. With k = 5:

    ========  ==========  ================  ===
    preset    parameters  kFLOP per pixel   C
    ========  ==========  ================  ===
    article   5,358,211   1,021             128
    official  5,372,547   1,129             128
    compact   703,452     104               48
    ========  ==========  ================  ===

    The authors' own weights take BGR frames: :func:`stfan.load` turns their channels round.
    """

    def __init__(self, preset="article", kernel_size=5):
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"STFAN: preset must be {' or '.join(PRESETS)}, got {preset!r}")
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"STFAN: kernel_size must be a positive odd int, got {kernel_size!r}")
        layers, self.padding_mode = PRESETS[preset]
        c, taps = layers.channels, layers.channels * kernel_size**2
        self.preset, self.kernel_size, self.channels = preset, kernel_size, c
        self.features = layers.encoder(3)
        self.motion = layers.encoder(9)
        self.align = layers.filter_head(c, taps)
        self.align_summary = layers.summary(taps)
        self.deblur = layers.filter_head(2 * c, taps)
        self.fusion = layers.conv(2 * c, c, 3, 1, 1)
        self.reconstruction = layers.decoder()

    def forward(self, previous, current, previous_output, state=None):
        """One step.

        Args:
            previous, current: the last blurry frame and this one, (B, 3, H, W).
            previous_output: what this network made of the last one, (B, 3, H, W).
            state: what it handed on, (B, C, H/4, W/4); None is :meth:`initial_state` of current.

        Returns:
            (output, next_state) of the shapes and dtypes of current and state. The output is not clamped.

        For the first frame give it as all three images, without a state. To a network in a half type give
        float32 frames: what it computes is then added to a frame that is not rounded.
        """
        self._check_frame("current", current)
        b, _, h, w = current.shape
        for name, tensor, wanted in (
            ("previous", previous, (b, 3, h, w)),
            ("previous_output", previous_output, (b, 3, h, w)),
            ("state", state, (b, self.channels, h // 4, w // 4)),
        ):
            if tensor is not None and tuple(tensor.shape) != wanted:
                raise ValueError(
                    f"STFAN: {name} must be {wanted} to go with current, got {tuple(tensor.shape)}"
                )
        dtype = self.fusion.weight.dtype
        frame = current.to(dtype)
        features = self.features(frame)
        if state is None:
            state = self._first_state(features)
        motion = self.motion(torch.cat([previous_output, previous, current], 1).to(dtype))
        aligned, summary = self._align(state, motion)
        hidden = self.deblur[:-1](torch.cat([motion, summary], 1))
        del (
            motion,
            summary,
            state,
        )  # here and below: frees what the layers at the frame's size have no use for
        fused = torch.cat([aligned, self._filter(features, hidden, self.deblur[-1])], 1)
        del aligned, features, hidden
        next_state = self.fusion(fused)
        return self.reconstruction(fused, frame) + current, next_state

    def _filter(self, image, hidden, last):
        """Filter with what a filter head's last layer makes of its hidden features; store none of the filters."""
        slope = 0.1 if isinstance(last, LeakyConv2d) else None
        arguments = (last.weight, last.bias, self.kernel_size)
        return fac_predicted(image, hidden, *arguments, padding_mode=self.padding_mode, activation=slope)

    def _align(self, state, motion):
        """Return the aligned state and the summary of the filters that aligned it, both (B, C, H/4, W/4).

        In the preset "article" nothing bends between the filters' last layer and their summary, both 1x1, so the
        product of the two is one map of 128 channels to 128, which spares making all the filters again.
        """
        hidden, last, summary = self.align[:-1](motion), self.align[-1], self.align_summary
        aligned = self._filter(state, hidden, last)
        if summary is None:
            return aligned, hidden
        if self.preset != "article":
            return aligned, _leaky_summary(hidden, last, summary)
        weight, bias = summary.weight.flatten(1), summary.bias
        weight, bias = weight @ last.weight.flatten(1), weight @ last.bias + bias
        return aligned, nn.functional.conv2d(hidden, weight[..., None, None], bias)

    def initial_state(self, frame):
        """The state before the first frame, (B, C, H/4, W/4), made of its own features."""
        self._check_frame("frame", frame)
        return self._first_state(self.features(frame.to(self.fusion.weight.dtype)))

    def _first_state(self, features):
        return self.fusion(torch.cat([features, features], 1))

    def _check_frame(self, name, frame):
        dtype = self.fusion.weight.dtype
        if frame.dim() != 4 or frame.shape[1] != 3 or frame.shape[2] % 4 or frame.shape[3] % 4:
            raise ValueError(
                f"STFAN: {name} must be (B, 3, H, W), H and W multiples of 4, got {tuple(frame.shape)}"
            )
        fits = frame.dtype == dtype or (frame.dtype == torch.float32 and dtype in HALVES)
        if not fits and not torch.is_autocast_enabled(frame.device.type):
            raise TypeError(f"STFAN: {name} must be {dtype} as the weights are, got {frame.dtype}")


def _leaky_summary(hidden, last, summary):
    """Return summary(last(hidden)) of two LeakyConv2d, 1x1 both, with a few of the filters in memory at a time.

    Under autograd too: backward makes them again.
    """

    def part(hidden, weight, bias, summary_weight):
        filters = nn.functional.leaky_relu(nn.functional.conv2d(hidden, weight, bias), 0.1, inplace=True)
        return nn.functional.conv2d(filters, summary_weight)

    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    few = summary.out_channels
    parts = zip(last.weight.split(few), last.bias.split(few), summary.weight.split(few, 1), strict=True)
    total = summary.bias[:, None, None]
    if total.dtype in HALVES:
        total = total.float()
    for arguments in parts:
        if again:
            made = checkpoint(part, hidden, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            made = part(hidden, *arguments)
        total = total + made
    return nn.functional.leaky_relu(total.to(made.dtype), 0.1, inplace=True)


def initialise(model, kind, seed):
    """Kaiming's initialisation as PyTorch has it, or on top of a stronger one a network that starts as the identity.

    PyTorch's is uniform, of variance 1 / (3 fan_in), the biases' too; it is what the article's code gets. The variance
    for which Kaiming's is known, 2 / fan_in, makes STFAN grow without bounds within three frames.

    Of the identity both filters start as a single centre tap, so that FAC passes features and state through; residual
    branches, the old state's part in the new one and the output start small, so that nothing grows over a long video.
    """
    torch.manual_seed(seed)
    convolutions = [
        module for module in model.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    for module in convolutions:
        module.reset_parameters()
        if kind == "identity":
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    if kind == "kaiming":
        return model
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ResBlock):
                module.conv2.weight *= 0.1
        for head in (model.align[-1], model.deblur[-1]):
            head.weight *= 0.02
            head.bias.view(-1, model.kernel_size**2)[:, model.kernel_size**2 // 2] = 1
        model.fusion.weight[:, : model.channels] *= 0.25
        convolutions[-1].weight *= 0.01  # the reconstruction's
    return model
