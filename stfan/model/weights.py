"""Load and save weights: ours (safetensors), the article's and the authors' (PyTorch), told apart by names."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from stfan.files import atomic_write, first_names
from stfan.model.network import PRESETS, STFAN
from stfan.model.torch_files import Refused, load_torch_file
from stfan.model.weight_names import KINDS, Kind

try:
    from numpy._core.multiarray import scalar as numpy_scalar
except ImportError:  # NumPy 1
    from numpy.core.multiarray import scalar as numpy_scalar  # type: ignore[no-redef]

PRETRAINED = Path(__file__).parent / "pretrained"
BUNDLED = tuple(sorted(path.stem for path in PRETRAINED.glob("*.safetensors")))  # names that load() takes
DEFAULT = "compact"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# The authors' checkpoints hold NumPy's numbers beside the tensors. Loading these classes and functions runs no code.
NUMPY_GLOBALS: list[Any] = [
    *((numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *(type(np.dtype(name)) for name in ("float32", "float64", "int64"))),
]


class InvalidWeights(Exception):
    """A file does not hold weights of the network; the message says why, without the file's name."""


def load(
    path: str | Path | None = None, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> STFAN:
    """Load a trained network, in eval mode.

    Args:
        path: "compact" for the bundled weights (their card lies beside them), DEFAULT if not given; or a weight file.
            That is a file that :func:`save` wrote; or a state dict that torch.save wrote, ours or that of the
            article's Net (whose unused layer is dropped); or the authors' checkpoint, which becomes the preset
            "official" and takes RGB frames as all do here.
        device: the device to load the network to.
        dtype: of the weights: torch.float32, as if not given, torch.float16, torch.bfloat16 or torch.float64.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another dtype; or the file is no weight file, or one of another network, or damaged, or contains
            code, of which none is run. The message names the file and what is wrong with it.
    """
    dtype = torch.float32 if dtype is None else dtype
    if dtype not in DTYPES:
        raise ValueError(f"load: dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype!r}")
    path = locate(path)
    try:
        model = _build_model(*read_tensors(path))
    except InvalidWeights as error:
        raise ValueError(f"{path}: {error}") from error
    return model.to(device, dtype).eval()


def locate(path: str | Path | None = None) -> Path:
    """Find a weight file.

    Args:
        path: a file, or the name of bundled weights, DEFAULT if not given.

    Raises:
        FileNotFoundError: no such file; the message names the bundled weights.
        ValueError: the path is a folder.
    """
    path = Path(path or DEFAULT)
    if str(path) in BUNDLED:
        return PRETRAINED / f"{path}.safetensors"
    if not path.exists():
        advice = f"bundled are {' and '.join(BUNDLED)}"
        if str(path) in PRESETS:
            advice += (
                "; `stfan train` trains this preset, and the checkpoint of the paper's authors can be loaded"
            )
        raise FileNotFoundError(f"{path}: no such weight file; {advice}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, not a weight file; give one in it, or a name of bundled ones")
    return path


def save(model: STFAN, path: str | Path) -> None:
    """Write a model's weights in half precision, completely or not at all."""
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(path) as partial:
        # Not save_file, whose files nobody else may read, whatever the umask.
        partial.write_bytes(to_safetensors(tensors, {"preset": model.preset}))


def count(model: nn.Module) -> int:
    """Count the parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def read_tensors(path: Path) -> tuple[dict[str, Any], str | None]:
    """Read a weight file of any kind without running code from it.

    Returns:
        {name: tensor} as the file has it, which nothing has checked, and the preset, None where the file names none.

    Raises:
        InvalidWeights: the file is none, or damaged, or contains code.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise InvalidWeights("is a folder, not a weight file" if path.is_dir() else "is no regular file")
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # safetensors: 8 bytes of length, then JSON
        return _read_safetensors(path)
    try:
        content = load_torch_file(path, NUMPY_GLOBALS)
    except Refused as error:
        raise InvalidWeights(str(error)) from error
    if isinstance(content, dict):
        content = content.get("deblurnet_state_dict", content)
    if not isinstance(content, dict):
        raise InvalidWeights(f"holds something of type {type(content).__name__}, not a state dict")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}, None


def _read_safetensors(path: Path) -> tuple[dict[str, Any], str | None]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, (file.metadata() or {}).get("preset")
    except SafetensorError as error:
        raise InvalidWeights(f"a damaged or truncated safetensors file: {error}") from error


