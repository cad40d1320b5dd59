"""fac_correlation and fac_transpose: values and gradients against the oracle, derivatives, compilers, errors.

fac's own tests hold the three registered operators; these hold the two other public functions that call them.
"""

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from fac_ext import (
    FACCorrelation,
    FACTranspose,
    PredictedFAC,
    derivatives,
    fac,
    fac_correlation,
    fac_correlation_reference,
    fac_transpose,
    fac_transpose_reference,
)
from fac_ext.arguments import PADDING_MODES
from support import oracle
from support.geometries import GEOMETRIES, every_geometry, every_layout, nothing_compiled, same  # noqa: F401
from support.operands import CASES, LAYOUTS, Seen, all_three, tensors

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OPERATORS = ("correlation", "transpose")
every_operator = pytest.mark.parametrize("name", OPERATORS)


def call(name, case, function=None, **options):
    """Return (function of the two operands, the oracle's, the operands, the result's gradient) of a case of fac.

    function: in the place of the public one.
    """
    shape, groups, kernel_size, keywords = case
    input, filters, grad = tensors(shape, groups, kernel_size, **options, **keywords)
    if name == "correlation":
        operands, result, settings = (input, grad.requires_grad_()), filters, {"groups": groups or None}
        function, right = function or fac_correlation, functools.partial(oracle.correlation, groups=groups)
    else:
        operands, result, settings = (filters, grad.requires_grad_()), input, {"output_size": shape[2:]}
        right = functools.partial(oracle.transposed, size=tuple(shape[2:]))
        function = function or fac_transpose
    return (
        lambda a, b: function(a, b, kernel_size, **settings, **keywords),
        lambda a, b: right(a, b, kernel_size, **keywords),
        operands,
        result.detach(),
    )


def check(function, right, operands, grad):
    results = all_three(function, *operands, grad)
    for mine, exact, size, terms in zip(
        results, *oracle.bounds(*operands, grad, function=right), strict=True
    ):
        assert mine.dtype == grad.dtype and mine.device == grad.device
        oracle.check(mine, exact, size, terms)


@every_operator
@every_layout
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_value_and_both_gradients(name, dtype, layout, device):
    for case in CASES:
        check(*call(name, case, dtype=dtype, layout=layout, device=device))


# Channels that share a filter, as many as the CPU kernels take at once and some more; rows as long and longer.
SHARED = [
    ((1, 40, 9, 37), 1, 7, {}),
    ((1, 128, 7, 33), 2, (3, 5), {"padding_mode": "reflect"}),
    ((1, 80, 20, 19), 2, 3, {"padding_mode": "circular", "dilation": 2}),
    ((2, 16, 12, 41), 1, 5, {"stride": (1, 2), "padding": 2, "padding_mode": "replicate"}),
    ((1, 33, 5, 18), 1, (2, 9), {}),
    ((1, 48, 6, 70), 1, 1, {}),
]


@every_layout
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", SHARED, ids=lambda case: "x".join(map(str, case[0])))
def test_filters_that_many_channels_share(case, dtype, layout, device):
    """Of both operators and, as their gradients, of fac."""
    for name in OPERATORS:
        check(*call(name, case, dtype=dtype, layout=layout, device=device))


@pytest.mark.parametrize(
    ("name", "functions"),
    [
        ("correlation", (fac_correlation_reference,)),
        ("transpose", (fac_transpose_reference,)),
    ],
)
def test_the_references_are_the_same_operator(name, functions):
    for case in CASES:
        # torch's fold and unfold want samples and channels
        if 0 in case[0]:
            continue
        for function in functions:
            check(*call(name, case, function))


