"""fac_predicted: values and derivatives against a witness that makes no filters either, and against its definition."""

import itertools
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

from fac_ext import PredictedFAC, block_plan, derivatives, fac_predicted
from fac_ext.arguments import PADDING_MODES
from support import oracle
from support.checkout import ROOT, run
from support.geometries import PLAIN, every_layout, nothing_compiled, same  # noqa: F401
from support.operands import CASES, LAYOUTS
from support.predicted import (
    BLOCKS,
    DTYPES,
    bounds,
    check,
    defined,
    events,
    operands,
    results,
)

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
