"""What a GPU alone has: a captured graph, streams. And the operators' errors in units of the last place, printed."""

import pytest
import torch

from fac_ext import build_info, fac
from support import oracle
from support.operands import LAYOUTS, all_three, check_all, tensors

cuda_only = pytest.mark.skipif(
    not (torch.cuda.is_available() and build_info()["cuda"]), reason="no GPU, or no CUDA kernels"
)
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))


@cuda_only
@layouts
@pytest.mark.parametrize("groups", [16, 4])
def test_a_captured_graph_gives_the_same_bits(groups, layout):
    operands = tensors((2, 16, 40, 64), groups, 5, dtype=torch.float32, device="cuda", layout=layout)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        right = all_three(fac, *operands, 5)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = all_three(fac, *operands, 5)
    for _ in range(2):
        for one in made:
            one.detach().fill_(torch.nan)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(made, right, strict=True))


@cuda_only
@layouts
def test_two_streams_do_not_disturb_each_other(layout):
    """Run calls of several sizes on two streams at a time; each has the bits that it has alone."""
    calls = [
        tensors((1, 16, 16 * i, 64), 16, 5, dtype=torch.float32, device="cuda", layout=layout) for i in (2, 9)
    ]
    right = [all_three(fac, *operands, 5) for operands in calls]
    torch.cuda.synchronize()
    streams, made = [torch.cuda.Stream(), torch.cuda.Stream()], [[], []]
    for _ in range(10):
        for stream, operands, results in zip(streams, calls, made, strict=True):
            with torch.cuda.stream(stream):
                results.append(all_three(fac, *operands, 5))
    torch.cuda.synchronize()
    for results, alone in zip(made, right, strict=True):
        assert all(torch.equal(a, b) for one in results for a, b in zip(one, alone, strict=True))


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda d: str(d)[6:])
def test_errors_in_units_of_the_last_place(dtype, layout, device):
    """Print the peak and the 99th percentile of each result; a unit is the distance of its neighbours in the type.

    A half result is rounded once from a float32 sum, so at least 99 % of its values are within one unit.
    """
    operands = tensors((1, 16, 32, 64), 16, 5, dtype=dtype, device=device, layout=layout)
    check_all(fac, *operands, 5)
    right = oracle.all_three(oracle.output, *operands, 5)
    info = torch.finfo(dtype)
    for name, mine, exact in zip(
        ("forward", "grad_input", "grad_filters"), all_three(fac, *operands, 5), right, strict=True
    ):
        exact = exact.detach().double().cpu()
        unit = torch.exp2(exact.abs().clamp(min=info.tiny).log2().floor()) * info.eps
        errors = (mine.detach().double().cpu() - exact).abs().div(unit).flatten().sort().values
        peak, most = errors[-1].item(), errors[int(0.99 * len(errors))].item()
        print(f"{device} {dtype} {name}: peak {peak:.2f} ULP, 99th percentile {most:.2f} ULP")
        assert most <= 1 or dtype is torch.float32
