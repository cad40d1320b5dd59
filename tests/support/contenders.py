"""Contenders of the benchmarks, made smaller; in a module of its own, since their processes import it."""

import sys

from support.checkout import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from bench_stfan import Network


class SmallNetwork(Network):
    """On a quarter of the frame."""

    def __init__(self, name, options):
        super().__init__(name, options)
        self.frame = self.frame[:, ::2, ::2].contiguous()
