"""Call and differentiate filters that are made block by block: fac(input, activation(conv2d(hidden, weight, bias))).

Without a weight, hidden are the filters, and only their softmax is made in blocks. The value and the first derivatives
store no filters that they make (blocks.py). What asks for more (a backward pass with create_graph, forward mode,
torch.func, vmap over the weights) goes through the definition, whose parts torch and derivatives.py know to any order;
it stores filters.

As in derivatives.py, eager code goes through an autograd.Function, code being compiled sees the operator.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from fac_ext import blocks, derivatives
from fac_ext.arguments import SOFTMAX, Fields, Geometry

_SETTINGS = (
    "float? slope, int block_bytes, int[2] kernel_size, int[2] stride, int[2] dilation, int[4] padding, "
    "int padding_mode, int channels_per_filter"
)
_library = torch.library.Library("fac_ext", "FRAGMENT")
_library.define(
    f"predicted(Tensor input, Tensor hidden, Tensor? weight, Tensor? bias, {_SETTINGS}) -> Tensor"
)
_library.define(
    "predicted_gradients(Tensor? input, Tensor hidden, Tensor? weight, Tensor? bias, Tensor grad, bool[4] wanted, "
    f"{_SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.impl("predicted", blocks.forward, "CompositeExplicitAutograd")
_library.impl("predicted_gradients", blocks.gradients, "CompositeExplicitAutograd")
_ops = torch.ops.fac_ext


def predicted(
    input: Tensor,
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    slope: float | None,
    block_bytes: int,
    geometry: Geometry,
) -> Tensor:
    """Call it with weight (G*kh*kw, Ch), bias (G*kh*kw,); slope is leaky_relu's, SOFTMAX, or None: no activation."""
    operands = (input, hidden, weight, bias, slope, block_bytes)
    if not torch.compiler.is_compiling():
        output: Tensor = _Predicted.apply(*operands, geometry)  # type: ignore[no-untyped-call]
        return output
    derivatives.refuse_lost_tangents()
    output = _ops.predicted(*operands, *geometry)
    return output


def filters(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None, slope: float | None, taps: int
) -> Tensor:
    """Make all filters."""
    products = hidden if weight is None else F.conv2d(hidden, weight[..., None, None], bias)
    if slope is None:
        return products
    return softmax(products, taps) if slope == SOFTMAX else F.leaky_relu(products, slope)


def softmax(filters: Tensor, taps: int) -> Tensor:
    """Normalise each filter over its taps. Autocast does not widen it, as a type is given."""
    weights: Tensor = filters.unflatten(1, (-1, taps)).softmax(2, dtype=filters.dtype)
    return weights.flatten(1, 2)


def definition(
    input: Tensor,
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    slope: float | None,
    geometry: Geometry,
) -> Tensor:
    return derivatives.fac(input, filters(hidden, weight, bias, slope, geometry.taps), geometry)


def gradients(
    input: Tensor | None,
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    grad: Tensor,
    wanted: list[bool],
    slope: float | None,
    geometry: Geometry,
) -> tuple[Tensor, ...]:
    """Compute blocks.gradients in one piece, differentiable."""
    of_input, of_hidden, of_weight, of_bias = wanted
    results = [hidden.new_empty(0) for _ in wanted]
    if of_input:
        made = filters(hidden, weight, bias, slope, geometry.taps)
        results[0] = derivatives.fac_grad_input(made, grad, geometry)
    if input is not None and (of_hidden or of_weight or of_bias):
        by_filters = derivatives.fac_grad_filters(input, grad, geometry)
        if slope is not None:
            products = filters(hidden, weight, bias, None, geometry.taps)
            by_filters = _activation_tangent(products, by_filters, slope, geometry.taps)
        if of_hidden:
            results[1] = by_filters if weight is None else F.conv2d(by_filters, weight.t()[..., None, None])
        if of_weight:
            results[2] = (by_filters.flatten(2) @ hidden.flatten(2).mT).sum(0)
        if of_bias:
            results[3] = by_filters.sum((0, 2, 3))
    return tuple(results)


def _activation_tangent(products: Tensor, tangent: Tensor, slope: float, taps: int) -> Tensor:
    """Return the activation's derivative at `products`, times tangent. Both are symmetric: it is their adjoint too."""
    if slope == SOFTMAX:
        return _softmax_tangent(softmax(products, taps), tangent, taps)
    return _leaky_relu_tangent(products, tangent, slope)


def _leaky_relu_tangent(products: Tensor, tangent: Tensor, slope: float) -> Tensor:
    return torch.where(products > 0, tangent, slope * tangent)


