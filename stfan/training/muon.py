"""Muon (Jordan et al. 2024): momentum made orthogonal, for the layers that are matrices; Adam for the rest.

torch.optim.Muon takes matrices alone, and multiplies them in bfloat16, which many CPUs compute slowly; here a layer's
(out, in, k, k) is the matrix (out, in k k), and all is float32.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the polynomial a x + b x^3 + c x^5, which takes (0, 1] near to 1
STEPS = 5
SMALLEST = 8  # rows or columns of a matrix; thinner ones are left to Adam


def is_matrix(parameter: nn.Parameter) -> bool:
    """Say whether Muon takes a parameter: a layer's weight with enough rows and columns."""
    return parameter.ndim > 1 and min(len(parameter), parameter[0].numel()) >= SMALLEST


def orthogonalise(matrix: Tensor) -> Tensor:
    """Make a matrix's singular values about 1, by five Newton-Schulz steps.

    Those of at least 0.005 of its norm become 0.68 to 1.16; smaller ones become larger too, and 0 stays 0.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        square = wide @ wide.mT
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide if wide.shape == matrix.shape else wide.mT


class Muon(torch.optim.Adam):
    """Adam, but for the groups with matrices=True, whose steps are orthogonal.

    An orthogonal step is scaled by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025), so that its elements are as large
    as Adam's at the same rate. The gradients of the matrices are None after a step.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make a step."""
        for group in self.param_groups:
            if not group["matrices"]:
                continue
            for parameter in group["params"]:
                if (gradient := parameter.grad) is None:
                    continue
                state = self.state[parameter]
                if not state:  # Adam reads "step" of each state that is loaded
                    state.update(step=torch.zeros(()), momentum=torch.zeros_like(gradient))
                state["step"] += 1
                momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
                ahead = gradient.lerp(momentum, MOMENTUM)
                step = orthogonalise(ahead.flatten(1))
                size = 0.2 * math.sqrt(max(step.shape))
                parameter.sub_(step.view_as(parameter), alpha=group["lr"] * size)
                parameter.grad = None
        return super().step(closure)
