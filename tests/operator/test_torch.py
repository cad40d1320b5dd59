"""Take every kind of derivative, and use torch.func, eager and compiled."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from fac_ext import derivatives, fac
from fac_ext.arguments import check_window, resolve
from support import oracle
from support.geometries import (  # noqa: F401
    GEOMETRIES,
    OPS,
    PLAIN,
    every_geometry,
    every_layout,
    made,
    nothing_compiled,
    same,
)
from support.operands import Seen, all_three, tensors

# Derivatives


@every_geometry
def test_derivatives_of_every_kind(case, device):
    function, _, *operands = made(case, device=device)
    operands = [t.requires_grad_() for t in operands[:2]]
    batched = {"check_batched_grad": True}
    assert gradcheck(function, operands, check_forward_ad=True, check_batched_forward_grad=True, **batched)
    assert gradgradcheck(function, operands, check_fwd_over_rev=True, check_rev_over_rev=True, **batched)


@every_geometry
def test_third_order(case):
    function, _, *operands = made(case)
    operands = [t.requires_grad_() for t in operands[:2]]

    def second(input, filters):
        (g,) = torch.autograd.grad(function(input, filters).pow(3).sum(), filters, create_graph=True)
        return torch.autograd.grad(g.square().sum(), input, create_graph=True)

    assert gradcheck(second, operands, fast_mode=True)


# f is the function, x and k its operands, in float64; sin and cos are tangents and weights that are not symmetric.
TRANSFORMS = {
    "grad": lambda f, x, k: grad(lambda x, k: (f(x, k) ** 2).sum(), (0, 1))(x, k),
    "vjp": lambda f, x, k: vjp(f, x, k)[1](f(x, k).sin()),
    "jvp": lambda f, x, k: jvp(f, (x, k), (x.cos(), k.cos())),
    "jvp by input": lambda f, x, k: jvp(lambda x: f(x, k), (x,), (x.cos(),)),
    "jvp by filters": lambda f, x, k: jvp(lambda k: f(x, k), (k,), (k.cos(),)),
    "jacrev": lambda f, x, k: jacrev(f, (0, 1))(x, k),
    "jacfwd": lambda f, x, k: jacfwd(f, (0, 1))(x, k),
    "hessian": lambda f, x, k: hessian(lambda x, k: (f(x, k) ** 3).sum(), (0, 1))(x, k),
    "grad of grad": lambda f, x, k: grad(lambda k: grad(lambda x: (f(x, k) ** 3).sum())(x).sin().sum())(k),
    "grad of jvp": lambda f, x, k: grad(lambda k: jvp(lambda x: f(x, k).sin(), (x,), (x.cos(),))[1].sum())(k),
    "jvp of grad": lambda f, x, k: jvp(lambda k: grad(lambda x: (f(x, k) ** 3).sum())(x), (k,), (k.cos(),)),
    "jvp of jvp": lambda f, x, k: jvp(
        lambda k: jvp(lambda x: f(x, k).sin(), (x,), (x.cos(),))[1], (k,), (k.cos(),)
    ),
    "jvp of jvp by both": lambda f, x, k: jvp(
        lambda x, k: jvp(f, (x, k), (x.cos(), k.cos()))[1], (x, k), (x.sin(), k.sin())
    ),
    "third order": lambda f, x, k: grad(
        # powers: the sine of a large number would have the rounding error of that number
        lambda x: (grad(lambda k: (grad(lambda x: (f(x, k) ** 3).sum())(x) ** 2).sum())(k) ** 2).sum()
    )(x),
    "vmap over input": lambda f, x, k: vmap(lambda x: f(x, k))(torch.stack([x, x.cos(), x.sin()])),
    "vmap over filters": lambda f, x, k: vmap(f, (None, 2))(x, torch.stack([k, k.cos(), k.sin()], 2)),
    "vmap over both": lambda f, x, k: vmap(f, (4, 1), 3)(torch.stack([x, x.cos()], 4), torch.stack([k, k.sin()], 1)),
    "vmap of vmap": lambda f, x, k: vmap(lambda k: vmap(lambda x: f(x, k))(torch.stack([x, x.cos()])))(
        torch.stack([k, k.sin(), k.cos()])
    ),
    "vmap of grad": lambda f, x, k: vmap(grad(lambda x, k: (f(x, k) ** 2).sum(), (0, 1)), (0, None))(
        torch.stack([x, x.cos()]), k
    ),
    "grad of vmap": lambda f, x, k: grad(lambda k: (vmap(f, (0, None))(torch.stack([x, x.cos()]), k) ** 2).sum())(k),
    "vmap of jvp": lambda f, x, k: vmap(lambda t: jvp(lambda k: f(x, k), (k,), (t,))[1])(torch.stack([k, k.cos()])),
}  # fmt: skip
every_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


@every_transform
@every_geometry
def test_torch_func(case, transform):
    function, right, input, filters, _ = made(case)
    same(transform(function, input, filters), transform(right, input, filters))


COMPILED = {"vmap over input", "vmap over filters", "vmap over both", "vmap of vmap"}
gap = pytest.mark.xfail(
    strict=True,
    raises=torch._dynamo.exc.TorchDynamoException,  # and not wrong numbers
    reason="torch.func of registered operators, compiled: pytorch#170834, #192985, #193279",
)


@pytest.mark.parametrize(
    "transform",
    [pytest.param(t, id=name, marks=[] if name in COMPILED else gap) for name, t in TRANSFORMS.items()],
)
def test_compiled_torch_func(transform):
    function, right, input, filters, _ = made(GEOMETRIES["stride groups reflect"])
    compiled = torch.compile(lambda x, k: transform(function, x, k), fullgraph=True, backend="aot_eager")
    same(compiled(input, filters), transform(right, input, filters))


@pytest.mark.parametrize("op", ["fac", "fac_grad_input", "fac_grad_filters"])
def test_vmap_is_one_call(op):
    function, _, input, filters, gradient = made(PLAIN)
    geometry = resolve(input, filters, check_window(3))
    operands = {
        "fac": (input, filters),
        "fac_grad_input": (filters, gradient),
        "fac_grad_filters": (input, gradient),
    }
    a, b = operands[op]
    function, many = getattr(derivatives, op), torch.stack([b, b.cos(), b.sin()], 3)
    with Seen() as seen:
        got = vmap(lambda b: function(a, b, geometry), 3)(many)
    assert seen.ours == [op]
    same(got, torch.stack([function(a, one, geometry) for one in many.unbind(3)]))


def test_functions_of_autograd_functional():
    _, _, input, filters, _ = made(PLAIN)
    for vectorize in (False, True):
        for strategy in ("reverse-mode", "forward-mode") if vectorize else ("reverse-mode",):
            options = {"vectorize": vectorize, "strategy": strategy}
            mine, expected = (
                torch.autograd.functional.jacobian(lambda x, f=f: f(x, filters, 3), input, **options)
                for f in (fac, oracle.output)
            )
            same(mine, expected)


@pytest.mark.xfail(
    strict=True, reason="torch.func lets no autograd.Function hear of no_grad inside a transform"
)
def test_no_grad_is_heard_inside_transforms():
    """Treat a constant as one in the transforms around it too, as torch's own operators do."""
    function, right, input, filters, _ = made(PLAIN)

    def value(f):
        def inner(x):
            with torch.no_grad():
                constant = f(x, filters)
            return (x[:, :, :1] ** 2 * constant).sum()

        return grad(lambda x: grad(inner)(x).sin().sum())(input)

    same(value(function), value(right))


