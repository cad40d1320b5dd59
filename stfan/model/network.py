"""The network: it predicts filters for alignment and for deblurring for every pixel, and applies them with fac.

Source: "Spatio-Temporal Filter Adaptive Network for Video Deblurring", Zhou et al., ICCV 2019. B is the batch,
H and W the frame's size, C the preset's number of channels, k the filters' size; features live at a quarter of the
resolution.
"""

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fac_ext import fac_predicted
from stfan.model.layers import (
    FullSizeLayers,
    HalfSizeLayers,
    LeakyConv2d,
    LeakyConvTranspose2d,
    ResBlock,
)

HALVES = torch.float16, torch.bfloat16


class Preset(NamedTuple):
    """The settings in which the presets differ: their layers, and how fac pads."""

    layers: FullSizeLayers | HalfSizeLayers
    padding_mode: Literal["zeros", "replicate"]


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
            residual blocks, also after those that make the filters and the image, and a larger second up-convolution;
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

    The authors' own weights take BGR frames: :func:`stfan.load` reverses their channels.
    """

    def __init__(self, preset: str = "article", kernel_size: int = 5):
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

    def forward(
        self, previous: Tensor, current: Tensor, previous_output: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Do one step.

        Args:
            previous, current: the last blurry frame and this one, (B, 3, H, W).
            previous_output: this network's output for the last frame, (B, 3, H, W).
            state: the next_state of the last step, (B, C, H/4, W/4); None is :meth:`initial_state` of current.

        Returns:
            (output, next_state) of the shapes and dtypes of current and state. The output is not clamped.

        For the first frame give it as all three images, without a state. To a network in a half type give
        float32 frames: the network's result is then added to a frame that is not rounded.
        """
        self._check_frame("current", current)
        b, _, h, w = current.shape
        for name, tensor, shape in (
            ("previous", previous, (b, 3, h, w)),
            ("previous_output", previous_output, (b, 3, h, w)),
            ("state", state, (b, self.channels, h // 4, w // 4)),
        ):
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"STFAN: {name} must be {shape} to go with current, got {tuple(tensor.shape)}"
                )
        dtype = self.fusion.weight.dtype
        frame = current.to(dtype)
        features = self.features(frame)
        if state is None:
            state = self._first_state(features)
        motion = self.motion(torch.cat([previous_output, previous, current], 1).to(dtype))
        aligned, summary = self._align(state, motion)
        hidden = self.deblur[:-1](torch.cat([motion, summary], 1))
        # here and below: frees what the layers at the frame's size have no use for
        del motion, summary, state
        fused = torch.cat([aligned, self._filter(features, hidden, last_conv(self.deblur))], 1)
        del aligned, features, hidden
        next_state = self.fusion(fused)
        return self.reconstruction(fused, frame) + current, next_state

    def _filter(self, image: Tensor, hidden: Tensor, last: nn.Conv2d) -> Tensor:
        """Filter with what a filter head's last layer makes of its hidden features; store none of the filters."""
        slope = 0.1 if isinstance(last, LeakyConv2d) else None
        weight, bias = _parameters(last)
        return fac_predicted(
            image, hidden, weight, bias, self.kernel_size, padding_mode=self.padding_mode, activation=slope
        )

    def _align(self, state: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Return the aligned state and the summary of the filters that aligned it, both (B, C, H/4, W/4).

        In the preset "article" no activation stands between the filters' last layer and their summary, both 1x1. So
        the product of the two is one map of 128 channels to 128, and the summary need not make all the filters again.
        """
        hidden, last = self.align[:-1](motion), last_conv(self.align)
        aligned = self._filter(state, hidden, last)
        if self.align_summary is None:
            return aligned, hidden
        if self.preset != "article":
            return aligned, _leaky_summary(hidden, last, self.align_summary)
        summary_weight, summary_bias = _parameters(self.align_summary)
        weight, bias = _parameters(last)
        summary_weight = summary_weight.flatten(1)
        product, offset = summary_weight @ weight.flatten(1), summary_weight @ bias + summary_bias
        return aligned, nn.functional.conv2d(hidden, product[..., None, None], offset)

    def initial_state(self, frame: Tensor) -> Tensor:
        """Compute the state before the first frame, (B, C, H/4, W/4), from that frame's own features."""
        self._check_frame("frame", frame)
        return self._first_state(self.features(frame.to(self.fusion.weight.dtype)))

    def _first_state(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.fusion(torch.cat([features, features], 1)))

    def _check_frame(self, name: str, frame: Tensor) -> None:
        dtype = self.fusion.weight.dtype
        if frame.dim() != 4 or frame.shape[1] != 3 or frame.shape[2] % 4 or frame.shape[3] % 4:
            raise ValueError(
                f"STFAN: {name} must be (B, 3, H, W), H and W multiples of 4, got {tuple(frame.shape)}"
            )
        fits = frame.dtype == dtype or (frame.dtype == torch.float32 and dtype in HALVES)
        if not fits and not torch.is_autocast_enabled(frame.device.type):
            raise TypeError(f"STFAN: {name} must be {dtype} as the weights are, got {frame.dtype}")


def last_conv(head: nn.Sequential) -> nn.Conv2d:
    """Return the last layer of a filter head, which makes the filters."""
    return cast(nn.Conv2d, head[-1])


def _parameters(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a convolution; all of this network's have a bias."""
    assert conv.bias is not None
    return conv.weight, conv.bias


def _leaky_summary(hidden: Tensor, last: nn.Conv2d, summary: nn.Conv2d) -> Tensor:
    """Return summary(last(hidden)) of two LeakyConv2d, 1x1 both, with a few of the filters in memory at a time.

    Under autograd, backward makes the filters again.
    """

    def part(hidden: Tensor, weight: Tensor, bias: Tensor, summary_weight: Tensor) -> Tensor:
        filters = nn.functional.leaky_relu(nn.functional.conv2d(hidden, weight, bias), 0.1, inplace=True)
        return nn.functional.conv2d(filters, summary_weight)

    recompute = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    (weight, bias), (summary_weight, total) = _parameters(last), _parameters(summary)
    few, dtype = summary.out_channels, hidden.dtype
    total = total[:, None, None]
    if total.dtype in HALVES:
        total = total.float()
    for arguments in zip(weight.split(few), bias.split(few), summary_weight.split(few, 1), strict=True):
        if recompute:
            product = checkpoint(part, hidden, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            product = part(hidden, *arguments)
        total, dtype = total + product, product.dtype
    return nn.functional.leaky_relu(total.to(dtype), 0.1, inplace=True)


def initialise(model: STFAN, kind: Literal["kaiming", "identity"], seed: int) -> STFAN:
    """Initialise a network in place, and return it.

    Args:
        model: the network.
        kind: "kaiming", Kaiming's initialisation as PyTorch has it: uniform, of variance 1 / (3 fan_in), also for the
            biases. The article's code gets the same. The variance for which Kaiming's is known, 2 / fan_in, makes
            STFAN grow without bounds within three frames.
            Or "identity", a network that starts as the identity, on top of a stronger initialisation. Both filters
            start as a single centre tap, so that FAC passes features and state through. Residual branches, the old
            state's part in the new one and the output start small, so that nothing grows over a long video.
        seed: of torch's random numbers.
    """
    torch.manual_seed(seed)
    convolutions = [
        module for module in model.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    for module in convolutions:
        module.reset_parameters()
        if kind == "identity":
            weight, bias = _parameters(module)
            nn.init.kaiming_normal_(weight, nonlinearity="linear")
            nn.init.zeros_(bias)
    if kind == "kaiming":
        return model
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, ResBlock):
                block.conv2.weight.mul_(0.1)
        for head in (model.align, model.deblur):
            weight, bias = _parameters(last_conv(head))
            weight.mul_(0.02)
            bias.view(-1, model.kernel_size**2)[:, model.kernel_size**2 // 2] = 1
        model.fusion.weight[:, : model.channels].mul_(0.25)
        convolutions[-1].weight.mul_(0.01)  # the reconstruction's
    return model