@st.composite
def any_case(draw):
    small = st.integers(1, 3)
    groups, shared = draw(small), draw(st.integers(1, 20))
    size = draw(st.tuples(st.integers(1, 25), st.integers(1, 40)))
    kernel_size = draw(st.one_of(st.integers(1, 9), st.tuples(st.integers(1, 9), st.integers(1, 13))))
    dilation = draw(st.one_of(st.just(1), st.tuples(small, small)))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), st.tuples(st.integers(0, 6), small)))
    stride = 1 if padding == "same" else draw(st.one_of(st.just(1), st.tuples(small, small)))
    mode = draw(st.sampled_from(PADDING_MODES))
    keywords = {"stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode}
    around = oracle.margins(kernel_size, dilation, padding)
    most = {"reflect": -1, "circular": 0}.get(mode, 99)
    fits = all(max(around[i]) <= size[i] + most for i in range(2))
    fits = fits and min(oracle.output_size(*size, kernel_size, **keywords)) > 0
    return (
        ((draw(st.integers(1, 2)), groups * shared, *size), groups, kernel_size, keywords) if fits else None
    )


@given(any_case().filter(bool), st.sampled_from(OPERATORS), st.sampled_from(DTYPES), st.sampled_from(LAYOUTS))
def test_any_call(case, name, dtype, layout):
    torch.manual_seed(0)
    check(*call(name, case, dtype=dtype, layout=layout))


def test_fac_transpose_is_the_adjoint_of_fac():
    """Exactly, as whole numbers have no rounding; by output_padding as by output_size."""
    for size in (9, 10, 11):
        keywords = {"stride": 3, "padding": 2, "padding_mode": "replicate"}
        z, filters, input = (t.detach().round() for t in tensors((1, 4, size, size + 1), 2, 4, **keywords))
        # what the stride leaves over is the same on both axes where it is below the stride
        left = [(s + 4 - 4) % 3 for s in (size, size + 1)]
        made = fac_transpose(filters, input, 4, output_padding=tuple(left), **keywords)
        assert torch.equal(made, fac_transpose(filters, input, 4, output_size=z.shape[2:], **keywords))
        assert (made * z).sum() == (input * fac(z, filters, 4, **keywords)).sum()


@every_operator
@every_geometry
def test_derivatives_of_every_kind(name, case, device):
    function, _, operands, _ = call(name, case, device=device)
    batched = {"check_batched_grad": True, "fast_mode": False}
    assert gradcheck(function, operands, check_forward_ad=True, check_batched_forward_grad=True, **batched)
    fast = {"fast_mode": True}
    assert gradgradcheck(function, operands, check_fwd_over_rev=True, check_rev_over_rev=True, **fast)


TRANSFORMS = {
    "hessian": lambda f, a, b: hessian(lambda a, b: (f(a, b) ** 3).sum(), (0, 1))(a, b),
    "jvp of grad": lambda f, a, b: jvp(lambda b: grad(lambda a: (f(a, b) ** 3).sum())(a), (b,), (b.cos(),)),
    "vmap": lambda f, a, b: vmap(f, (4, 1), 3)(torch.stack([a, a.cos()], 4), torch.stack([b, b.sin()], 1)),
    "vmap of grad": lambda f, a, b: vmap(grad(lambda a, b: (f(a, b) ** 2).sum(), (0, 1)), (0, None))(
        torch.stack([a, a.cos()]), b
    ),
}


@every_operator
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_torch_func(name, transform):
    for case in ("plain", "stride groups reflect"):
        function, right, operands, _ = call(name, GEOMETRIES[case])
        a, b = (t.detach() for t in operands)
        same(transform(function, a, b), transform(right, a, b))


@every_operator
@every_layout
def test_compiles_whole_and_for_all_sizes(name, layout):
    settings = {"padding_mode": "replicate"}
    compiled = None
    for shape in ((2, 4, 8, 10), (3, 4, 11, 9)):
        case = (shape, 2, 3, settings)
        function = fac_correlation if name == "correlation" else fac_transpose
        keywords = settings | ({"groups": 2} if name == "correlation" else {})
        _, _, operands, gradient = call(name, case, dtype=torch.float32, layout=layout)
        plain = lambda a, b: function(a, b, 3, **keywords) * 2  # noqa: B023, E731
        if compiled is None:
            counter = CompileCounterWithBackend("aot_eager")
            compiled = torch.compile(plain, fullgraph=True, dynamic=True, backend=counter)
        mine, right = (all_three(f, *operands, gradient) for f in (compiled, plain))
        same(mine, right, exact=True)
    assert counter.frame_count == 1


MODULES = {
    "correlation": (
        lambda: FACCorrelation(3, groups=2, padding_mode="reflect"),
        "fac_ext.fac_grad_filters.default",
    ),
    "transpose": (lambda: FACTranspose(3, padding_mode="reflect"), "fac_ext.fac_grad_input.default"),
}


@every_operator
def test_exports_to_one_node(name):
    make, node = MODULES[name]
    layer = make()
    n, h, w = (torch.export.Dim(one, min=2) for one in ("n", "h", "w"))
    shapes = ({0: n, 2: h, 3: w},) * 2
    _, _, operands, _ = call(name, ((2, 4, 6, 7), 2, 3, {}), dtype=torch.float32)
    program = torch.export.export(layer, tuple(t.detach() for t in operands), dynamic_shapes=shapes)
    assert [str(one.target) for one in program.graph.nodes if one.op == "call_function"] == [node]
    for size in ((2, 4, 6, 7), (3, 4, 5, 9)):
        _, _, operands, _ = call(name, (size, 2, 3, {}), dtype=torch.float32)
        same(program.module()(*operands), layer(*operands), exact=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "module", "case"),
    [
        ("correlation", FACCorrelation, ((2, 4, 8, 9), 2, (2, 3), {"stride": (2, 1), "padding": 1, "padding_mode": "replicate"})),
        ("transpose", FACTranspose, ((2, 4, 9, 9), 2, (2, 3), {"stride": (2, 1), "padding": 1, "padding_mode": "reflect"})),
        pytest.param("transpose", FACTranspose, ((1, 3, 7, 9), 1, 3, {"padding_mode": "circular"}), marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_onnx_has_standard_nodes(name, module, case):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    _, groups, kernel_size, keywords = case
    options = (
        {"groups": groups}
        if name == "correlation"
        else {"output_padding": (case[0][2] % 2, 0)}
        if case[3].get("stride")
        else {}
    )
    layer = module(kernel_size, **keywords, **options)
    _, right, operands, gradient = call(name, case, dtype=torch.float32)
    pair = tuple(t.detach() for t in operands)
    exported = torch.onnx.export(layer, pair, dynamo=True, verbose=False)
    assert not exported.model.functions and {node.domain for node in exported.model.graph} == {""}
    session = runtime.InferenceSession(exported.model_proto.SerializeToString())
    feed = {one.name: t.numpy() for one, t in zip(session.get_inputs(), pair, strict=True)}
    expected = oracle.bounds(*pair, gradient, function=right)
    oracle.check(torch.from_numpy(session.run(None, feed)[0]), *(one[0] for one in expected))


@every_operator
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_a_convolutions(name, dtype, device):
    function, _, operands, _ = call(name, GEOMETRIES["plain"], dtype=torch.float32, device=device)
    with torch.autocast(device, dtype):
        output = function(*operands)
    assert output.dtype == dtype and torch.equal(output, function(*(t.to(dtype) for t in operands)))
    output.sum().backward()
    assert [t.grad.dtype for t in operands] == [torch.float32] * 2


@every_operator
def test_devices_without_kernels_run_the_pytorch_expression(name, monkeypatch):
    monkeypatch.setattr(derivatives, "DEVICES", ("cuda",))
    for case in CASES:
        with Seen() as seen:
            check(*call(name, case))
        assert seen.ours == []


@every_operator
def test_modules_are_the_functions(name):
    for case in CASES:
        shape, groups, kernel_size, keywords = case
        if 0 in shape or keywords.get("stride", 1) != 1:
            continue
        function, _, operands, _ = call(name, case)
        if name == "correlation":
            layer = FACCorrelation(kernel_size, groups=groups, **keywords)
        else:
            layer = FACTranspose(kernel_size, **keywords)
        assert torch.equal(layer(*operands), function(*operands))
        assert not list(layer.parameters()) and f"kernel_size={oracle.two(kernel_size)}" in repr(layer)
    layer = FACTranspose(3, stride=2, padding=1, output_padding=1)
    filters, input = torch.randn(1, 18, 4, 4), torch.randn(1, 2, 4, 4)
    assert layer(filters, input).shape == (1, 2, 8, 8) == layer(filters, input, output_size=8).shape
    assert layer(filters, input, output_size=(7, 8)).shape == (1, 2, 7, 8)


@every_layout
def test_the_layouts_of_results(layout, device):
    for name in OPERATORS:
        function, _, operands, _ = call(name, ((2, 4, 5, 6), 2, 3, {}), layout=layout, device=device)
        assert function(*operands).is_contiguous(memory_format=layout)


@every_layout
@pytest.mark.parametrize("channels", [32, 5])
def test_any_number_of_threads_gives_the_same_bits(channels, layout):
    case, before, runs = ((2, channels, 23, 30), 1, 5, {}), torch.get_num_threads(), []
    calls = [call(name, case, dtype=torch.float32, layout=layout) for name in OPERATORS]
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append([one for f, _, operands, g in calls for one in all_three(f, *operands, g)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


# Operations


def counted(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_operations_are_counted():
    """Two for each multiply-add: of the value, and as many for each gradient that is asked for."""
    own, product = 2 * 25 * 8 * 32 * 32, 2 * 16 * 200 * 32 * 32
    x, hidden, grads = torch.randn(1, 8, 32, 32), torch.randn(1, 16, 32, 32), torch.randn(1, 8, 32, 32)
    filters, layer = torch.randn(1, 200, 32, 32), PredictedFAC(16, 8, 5)
    with torch.no_grad():
        assert counted(lambda: fac(x, filters, 5)) == own
        assert counted(lambda: fac_correlation(x, grads, 5)) == own
        assert counted(lambda: fac_correlation(x, grads, 5, groups=1)) == own
        assert counted(lambda: fac_transpose(filters, x, 5)) == own
        assert counted(lambda: layer(x, hidden)) == own + product
    leaves = x.requires_grad_(), filters.requires_grad_()
    assert counted(lambda: fac(*leaves, 5).backward(grads)) == 3 * own
    assert counted(lambda: torch.autograd.grad(fac(*leaves, 5), x, grads)) == 3 * own
    assert counted(lambda: fac(x.detach(), filters, 5).backward(grads)) == 2 * own
    assert counted(lambda: layer(x, hidden).backward(grads)) == 3 * own + 3 * product
    hidden.requires_grad_()
    assert counted(lambda: layer(x, hidden).backward(grads)) == 3 * own + 4 * product
    bent = PredictedFAC(16, 8, 5, activation=0.1).requires_grad_(False)
    assert counted(lambda: bent(x.detach(), hidden).backward(grads)) == 2 * own + 3 * product


# What is refused


z = torch.zeros


@pytest.mark.parametrize("function", [fac_correlation, fac_correlation_reference])
@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (TypeError, r"query must be a torch.Tensor, got NoneType", {"query": None}),
        (TypeError, r"query must have input's dtype torch.float32, got torch.float64", {"query": z(1, 4, 4, 5).double()}),
        (ValueError, r"query must be on input's device cpu, got meta", {"query": z(1, 4, 4, 5, device="meta")}),
        (ValueError, r"query must be \(N, C, Ho, Wo\), got \(4, 4, 5\)", {"query": z(4, 4, 5)}),
        (ValueError, r"query must be \(N, C, Ho, Wo\) = \(1, 4, 4, 5\), got \(2, 4, 4, 5\)", {"query": z(2, 4, 4, 5)}),
        (ValueError, r"query must be .* = \(1, 4, 4, 5\), got \(1, 3, 4, 5\)", {"query": z(1, 3, 4, 5)}),
        (ValueError, r"query must be .* = \(1, 4, 2, 3\), got \(1, 4, 4, 5\)", {"padding": "valid"}),
        (ValueError, r"groups must divide C = 4, got 3", {"groups": 3}),
        (ValueError, r"groups must be 1 or more, got 0", {"groups": 0}),
        (TypeError, r"groups must be None or a positive int, got 2.0", {"groups": 2.0}),
        (TypeError, r"groups must be None or a positive int, got True", {"groups": True}),
        (ValueError, r"input must be \(N, C, H, W\), got \(4, 5\)", {"input": z(4, 5)}),
        (ValueError, r"padding 'same' needs stride 1", {"stride": 2}),
        (ValueError, r"padding_mode must be one of .*, got 'edge'", {"padding_mode": "edge"}),
        (TypeError, r"kernel_size must be an int or a pair", {"kernel_size": 3.0}),
    ],
)  # fmt: skip
def test_errors_of_the_correlation(error, words, change, function):
    arguments = {"input": z(1, 4, 4, 5), "query": z(1, 4, 4, 5), "kernel_size": 3} | change
    with pytest.raises(error, match=r"^fac: .*" + words):
        function(**arguments)


@pytest.mark.parametrize("function", [fac_transpose, fac_transpose_reference])
@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (TypeError, r"filters must be a torch.Tensor, got list", {"filters": [1.0]}),
        (TypeError, r"filters must have input's dtype torch.float32, got torch.float16", {"filters": z(1, 18, 4, 5).half()}),
        (ValueError, r"filters must be on input's device cpu, got meta", {"filters": z(1, 18, 4, 5, device="meta")}),
        (ValueError, r"filters must be \(N, G\*kh\*kw, H, W\), got \(18, 4, 5\)", {"filters": z(18, 4, 5)}),
        (ValueError, r"filters must be .* = \(1, G\*9, 4, 5\), got \(1, 17, 4, 5\)", {"filters": z(1, 17, 4, 5)}),
        (ValueError, r"filters must be .* = \(1, G\*9, 4, 5\), got \(1, 18, 5, 5\)", {"filters": z(1, 18, 5, 5)}),
        (ValueError, r"with G dividing C = 4, got G = 3", {"filters": z(1, 27, 4, 5)}),
        (ValueError, r"output_padding must be less than stride, got 1, stride 1", {"output_padding": 1}),
        (ValueError, r"output_padding must be 0 or more, got -1", {"output_padding": -1}),
        (ValueError, r"give output_size or output_padding, not both", {"output_padding": 1, "output_size": 8}),
        (ValueError, r"output_size's height must be from 7 to 8, got 9", {"stride": 2, "padding": 1, "output_size": (9, 9)}),
        (ValueError, r"output_size's width must be from 5 to 5, got 6", {"output_size": (4, 6)}),
        (ValueError, r"padding must leave an output, got height -4", {"padding": 5}),
        (ValueError, r"input must have pixels, got height 0", {"input": z(1, 4, 0, 5), "filters": z(1, 18, 0, 5), "padding": 1}),
        (ValueError, r"padding_mode 'reflect' needs padding < height, got padding 1, height 1", {"input": z(1, 4, 1, 5), "filters": z(1, 18, 1, 5), "padding": 1, "padding_mode": "reflect"}),
        (ValueError, r"padding 'same' needs stride 1", {"stride": 2}),
    ],
)  # fmt: skip
def test_errors_of_the_transpose(error, words, change, function):
    arguments = {"filters": z(1, 18, 4, 5), "input": z(1, 4, 4, 5), "kernel_size": 3} | change
    with pytest.raises(error, match=r"^fac: .*" + words):
        function(**arguments)


@pytest.mark.parametrize(
    "change", [{"groups": 0}, {"kernel_size": 0}, {"padding_mode": "edge"}, {"stride": 2}]
)
def test_the_modules_refuse_when_they_are_made(change):
    with pytest.raises(ValueError, match=r"^fac: "):
        FACCorrelation(**{"kernel_size": 3} | change)
    if "groups" not in change:
        with pytest.raises(ValueError, match=r"^fac: "):
            FACTranspose(**{"kernel_size": 3} | change)
