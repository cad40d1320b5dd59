"""Pin the bits of the three operators: SHA-256 digests of results that are exact sums.

The operands are multiples of 1/8 from -2 to 2, so every product and every sum is exact in float32, and a half result is
rounded once. No instruction set, no order of the sums, no layout and no device may then change a bit, but for the sign
of a zero, which is dropped. The digests in bits.json are those of the oracle too, in float64.

    PYTHONPATH=tests python tests/operator/test_bits.py    # write bits.json anew, from the oracle
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fac_ext.arguments import INSIDE, Geometry, check_window, resolve
from support import oracle
from support.operands import LAYOUTS

# (N, C, H, W), groups, kernel_size, keywords
CASES = {
    **{
        f"{k}x{k} {mode}": ((2, 3, 9, 11), 3, k, {"padding_mode": mode})
        for k in (1, 3, 5, 7)
        for mode in ("zeros", "replicate", "reflect", "circular")
    },
    "9x9": ((1, 2, 10, 13), 2, 9, {}),
    "2x4 replicate": ((1, 2, 6, 7), 2, (2, 4), {"padding_mode": "replicate"}),
    "4x1 circular": ((1, 2, 6, 7), 2, (4, 1), {"padding_mode": "circular"}),
    "3x5 valid": ((1, 2, 7, 9), 1, (3, 5), {"padding": "valid"}),
    "kernel larger than the image": ((1, 2, 3, 2), 2, 7, {"padding_mode": "replicate"}),
    "one pixel": ((1, 3, 1, 1), 3, 5, {"padding_mode": "replicate"}),
    "one row": ((1, 2, 1, 6), 2, 3, {}),
    "one column": ((1, 2, 6, 1), 2, 3, {"padding_mode": "circular"}),
    "one group": ((1, 6, 5, 6), 1, 3, {"padding_mode": "reflect"}),
    "two groups": ((2, 6, 5, 6), 2, 5, {}),
    "groups of 20": ((1, 40, 4, 5), 2, 3, {"padding_mode": "circular"}),
    "groups of 150": ((1, 300, 3, 4), 2, 3, {}),
    "stride 2x3": ((1, 2, 9, 8), 2, 3, {"stride": (2, 3), "padding": (1, 2)}),
    "stride 2 reflect": ((1, 4, 9, 8), 2, (3, 2), {"stride": 2, "padding": 3, "padding_mode": "reflect"}),
    "stride 3, unseen rows": ((2, 2, 10, 7), 2, 3, {"stride": 3, "padding": 0}),
    "dilation 2x3": ((1, 2, 9, 11), 2, 3, {"dilation": (2, 3)}),
    "dilation 2 stride 2": (
        (1, 2, 9, 11), 2, 3, {"dilation": 2, "stride": 2, "padding": 2, "padding_mode": "circular"}
    ),
    "padding 5": ((1, 2, 3, 3), 2, 3, {"padding": 5}),
    "padding 5 stride 2": ((1, 2, 3, 3), 2, 3, {"padding": 5, "padding_mode": "replicate", "stride": 2}),
    "inside 3x3": ((2, 3, 8, 9), 1, (3, 3), {"padding": (1, 1), "padding_mode": "inside"}),
    "inside 5x3 dilation 1x2": (
        (1, 2, 7, 9), 2, (5, 3), {"padding": (2, 2), "dilation": (1, 2), "padding_mode": "inside"}
    ),
    "channels of two vectors and three": ((1, 19, 5, 7), 19, 5, {}),
    "channels of two vectors and three, 3x3": ((1, 19, 5, 7), 19, 3, {"padding_mode": "replicate"}),
    "two bands of rows": ((1, 2, 180, 97), 2, 3, {}),
    "two bands of rows, one group": ((1, 3, 91, 50), 1, 5, {"padding_mode": "reflect"}),
    "two blocks of channels": ((1, 136, 48, 3), 136, 3, {"padding_mode": "replicate"}),
    "rows of 16 bytes": ((1, 16, 9, 32), 16, 5, {"padding_mode": "reflect"}),
    "results around the caches": ((1, 64, 52, 52), 64, 5, {}),
    "one group of 72": ((1, 72, 6, 37), 1, (3, 7), {"padding_mode": "replicate"}),
    "two groups of 24, inside": ((1, 48, 9, 20), 2, (5, 3), {"padding": (2, 1), "padding_mode": "inside"}),
}  # fmt: skip
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OPERATORS = ("fac", "fac_grad_input", "fac_grad_filters")
DIGESTS = Path(__file__).with_name("bits.json")


def operands(name):
    """(input, filters, grad) of a case in float64: multiples of 1/8 from Philox's raw stream, which never changes."""
    shape, groups, kernel_size, keywords = CASES[name]
    (n, c, h, w), (kh, kw) = shape, oracle.two(kernel_size)
    output = oracle.output_size(h, w, kernel_size, **keywords)
    stream = np.random.Philox(key=list(CASES).index(name))
    sizes = shape, (n, groups * kh * kw, *output), (n, c, *output)
    return [torch.from_numpy(eighths(stream, size)) for size in sizes]


def eighths(stream, size):
    return ((stream.random_raw(math.prod(size)) % 33).astype(np.float64) / 8 - 2).reshape(size)


def geometry(name, input, filters):
    shape, groups, kernel_size, keywords = CASES[name]
    if keywords.get("padding_mode") != "inside":
        return resolve(input, filters, check_window(kernel_size, **keywords))
    top, left = keywords["padding"]
    around = (top, top, left, left)
    return Geometry(kernel_size, (1, 1), keywords.get("dilation", (1, 1)), around, INSIDE, shape[1] // groups)


def results(name, tensors):
    """The three operators' results."""
    input, filters, grad = tensors
    settings = geometry(name, input, filters)
    pairs = (input, filters), (filters, grad), (input, grad)
    return [
        getattr(torch.ops.fac_ext, operator)(*pair, *settings)
        for operator, pair in zip(OPERATORS, pairs, strict=True)
    ]


def digest(tensor):
    """Of the values in (N, C, H, W) order, with zeros of one sign."""
    values = (tensor.detach().cpu().contiguous() + 0).flatten()
    return hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()


def oracle_digests(name, dtype):
    _, _, kernel_size, keywords = CASES[name]
    exact = oracle.all_three(oracle.output, *operands(name), kernel_size, **keywords)
    return [digest(tensor.to(torch.promote_types(dtype, torch.float32)).to(dtype)) for tensor in exact]


def key(name, dtype):
    return f"{name}, {dtype}".replace("torch.", "")


def pinned(name, dtype):
    """The digests of a case in bits.json, in the order of OPERATORS."""
    return json.loads(DIGESTS.read_text())[key(name, dtype)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_bits(name, dtype, layout, device):
    tensors = [t.to(device, dtype).contiguous(memory_format=layout) for t in operands(name)]
    got = [digest(tensor) for tensor in results(name, tensors)]
    assert dict(zip(OPERATORS, got, strict=True)) == dict(zip(OPERATORS, pinned(name, dtype), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["3x3 reflect", "stride 2x3", "groups of 20", "inside 5x3 dilation 1x2"])
def test_the_digests_are_the_oracles(name, dtype):
    assert oracle_digests(name, dtype) == pinned(name, dtype)


if __name__ == "__main__":
    lines = [
        f"{json.dumps(key(name, dtype))}: {json.dumps(oracle_digests(name, dtype))}"
        for name in CASES
        for dtype in DTYPES
    ]
    DIGESTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
