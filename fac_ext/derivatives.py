"""Call and differentiate the three operators: the only file that knows autograd.

FAC is trilinear: with T(x, f, g) = <g, fac(x, f)>, the maps fac(x, f), fac_grad_input(f, g) and
fac_grad_filters(x, g) are T's three partial gradients. So each one's derivatives are the other two, and
gradients of every order, forward mode and vmap need no further kernel.

Eager code goes through an autograd.Function, the only pattern that torch.func differentiates rightly. Code
being compiled or exported sees the registered operator, the only one that gives a single opaque node; the
same formulas are registered on it. One Geometry is passed on everywhere but to a registered operator, which takes
its fields.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from fac_ext.arguments import Fields, Geometry
from fac_ext.devices import why_no_kernels


class _Operator(Protocol):
    def __call__(self, a: Tensor, b: Tensor, geometry: Geometry, /) -> Tensor: ...


DEVICES = tuple(device for device in ("cpu", "cuda", "meta") if why_no_kernels(device) is None)
_ops = torch.ops.fac_ext


def fac(input: Tensor, filters: Tensor, geometry: Geometry) -> Tensor:
    return _call(_Fac, _ops.fac, input, filters, geometry)


def fac_grad_input(filters: Tensor, grad: Tensor, geometry: Geometry) -> Tensor:
    return _call(_FacGradInput, _ops.fac_grad_input, filters, grad, geometry)


def fac_grad_filters(input: Tensor, grad: Tensor, geometry: Geometry) -> Tensor:
    return _call(_FacGradFilters, _ops.fac_grad_filters, input, grad, geometry)


def _call(
    function: type[torch.autograd.Function],
    op: Callable[..., Tensor],
    a: Tensor,
    b: Tensor,
    geometry: Geometry,
) -> Tensor:
    if torch.compiler.is_compiling():
        refuse_lost_tangents()
        return op(a, b, *geometry)
    output: Tensor = function.apply(a, b, geometry)
    return output


def run(op: Callable[..., Any], *arguments: Any) -> Any:
    """Run an operator. The kernels' interface to torch has no class of error for memory, so it is chosen here."""
    try:
        return op(*arguments)
    except RuntimeError as error:
        if not str(error).startswith("fac: out of memory"):
            raise
        raise torch.OutOfMemoryError(str(error)) from None


def in_forward_mode() -> bool:
    return bool(getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0)


