"""Weight files: safetensors in half precision, the preset in the header; the bundled one is the default."""

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stfan.model import STFAN

BUNDLED = Path(__file__).parent / "weights" / "article.safetensors"


def load(path=None, device="cpu"):
    """An STFAN in eval mode with the weights of a file, or with the bundled ones (their card lies beside them).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, or not one of this network.
    """
    path = Path(path or BUNDLED)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        model = STFAN(header["preset"], int(header["kernel_size"]))
        model.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: not a weight file of STFAN: {str(error).splitlines()[0]}") from error
    return model.eval().to(device)


def save(model, path, preset="article"):
    """Write a model's weights in half precision, whole or not at all."""
    path = Path(path)
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in model.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {"preset": preset, "kernel_size": str(model.kernel_size)})
    os.replace(partial, path)


def count(model):
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
