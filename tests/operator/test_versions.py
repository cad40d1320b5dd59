"""Run each version of the CPU kernels that this processor has, each in its process: FAC_CPU_CAPABILITY."""

import os
import subprocess
import sys

import pytest

from fac_ext import build_info
from support.checkout import ROOT

VERSIONS = {"default": "baseline", "avx2": "AVX2", "avx512": "AVX-512"}
CODE = """
import sys, torch, fac_ext
from support import oracle
assert fac_ext.build_info()["cpu_simd"] == sys.argv[1]
torch.manual_seed(0)
n, cases = eval(sys.argv[2])
for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
    for layout in (torch.contiguous_format, torch.channels_last):
        for groups, k in cases:
            shapes = (n, 57, 6, 35), (n, groups * k * k, 6, 35), (n, 57, 6, 35)
            x, f, g = (torch.randn(s, dtype=dtype).contiguous(memory_format=layout) for s in shapes)
            a, b = x.clone().requires_grad_(), f.clone().requires_grad_()
            out = fac_ext.fac(a, b, k)
            found = (out, *torch.autograd.grad(out, (a, b), g))
            for one, *facts in zip(found, *oracle.bounds(x, f, g, k), strict=True):
                oracle.check(one, *facts)
"""


def call(version, *arguments):
    folders = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    env = os.environ | folders | {"FAC_CPU_CAPABILITY": version}
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)


# samples; groups and kernel sizes
SOME = 1, ((57, 3), (57, 4), (57, 5), (3, 5), (19, 4))
ALL = 2, tuple((groups, k) for groups in (57, 19, 3) for k in (3, 4, 5))


@pytest.mark.parametrize(
    ("version", "cases"),
    [
        pytest.param(
            version,
            cases,
            # the version that fac_ext runs here has all other tests
            marks=pytest.mark.long if cases is ALL or name == build_info()["cpu_simd"] else (),
            id=f"{version}-{'all' if cases is ALL else 'some'}",
        )
        for version, name in VERSIONS.items()
        for cases in (SOME, ALL)
    ],
)
def test_each_version_is_the_definition(version, cases):
    done = call(version, "-W", "ignore", "-c", CODE, VERSIONS[version], repr(cases))
    if "this processor" in done.stderr:
        pytest.skip(f"this processor or this build has no {version} kernels")
    assert done.returncode == 0, done.stderr


def test_an_unknown_version_is_one_clear_error():
    done = call("sse", "-c", "import torch, fac_ext")
    said = "ImportError: fac: FAC_CPU_CAPABILITY must be default, avx2 or avx512, got 'sse'"
    assert done.stderr.strip().endswith(said)
