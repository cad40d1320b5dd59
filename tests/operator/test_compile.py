"""Compile and export the operators (torch.compile, torch.export, ONNX, AOTInductor), and inspect them as torch does."""

import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.autograd import gradgradcheck
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fac_ext import FAC, derivatives, fac
from fac_ext.arguments import check_window, resolve
from support import oracle
from support.checkout import run
from support.geometries import (  # noqa: F401
    GEOMETRIES,
    OPS,
    PLAIN,
    every_geometry,
    every_layout,
    in_pairs,
    made,
    nothing_compiled,
    same,
)
from support.operands import CASES, LAYOUTS, Seen, all_three, tensors


@pytest.fixture(autouse=True)
def in_ci(monkeypatch):
    """Hide CI from Inductor, which refuses more where it believes that it runs there."""
    monkeypatch.setenv("CI", "1")


BACKENDS = ("aot_eager", "inductor")

# torch.compile


@in_pairs(("dtype", "layout", "backend"), (torch.float32, torch.bfloat16), LAYOUTS, BACKENDS)
def test_compiles_whole(dtype, layout, backend, device):
    keywords = {"stride": (1, 2), "padding": (1, 0), "padding_mode": "replicate"}
    input, filters, gradient = tensors(
        (2, 4, 5, 6), 2, 3, dtype=dtype, layout=layout, device=device, **keywords
    )

    def function(input, filters):
        return fac(input, filters, 3, **keywords) * 2

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    mine, expected = (all_three(f, input, filters, gradient) for f in (compiled, function))
    same(mine, expected, exact=True)
    with torch.no_grad():
        same(compiled(input, filters), expected[0].detach(), exact=True)
    same(compiled(input.detach(), filters)[0], expected[0][0], exact=True)


def check_sizes(compiled, function, counter, sizes, compilations, mark=False, **options):
    """Call compiled with one (N, H, W) after the other: it is right each time, and compiles no more often than that."""
    for (n, h, w), count in zip(sizes, compilations, strict=True):
        input, filters, gradient = tensors((n, 6, h, w), 2, 3, dtype=torch.float32, **options)
        for tensor in (input, filters) if mark else ():
            for axis in (0, 2, 3):
                torch._dynamo.mark_dynamic(tensor, axis)  # raises where one size alone would do
        mine, expected = (all_three(f, input, filters, gradient) for f in (compiled, function))
        same(mine, expected, exact=True)
        assert counter.frame_count == count


@in_pairs(("mark", "layout", "backend"), (True, False), LAYOUTS, BACKENDS)
def test_compiles_once_for_all_sizes(mark, layout, backend):
    def function(input, filters):
        return fac(input, filters, 3, padding_mode="circular") * 2

    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=None if mark else True)
    sizes = [(2, 8, 10), (3, 11, 9), (5, 4, 32)]
    check_sizes(compiled, function, counter, sizes, [1, 1, 1], mark, layout=layout)


@in_pairs(("layout", "backend"), LAYOUTS, BACKENDS)
def test_compiles_once_for_what_the_stride_leaves_over(layout, backend):
    """Compiled code holds the kernels' numbers as constants, the remainders of size / stride among them."""
    keywords = {"stride": (2, 1), "padding": 1, "padding_mode": "reflect"}

    def function(input, filters):
        return fac(input, filters, 3, **keywords) * 2

    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    sizes = [(2, 8, 10), (3, 18, 9), (4, 10, 17), (3, 9, 10), (2, 15, 13), (5, 12, 11)]
    check_sizes(compiled, function, counter, sizes, [1, 1, 1, 2, 2, 2], layout=layout, **keywords)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_compiles_under_autocast(backend, device):
    input, filters, _ = tensors((2, 4, 5, 6), 2, 3, dtype=torch.float32, device=device)

    def function(input, filters):
        return fac(input, filters, 3) * 2

    def inside(input, filters):
        with torch.autocast(device, torch.bfloat16):
            return function(input, filters)

    with torch.autocast(device, torch.bfloat16):
        expected = function(input, filters)
        around = torch.compile(function, fullgraph=True, backend=backend)(input, filters)
    gradient = torch.randn_like(expected)
    results = [(y, *torch.autograd.grad(y, (input, filters), gradient)) for y in (expected, around)]
    results.append(
        all_three(torch.compile(inside, fullgraph=True, backend=backend), input, filters, gradient)
    )
    assert [t.dtype for t in results[0]] == [torch.bfloat16, torch.float32, torch.float32]
    for result in results[1:]:
        same(result, results[0], exact=True)


