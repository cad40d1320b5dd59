"""Random numbers that depend on given numbers alone, and on nothing that was drawn before."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor


def seeded_generator(*numbers: int, bits: Literal[32, 64] = 64) -> torch.Generator:
    """Make a generator on the CPU whose stream depends on these numbers alone, unrelated to that of any others.

    Args:
        numbers: whole numbers from 0.
        bits: size of the seed that is computed from them. The two sizes give different streams.
    """
    dtype = np.uint64 if bits == 64 else np.uint32
    (seed,) = np.random.SeedSequence(numbers).generate_state(1, dtype)
    return torch.Generator().manual_seed(int(seed))


class Rng:
    """Draws random numbers from one generator, which is on the CPU."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        """Draw a number from low to high."""
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def log_uniform(self, low: float, high: float) -> float:
        """Draw a number from low to high whose logarithm is uniform."""
        return low * (high / low) ** self.uniform(0, 1)

    def randint(self, low: int, high: int) -> int:
        """Draw a whole number from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def chance(self, probability: float) -> bool:
        """Draw whether something happens."""
        return self.uniform(0, 1) < probability

    def normal(self, *shape: int) -> Tensor:
        """Draw a float32 tensor of normally distributed numbers."""
        return torch.randn(shape, generator=self.generator)
