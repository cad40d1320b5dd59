"""STFAN: video deblurring by spatio-temporal filter adaptive convolution (ICCV 2019)."""

from stfan.model import STFAN
from stfan.stream import Deblurrer

__all__ = ["STFAN", "Deblurrer", "load"]


def load(path=None, device="cpu", dtype=None):
    """The network with trained weights; see :func:`stfan.weights.load`."""
    from stfan import weights  # needs safetensors, which the network alone does not

    return weights.load(path, device, dtype)
