"""Register the operators' FLOPs with torch.utils.flop_counter: two a multiply-add, as for a convolution.

Zeros beyond the border count, as they do there. A gradient that makes filters again counts their product again.
"""

import math
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from fac_ext import predicted  # noqa: F401  (registers operators)
from fac_ext.arguments import Fields, Geometry

_ops = torch.ops.fac_ext
Shape = tuple[int, ...]


def _products(channels: Shape, *geometry: *Fields) -> int:
    """Count the operations of one application of filters, by a shape that has the channels and the output's pixels."""
    return 2 * math.prod(channels) * Geometry(*geometry).taps


def _fac(input: Shape, filters: Shape, *geometry: *Fields, **_: Any) -> int:
    return _products((*input[:2], *filters[2:]), *geometry)


def _by_grad(other: Shape, grad: Shape, *geometry: *Fields, **_: Any) -> int:
    return _products(grad, *geometry)


def _prediction(hidden: Shape, weight: Shape | None) -> int:
    """Count those of the matrix product that makes all filters."""
    return 0 if weight is None else 2 * hidden[0] * math.prod(hidden[2:]) * math.prod(weight)


def _predicted(
    input: Shape,
    hidden: Shape,
    weight: Shape | None,
    bias: Shape | None,
    slope: float | None,
    block_bytes: int,
    *geometry: *Fields,
    **_: Any,
) -> int:
    return _prediction(hidden, weight) + _fac(input, hidden, *geometry)


def _predicted_gradients(
    input: Shape | None,
    hidden: Shape,
    weight: Shape | None,
    bias: Shape | None,
    grad: Shape,
    wanted: list[bool],
    slope: float | None,
    block_bytes: int,
    *geometry: *Fields,
    **_: Any,
) -> int:
    by_input, by_hidden, by_weight, by_bias = wanted
    by_filters = by_hidden or by_weight or by_bias
    makes_filters = by_input or (by_filters and slope is not None)
    products = makes_filters + by_hidden + by_weight
    return products * _prediction(hidden, weight) + (by_input + by_filters) * _products(grad, *geometry)


register_flop_formula(_ops.fac)(_fac)
register_flop_formula([_ops.fac_grad_input, _ops.fac_grad_filters])(_by_grad)
register_flop_formula(_ops.predicted)(_predicted)
register_flop_formula(_ops.predicted_gradients)(_predicted_gradients)
