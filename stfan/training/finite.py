"""Find a loss or a gradient that is not finite, without waiting for the device at each step."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 50  # between two looks at a GPU's values; a look waits for all that is queued


class Step(NamedTuple):
    """An optimiser step that is not looked at yet."""

    iteration: int
    loss: Tensor
    norm: Tensor
    names: list[str]


class FiniteCheck:
    """Looks at losses and norms of gradients now and then, and keeps the weights of the last look.

    Args:
        weights: what a bad step spoils.
        steps: number of steps between two looks; with 1, each is looked at before it is done, and nothing is kept.

    Attributes:
        due: whether it is time for a look.
        iteration: that of the weights to which :meth:`restore` goes back.
    """

    def __init__(self, weights: Sequence[Tensor], steps: int):
        self.weights, self.steps, self.iteration = list(weights), steps, 0
        self.pending: list[Step] = []
        self.kept: list[Tensor] = []

    @property
    def due(self) -> bool:
        return len(self.pending) >= self.steps

    @torch.no_grad()
    def keep(self, iteration: int) -> None:
        """Keep the weights that an iteration begins with, if it is the first since the last look."""
        if self.pending:
            return
        self.iteration = iteration
        if self.steps > 1:
            self.kept = self.kept or [torch.empty_like(weight) for weight in self.weights]
            torch._foreach_copy_(self.kept, self.weights)

    def add(self, step: Step) -> None:
        """Record a step whose beginning was kept."""
        self.pending.append(step)

    def first_bad(self) -> tuple[Step, float, float] | None:
        """Return the first non-finite step since the last look, with loss and gradient norm; None if all are finite."""
        steps, self.pending = self.pending, []
        if not steps:
            return None
        values = torch.stack([value.detach().double() for step in steps for value in (step.loss, step.norm)])
        numbers = values.tolist()
        for step, loss, norm in zip(steps, numbers[::2], numbers[1::2], strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                return step, loss, norm
        return None

    @torch.no_grad()
    def restore(self) -> None:
        """Give the weights the values of the last look."""
        if self.kept:
            torch._foreach_copy_(self.weights, self.kept)
