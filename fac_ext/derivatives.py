"""The three operators and their derivatives: the only file that knows autograd.

FAC is trilinear: with T(x, f, g) = <g, fac(x, f)>, the maps fac(x, f), fac_grad_input(f, g) and
fac_grad_filters(x, g) are T's three partial gradients, so each one's derivatives are the other two, and
gradients of every order, forward mode and vmap need no further kernel.

Eager code goes through an autograd.Function (the only pattern that torch.func differentiates rightly); code
being compiled or exported sees the registered operator (the only one that gives a single opaque node), with
the same formulas registered on it.
"""

import torch

_ops = torch.ops.fac_ext


def fac(input, filters, kernel_size, padding):
    return _call(_Fac, _ops.fac, input, filters, kernel_size, padding)


def fac_grad_input(filters, grad, kernel_size, padding):
    return _call(_FacGradInput, _ops.fac_grad_input, filters, grad, kernel_size, padding)


def fac_grad_filters(input, grad, kernel_size, padding):
    return _call(_FacGradFilters, _ops.fac_grad_filters, input, grad, kernel_size, padding)


def _call(function, op, a, b, kernel_size, padding):
    if torch.compiler.is_compiling():
        return op(a, b, kernel_size, padding)
    return function.apply(a, b, kernel_size, padding)


def _save(ctx, inputs, output):
    a, b, *ctx.settings = inputs
    ctx.save_for_backward(a, b)
    ctx.save_for_forward(a, b)


def _jvp(function):
    """Each operator is linear in either tensor."""

    def jvp(ctx, da, db, *_):
        a, b = ctx.saved_tensors
        return function(da, b, *ctx.settings) + function(a, db, *ctx.settings)

    return staticmethod(jvp)


def _vmap(function):
    """Each operator treats the samples of a batch alone: fold the mapped axis into N."""

    def vmap(info, in_dims, a, b, *settings):
        def fold(tensor, dim):
            tensor = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            return tensor.flatten(0, 1)

        n = (a if in_dims[0] is None else a.movedim(in_dims[0], 0)[0]).shape[0]
        out = function(fold(a, in_dims[0]), fold(b, in_dims[1]), *settings)
        return out.unflatten(0, (info.batch_size, n)), 0

    return staticmethod(vmap)


class _Fac(torch.autograd.Function):
    forward = staticmethod(lambda *args: _ops.fac(*args))
    setup_context = staticmethod(_save)
    jvp = _jvp(fac)
    vmap = _vmap(fac)

    @staticmethod
    def backward(ctx, grad):
        input, filters = ctx.saved_tensors
        need_input, need_filters, *_ = ctx.needs_input_grad
        return (
            fac_grad_input(filters, grad, *ctx.settings) if need_input else None,
            fac_grad_filters(input, grad, *ctx.settings) if need_filters else None,
            None,
            None,
        )


class _FacGradInput(torch.autograd.Function):
    forward = staticmethod(lambda *args: _ops.fac_grad_input(*args))
    setup_context = staticmethod(_save)
    jvp = _jvp(fac_grad_input)
    vmap = _vmap(fac_grad_input)

    @staticmethod
    def backward(ctx, h):
        filters, grad = ctx.saved_tensors
        need_filters, need_grad, *_ = ctx.needs_input_grad
        return (
            fac_grad_filters(h, grad, *ctx.settings) if need_filters else None,
            fac(h, filters, *ctx.settings) if need_grad else None,
            None,
            None,
        )


class _FacGradFilters(torch.autograd.Function):
    forward = staticmethod(lambda *args: _ops.fac_grad_filters(*args))
    setup_context = staticmethod(_save)
    jvp = _jvp(fac_grad_filters)
    vmap = _vmap(fac_grad_filters)

    @staticmethod
    def backward(ctx, h):
        input, grad = ctx.saved_tensors
        need_input, need_grad, *_ = ctx.needs_input_grad
        return (
            fac_grad_input(h, grad, *ctx.settings) if need_input else None,
            fac(input, h, *ctx.settings) if need_grad else None,
            None,
            None,
        )


def _fake_like_second(a, b, kernel_size, padding):
    return b.new_empty(b.shape)


def _fake_like_first(a, b, kernel_size, padding):
    return a.new_empty(a.shape)


def _fake_filters(input, grad, kernel_size, padding):
    n, c, h, w = input.shape
    return input.new_empty((n, c * kernel_size * kernel_size, h, w))


for _name, _function, _fake in (
    ("fac", _Fac, _fake_like_first),
    ("fac_grad_input", _FacGradInput, _fake_like_second),
    ("fac_grad_filters", _FacGradFilters, _fake_filters),
):
    torch.library.register_fake(f"fac_ext::{_name}", _fake)
    torch.library.register_autograd(f"fac_ext::{_name}", _function.backward, setup_context=_save)
