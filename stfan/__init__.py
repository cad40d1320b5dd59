"""STFAN: video deblurring by spatio-temporal filter adaptive convolution (ICCV 2019)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stfan.model.deblurrer import Deblurrer
    from stfan.model.network import STFAN

__all__ = ["STFAN", "Deblurrer", "load"]


def __getattr__(name):
    """STFAN and Deblurrer when they are asked for: importing torch takes so long that it gets interrupted."""
    if name not in ("STFAN", "Deblurrer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("stfan.model.network" if name == "STFAN" else "stfan.model.deblurrer"), name)


def load(path=None, device="cpu", dtype=None):
    """The network with trained weights; see :func:`stfan.model.weights.load`."""
    from stfan.model import weights  # needs safetensors, which the network alone does not

    return weights.load(path, device, dtype)
