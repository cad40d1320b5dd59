"""fac_predicted in torch: derivatives of every kind, compilers, exporters, autocast, other devices."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from fac_ext import PredictedFAC, derivatives, fac_predicted
from fac_ext.arguments import check_window, resolve_predicted
from support import oracle
from support.geometries import (  # noqa: F401
    GEOMETRIES,
    PLAIN,
    every_geometry,
    every_layout,
    in_pairs,
    nothing_compiled,
    same,
)
from support.operands import CASES, LAYOUTS
from support.predicted import (
    HIDDEN,
    events,
    operands,
    results,
)

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
