"""Small calls, to take derivatives of and to compile."""

import itertools

import pytest
import torch

from fac_ext import fac
from support import oracle
from support.operands import LAYOUTS, tensors

# (N, C, H, W), groups, kernel_size, keywords: small, as whole Jacobians are taken
PLAIN = ((2, 2, 4, 3), 2, 3, {})
GEOMETRIES = {
    "plain": PLAIN,
    "even replicate": ((1, 2, 3, 5), 1, (2, 4), {"padding_mode": "replicate"}),
    "stride groups reflect": ((1, 4, 5, 4), 2, 3, {"stride": 2, "padding": 1, "padding_mode": "reflect"}),
    "dilation circular": ((1, 2, 5, 4), 1, (3, 2), {"dilation": 2, "padding_mode": "circular"}),
    "unseen rows": ((1, 1, 4, 5), 1, 2, {"stride": (3, 2), "padding": 0}),
}
OPS = torch.ops.fac_ext
every_geometry = pytest.mark.parametrize("case", GEOMETRIES.values(), ids=GEOMETRIES)
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))


def in_pairs(names, *choices):
    """Parametrise by all combinations of two choices each, of which half are long.

    The others have every choice, and with three or more names every pair of choices.
    """
    cases = [
        pytest.param(
            *(choices[i][which] for i, which in enumerate(case)),
            marks=pytest.mark.long if sum(case) % 2 else (),
            id="-".join(str(choices[i][which]).removeprefix("torch.") for i, which in enumerate(case)),
        )
        for case in itertools.product((0, 1), repeat=len(choices))
    ]
    return pytest.mark.parametrize(names, cases)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()


def made(case, **options):
    """(function of (input, filters), the oracle's, input, filters, grad) of a case; no tensor requires gradients."""
    shape, groups, kernel_size, keywords = case
    operands = [t.detach() for t in tensors(shape, groups, kernel_size, **keywords, **options)]
    mine, right = (lambda x, f, g=g: g(x, f, kernel_size, **keywords) for g in (fac, oracle.output))
    return mine, right, *operands


def same(got, wanted, exact=False):
    """Nested tuples of tensors: equal, in dtype and memory too, or close."""
    if isinstance(wanted, tuple | list):
        for a, b in zip(got, wanted, strict=True):
            same(a, b, exact)
    elif exact:
        assert got.dtype == wanted.dtype and got.stride() == wanted.stride() and torch.equal(got, wanted)
    else:
        # a third derivative of these geometries sums fewer than 10^5 products, the largest no larger than ten results
        scale = float(wanted.detach().abs().max()) if wanted.numel() else 0.0
        oracle.assert_within(got, wanted, oracle.spread(wanted.dtype, 10**5, 10 * scale))