def _build_model(tensors: Mapping[str, Any], stated: str | None) -> STFAN:
    """Make the model that a file's tensors belong to, and load them.

    Args:
        tensors: of the file.
        stated: the preset that the file names, or None.
    """
    kind, preset = _recognise(tensors, stated)
    file_names = {name: kind.name(name) for name in _shapes(preset, 5)}
    _check_names(tensors, kind, file_names)
    tensors = {name: tensors[file_name] for name, file_name in file_names.items()}
    _check_tensors(tensors, kind, file_names)
    kernel_size = _find_kernel_size(tensors, preset)
    shapes = _shapes(preset, kernel_size)
    wrong = [
        f"{file_names[name]} of shape {tuple(tensor.shape)} instead of {shapes[name]}"
        for name, tensor in tensors.items()
        if tuple(tensor.shape) != shapes[name]
    ]
    if wrong:
        raise InvalidWeights(f"{kind.title}, but with {first_names(wrong)}")
    with torch.device("meta"):  # which draws no random numbers
        model = STFAN(preset, kernel_size)
    model.load_state_dict(kind.convert(tensors), assign=True)
    return model


def _check_names(tensors: Mapping[str, Any], kind: Kind, file_names: Mapping[str, str]) -> None:
    """Raise InvalidWeights for tensors that are missing or unknown."""
    missing = [name for name in file_names.values() if name not in tensors]
    unknown = [name for name in tensors if name not in kind.unused and name not in file_names.values()]
    if len(missing) == len(file_names):
        raise InvalidWeights(f"holds no weights of STFAN, but {first_names(unknown) or 'nothing'}")
    if missing:
        raise InvalidWeights(f"{kind.title}, but it lacks {first_names(missing)}")
    if unknown:
        raise InvalidWeights(f"{kind.title}, but it also holds {first_names(unknown)}")


def _check_tensors(tensors: Mapping[str, Any], kind: Kind, file_names: Mapping[str, str]) -> None:
    """Raise InvalidWeights for what is no plain floating-point tensor, or not finite."""
    for name, tensor in tensors.items():
        is_plain = (
            isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        )
        # A stride of 0 makes terabytes of one number.
        is_plain = is_plain and tensor.nbytes <= tensor.untyped_storage().nbytes()
        if not is_plain or not tensor.is_floating_point():
            raise InvalidWeights(
                f"{kind.title}, but its {file_names[name]} is no plain floating-point tensor"
            )
        if not tensor.isfinite().all():
            raise InvalidWeights(
                f"{kind.title}, but its {file_names[name]} holds numbers that are not finite"
            )


def _find_kernel_size(tensors: Mapping[str, Tensor], preset: str) -> int:
    """Compute the kernel size from the bias of the alignment filters' last layer; 5 if that has an odd shape."""
    bias = [tensor for name, tensor in tensors.items() if name.startswith("align.")][-1]
    kernel_size = math.isqrt(bias.numel() // PRESETS[preset].layers.channels)
    return kernel_size if kernel_size % 2 else 5


def _recognise(tensors: Mapping[str, Any], stated: str | None) -> tuple[Kind, str]:
    """Find the kind of a file and its preset: by the names of the tensors and, where those agree, by a shape."""
    if stated is not None and stated not in PRESETS:
        raise InvalidWeights(f"weights of a preset {stated!r}; known are {' and '.join(PRESETS)}")

    def count_names(pair: tuple[Kind, str]) -> tuple[int, bool]:
        kind, preset = pair
        return sum(kind.name(name) in tensors for name in _shapes(preset, 5)), preset == stated

    pairs = [(kind, preset) for kind in KINDS for preset in ([kind.preset] if kind.preset else PRESETS)]
    kind, preset = max(pairs, key=count_names)
    if kind.preset is None and preset in ("article", "official"):
        if stated in ("article", "official"):
            preset = stated
        else:
            last_up = tensors.get("reconstruction.3.weight")
            is_larger = isinstance(last_up, Tensor) and last_up.shape[-1:] == (4,)
            preset = "official" if is_larger else "article"
    if stated is not None and stated != preset:
        raise InvalidWeights(
            f"says that it is of the preset {stated}, but its tensors are of the preset {preset}"
        )
    return kind, preset


@functools.cache  # a model has to be made for it
def _shapes(preset: str, kernel_size: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in STFAN(preset, kernel_size).state_dict().items()}
