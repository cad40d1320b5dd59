"""Refuse bad calls, with the argument, the rule and the given value in the message."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fac_ext import FAC, fac, fac_reference
from fac_ext.arguments import Geometry
from fac_ext.derivatives import fac_grad_filters
from support.checkout import ROOT

z = torch.zeros
image, taps = z(1, 2, 4, 5), z(1, 18, 4, 5)


@pytest.mark.parametrize("function", [fac, fac_reference])
@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (TypeError, r"input must be a torch.Tensor, got list", {"input": [1.0]}),
        (TypeError, r"filters must be a torch.Tensor, got NoneType", {"filters": None}),
        (TypeError, r"input must be float64, float32, float16 or bfloat16, got torch.int64", {"input": image.long()}),
        (TypeError, r"filters must be float64, .*, got torch.complex64", {"filters": taps.to(torch.complex64)}),
        (TypeError, r"filters must have input's dtype torch.float32, got torch.float64", {"filters": taps.double()}),
        (TypeError, r"filters must have input's dtype torch.float32, got torch.float16", {"filters": taps.half()}),
        (TypeError, r"input must be a dense tensor, got torch.sparse_coo", {"input": image.to_sparse()}),
        (TypeError, r"kernel_size must be an int or a pair of ints \(height, width\), got 3.0", {"kernel_size": 3.0}),
        (TypeError, r"kernel_size must be an int or a pair .*, got True", {"kernel_size": True}),
        (TypeError, r"kernel_size must be an int or a pair .*, got \(3, 3, 3\)", {"kernel_size": (3, 3, 3)}),
        (TypeError, r"kernel_size must be an int or a pair .*, got \(3, None\)", {"kernel_size": (3, None)}),
        (TypeError, r"stride must be an int or a pair .*, got '2'", {"stride": "2"}),
        (TypeError, r"dilation must be an int or a pair .*, got None", {"dilation": None}),
        (TypeError, r"padding must be an int or a pair .*, got 1.5", {"padding": 1.5}),
        (TypeError, r"padding must be an int or a pair .*, got \(1, 1, 1, 1\)", {"padding": (1, 1, 1, 1)}),
        (ValueError, r"kernel_size must be 1 or more, got 0", {"kernel_size": 0}),
        (ValueError, r"kernel_size must be 1 or more, got \(3, -3\)", {"kernel_size": (3, -3)}),
        (ValueError, r"stride must be 1 or more, got 0", {"stride": 0}),
        (ValueError, r"dilation must be 1 or more, got \(1, 0\)", {"dilation": (1, 0)}),
        (ValueError, r"dilation must be less than 2\*\*31, got 9223372036854775808", {"dilation": 2**63}),
        (ValueError, r"stride must be less than 2\*\*31, got \(1, 2147483648\)", {"stride": (1, 2**31), "padding": 0}),
        (ValueError, r"kernel_size must be less than 2\*\*31", {"kernel_size": 2**70}),
        (TypeError, r"input must be a dense tensor, got a nested tensor", {"input": torch.nested.nested_tensor([z(2, 4, 5)])}),
        (ValueError, r"padding must be 0 or more, got -1", {"padding": -1}),
        (ValueError, r"padding must be 'same', 'valid', an int or a pair of ints, got 'full'", {"padding": "full"}),
        (ValueError, r"padding 'same' needs stride 1, got stride \(2, 2\)", {"stride": 2}),
        (ValueError, r"padding_mode must be one of zeros, replicate, reflect, circular, got 'edge'", {"padding_mode": "edge"}),
        (ValueError, r"padding_mode must be one of .*, got \['zeros'\]", {"padding_mode": ["zeros"]}),
        (ValueError, r"padding_mode 'reflect' needs padding < height, got padding 4, height 4", {"padding": 4, "padding_mode": "reflect"}),
        (ValueError, r"padding_mode 'circular' needs padding <= width, got padding 6, width 5", {"padding": (1, 6), "padding_mode": "circular"}),
        (ValueError, r"padding_mode 'replicate' needs an input with pixels, got height 0", {"input": image[:, :, :0], "padding_mode": "replicate"}),
        (ValueError, r"input must be \(N, C, H, W\), got \(2, 4, 5\)", {"input": image[0]}),
        (ValueError, r"input must be \(N, C, H, W\), got \(\)", {"input": z(())}),
        (ValueError, r"filters must be \(N, G\*kh\*kw, Ho, Wo\), got \(18, 4, 5\)", {"filters": taps[0]}),
        (ValueError, r"input's height with its padding must cover the kernel: 4 \+ 0 \+ 0 pixels are fewer than dilation \* \(kernel_size - 1\) \+ 1 = 5", {"dilation": 2, "padding": "valid"}),
        (ValueError, r"filters must be .* = \(1, G\*9, 4, 5\), got \(1, 17, 4, 5\)", {"filters": taps[:, :17]}),
        (ValueError, r"= \(1, G\*9, 4, 5\), got \(1, 18, 5, 4\)", {"filters": z(1, 18, 5, 4)}),
        (ValueError, r"= \(1, G\*9, 4, 5\), got \(2, 18, 4, 5\)", {"filters": z(2, 18, 4, 5)}),
        (ValueError, r"= \(1, G\*9, 2, 3\), got \(1, 18, 4, 5\)", {"padding": "valid"}),
        (ValueError, r"with G dividing C = 2, got G = 3", {"filters": z(1, 27, 4, 5)}),
        (ValueError, r"with G dividing C = 2, got G = 0", {"filters": taps[:, :0]}),
        (ValueError, r"with G dividing C = 0, got G = 2", {"input": image[:, :0]}),
        (ValueError, r"filters must be on input's device cpu, got meta", {"filters": taps.to("meta")}),
    ],
)  # fmt: skip
def test_errors_name_argument_rule_and_value(error, words, change, function):
    arguments = {"input": image, "filters": taps, "kernel_size": 3} | change
    with pytest.raises(error, match=r"^fac: .*" + words):
        function(**arguments)


def test_the_documented_errors_are_the_ones_raised():
    """Compare with docs/operator.md, which lists what these calls print."""
    x, f = z(1, 2, 4, 5), z(1, 18, 4, 5)
    said = []
    for arguments, keywords in (
        (([1.0], f, 3), {}),
        ((x.long(), f, 3), {}),
        ((x.to_sparse(), f, 3), {}),
        ((x, f.double(), 3), {}),
        ((x, f, 3.0), {}),
        ((x, f.to("meta"), 3), {}),
        ((x[0], f, 3), {}),
        ((x, f[:, :17], 3), {}),
        ((z(1, 4, 4, 5), z(1, 27, 4, 5), 3), {}),
        ((x, f, 3), {"stride": 0}),
        ((x, f, 3), {"padding": "full"}),
        ((x, f, 3), {"stride": 2}),
        ((x, f, 3), {"padding_mode": "symmetric"}),
        ((x[:, :, :0], f, 3), {"padding_mode": "replicate"}),
        ((x, f, 3), {"padding": 4, "padding_mode": "reflect"}),
        ((x, f, 3), {"padding": 5, "padding_mode": "circular"}),
        ((x, f, 3), {"dilation": 3, "padding": "valid"}),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            fac(*arguments, **keywords)
        said.append(f"{caught.type.__name__}: {caught.value}")
    documented = re.findall(
        r"^(?:TypeError|ValueError): fac: .*", (ROOT / "docs/operator.md").read_text(), re.M
    )
    assert documented == said


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (TypeError, "kernel_size must be an int", {"kernel_size": 2.5}),
        (ValueError, "dilation must be 1 or more, got 0", {"kernel_size": 3, "dilation": 0}),
        (ValueError, "padding 'same' needs stride 1", {"kernel_size": 3, "stride": 2}),
        (ValueError, "padding_mode must be one of", {"kernel_size": 3, "padding_mode": "edge"}),
    ],
)
def test_the_module_refuses_when_it_is_made(error, words, arguments):
    with pytest.raises(error, match=r"^fac: " + words):
        FAC(**arguments)


nonsense = st.one_of(
    st.none(), st.text(max_size=3), st.floats(), st.integers(-3, 0), st.integers(2**31, 2**70), st.tuples(st.integers(1, 3), st.integers(-3, 0)), st.booleans(), st.lists(st.integers(-2, 2), max_size=4).filter(lambda v: len(v) != 2)
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nothing_else_comes_out_of_bad_arguments(data):
    """Spoil one argument of a good call: that raises ValueError or TypeError in our words, and never crashes."""
    shape = data.draw(
        st.tuples(st.integers(1, 2), st.sampled_from([2, 4, 6]), st.integers(1, 6), st.integers(1, 6))
    )
    n, c, h, w = shape
    arguments = {"input": z(shape), "filters": z(n, c * 9, h, w), "kernel_size": 3}
    kind = data.draw(
        st.sampled_from(["device", "scalar", "rank", "size", "dtype", "groups", "number", "nothing"])
    )
    name = data.draw(st.sampled_from(["input", "filters"]))
    tensor = arguments[name]
    if kind == "rank":
        arguments[name] = tensor.reshape(
            data.draw(st.sampled_from([(-1,), (n, -1), (1, *tensor.shape), (-1, h, w)]))
        )
    elif kind == "device":
        arguments[name] = tensor.to("meta")
    elif kind == "scalar":
        arguments[name] = tensor.sum()
    elif kind == "size":
        axis, by = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([-1, 1]))
        arguments[name] = z([s + by * (i == axis) for i, s in enumerate(tensor.shape)])
    elif kind == "dtype":
        dtypes = [torch.int64, torch.bool, torch.complex64, torch.float64, torch.half, torch.uint8]
        arguments[name] = tensor.to(data.draw(st.sampled_from(dtypes)))
    elif kind == "groups":
        groups = data.draw(st.integers(0, 13).filter(lambda g: g == 0 or c % g))
        arguments["filters"] = z(n, groups * 9, h, w)
    elif kind == "number":
        which = data.draw(st.sampled_from(["kernel_size", "stride", "dilation", "padding", "padding_mode"]))
        arguments[which] = data.draw(
            nonsense.filter(lambda v: not (which == "padding" and isinstance(v, int) and v == 0))
        )
    else:
        arguments[name] = data.draw(st.sampled_from([None, 1.0, "input", [[1.0]]]))
    with pytest.raises((ValueError, TypeError), match=r"^fac: "):
        fac(**arguments)


def test_a_lack_of_memory_is_named():
    """Ask for more than an address can tell: the copy of a tensor without memory of its own, then each result."""
    much = 2**24
    x = z(1, 1, 1, 1).expand(1, 1, much, much)
    with pytest.raises(torch.OutOfMemoryError, match=rf"^fac: out of memory: {4 * much**2} bytes$"):
        fac(x, x, 1)
    kernel, padding = (2**23, 2**23), (2**22, 2**22 - 1, 2**22, 2**22 - 1)
    with pytest.raises(torch.OutOfMemoryError, match=rf"^fac: out of memory: {4 * 2**46} bytes$"):
        fac_grad_filters(z(1, 1, 1, 1), z(1, 1, 1, 1), Geometry(kernel, (1, 1), (1, 1), padding, 0, 1))
