"""Weight files: ours (safetensors), the article's and the authors' (PyTorch), told apart by the names in them."""

import math
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stfan.files import atomic_write
from stfan.model.network import PRESETS, STFAN

PRETRAINED = Path(__file__).parent / "pretrained"
BUNDLED = tuple(sorted(path.stem for path in PRETRAINED.glob("*.safetensors")))  # names that load() takes
DEFAULT = "article"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# The modules of our model, and what they are called elsewhere.
ARTICLE = {
    "features": "feat.net",
    "motion": "stfan.ext",
    "align": "stfan.align",
    "align_summary": "stfan.deblur1",
    "deblur": "stfan.deblur2",
    "fusion": "fusion",
    "reconstruction.0": "recon.up1",
    "reconstruction.1": "recon.res2",
    "reconstruction.2": "recon.res3",
    "reconstruction.3": "recon.up4",
    "reconstruction.4": "recon.res5",
    "reconstruction.5": "recon.res6",
    "reconstruction.6": "recon.conv7",
}
AUTHORS = {
    **{f"features.{i}": f"conv{i // 3 + 1}_{i % 3 + 1}" for i in range(9)},
    **{f"motion.{i}": f"kconv{i // 3 + 1}_{i % 3 + 1}" for i in range(9)},
    "align": "fac_warp",
    "align_summary": "kconv4",
    "deblur": "fac_deblur",
    "fusion": "fea",
    "reconstruction.0": "upconv2_u",
    "reconstruction.1": "upconv2_2",
    "reconstruction.2": "upconv2_1",
    "reconstruction.3": "upconv1_u",
    "reconstruction.4": "upconv1_2",
    "reconstruction.5": "upconv1_1",
    "reconstruction.6": "img_prd",
}

# NumPy's numbers stand beside the tensors in the authors' checkpoints. To load one runs nothing.
_number = np.float64(0).__reduce__()[0]
NUMBERS = [
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *(type(np.dtype(name)) for name in ("float32", "float64", "int64"))),
]


def load(path=None, device="cpu", dtype=None):
    """A trained network, in eval mode.

    Args:
        path: "article" or "compact" for bundled weights (their cards lie beside them), DEFAULT if not given; or a weight
            file. What :func:`save` writes; or a
            state dict as torch.save writes it, ours or that of the article's Net (whose unused layer is dropped); or
            the authors' checkpoint, which becomes the preset "official" and takes RGB frames as all do here.
        device: where the network goes.
        dtype: of the weights: torch.float32, as if not given, torch.float16, torch.bfloat16 or torch.float64.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another dtype; or no weight file, or one of another network, or damaged, or with code in it, of
            which none is run. The message names the file and what is wrong with it.
    """
    dtype = torch.float32 if dtype is None else dtype
    if dtype not in DTYPES:
        raise ValueError(f"load: dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype!r}")
    path = locate(path)
    try:
        model = _fill(*_read(path))
    except InvalidWeights as error:
        raise ValueError(f"{path}: {error}") from error
    return model.to(device, dtype).eval()


def locate(path=None):
    """Find a weight file.

    Args:
        path: a file, or the name of bundled weights, DEFAULT if not given.

    Raises:
        FileNotFoundError: no such file; names the bundled weights.
    """
    path = Path(path or DEFAULT)
    if str(path) in BUNDLED:
        return PRETRAINED / f"{path}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such weight file; bundled are {' and '.join(BUNDLED)}")
    return path


def save(model, path):
    """Write a model's weights in half precision, whole or not at all."""
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(path) as partial:
        save_file(tensors, partial, {"preset": model.preset})


def count(model):
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


class InvalidWeights(Exception):
    """What is wrong with a file."""


def _read(path):
    """The {name: tensor} of a file, and its preset or None where it does not say."""
    if not path.is_file():
        raise InvalidWeights("is a folder, not a weight file" if path.is_dir() else "is no regular file")
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # safetensors: 8 bytes of length, then JSON
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, (file.metadata() or {}).get("preset")
        except SafetensorError as error:
            raise InvalidWeights(f"a damaged or truncated safetensors file: {error}") from error
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMBERS):
            warnings.simplefilter("ignore")  # about old formats: what it can not read raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of many types where the bytes are any
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise InvalidWeights(f"refused: to load it would call {shorten(code.groups())}") from error
        raise InvalidWeights("neither safetensors nor PyTorch's, or damaged or truncated") from error
    if isinstance(content, dict):
        content = content.get("deblurnet_state_dict", content)
    if not isinstance(content, dict):
        raise InvalidWeights(f"holds something of type {type(content).__name__}, not a state dict")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}, None