BAD = {
    "type": lambda x, f: fac([x], f, 3),
    "dtype": lambda x, f: fac(x, f.double(), 3),
    "dimensions": lambda x, f: fac(x[0], f, 3),
    "channels": lambda x, f: fac(x, f[:, :17], 3),
    "groups": lambda x, f: fac(x, f[:, :9].repeat(1, 4, 1, 1), 3),
    "height": lambda x, f: fac(x, f[:, :, 1:], 3),
    "kernel_size": lambda x, f: fac(x, f, 3.0),
    "stride": lambda x, f: fac(x, f, 3, stride=2),
    "dilation": lambda x, f: fac(x, f, 3, dilation=0),
    "padding": lambda x, f: fac(x, f, 3, padding="full"),
    "padding_mode": lambda x, f: fac(x, f, 3, padding_mode="edge"),
    "reflect": lambda x, f: fac(x, f, 3, padding=(5, 1), padding_mode="reflect"),
}


@pytest.mark.parametrize("fullgraph", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_compiled_errors_have_the_same_words(bad, fullgraph):
    """Expect the same error or, of a whole graph, Dynamo's own with its words."""
    input, filters = torch.zeros(1, 2, 5, 6), torch.zeros(1, 18, 5, 6)
    with pytest.raises((TypeError, ValueError), match="fac: ") as eager:
        bad(input, filters)
    kinds = torch._dynamo.exc.Unsupported if fullgraph else eager.type
    with pytest.raises(kinds) as compiled:
        torch.compile(bad, fullgraph=fullgraph, backend="aot_eager")(input, filters)
    assert str(eager.value) in str(compiled.value)


# torch.export, AOTInductor, ONNX


class Model(torch.nn.Module):
    """Put fac between operators of torch's own."""

    def __init__(self, *args, **keywords):
        super().__init__()
        self.fac = FAC(*args, **keywords)

    def forward(self, input, filters):
        return self.fac(input.relu(), filters) * 2


def operators(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def any_size(least=1):
    n, h, w = (Dim(name, min=least) for name in ("n", "h", "w"))
    return ({0: n, 2: h, 3: w},) * 2


@every_layout
@pytest.mark.parametrize("strict", [False, True], ids=("traced", "strict"))
def test_exports_to_one_node(strict, layout, tmp_path):
    model, dtype = Model(3, padding_mode="reflect"), torch.float32
    operands = [t.detach() for t in tensors((2, 4, 6, 7), 2, 3, dtype=dtype, layout=layout)[:2]]
    others = [t.detach() for t in tensors((3, 4, 5, 9), 2, 3, dtype=dtype, layout=layout)[:2]]
    nodes = ["aten.relu.default", "fac_ext.fac.default", "aten.mul.Tensor"]
    program = torch.export.export(model, tuple(operands), strict=strict)
    assert operators(program) == nodes
    same(program.module()(*operands), model(*operands), exact=True)
    program = torch.export.export(model, tuple(operands), strict=strict, dynamic_shapes=any_size(2))
    torch.export.save(program, tmp_path / "model.pt2")
    for p in (program, program.run_decompositions(), torch.export.load(tmp_path / "model.pt2")):
        assert operators(p) == nodes
        for pair in (operands, others):
            same(p.module()(*pair), model(*pair), exact=True)


def test_exports_with_a_stride():
    """Change sizes by whole strides: a program has one remainder."""
    model = Model(3, stride=2, padding=1)
    n, h, w = (Dim(name) for name in ("n", "h", "w"))
    shapes = ({0: n, 2: 2 * h, 3: 2 * w + 1}, {0: n, 2: h, 3: w + 1})
    operands = [t.detach() for t in tensors((2, 4, 8, 11), 2, 3, stride=2, padding=1)[:2]]
    program = torch.export.export(model, tuple(operands), dynamic_shapes=shapes)
    assert operators(program).count("fac_ext.fac.default") == 1
    others = [t.detach() for t in tensors((3, 4, 14, 5), 2, 3, stride=2, padding=1)[:2]]
    same(program.module()(*others), model(*others), exact=True)
    odd = [t.detach() for t in tensors((3, 4, 13, 5), 2, 3, stride=2, padding=1)[:2]]
    with pytest.raises((AssertionError, RuntimeError)):
        program.module()(*odd)


def test_export_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"fac: filters must be .* = \(1, G\*9, 5, 6\), got \(1, 17, 5, 6\)"):
        torch.export.export(Model(3), (torch.zeros(1, 2, 5, 6), torch.zeros(1, 17, 5, 6)), strict=False)


@pytest.mark.long
@every_layout
def test_aotinductor_package(layout, tmp_path):
    model = Model((3, 2), padding_mode="replicate")
    options = {"dtype": torch.float32, "layout": layout}
    operands = [t.detach() for t in tensors((2, 4, 6, 7), 2, (3, 2), **options)[:2]]
    program = torch.export.export(model, tuple(operands), dynamic_shapes=any_size())
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    package = torch._inductor.aoti_load_package(path)
    for shape in ((2, 4, 6, 7), (3, 4, 9, 5)):
        operands = [t.detach() for t in tensors(shape, 2, (3, 2), **options)[:2]]
        same(package(*operands), model(*operands), exact=True)


ONNX = {
    "zeros": ((2, 4, 8, 9), 4, 3, {}),
    "replicate": ((2, 4, 8, 9), 1, (2, 4), {"dilation": (1, 2), "padding_mode": "replicate"}),
    "reflect": ((2, 4, 8, 9), 2, 3, {"stride": (2, 1), "padding": 1, "padding_mode": "reflect"}),
    "circular": ((2, 4, 8, 9), 2, (4, 3), {"padding": (2, 1), "padding_mode": "circular"}),
    "unseen": ((2, 4, 8, 9), 2, (2, 1), {"stride": (4, 3), "padding": 0}),
}
QUICK = (("circular", "fixed"), ("reflect", "any"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        pytest.param(case, sizes, marks=() if (case, sizes) in QUICK else pytest.mark.long)
        for case in ONNX
        for sizes in ("fixed", "any")
    ],
)
def test_onnx_has_standard_nodes(case, sizes):
    """Export without telling torch.onnx.export anything about fac."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    shape, groups, kernel_size, keywords = ONNX[case]
    model = Model(kernel_size, **keywords)
    operands = tuple(
        t.detach() for t in tensors(shape, groups, kernel_size, dtype=torch.float32, **keywords)[:2]
    )
    axes = {0: Dim.DYNAMIC, 2: Dim.AUTO, 3: Dim.AUTO}
    shapes = {"dynamic_shapes": (axes, axes)} if sizes == "any" else {}
    made = torch.onnx.export(model, operands, dynamo=True, verbose=False, **shapes)
    assert not made.model.functions
    assert {node.domain for node in made.model.graph} == {""}
    session = runtime.InferenceSession(made.model_proto.SerializeToString())
    names = [one.name for one in session.get_inputs()]
    for other in (shape, (3, 4, 12, 15)) if sizes == "any" else (shape,):
        input, filters, gradient = tensors(other, groups, kernel_size, dtype=torch.float32, **keywords)
        feed = dict(zip(names, (t.detach().numpy() for t in (input, filters)), strict=True))
        got = torch.from_numpy(session.run(None, feed)[0]) / 2
        expected = oracle.bounds(input.detach().relu(), filters, gradient, kernel_size, **keywords)
        oracle.check(got, *(one[0] for one in expected))


def test_import_loads_no_exporter():
    code = "import sys, torch; before = set(sys.modules); import fac_ext; print(*set(sys.modules) - before)"
    loaded = run(sys.executable, "-W", "ignore", "-c", code).split()
    assert "fac_ext._C" in loaded
    # where operators say how many operations they take; it imports Triton where there is one
    counter = {"torch.utils.flop_counter", "torch.utils.module_tracker"}
    others = {
        name for name in loaded if name.split(".")[0] not in {"fac_ext", "triton", *sys.stdlib_module_names}
    }
    assert others <= counter


# The operators as torch's tools see them


OPCHECKED = [
    *GEOMETRIES.values(),
    ((1, 3, 1, 1), 3, 3, {"padding_mode": "replicate"}),
    (
        (2, 2, 5, 6),
        2,
        (2, 3),
        {"stride": (2, 1), "dilation": (1, 2), "padding": 2, "padding_mode": "circular"},
    ),
]


def as_layout(tensor, layout):
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return tensor.repeat_interleave(2, -1)[..., ::2]
    return tensor[:1, :, :1].expand_as(tensor) if layout == "expanded" else tensor


@pytest.mark.parametrize("requires_grad", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize(
    ("layout", "cases"),
    [
        ("contiguous", OPCHECKED[::3]),
        pytest.param("contiguous", OPCHECKED, marks=pytest.mark.long),
        *((layout, OPCHECKED[-1:]) for layout in ("channels_last", "sliced", "expanded")),
        *(
            pytest.param(layout, OPCHECKED[:-1], marks=pytest.mark.long)
            for layout in ("channels_last", "sliced", "expanded")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} cases",
)
def test_opcheck(layout, cases, requires_grad, device):
    for i, case in enumerate(cases):
        shape, groups, kernel_size, keywords = case
        dtype = (torch.float32, torch.bfloat16)[i % 2]
        operands = tensors(shape, groups, kernel_size, dtype=dtype, device=device, **keywords)
        input, filters, gradient = (
            as_layout(t.detach(), layout).requires_grad_(requires_grad) for t in operands
        )
        geometry = resolve(input, filters, check_window(kernel_size, **keywords))
        for op, a, b in (
            (OPS.fac.default, input, filters),
            (OPS.fac_grad_input.default, filters, gradient),
            (OPS.fac_grad_filters.default, input, gradient),
        ):
            assert set(torch.library.opcheck(op, (a, b, *geometry)).values()) == {"SUCCESS"}


@every_layout
@pytest.mark.parametrize("kind", ["meta", "fake", pytest.param("unknown sizes", marks=pytest.mark.long)])
def test_tensors_without_data(kind, layout):
    """Compare shapes, strides and dtypes of all three operators' results with those of real tensors."""
    for shape, groups, kernel_size, keywords in CASES:
        operands = tensors(shape, groups, kernel_size, dtype=torch.bfloat16, layout=layout, **keywords)
        real = all_three(fac, *operands, kernel_size, **keywords)
        if kind == "meta":
            hollow = [t.detach().to("meta").requires_grad_() for t in operands]
        else:
            mode = FakeTensorMode(shape_env=ShapeEnv() if kind == "unknown sizes" else None)
            hollow = [mode.from_tensor(t.detach()).requires_grad_() for t in operands]
        for mine, expected in zip(all_three(fac, *hollow, kernel_size, **keywords), real, strict=True):
            assert mine.shape == expected.shape and mine.stride() == expected.stride()
            assert mine.dtype == expected.dtype and mine.device == hollow[0].device


@every_geometry
def test_devices_without_kernels_run_the_pytorch_expression(case, monkeypatch):
    function, right, *operands = made(case)
    operands = [t.requires_grad_() for t in operands[:2]] + operands[2:]
    monkeypatch.setattr(derivatives, "DEVICES", ("cuda",))
    with Seen() as seen:
        got = all_three(function, *operands)
    assert seen.ours == []
    same(got, all_three(right, *operands))
    assert gradgradcheck(function, operands[:2], fast_mode=True)


def test_tracers_of_old(tmp_path):
    """Trace what torch.export has replaced: values are right, no trace can be saved, fx's stand-ins are refused."""

    class Module(torch.nn.Module):
        def forward(self, input, filters):
            return fac(input, filters, 3)

    operands = torch.randn(1, 2, 8, 8), torch.randn(1, 18, 8, 8)
    traced = torch.jit.trace(Module(), operands)
    assert torch.equal(traced(*operands), fac(*operands, 3))
    with pytest.raises(RuntimeError, match="Could not export Python function call"):
        traced.save(tmp_path / "traced.pt")
    with pytest.raises(TypeError, match=r"input must be a torch\.Tensor, got Proxy"):
        torch.fx.symbolic_trace(Module())
