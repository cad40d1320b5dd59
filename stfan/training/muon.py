"""The optimiser Muon: steps that are orthogonal, for the layers that are matrices; Adam for the rest.

torch.optim.Muon takes matrices alone, and multiplies them in bfloat16, which many CPUs compute slowly; here a layer's
(out, in, k, k) is the matrix (out, in k k), and all is float32. Layers of one shape are multiplied together: a GPU
starts a product in less time than a program asks for it.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the polynomial a x + b x^3 + c x^5, which takes (0, 1] near to 1
STEPS = 5
SMALLEST = 8  # rows or columns of a matrix; thinner ones are left to Adam


def is_matrix(parameter: nn.Parameter) -> bool:
    """Say whether Muon takes a parameter: a layer's weight with enough rows and columns."""
    return parameter.ndim > 1 and min(len(parameter), parameter[0].numel()) >= SMALLEST


def orthogonalise(matrices: Tensor) -> Tensor:
    """Make the singular values of (..., rows, columns) matrices about 1, by five Newton-Schulz steps.

    Those of at least 0.005 of a matrix's norm become 0.68 to 1.16; smaller ones become larger too, and 0 stays 0.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = (matrices.mT if tall else matrices).reshape(-1, *sorted(matrices.shape[-2:]))
    wide = wide / torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        square = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return (wide.mT.contiguous() if tall else wide).reshape(matrices.shape)


def _as_matrix(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a tensor of a weight's shape as a matrix, with columns in the order of the weight's memory.

    Orthogonalising does not depend on the order of columns, and so the weight's own matrix is a view.
    """
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten(1)


class Muon(torch.optim.Adam):
    """Adam, but for the groups with matrices=True, whose steps are orthogonal.

    An orthogonal step is scaled by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025), so that its elements are as large
    as Adam's at the same rate. The gradients of the matrices are None after a step.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make a step."""
        rates = {
            parameter: group["lr"]
            for group in self.param_groups
            if group["matrices"]
            for parameter in group["params"]
            if parameter.grad is not None
        }
        if rates:
            self._step_matrices(rates)
        return super().step(closure)

    def _step_matrices(self, rates: dict[nn.Parameter, float | Tensor]) -> None:
        """Make the orthogonal steps of parameters at their rates, numbers or scalars on the device."""
        for parameter in rates:
            if not self.state[parameter]:  # Adam reads "step" of each state that is loaded
                step = torch.zeros((), device=parameter.device)
                self.state[parameter].update(step=step, momentum=torch.zeros_like(parameter))
        torch._foreach_add_([self.state[parameter]["step"] for parameter in rates], 1)
        gradients = [cast(Tensor, parameter.grad) for parameter in rates]
        momenta = [self.state[parameter]["momentum"] for parameter in rates]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        shapes: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter, ahead in zip(rates, torch._foreach_lerp(gradients, momenta, MOMENTUM), strict=True):
            matrix = _as_matrix(ahead, parameter)
            shapes.setdefault(matrix.shape, []).append((parameter, matrix))
        weights: list[Tensor] = []
        steps: list[Tensor] = []
        sizes: list[Any] = []
        for shape, members in shapes.items():
            parameters, matrices = zip(*members, strict=True)
            weights += [_as_matrix(parameter, parameter) for parameter in parameters]
            steps += orthogonalise(torch.stack(matrices)).unbind()
            sizes += [0.2 * math.sqrt(max(shape)) * rates[parameter] for parameter in parameters]
        torch._foreach_mul_(steps, sizes)
        torch._foreach_sub_(weights, steps)
        for parameter in rates:
            parameter.grad = None