def _softmax_tangent(weights: Tensor, tangent: Tensor, taps: int) -> Tensor:
    weights, tangent = (tensor.unflatten(1, (-1, taps)) for tensor in (weights, tangent))
    return (weights * (tangent - (weights * tangent).sum(2, keepdim=True))).flatten(1, 2)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, hidden, weight, bias, ctx.slope, ctx.block_bytes, ctx.geometry = inputs
    of_input, *of_filters = ctx.needs_input_grad[:4]
    if of_input or any(of_filters):
        ctx.save_for_backward(input if any(of_filters) else None, hidden, weight, bias)
    ctx.save_for_forward(input, hidden, weight, bias)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:4])
    found: list[Tensor | None] = [None] * 4
    if grad is not None and any(wanted):
        operands = (*ctx.saved_tensors, grad, wanted, ctx.slope)
        if torch.is_grad_enabled() or derivatives.in_forward_mode():
            made = gradients(*[*operands, ctx.geometry])
        elif torch.compiler.is_compiling():
            made = _ops.predicted_gradients(*operands, ctx.block_bytes, *ctx.geometry)
        else:
            made = _Gradients.apply(*operands, ctx.block_bytes, ctx.geometry)  # type: ignore[no-untyped-call]
        found = [result if one else None for result, one in zip(made, wanted, strict=True)]
    return (*found, None, None, None)


class _Predicted(torch.autograd.Function):
    forward = derivatives.forward_of(_ops.predicted)
    setup_context = staticmethod(_save)
    backward = staticmethod(_backward)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        """Add the tangents by input and filters, in either of which the value is linear; store the latter whole."""
        by_input, by_hidden, by_weight, by_bias, *_ = tangents
        # for jvp inside jvp; of this level, the operands are the values alone
        with _set_fwd_grad_enabled(True):
            values = (None if t is None else unpack_dual(t, level=0).primal for t in ctx.saved_tensors)
            input, hidden, weight, bias = values  # type: tuple[Any, Any, Tensor | None, Tensor | None]
            taps = ctx.geometry.taps
            settings = (ctx.slope, ctx.block_bytes, ctx.geometry)
            parts = []
            if by_input is not None:
                parts.append(predicted(by_input, hidden, weight, bias, *settings))
            by_filters = []
            if by_hidden is not None:
                by_filters.append(filters(by_hidden, weight, None, None, taps))
            if by_weight is not None:
                by_filters.append(filters(hidden, by_weight, None, None, taps))
            if by_bias is not None:
                by_filters.append(by_bias[:, None, None].expand(hidden.shape[0], -1, *hidden.shape[2:]))
            if by_filters:
                change = sum(by_filters[1:], by_filters[0])
                if ctx.slope is not None:
                    products = filters(hidden, weight, bias, None, taps)
                    change = _activation_tangent(products, change, ctx.slope, taps)
                parts.append(derivatives.fac(input, change, ctx.geometry))
            return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        """Fold a mapped axis of input and hidden into N, as each sample of a batch is treated alone."""
        (input, hidden, weight, bias), (slope, block_bytes, geometry) = arguments[:4], arguments[4:]
        if in_dims[2] is None and in_dims[3] is None:
            images = (
                image.expand(info.batch_size, *image.shape) if dim is None else image.movedim(dim, 0)
                for image, dim in zip((input, hidden), in_dims, strict=False)
            )
            input, hidden = (image.flatten(0, 1) for image in images)
            out = predicted(input, hidden, weight, bias, slope, block_bytes, geometry)
            return out.unflatten(0, (info.batch_size, -1)), 0

        def each(input: Tensor, hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            return definition(input, hidden, weight, bias, slope, geometry)

        return torch.vmap(each, in_dims[:4])(input, hidden, weight, bias), 0


class _Gradients(torch.autograd.Function):
    """A function for the sake of vmap: nothing differentiates it, as with gradients enabled it is not called."""

    forward = derivatives.forward_of(_ops.predicted_gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> None:
        raise NotImplementedError("fac: the gradients of fac_predicted were made without create_graph")

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *arguments: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        wanted, slope, _, geometry = arguments[5:]

        def each(*operands: Any) -> tuple[Tensor, ...]:
            input, hidden, weight, bias, grad = operands
            return gradients(input, hidden, weight, bias, grad, wanted, slope, geometry)

        made = torch.vmap(each, in_dims[:5])(*arguments[:5])
        return made, (0,) * len(made)


def _refuse(ctx: Any, *grads: Any) -> None:
    raise NotImplementedError(
        "fac: torch.ops.fac_ext.predicted_gradients has no derivative; use fac_predicted"
    )


def _fake_predicted(input: Tensor, hidden: Tensor, *others: Any) -> Tensor:
    return derivatives.empty(
        hidden, (*input.shape[:2], *hidden.shape[2:]), derivatives.is_channels_last(hidden)
    )


def _fake_gradients(
    input: Tensor | None,
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    grad: Tensor,
    wanted: list[bool],
    slope: float | None,
    block_bytes: int,
    *geometry: *Fields,
) -> tuple[Tensor, ...]:
    of_weight = () if weight is None else weight.shape
    shapes = (blocks.input_shape(grad, Geometry(*geometry)), hidden.shape, of_weight, of_weight[:1])
    channels_last = derivatives.is_channels_last(hidden)
    return tuple(
        derivatives.empty(hidden, shape, channels_last and i < 2) if one else hidden.new_empty(0)
        for i, (shape, one) in enumerate(zip(shapes, wanted, strict=True))
    )


torch.library.register_fake("fac_ext::predicted", _fake_predicted)
torch.library.register_fake("fac_ext::predicted_gradients", _fake_gradients)
torch.library.register_autograd(
    "fac_ext::predicted",
    derivatives.backward_of_fields(_backward),
    setup_context=derivatives.saver_of_fields(_save),
)
torch.library.register_autograd("fac_ext::predicted_gradients", _refuse)
