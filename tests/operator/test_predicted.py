"""fac_predicted: values and derivatives against a witness that makes no filters either, and against its definition."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from fac_ext import PredictedFAC, block_plan, derivatives, fac, fac_predicted
from fac_ext.arguments import PADDING_MODES, check_window, resolve_predicted
from support import oracle
from support.checkout import ROOT, run
from support.geometries import (  # noqa: F401
    GEOMETRIES,
    PLAIN,
    every_geometry,
    every_layout,
    in_pairs,
    nothing_compiled,
    same,
)
from support.operands import CASES, LAYOUTS, tensors

HIDDEN = 5  # channels
NAMES = ("input", "hidden", "weight", "bias")
BLOCKS = (1, 700, None)  # bytes: one filter and row; some; all
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def witness(
    input, hidden, weight, bias, kernel_size, *, stride=1, dilation=1, padding="same", padding_mode="zeros"
):
    """The sum over h of hidden[h] * depthwise(input, weight[:, h]), and depthwise(input, bias): no filters anywhere."""
    (kh, kw), c = oracle.two(kernel_size), input.shape[1]
    (top, bottom), (left, right) = oracle.margins(kernel_size, dilation, padding)
    if top or bottom or left or right:
        mode = "constant" if padding_mode == "zeros" else padding_mode
        input = F.pad(input, (left, right, top, bottom), mode)

    def depthwise(taps):
        taps = taps.reshape(-1, 1, kh, kw)
        taps = taps.repeat_interleave(c // taps.shape[0], 0)
        return F.conv2d(input, taps, None, stride, 0, dilation, c)

    total = 0 if bias is None else depthwise(bias)
    for h in range(hidden.shape[1]):
        total = total + hidden[:, h, None] * depthwise(weight[:, h])
    return total


def defined(input, hidden, weight, bias, kernel_size, *, activation=None, block_bytes=None, **keywords):
    """The definition."""
    filters = F.conv2d(hidden, weight.reshape(*weight.shape[:2], 1, 1), bias)
    if activation is not None:
        filters = F.leaky_relu(filters, activation)
    return fac(input, filters, kernel_size, **keywords)


def operands(case, *, bias=True, whole=False, hidden=HIDDEN, **options):
    """([input, hidden, weight, bias], the output's gradient) of a case; whole: small whole numbers."""
    shape, groups, kernel_size, keywords = case
    input, filters, grad = (t.detach() for t in tensors(shape, groups, kernel_size, **options, **keywords))
    features = torch.randn(shape[0], hidden, *filters.shape[2:], device=input.device).to(input.dtype)
    features = features.contiguous(memory_format=options.get("layout", torch.contiguous_format))
    weight = torch.randn(filters.shape[1], hidden, device=input.device).to(input.dtype)
    made = [input, features, weight, torch.randn_like(weight[:, 0]) if bias else None]
    if whole:
        made = [None if t is None else t.round().clamp(-2, 2) for t in made]
    return made, grad


def results(function, made, grad, *args, wanted=(True,) * 4, **keywords):
    """[output, gradients of those that are wanted]"""
    leaves = [t if t is None else t.detach().requires_grad_(one) for t, one in zip(made, wanted, strict=True)]
    output = function(*leaves, *args, **keywords)
    asked = [t for t in leaves if t is not None and t.requires_grad]
    return [output, *torch.autograd.grad(output, asked, grad)]


def bounds(made, grad, kernel_size, wanted=(True,) * 4, **keywords):
    """Exact values, magnitudes and numbers of terms of the results, by the witness in float64."""
    exact, size, ones = (
        [None if t is None else change(t.cpu().double()) for t in (*made, grad)]
        for change in (lambda t: t, torch.abs, torch.ones_like)
    )
    return [
        results(witness, one[:4], one[4], kernel_size, wanted=wanted, **keywords)
        for one in (exact, size, ones)
    ]


def check(got, wanted, kernel_size, dtype):
    """The filters or their gradients are rounded, their products in each block, the sum over the blocks, and, of the
    input's gradient, the sum at each of up to kh bands that see a row."""
    for mine, right, size, terms in zip(got, *wanted, strict=True):
        assert mine.dtype == dtype
        oracle.check(mine, right, size, terms + 4, roundings=3 + oracle.two(kernel_size)[0])


# Values and first derivatives


@every_layout
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", [case for case in CASES if case[0][1]], ids=str)
def test_value_and_all_gradients(case, dtype, layout, device):
    _, _, kernel_size, keywords = case
    for bias in (True, False):
        made, grad = operands(case, bias=bias, dtype=dtype, layout=layout, device=device)
        exact = bounds(made, grad, kernel_size, **keywords) if grad.numel() else None
        for block_bytes in BLOCKS:
            got = results(fac_predicted, made, grad, kernel_size, block_bytes=block_bytes, **keywords)
            if exact:
                check(got, exact, kernel_size, dtype)
            else:
                assert all(not one.any() for one in got)


@every_layout
@pytest.mark.parametrize(
    ("slope", "dtype"),
    [
        pytest.param(slope, dtype, marks=() if 0.125 == slope or dtype == torch.float32 else pytest.mark.long)
        for slope in (0, 0.125, 1.0, 2)
        for dtype in DTYPES
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_activation(slope, dtype, layout, device):
    """On whole numbers, of which every filter's sign is known in every type."""
    for case in CASES:
        if 0 in case[0][:2]:
            continue
        _, _, kernel_size, keywords = case
        made, grad = operands(case, whole=True, dtype=dtype, layout=layout, device=device)
        keywords = keywords | {"activation": slope}
        exact = results(defined, [t.double() for t in made], grad.double(), kernel_size, **keywords)
        _, size, terms = bounds(made, grad, kernel_size, **case[3])
        for block_bytes in BLOCKS:
            got = results(fac_predicted, made, grad, kernel_size, block_bytes=block_bytes, **keywords)
            for mine, right, most, many in zip(got, exact, size, terms, strict=True):
                oracle.check(
                    mine, right.cpu(), most.mul(max(slope, 1)), many + 4, 4 + oracle.two(kernel_size)[0]
                )


@st.composite
def any_call(draw):
    small = st.integers(1, 3)
    groups, shared = draw(small), draw(small)
    size = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    kernel_size = draw(st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 7), st.integers(1, 7))))
    dilation = draw(st.one_of(small, st.tuples(small, small)))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), st.integers(0, 5)))
    stride = 1 if padding == "same" else draw(st.one_of(small, st.tuples(small, small)))
    mode = draw(st.sampled_from(["zeros", "replicate", "reflect", "circular"]))
    keywords = {"stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode}
    around = oracle.margins(kernel_size, dilation, padding)
    most = {"reflect": -1, "circular": 0}.get(mode, 99)
    fits = all(max(around[i]) <= size[i] + most for i in range(2))
    fits = fits and min(oracle.output_size(*size, kernel_size, **keywords)) > 0
    return ((draw(small), groups * shared, *size), groups, kernel_size, keywords) if fits else None


@given(
    any_call().filter(bool),
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 20000)),
    st.tuples(*[st.booleans()] * 5).filter(lambda wanted: any(wanted[:3])),
)
def test_any_call(case, dtype, layout, hidden, block_bytes, wanted):
    torch.manual_seed(0)
    *wanted, bias = wanted
    _, _, kernel_size, keywords = case
    made, grad = operands(case, bias=bias, hidden=hidden, dtype=dtype, layout=layout)
    asked = {"wanted": wanted}
    got = results(fac_predicted, made, grad, kernel_size, block_bytes=block_bytes, **asked, **keywords)
    check(got, bounds(made, grad, kernel_size, **asked, **keywords), kernel_size, dtype)
    theirs = results(defined, made, grad, kernel_size, **asked, **keywords)
    assert [t.shape for t in got] == [t.shape for t in theirs]


