"""What an installed fac_ext must do with any torch: tests/packaging/test_wheel.py runs it elsewhere."""

import json
import platform

import torch

import fac_ext
from fac_ext import fac, fac_reference

torch.manual_seed(0)
for settings in (
    {},
    {"padding_mode": "reflect"},
    {"stride": 2, "padding": 1, "padding_mode": "circular"},
    {"dilation": 2, "padding": 2, "padding_mode": "replicate"},
):
    for groups in (4, 2):
        for layout in (torch.contiguous_format, torch.channels_last):
            input = torch.randn(2, 4, 8, 10, dtype=torch.float64)
            size = (4, 5) if "stride" in settings else (8, 10)
            filters = torch.randn(2, groups * 9, *size, dtype=torch.float64)
            operands = [t.contiguous(memory_format=layout).requires_grad_() for t in (input, filters)]
            results = []
            for function in (fac, fac_reference):
                output = function(*operands, 3, **settings)
                first = torch.autograd.grad(output.square().sum(), operands, create_graph=True)
                second = torch.autograd.grad(first[0].square().sum(), operands)
                results.append((output, *first, *second))
            for mine, right in zip(*results, strict=True):
                torch.testing.assert_close(mine, right)
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    input, filters = torch.randn(1, 2, 6, 7).to(dtype), torch.randn(1, 50, 6, 7).to(dtype)
    wanted = fac_reference(input.double(), filters.double(), 5).to(dtype)
    torch.testing.assert_close(fac(input, filters, 5), wanted)
operands = [torch.randn(1, 2, 6, 7, requires_grad=True), torch.randn(1, 18, 6, 7, requires_grad=True)]
compiled = torch.compile(lambda x, f: fac(x, f, 3) * 2, fullgraph=True, backend="aot_eager")
for a, b in zip(
    torch.autograd.grad(compiled(*operands).sum(), operands),
    torch.autograd.grad(fac(*operands, 3).sum() * 2, operands),
    strict=True,
):
    torch.testing.assert_close(a, b)
batched = torch.func.vmap(lambda f: fac(operands[0], f, 3))(torch.stack([operands[1]] * 3))
torch.testing.assert_close(batched[2], fac(*operands, 3))
nested = [
    torch.func.jvp(
        lambda f, function=function: torch.func.jvp(
            lambda g: function(operands[0] * g.mean(), g, 3), (f,), (f.cos(),)
        )[1],
        (operands[1],),
        (operands[1].sin(),),
    )[1]
    for function in (fac, fac_reference)
]
torch.testing.assert_close(*nested)
print(json.dumps({"torch": torch.__version__, "python": platform.python_version(), **fac_ext.build_info()}))
