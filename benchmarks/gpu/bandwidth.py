"""Bandwidth of the operators beside that of reading, writing and copying their filters, in one process.

python bandwidth.py [--device cuda] [--json FILE] [--shapes N,C,H,W ...]

GB/s count the least traffic: the filters once, the images once. A cache is emptied by reading (no dirty line is left
to be written in the time that is measured), and the GPU sleeps until all launches of a run are queued.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from pathlib import Path

import torch

import fac_ext
from fac_ext.arguments import Geometry

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LAYOUTS = {"row_major": torch.contiguous_format, "channels_last": torch.channels_last}
SLEEP = 2_000_000  # clocks, about 1 ms, in which a program queues some hundred launches


class Clock:
    """Times runs on a device."""

    def __init__(self, device: str):
        self.cuda = device.startswith("cuda")
        self.other = torch.zeros(
            2**26 if self.cuda else 2**18, device=device
        )  # five times an L2 cache of 50 MB

    def seconds(self, run) -> float:
        """Return the time of one run."""
        if not self.cuda:
            started = time.perf_counter()
            run()
            return time.perf_counter() - started
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.other.sum()
        torch.cuda._sleep(SLEEP)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def runs(shape, dtype, layout, k, device):
    """Return {name: (a run, its bytes)} of operands of one kind."""
    n, c, h, w = shape
    geometry = Geometry((k, k), (1, 1), (1, 1), (k // 2,) * 4, 0, 1)

    def made(channels):
        new = {"dtype": dtype, "device": device, "memory_format": LAYOUTS[layout]}
        return torch.empty(n, channels, h, w, **new).uniform_(-1, 1)

    input, filters, grad = made(c), made(c * k * k), made(c)
    size, image = (tensor.numel() * tensor.element_size() for tensor in (filters, input))
    # of the storage: torch sums half types at less than the memory's speed
    words = torch.empty(0, device=device).set_(filters.untyped_storage())
    buffer = torch.empty_like(filters)
    leaves = [tensor.clone().requires_grad_() for tensor in (input, filters)]
    ops = torch.ops.fac_ext
    return {
        "read": (words.sum, size),
        "write": (buffer.zero_, size),
        "copy": (lambda: buffer.copy_(filters), 2 * size),
        "fac": (lambda: ops.fac(input, filters, *geometry), size + 2 * image),
        "grad_input": (lambda: ops.fac_grad_input(filters, grad, *geometry), size + 2 * image),
        "grad_filters": (lambda: ops.fac_grad_filters(input, grad, *geometry), size + 2 * image),
        "autograd": (
            lambda: torch.autograd.grad(fac_ext.fac(*leaves, k), leaves, grad),
            3 * size + 5 * image,
        ),
    }


def measure(options):
    """Yield the figures of each case."""
    clock = Clock(options.device)
    for shape in options.shapes:
        for dtype in options.dtypes:
            for layout in LAYOUTS:
                for k in options.kernels:
                    case = {"shape": shape, "dtype": dtype, "layout": layout, "kernel_size": k}
                    results = {}
                    for name, (run, moved) in runs(shape, DTYPES[dtype], layout, k, options.device).items():
                        for _ in range(3):
                            run()
                        times = sorted(clock.seconds(run) for _ in range(options.repeats))
                        low, median, high = statistics.quantiles(times, n=4)
                        results[name] = {
                            "median_ms": median * 1e3,
                            "quartiles_ms": [low * 1e3, high * 1e3],
                            "gb_per_s": moved / median / 1e9,
                        }
                    yield case | {"results": results}


def predicted(options):
    """Yield times of fac_predicted with blocks of several sizes, of a frame and of small crops."""
    clock = Clock(options.device)
    for (n, c, h, w), dtype in itertools.product(options.shapes, options.dtypes):
        new = {"dtype": DTYPES[dtype], "device": options.device}
        image = {**new, "memory_format": torch.channels_last}
        input, hidden, grad = (torch.empty(n, c, h, w, **image).uniform_(-1, 1) for _ in range(3))
        weight, bias = (torch.empty(c * 25, *shape, **new).uniform_(-0.1, 0.1) for shape in ((c,), ()))
        leaves = [tensor.requires_grad_() for tensor in (input, hidden, weight, bias)]
        for mebibytes in (16, 64, 128, 512):

            def run(leaves=leaves, grad=grad, most=mebibytes << 20):
                torch.autograd.grad(fac_ext.fac_predicted(*leaves, 5, block_bytes=most), leaves, grad)

            run()
            times = [clock.seconds(run) for _ in range(options.repeats)]
            case = {"shape": (n, c, h, w), "dtype": dtype, "block_mib": mebibytes}
            yield case | {"median_ms": statistics.median(times) * 1e3}


def line(case) -> str:
    """Return a case in one line: GB/s, and in brackets the part of a copy's."""
    copy = case["results"]["copy"]["gb_per_s"]
    kinds = ((name, figures["gb_per_s"]) for name, figures in case["results"].items())
    words = ", ".join(f"{name} {rate:.0f} ({rate / copy:.2f})" for name, rate in kinds)
    return f"{'x'.join(map(str, case['shape']))} k={case['kernel_size']} {case['dtype']} {case['layout']}: {words}"


def main() -> None:
    """Measure, and write after each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda")
    add("--json", type=Path)
    add("--repeats", type=int, default=15)
    add("--shapes", nargs="+", default=["1,128,180,320", "16,48,64,64"], help="N,C,H,W [%(default)s]")
    add("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    add("--kernels", nargs="+", type=int, default=[3, 5, 7])
    options = parser.parse_args()
    options.shapes = [tuple(map(int, shape.split(","))) for shape in options.shapes]
    cases = []
    for case in measure(options):
        cases.append(case)
        print(line(case), flush=True)
        if options.json:
            options.json.write_text(json.dumps({"operators": cases, "predicted": []}))
    blocks = []
    for case in predicted(options):
        blocks.append(case)
        print(
            "fac_predicted, forward and backward:",
            *(f"{key}={value}" for key, value in case.items()),
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps({"operators": cases, "predicted": blocks}))
    kernels = ("fac", "grad_input", "grad_filters")
    shares = [c["results"][k]["gb_per_s"] / c["results"]["copy"]["gb_per_s"] for c in cases for k in kernels]
    print(f"{len(cases)} cases, of a copy's rate at least {min(shares, default=math.nan):.2f}")


if __name__ == "__main__":
    main()