@pytest.mark.parametrize(
    ("mode", "layout"),
    [
        pytest.param(mode, layout, marks=pytest.mark.long if mode != "zeros" and layout == LAYOUTS[1] else ())
        for mode in PADDING_MODES
        for layout in LAYOUTS
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_bands_of_the_default_size(mode, layout, device):
    """Blocks of several channels and rows, whose last are smaller."""
    case = ((1, 41, 75, 90), 41, 5, {"padding_mode": mode})
    made, grad = operands(case, dtype=torch.float32, layout=layout, device=device)
    geometry = derivatives.Geometry((5, 5), (1, 1), (1, 1), (2, 2, 2, 2), 0, 1)
    parts = block_plan.plan_blocks(made[1], made[2], 1 << 20, geometry)
    assert len({str(b.rows) for b in parts}) > 2 and len({str(b.channels) for b in parts}) == 2
    got = results(fac_predicted, made, grad, 5, block_bytes=1 << 20, padding_mode=mode)
    check(got, bounds(made, grad, 5, padding_mode=mode), 5, torch.float32)


def test_operands_of_any_strides(device):
    """Sliced, expanded and transposed operands; a weight as conv2d has it, in either layout."""
    made, grad = operands(PLAIN, device=device)
    wanted = results(fac_predicted, made, grad, 3)
    changes = [
        lambda t: t.repeat_interleave(2, -1)[..., ::2],
        lambda t: t.mT.contiguous().mT if t.dim() > 1 else t,
        lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t,
    ]
    for change, which in itertools.product(changes, range(5)):
        other = [change(t) if i == which else t for i, t in enumerate((*made, grad))]
        same(results(fac_predicted, other[:4], other[4], 3), wanted)
    for layout in LAYOUTS:
        weight = made[2][..., None, None].contiguous(memory_format=layout)
        got = results(fac_predicted, [*made[:2], weight, made[3]], grad, 3)
        assert got[3].shape == weight.shape
        same([t.flatten(1) if i == 3 else t for i, t in enumerate(got)], wanted)
    one = made[0][:1, :, :1].expand_as(made[0])
    same(fac_predicted(one, *made[1:], 3), fac_predicted(one.contiguous(), *made[1:], 3))


def test_results_have_the_layout_of_hidden(device):
    for layout in LAYOUTS:
        made, grad = operands(PLAIN, layout=layout, device=device)
        output, by_input, by_hidden, *_ = results(fac_predicted, made, grad, 3)
        assert all(t.is_contiguous(memory_format=layout) for t in (output, by_input, by_hidden))
        mixed = fac_predicted(made[0].contiguous(), *made[1:], 3)
        assert mixed.is_contiguous(memory_format=layout)


# What is made, kept and asked for


def events(function):
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    return profile.events()


def test_no_more_is_made_than_gradients_need():
    """The filters for the gradient of the input, and, with an activation, for all; their gradient for the others."""
    shape, *settings = PLAIN
    made, grad = operands(((1, *shape[1:]), *settings))
    for wanted, activation in itertools.product(itertools.product((True, False), repeat=4), (None, 0.1)):
        if not any(wanted):
            continue
        leaves = [t.detach().requires_grad_(one) for t, one in zip(made, wanted, strict=True)]
        output = fac_predicted(*leaves, 3, activation=activation)
        asked = [t for t in leaves if t.requires_grad]
        seen = [e.name for e in events(lambda o=output, a=asked: torch.autograd.grad(o, a, grad))]
        assert ("fac_ext::fac_grad_input" in seen) == wanted[0]
        assert ("fac_ext::fac_grad_filters" in seen) == any(wanted[1:])
        assert ("aten::mm" in seen) == (wanted[0] or activation is not None)


@every_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_products_as_on_a_gpu(layout, dtype, monkeypatch):
    """There the bias is added by the product, or to it; for one sample, and for several in a block."""
    monkeypatch.setattr("fac_ext.blocks.BIAS_IN_PRODUCT", set())
    made, grad = operands(((3, 8, 4, 6), 8, 3, {}), dtype=dtype, layout=layout)
    one = 8 * 9 * 4 * 6 * dtype.itemsize
    for block_bytes in (one // 3, one, 2 * one, None):
        got = results(fac_predicted, made, grad, 3, block_bytes=block_bytes)
        check(got, bounds(made, grad, 3), 3, dtype)


@every_layout
def test_samples_share_blocks(layout):
    """Launches do not grow with samples of which many fit into a block: here 13 of 32 in each, so three blocks."""
    made, grad = operands(((32, 8, 4, 6), 8, 3, {}), dtype=torch.float32, layout=layout)
    one = 8 * 9 * 4 * 6 * 4  # bytes of a sample's filters

    def count(names, **options):
        seen = [event.name for event in events(lambda: results(fac_predicted, made, grad, 3, **options))]
        return sum(name in names for name in seen)

    ours, products = (
        {"fac_ext::fac"},
        {"aten::mm", "aten::bmm", "aten::addmm_", "aten::addmm", "aten::baddbmm"},
    )
    assert count(ours, block_bytes=13 * one) == 3
    assert count({"fac_ext::fac_grad_input", "fac_ext::fac_grad_filters"}, block_bytes=13 * one) == 2 * 3
    assert count(products, block_bytes=13 * one) <= 2 * 4 * 3 < count(products, block_bytes=one)
    got = results(fac_predicted, made, grad, 3, block_bytes=13 * one)
    check(got, bounds(made, grad, 3), 3, torch.float32)


def test_only_operands_are_kept():
    made, _ = operands(PLAIN)
    for wanted, kept in (((True,) * 4, 4), ((True, False, False, False), 3), ((False,) * 4, 0)):
        leaves = [t.detach().requires_grad_(one) for t, one in zip(made, wanted, strict=True)]
        packed = []
        with saved_tensors_hooks(lambda t, packed=packed: packed.append(t) or t, lambda t: t):
            fac_predicted(*leaves, 3)
        assert {t.data_ptr() for t in packed} <= {t.data_ptr() for t in leaves} and len(packed) == kept


@every_layout
def test_the_filters_are_never_stored(layout):
    """Nothing that is allocated comes near their size; results and two blocks are all."""
    case = ((1, 64, 64, 64), 64, 5, {})
    made, grad = operands(case, dtype=torch.float32, layout=layout)
    filters, most = 64 * 25 * 64 * 64 * 4, 1 << 20
    for function in (
        lambda: fac_predicted(*made, 5, block_bytes=most),
        lambda: results(fac_predicted, made, grad, 5, block_bytes=most),
    ):
        function()
        largest = max(event.self_cpu_memory_usage for event in events(function))
        assert largest <= max(most, 64 * 64 * 64 * 4) < filters / 8


def test_memory_grows_with_the_image_not_with_the_filters():
    """In a process of its own: results, one band, and two blocks."""
    if sys.platform != "linux":
        pytest.skip("needs Linux's account of memory")
    small, large = map(int, run(sys.executable, ROOT / "tests/support/predicted_memory.py").split())
    image = 64 * 128 * 4  # bytes of a row
    assert large - small < 768 * image * 4  # of its filters' 25 times as much
    assert small < 256 * image * 4 + (8 << 20)


@pytest.mark.parametrize("most", [1, 100, 5000, 10**5, 10**6, 10**9])
def test_blocks_cover_all_and_keep_to_their_size(most):
    for groups, height, width, shared, taps in itertools.product(
        (1, 3, 128), (1, 7, 180), (1, 64), (1, 4), (1, 25)
    ):
        some, rows = block_plan.block_size(groups, height, width, taps, 4, shared, most)
        assert 1 <= some <= groups and 1 <= rows <= height
        assert some * rows * width * taps * 4 <= most or (some, rows) == (1, 1)
        if groups == height == 1:
            continue
        hidden, weight = torch.empty(1, 1, height, width), torch.empty(groups * taps, 1)
        geometry = derivatives.Geometry((taps, 1), (1, 1), (1, 1), (0, 0, 0, 0), 0, shared)
        seen = torch.zeros(groups * taps, height, dtype=torch.int)
        channels = torch.zeros(groups * shared, height, dtype=torch.int)
        for block in block_plan.plan_blocks(hidden, weight, most, geometry) if most > 1000 else ():
            seen[block.filters, block.rows] += 1
            channels[block.channels, block.rows] += 1
        assert most <= 1000 or (seen.eq(1).all() and channels.eq(1).all())


# Derivatives of every kind


@pytest.mark.parametrize(
    ("case", "activation"),
    [
        pytest.param(
            case, slope, marks=() if slope or case is PLAIN else pytest.mark.long, id=f"{name}-{slope}"
        )
        for name, case in GEOMETRIES.items()
        for slope in (None, 0.2)
    ],
)
def test_derivatives_of_every_kind(case, activation, device):
    made, _ = operands(case, hidden=2, device=device)
    leaves = [t.requires_grad_() for t in made]

    def function(*leaves):
        return fac_predicted(*leaves, case[2], activation=activation, block_bytes=400, **case[3])

    batched = {"check_batched_grad": True}
    assert gradcheck(function, leaves, check_forward_ad=True, check_batched_forward_grad=True, **batched)
    fast = {"fast_mode": True}
    assert gradgradcheck(function, leaves, check_fwd_over_rev=True, check_rev_over_rev=True, **fast)


# f is the function of x, h, w; in float64; sin and cos are tangents and weights that are not symmetric.
TRANSFORMS = {
    "grad": lambda f, x, h, w: grad(lambda *a: (f(*a) ** 2).sum(), (0, 1, 2))(x, h, w),
    "vjp": lambda f, x, h, w: vjp(f, x, h, w)[1](f(x, h, w).sin()),
    "jvp": lambda f, x, h, w: jvp(f, (x, h, w), (x.cos(), h.cos(), w.cos())),
    "jvp by input": lambda f, x, h, w: jvp(lambda x: f(x, h, w), (x,), (x.cos(),)),
    "jvp by hidden": lambda f, x, h, w: jvp(lambda h: f(x, h, w), (h,), (h.cos(),)),
    "jacrev": lambda f, x, h, w: jacrev(f, (0, 1, 2))(x, h, w),
    "jacfwd": lambda f, x, h, w: jacfwd(f, (0, 1, 2))(x, h, w),
    "hessian": lambda f, x, h, w: hessian(lambda x, w: (f(x, h, w) ** 3).sum(), (0, 1))(x, w),
    "grad of grad": lambda f, x, h, w: grad(lambda w: grad(lambda x: (f(x, h, w) ** 3).sum())(x).sin().sum())(
        w
    ),
    "grad of jvp": lambda f, x, h, w: grad(
        lambda w: jvp(lambda x: f(x, h, w).sin(), (x,), (x.cos(),))[1].sum()
    )(w),
    "jvp of grad": lambda f, x, h, w: jvp(
        lambda h: grad(lambda x: (f(x, h, w) ** 3).sum())(x), (h,), (h.cos(),)
    ),
    "jvp of jvp": lambda f, x, h, w: jvp(
        lambda w: jvp(lambda h: f(x, h, w).sin(), (h,), (h.cos(),))[1], (w,), (w.cos(),)
    ),
    "vmap over input": lambda f, x, h, w: vmap(lambda x: f(x, h, w))(torch.stack([x, x.cos(), x.sin()])),
    "vmap over both": lambda f, x, h, w: vmap(lambda x, h: f(x, h, w), (4, 1), 3)(
        torch.stack([x, x.cos()], 4), torch.stack([h, h.sin()], 1)
    ),
    "vmap over weight": lambda f, x, h, w: vmap(lambda w: f(x, h, w), 1)(torch.stack([w, w.cos()], 1)),
    "vmap of grad": lambda f, x, h, w: vmap(
        grad(lambda x, h, w: (f(x, h, w) ** 2).sum(), (0, 1, 2)), (0, None, None)
    )(torch.stack([x, x.cos()]), h, w),
    "grad of vmap": lambda f, x, h, w: grad(
        lambda w: (vmap(lambda x: f(x, h, w))(torch.stack([x, x.cos()])) ** 2).sum()
    )(w),
    "vmap of jvp": lambda f, x, h, w: vmap(lambda t: jvp(lambda h: f(x, h, w), (h,), (t,))[1])(
        torch.stack([h, h.cos()])
    ),
}


@pytest.mark.parametrize("activation", [None, 0.2])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("case", ["plain", "stride groups reflect"])
def test_torch_func(case, transform, activation):
    _, _, kernel_size, keywords = GEOMETRIES[case]
    (x, h, w, b), _ = operands(GEOMETRIES[case], hidden=2)
    mine, right = (
        transform(lambda x, h, w, f=f: f(x, h, w, b, kernel_size, activation=activation, **keywords), x, h, w)
        for f in (fac_predicted, definition)
    )
    same(mine, right)


def definition(x, h, w, b, kernel_size, *, activation, **keywords):
    """Of torch's own operators alone."""
    filters = F.conv2d(h, w[..., None, None], b)
    filters = filters if activation is None else F.leaky_relu(filters, activation)
    return oracle.output(x, filters, kernel_size, **keywords)


WITHOUT_DERIVATIVES = {"vmap over input", "vmap over both", "vmap over weight"}


@pytest.mark.parametrize(
    "transform", [pytest.param(t, id=n) for n, t in TRANSFORMS.items() if n not in WITHOUT_DERIVATIVES]
)
def test_compiled_torch_func_is_refused(transform):
    """As of fac: not wrong numbers, but an error."""
    (x, h, w, b), _ = operands(PLAIN, hidden=2)
    compiled = torch.compile(
        lambda x, h, w: transform(lambda x, h, w: fac_predicted(x, h, w, b, 3), x, h, w),
        fullgraph=True,
        backend="aot_eager",
    )
    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        compiled(x, h, w)


def test_second_derivatives_may_store_filters_and_the_first_do_not():
    made, grad = operands(PLAIN)
    leaves = [t.requires_grad_() for t in made]
    plain = events(lambda: torch.autograd.grad(fac_predicted(*leaves, 3), leaves, grad))
    again = events(lambda: torch.autograd.grad(fac_predicted(*leaves, 3), leaves, grad, create_graph=True))
    assert any(e.name == "fac_ext::predicted_gradients" for e in plain)
    assert not any(e.name == "fac_ext::predicted_gradients" for e in again)


def test_the_operator_of_gradients_refuses_to_be_differentiated():
    made, grad = operands(PLAIN)
    settings = ([True] * 4, None, 1000, [3, 3], [1, 1], [1, 1], [1, 1, 1, 1], 0, 1)
    leaves = [t.requires_grad_() for t in made]
    found = torch.ops.fac_ext.predicted_gradients(*leaves, grad, *settings)
    with pytest.raises(NotImplementedError, match="has no derivative"):
        found[0].sum().backward()


# torch.compile, export, autocast, other devices


@in_pairs(("dtype", "layout", "backend"), (torch.float32, torch.bfloat16), LAYOUTS, ("aot_eager", "inductor"))
def test_compiles_whole(dtype, layout, backend, device):
    keywords = {"stride": (1, 2), "padding": (1, 0), "padding_mode": "replicate"}
    made, grad = operands(((2, 4, 5, 6), 2, 3, keywords), dtype=dtype, layout=layout, device=device)

    def function(*leaves):
        return fac_predicted(*leaves, 3, activation=0.1, **keywords) * 2

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    mine, wanted = (results(f, made, grad) for f in (compiled, function))
    same(mine, wanted, exact=True)
    some = (False, True, False, True)
    mine, wanted = (results(f, made, grad, wanted=some) for f in (compiled, function))
    same(mine, wanted, exact=True)
    with torch.no_grad():
        same(compiled(*made), wanted[0].detach(), exact=True)


def test_compiles_once_for_all_sizes():
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    function = lambda *leaves: fac_predicted(*leaves, 3) * 2  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    for shape in ((2, 6, 8, 10), (3, 6, 11, 9), (5, 6, 4, 32)):
        made, grad = operands((shape, 2, 3, {}), dtype=torch.float32)
        same(results(compiled, made, grad), results(function, made, grad), exact=True)
    assert counter.frame_count == 1


@pytest.mark.parametrize("strict", [False, True], ids=("traced", "strict"))
def test_exports_to_one_node(strict, tmp_path):
    layer = PredictedFAC(HIDDEN, 2, 3, padding_mode="reflect", activation=0.1)
    x, h = torch.randn(2, 4, 6, 7), torch.randn(2, HIDDEN, 6, 7)
    n, height, width = (torch.export.Dim(name, min=2) for name in ("n", "h", "w"))
    shapes = ({0: n, 2: height, 3: width},) * 2
    program = torch.export.export(layer, (x, h), strict=strict, dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "layer.pt2")
    for p in (program, program.run_decompositions(), torch.export.load(tmp_path / "layer.pt2")):
        names = [str(node.target) for node in p.graph.nodes if node.op == "call_function"]
        assert names.count("fac_ext.predicted.default") == 1
        assert not any("conv" in name or name == "fac_ext.fac.default" for name in names)
        for size in ((2, 6, 7), (3, 9, 5)):
            pair = torch.randn(size[0], 4, *size[1:]), torch.randn(size[0], HIDDEN, *size[1:])
            same(p.module()(*pair), layer(*pair), exact=True)


@pytest.mark.filterwarnings("ignore")
def test_onnx_has_standard_nodes():
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    layer = PredictedFAC(HIDDEN, 2, 3, padding_mode="replicate", activation=0.1)
    pair = torch.randn(2, 4, 6, 7), torch.randn(2, HIDDEN, 6, 7)
    made = torch.onnx.export(layer, pair, dynamo=True, verbose=False)
    assert {node.domain for node in made.model.graph} == {""}
    session = runtime.InferenceSession(made.model_proto.SerializeToString())
    feed = {one.name: t.numpy() for one, t in zip(session.get_inputs(), pair, strict=True)}
    got, wanted = torch.from_numpy(session.run(None, feed)[0]), layer(*pair).detach()
    weight, bias = (p.detach().double().abs() for p in layer.parameters())
    size = fac_predicted(*(t.double().abs() for t in pair), weight, bias, 3, padding_mode="replicate").max()
    oracle.assert_within(got, wanted, oracle.spread(torch.float32, (HIDDEN + 1) + 9, size))


@in_pairs(("requires_grad", "layout"), (False, True), LAYOUTS)
def test_opcheck(layout, requires_grad, device):
    for i, case in enumerate(GEOMETRIES.values()):
        dtype = (torch.float32, torch.bfloat16)[i % 2]
        bias = i % 3 != 1
        made, grad = operands(case, bias=bias, dtype=dtype, layout=layout, device=device)
        leaves = [None if t is None else t.requires_grad_(requires_grad) for t in made]
        _, _, kernel_size, keywords = case
        geometry = resolve_predicted(*made, check_window(kernel_size, **keywords))
        slope = (None, 0.1)[i % 2]
        forward = torch.ops.fac_ext.predicted.default
        assert set(torch.library.opcheck(forward, (*leaves, slope, 500, *geometry)).values()) == {"SUCCESS"}
        if not requires_grad:
            wanted = [True, i % 2 == 0, True, bias]
            arguments = (*made, grad, wanted, slope, 500, *geometry)
            backward = torch.ops.fac_ext.predicted_gradients.default
            assert set(torch.library.opcheck(backward, arguments).values()) == {"SUCCESS"}


@every_layout
def test_tensors_without_data(layout):
    for case in CASES:
        _, _, kernel_size, keywords = case
        made, grad = operands(case, dtype=torch.bfloat16, layout=layout)
        real = results(fac_predicted, made, grad, kernel_size, **keywords)
        hollow = [t.to("meta") for t in (*made, grad)]
        for mine, wanted in zip(
            results(fac_predicted, hollow[:4], hollow[4], kernel_size, **keywords), real, strict=True
        ):
            assert mine.shape == wanted.shape and mine.stride() == wanted.stride()
            assert mine.dtype == wanted.dtype and mine.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_a_convolutions(dtype, device):
    made, _ = operands(PLAIN, dtype=torch.float32, device=device)
    mixed = [made[0], made[1].to(dtype), *made[2:]]
    leaves = [t.requires_grad_() for t in mixed]
    with torch.autocast(device, dtype):
        output = fac_predicted(*leaves, 3)
        double = fac_predicted(*(t.double() for t in mixed), 3)
    assert output.dtype == dtype and double.dtype == torch.float64
    assert torch.equal(output, fac_predicted(*(t.to(dtype) for t in mixed), 3))
    output.sum().backward()
    assert [t.grad.dtype for t in leaves] == [t.dtype for t in leaves]


@every_geometry
def test_devices_without_kernels_run_the_pytorch_expression(case, monkeypatch):
    made, grad = operands(case)
    _, _, kernel_size, keywords = case
    wanted = results(fac_predicted, made, grad, kernel_size, activation=0.1, **keywords)
    monkeypatch.setattr(derivatives, "DEVICES", ("cuda",))
    for block_bytes in (1, None):
        options = {"activation": 0.1, "block_bytes": block_bytes} | keywords
        same(results(fac_predicted, made, grad, kernel_size, **options), wanted)
        leaves = [t.detach().requires_grad_() for t in made]
        assert gradgradcheck(
            lambda *a, o=options: fac_predicted(*a, kernel_size, **o), leaves, fast_mode=True
        )


def test_module_is_the_function():
    for case in CASES:
        shape, groups, kernel_size, keywords = case
        if 0 in shape:
            continue
        (x, h, w, b), _ = operands(case, dtype=torch.float32)
        layer = PredictedFAC(HIDDEN, groups, kernel_size, activation=0.1, block_bytes=900, **keywords)
        predictor = torch.nn.Conv2d(HIDDEN, w.shape[0], 1)
        assert layer.load_state_dict(predictor.state_dict()).missing_keys == []
        state = {"weight": w[..., None, None], "bias": b}
        got = functional_call(layer, state, (x, h))
        keywords = keywords | {"activation": 0.1, "block_bytes": 900}
        assert torch.equal(got, fac_predicted(x, h, w, b, kernel_size, **keywords))
    assert "activation=0.1" in repr(layer) and f"kernel_size={oracle.two(kernel_size)}" in repr(layer)
    torch.manual_seed(1)
    layer = PredictedFAC(HIDDEN, 2, 3)
    torch.manual_seed(1)
    assert torch.equal(layer.weight, torch.nn.Conv2d(HIDDEN, 18, 1).weight)
    assert PredictedFAC(HIDDEN, 2, 3, bias=False).bias is None


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_each_time(threads):
    made, grad = operands(((1, 40, 30, 31), 40, 3, {}), dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        runs = [results(fac_predicted, made, grad, 3, block_bytes=20000) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


# What is refused


z = torch.zeros


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (TypeError, r"input must be a torch.Tensor, got list", {"input": [1.0]}),
        (TypeError, r"hidden must be a torch.Tensor, got NoneType", {"hidden": None}),
        (TypeError, r"weight must be a torch.Tensor, got float", {"weight": 1.0}),
        (TypeError, r"bias must be a torch.Tensor, got int", {"bias": 0}),
        (TypeError, r"hidden must be float64, .*, got torch.int64", {"hidden": z(1, 3, 4, 5).long()}),
        (TypeError, r"weight must have input's dtype torch.float32, got torch.float64", {"weight": z(18, 3).double()}),
        (TypeError, r"bias must have input's dtype torch.float32, got torch.float16", {"bias": z(18).half()}),
        (TypeError, r"weight must be a dense tensor, got torch.sparse_coo", {"weight": z(18, 3).to_sparse()}),
        (ValueError, r"hidden must be on input's device cpu, got meta", {"hidden": z(1, 3, 4, 5, device="meta")}),
        (ValueError, r"input must be \(N, C, H, W\), got \(2, 4, 5\)", {"input": z(2, 4, 5)}),
        (ValueError, r"hidden must be \(N, Ch, Ho, Wo\), got \(3, 4, 5\)", {"hidden": z(3, 4, 5)}),
        (ValueError, r"hidden must be \(N, Ch, Ho, Wo\) = \(1, Ch, 4, 5\), got \(1, 3, 5, 5\)", {"hidden": z(1, 3, 5, 5)}),
        (ValueError, r"hidden must be .* = \(1, Ch, 4, 5\), got \(2, 3, 4, 5\)", {"hidden": z(2, 3, 4, 5)}),
        (ValueError, r"hidden must be .* = \(1, Ch, 2, 3\), got \(1, 3, 4, 5\)", {"padding": "valid"}),
        (ValueError, r"weight must be \(G\*kh\*kw, Ch\) = \(G\*9, 3\) or \(G\*9, 3, 1, 1\), got \(18, 4\)", {"weight": z(18, 4)}),
        (ValueError, r"weight must be .*, got \(18, 3, 3, 3\)", {"weight": z(18, 3, 3, 3)}),
        (ValueError, r"weight must be .*, got \(18, 3, 1\)", {"weight": z(18, 3, 1)}),
        (ValueError, r"weight must have G\*9 rows with G dividing C = 2, got \(17, 3\)", {"weight": z(17, 3)}),
        (ValueError, r"weight must have G\*9 rows with G dividing C = 2, got \(27, 3\)", {"weight": z(27, 3)}),
        (ValueError, r"weight must have G\*9 rows with G dividing C = 2, got \(0, 3\)", {"weight": z(0, 3)}),
        (ValueError, r"bias must be \(G\*kh\*kw,\) = \(18,\), got \(2,\)", {"bias": z(2)}),
        (TypeError, r"kernel_size must be an int or a pair of ints \(height, width\), got 3.0", {"kernel_size": 3.0}),
        (ValueError, r"padding_mode must be one of zeros, .*, got 'edge'", {"padding_mode": "edge"}),
        (ValueError, r"padding 'same' needs stride 1, got stride \(2, 2\)", {"stride": 2}),
        (TypeError, r"activation must be None, 'softmax' or a number, leaky_relu's slope, got 'relu'", {"activation": "relu"}),
        (TypeError, r"activation must be None, 'softmax' or a number, .*, got True", {"activation": True}),
        (ValueError, r"activation must be a slope of 0 or more, got -0.1", {"activation": -0.1}),
        (ValueError, r"activation must be a slope of 0 or more, got nan", {"activation": float("nan")}),
        (TypeError, r"block_bytes must be None or a positive int, got 1.5", {"block_bytes": 1.5}),
        (TypeError, r"block_bytes must be None or a positive int, got True", {"block_bytes": True}),
        (ValueError, r"block_bytes must be 1 or more .*, got 0", {"block_bytes": 0}),
        (ValueError, r"block_bytes must be 1 or more .*, got -8", {"block_bytes": -8}),
    ],
)  # fmt: skip
def test_errors_name_argument_rule_and_value(error, words, change):
    arguments = {
        "input": z(1, 2, 4, 5),
        "hidden": z(1, 3, 4, 5),
        "weight": z(18, 3),
        "bias": z(18),
        "kernel_size": 3,
    }
    with pytest.raises(error, match=r"^fac: .*" + words):
        fac_predicted(**arguments | change)


@pytest.mark.parametrize(
    "change",
    [{"kernel_size": 0}, {"block_bytes": 0}, {"activation": -1}, {"padding_mode": "edge"}, {"stride": 2}],
)
def test_the_module_refuses_when_it_is_made(change):
    with pytest.raises(ValueError, match=r"^fac: "):
        PredictedFAC(**{"hidden_channels": 3, "groups": 2, "kernel_size": 3} | change)