def test_no_grad_is_heard():
    function, _, input, filters, _ = made(PLAIN)
    with torch.no_grad():
        assert not grad(lambda x: function(x, filters).sum())(input.requires_grad_()).requires_grad
        assert not function(input, filters).requires_grad


def test_only_what_gradients_need_is_kept():
    """Save the picture alone: a network that predicts filters for it need not keep them."""
    input, filters, _ = tensors(*PLAIN[:3])
    for x, f, saved in (
        (input, filters, [input, filters]),
        (input.detach(), filters, [input]),
        (input, filters.detach(), [filters]),
        (input.detach(), filters.detach(), []),
    ):
        packed = []
        with saved_tensors_hooks(lambda t, packed=packed: packed.append(t) or t, lambda t: t):
            fac(x, f, 3)
        assert [t.data_ptr() for t in packed] == [t.data_ptr() for t in saved]


def test_tangents_of_one_operand_cost_one_call():
    function, _, input, filters, _ = made(PLAIN)
    with Seen() as seen:
        jvp(lambda x: function(x, filters), (input,), (input.cos(),))
    assert seen.ours == ["fac", "fac"]


def test_compiled_autograd():
    input, filters, gradient = tensors(*PLAIN[:3])
    expected = all_three(fac, input, filters, gradient, 3)[1:]
    output = fac(input, filters, 3)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        same(torch.autograd.grad(output, (input, filters), gradient), expected)