def _fill(tensors, said):
    """The model that a file's tensors are of, with them in it; said is the preset that the file names, or None."""
    kind, preset = _recognise(tensors, said)
    names = _shapes(preset, 5)
    theirs = {name: kind.name(name) for name in names}
    missing = [name for name in theirs.values() if name not in tensors]
    unknown = [name for name in tensors if name not in kind.unused and name not in theirs.values()]
    if len(missing) == len(names):
        raise InvalidWeights(f"holds no weights of STFAN, but {shorten(unknown) or 'nothing'}")
    if missing:
        raise InvalidWeights(f"{kind.title}, but it lacks {shorten(missing)}")
    if unknown:
        raise InvalidWeights(f"{kind.title}, but it also holds {shorten(unknown)}")
    tensors = {name: tensors[theirs[name]] for name in names}
    for name, tensor in tensors.items():
        plain = (
            isinstance(tensor, torch.Tensor)
            and tensor.layout == torch.strided
            and tensor.device.type == "cpu"
        )
        if not plain or not tensor.is_floating_point():
            raise InvalidWeights(f"{kind.title}, but its {theirs[name]} is no plain floating-point tensor")
        if not tensor.isfinite().all():
            raise InvalidWeights(f"{kind.title}, but its {theirs[name]} holds numbers that are not finite")
    taps = next(tensor for name, tensor in reversed(tensors.items()) if name.startswith("align.")).numel()
    kernel_size = math.isqrt(taps // PRESETS[preset].layers.channels)
    kernel_size = kernel_size if kernel_size % 2 else 5
    wanted = _shapes(preset, kernel_size)
    wrong = [
        f"{theirs[name]} of shape {tuple(tensor.shape)} instead of {wanted[name]}"
        for name, tensor in tensors.items()
        if tuple(tensor.shape) != wanted[name]
    ]
    if wrong:
        raise InvalidWeights(f"{kind.title}, but with {shorten(wrong)}")
    with torch.device("meta"):  # which draws no random numbers
        model = STFAN(preset, kernel_size)
    model.load_state_dict(kind.convert(tensors), assign=True)
    return model


def _recognise(tensors, said):
    """The kind of a file, and the preset that its tensors are of: by their names and, where those agree, by a shape."""
    if said is not None and said not in PRESETS:
        raise InvalidWeights(f"weights of a preset {said!r}; known are {' and '.join(PRESETS)}")

    def fit(pair):
        kind, preset = pair
        return sum(kind.name(name) in tensors for name in _shapes(preset, 5)), preset == said

    pairs = [(kind, preset) for kind in KINDS for preset in ([kind.preset] if kind.preset else PRESETS)]
    kind, preset = max(pairs, key=fit)
    if kind.preset is None and preset in ("article", "official"):
        last_up = tensors.get("reconstruction.3.weight")
        larger = isinstance(last_up, torch.Tensor) and last_up.shape[-1:] == (4,)
        preset = said if said in ("article", "official") else "official" if larger else "article"
    if said is not None and said != preset:
        raise InvalidWeights(
            f"says that it is of the preset {said}, but its tensors are of the preset {preset}"
        )
    return kind, preset


def _shapes(preset, kernel_size):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in STFAN(preset, kernel_size).state_dict().items()}


def shorten(names):
    shown = [repr(name)[1:-1][:100] for name in list(names)[:3]]  # a file can call them anything
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _rename(name, modules):
    """A parameter's name, with the module's name as it is elsewhere."""
    ours = next(ours for ours in modules if name.startswith(f"{ours}."))
    return modules[ours] + name.removeprefix(ours)


def _authors_name(name):
    """Theirs: a convolution is the first of two layers, and a residual block has a "stem" of three."""
    name = _rename(name, AUTHORS)
    if ".conv1." in name or ".conv2." in name:
        return name.replace(".conv1.", ".stem.0.").replace(".conv2.", ".stem.2.")
    module, leaf = name.rsplit(".", 1)
    return f"{module}.0.{leaf}"


def _from_authors(tensors):
    """Turn round the channels of the authors' weights.

    They feed BGR frames, in the order current, previous, previous output, and join the deblurred features to the
    aligned ones; we feed RGB frames in the opposite order, and join the aligned features to the deblurred ones.
    """
    turned = {
        "features.0.weight": 1,
        "motion.0.weight": 1,
        "reconstruction.6.weight": 0,
        "reconstruction.6.bias": 0,
    }
    swapped = {"fusion.weight": 1, "reconstruction.0.weight": 0}
    return (
        tensors
        | {name: tensors[name].flip(axis) for name, axis in turned.items()}
        | {name: tensors[name].roll(128, axis) for name, axis in swapped.items()}
    )


class Kind(NamedTuple):
    """A kind of weight file: what it calls the parameters of our model, and how it becomes that."""

    title: str
    preset: str | None  # None: any
    name: Callable
    unused: tuple = ()  # parameters of no effect, passed over
    convert: Callable = dict


KINDS = (
    Kind("weights of STFAN", None, str),
    Kind(
        "weights of the article's Net",
        "article",
        lambda name: _rename(name, ARTICLE),
        unused=("stfan.conv22.weight", "stfan.conv22.bias"),
    ),
    Kind("weights of the authors", "official", _authors_name, convert=_from_authors),
)