def refuse_lost_tangents() -> None:
    """Refuse forward mode in code being compiled."""
    if in_forward_mode():
        raise NotImplementedError(
            "fac: torch.compile would lose the tangents of forward mode (pytorch#192985): "
            "leave what calls torch.func.jvp or jacfwd uncompiled"
        )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save the tensors that backward needs.

    Each one's gradient needs the other alone, so a network that predicts filters need not keep them.
    """
    a, b, ctx.geometry = inputs
    need_a, need_b, *_ = ctx.needs_input_grad
    ctx.save_for_backward(a if need_b else None, b if need_a else None)
    ctx.save_for_forward(a, b)
    ctx.set_materialize_grads(False)


def _derivative(by_first: _Operator, by_second: _Operator) -> Any:
    """Make the backward of an operator of (a, b): by_first(b, h, ...) and by_second(a, h, ...), as far as needed."""

    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        need_a, need_b, *_ = ctx.needs_input_grad
        grad_a = by_first(b, h, ctx.geometry) if need_a and h is not None else None
        grad_b = by_second(a, h, ctx.geometry) if need_b and h is not None else None
        return grad_a, grad_b, None

    return staticmethod(backward)


def _jvp(function: _Operator) -> Any:
    """Make the forward-mode derivative of an operator, which is linear in either tensor."""

    def jvp(ctx: Any, da: Tensor | None, db: Tensor | None, *_: Any) -> Tensor | None:
        # for jvp inside jvp; of this level, a and b are the values alone
        with _set_fwd_grad_enabled(True):
            a, b = (unpack_dual(tensor, level=0).primal for tensor in ctx.saved_tensors)
            by_a = None if da is None else function(da, b, ctx.geometry)
            by_b = None if db is None else function(a, db, ctx.geometry)
            return by_a if by_b is None else by_b if by_a is None else by_a + by_b

    return staticmethod(jvp)


def _vmap(function: _Operator) -> Any:
    """Make the vmap of an operator: fold the mapped axis into N, as each sample of a batch is treated alone."""

    def vmap(
        info: Any, in_dims: tuple[Any, ...], a: Tensor, b: Tensor, geometry: Geometry
    ) -> tuple[Tensor, int]:
        def fold(tensor: Tensor, dim: int | None) -> Tensor:
            tensor = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            return tensor.flatten(0, 1)

        shape = list(a.shape)
        if in_dims[0] is not None:
            del shape[in_dims[0]]
        out = function(fold(a, in_dims[0]), fold(b, in_dims[1]), geometry)
        return out.unflatten(0, (info.batch_size, shape[0])), 0

    return staticmethod(vmap)


def forward_of(op: Callable[..., Any]) -> Any:
    """Make the forward of an autograd.Function, whose last argument is a Geometry, of a registered operator."""

    def forward(*arguments: Any) -> Any:
        *operands, geometry = arguments
        return run(op, *operands, *geometry)

    return staticmethod(forward)


class _Fac(torch.autograd.Function):
    forward = forward_of(_ops.fac)
    setup_context = staticmethod(_save)
    backward = _derivative(fac_grad_input, fac_grad_filters)
    jvp = _jvp(fac)
    vmap = _vmap(fac)


class _FacGradInput(torch.autograd.Function):
    forward = forward_of(_ops.fac_grad_input)
    setup_context = staticmethod(_save)
    backward = _derivative(
        lambda g, h, geometry: fac_grad_filters(h, g, geometry),
        lambda f, h, geometry: fac(h, f, geometry),
    )
    jvp = _jvp(fac_grad_input)
    vmap = _vmap(fac_grad_input)


class _FacGradFilters(torch.autograd.Function):
    forward = forward_of(_ops.fac_grad_filters)
    setup_context = staticmethod(_save)
    backward = _derivative(lambda g, h, geometry: fac_grad_input(h, g, geometry), fac)
    jvp = _jvp(fac_grad_filters)
    vmap = _vmap(fac_grad_filters)


def backward_of_fields(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., Any]:
    """Make a registered operator's backward, whose last arguments are a Geometry's fields, of one for a Geometry."""

    def backward_of_fields(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *found, _ = backward(ctx, *grads)
        return (*found, *(None for _ in Geometry._fields))

    return backward_of_fields


def saver_of_fields(save: Callable[..., None]) -> Callable[..., None]:
    """Make a registered operator's setup_context likewise."""
    count = len(Geometry._fields)

    def save_of_fields(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        save(ctx, (*inputs[:-count], Geometry(*inputs[-count:])), output)

    return save_of_fields


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def empty(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _fake_fac(input: Tensor, filters: Tensor, *geometry: *Fields) -> Tensor:
    return empty(input, (*input.shape[:2], *filters.shape[2:]), is_channels_last(filters))


def _fake_grad_input(filters: Tensor, grad: Tensor, *geometry: *Fields) -> Tensor:
    size = (Geometry(*geometry).input_size(axis, grad.shape[2 + axis]) for axis in (0, 1))
    return empty(grad, (*grad.shape[:2], *size), is_channels_last(filters))


def _fake_grad_filters(input: Tensor, grad: Tensor, *geometry: *Fields) -> Tensor:
    settings = Geometry(*geometry)
    n, c, h, w = grad.shape
    channels = c // settings.channels_per_filter * settings.taps
    channels_last = is_channels_last(grad) or (not grad.is_contiguous() and is_channels_last(input))
    return empty(input, (n, channels, h, w), channels_last)


for _name, _function, _fake in (
    ("fac", _Fac, _fake_fac),
    ("fac_grad_input", _FacGradInput, _fake_grad_input),
    ("fac_grad_filters", _FacGradFilters, _fake_grad_filters),
):
    torch.library.register_fake(f"fac_ext::{_name}", _fake)
    torch.library.register_autograd(
        f"fac_ext::{_name}", backward_of_fields(_function.backward), setup_context=saver_of_fields(_save)
    )
