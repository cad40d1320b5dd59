"""STFAN: video deblurring by spatio-temporal filter adaptive convolution (ICCV 2019)."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from stfan.model.deblurrer import Deblurrer
    from stfan.model.network import STFAN

__all__ = ["STFAN", "Deblurrer", "load"]


def __getattr__(name: str) -> Any:
    """Import STFAN or Deblurrer on first use: the import of torch takes so long that people interrupt it."""
    if name not in ("STFAN", "Deblurrer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("stfan.model.network" if name == "STFAN" else "stfan.model.deblurrer"), name)


def load(
    path: str | Path | None = None,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
) -> "STFAN":
    """Load the network with trained weights; see :func:`stfan.model.weights.load`."""
    from stfan.model import weights  # needs safetensors, which the network alone does not

    return weights.load(path, device, dtype)
