"""Random numbers of a clip."""

import numpy as np
import torch


def generator(*numbers):
    """A random generator that whole numbers from 0 determine."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


class Rng:
    """Random numbers from one generator, which is on the CPU."""

    def __init__(self, generator):
        self.generator = generator

    def uniform(self, low, high):
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def log_uniform(self, low, high):
        return low * (high / low) ** self.uniform(0, 1)

    def randint(self, low, high):
        """A whole number from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def chance(self, part):
        return self.uniform(0, 1) < part

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator)
