"""Filter adaptive convolution: each pixel of each channel has its own filter."""

from pkgutil import extend_path

import torch  # noqa: F401  (the operators in _C register themselves with it)

# Find the compiled half of the installed package, which this folder hides in a source checkout.
__path__ = extend_path(__path__, __name__)
try:
    from fac_ext._C import release_memory
except ModuleNotFoundError as error:
    raise ImportError("fac_ext is not compiled yet: run `pip install .` in its source folder") from error

from fac_ext import flops  # noqa: F401  (torch.utils.flop_counter asks it)
from fac_ext.devices import build_info
from fac_ext.functional import fac, fac_correlation, fac_predicted, fac_transpose
from fac_ext.modules import FAC, FACCorrelation, FACTranspose, PredictedFAC
from fac_ext.reference import fac_correlation_reference, fac_reference, fac_transpose_reference

__all__ = [
    "FAC",
    "FACCorrelation",
    "FACTranspose",
    "PredictedFAC",
    "build_info",
    "fac",
    "fac_correlation",
    "fac_correlation_reference",
    "fac_predicted",
    "fac_reference",
    "fac_transpose",
    "fac_transpose_reference",
    "release_memory",
]
__version__: str = build_info()["version"]
