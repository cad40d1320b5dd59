"""Time and memory of fac_predicted beside fac(conv2d()), over sizes of frames; and of the matrix products alone.

The products are the floor in time: forward each filter is made once, and a backward pass has three as large products
(the filters again, and the gradients of hidden and weight), all into one buffer. As in bench_fac.py every contender
lives in a process of its own, and they take turns.
"""

import argparse
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import (
    PREDICTED_SIZES,
    Contender,
    ask,
    environment,
    free_bytes,
    json_path,
    predicted_table,
    start,
    threads_of,
)

CONTENDERS = {
    "products": "torch: the matrix products alone, into one buffer that is there",
    "fac(conv2d)": "fac_ext.fac of torch's conv2d",
    "fac_predicted": "fac_ext.fac_predicted",
}
MODES = ("forward", "forward+backward")
DTYPES = ("float32", "bfloat16", "float16", "float64")
BUFFER = 8 << 20  # bytes


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--frames",
        nargs="+",
        choices=list(PREDICTED_SIZES),
        default=list(PREDICTED_SIZES),
        help="features: a quarter [all]",
    )
    add("--channels", type=int, default=128, help="of input and output [%(default)s]")
    add("--hidden", type=int, default=128, help="channels that the filters are predicted from [%(default)s]")
    add("--kernel-size", "-k", type=int, default=5, help="[%(default)s]")
    add("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"], help="[%(default)s]")
    add(
        "--layouts", nargs="+", choices=("row_major", "channels_last"), default=["row_major", "channels_last"]
    )
    add("--block-bytes", type=int, help="of fac_predicted [its own choice]")
    add("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="NAME")
    add("--device", default="cpu", help="cpu, cuda or cuda:N [%(default)s]")
    add("--threads", type=int, help="CPU threads [torch's own choice]")
    add("--repeats", type=int, default=7, help="timed runs at the most [%(default)s]")
    add("--seconds", type=float, default=20, help="a contender stops after so long in a mode, and three runs")
    add(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the time of this process's threads, for a machine that others use too [%(default)s]",
    )
    add(
        "--json",
        type=Path,
        help="also write the figures to this file, or to DEVICE-predicted.json in this folder",
    )
    add("--commit", help="the commit to name in the JSON [asked of git]")
    options = parser.parse_args(arguments)
    for name in ("channels", "hidden", "kernel_size", "threads", "repeats", "block_bytes"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    return options


def filter_bytes(case: types.SimpleNamespace) -> int:
    """Of all filters of a case."""
    height, width = (size // 4 for size in PREDICTED_SIZES[case.frame])
    element = {"float64": 8, "float32": 4}.get(case.dtype, 2)
    return case.channels * case.kernel_size**2 * height * width * element


class Predicting(Contender):
    """One contender's tensors, and its runs."""

    def __init__(self, name: str, case: types.SimpleNamespace):
        import torch

        import fac_ext

        if case.threads:
            torch.set_num_threads(case.threads)
        self.torch, self.name, self.options = torch, name, case
        self.release_memory = fac_ext.release_memory
        self.cuda = case.device.startswith("cuda")
        self.fac, self.fac_predicted = fac_ext.fac, fac_ext.fac_predicted
        height, width = (size // 4 for size in PREDICTED_SIZES[case.frame])
        self.operands = self._made(height, width)
        self.buffer = None

    def _made(self, height: int, width: int) -> tuple[Any, ...]:
        """(input, hidden, weight, bias, grad)"""
        torch, case = self.torch, self.options
        torch.manual_seed(0)
        layout = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
        new = {"dtype": getattr(torch, case.dtype), "device": case.device}

        def image(channels: int) -> Any:
            empty = torch.empty(1, channels, height, width, **new, memory_format=layout)
            return empty.uniform_(-1, 1)

        rows = case.channels * case.kernel_size**2
        weight = torch.empty(rows, case.hidden, 1, 1, **new).uniform_(-0.1, 0.1)
        return (
            image(case.channels),
            image(case.hidden),
            weight,
            torch.zeros(rows, **new),
            image(case.channels),
        )

    def prepare(self, mode: str) -> Callable[[], Any]:
        torch, case = self.torch, self.options
        if self.name == "products":
            return self._products(mode)
        *leaves, grad = self.operands
        leaves = [one.detach().requires_grad_(mode != "forward") for one in leaves]

        def call() -> Any:
            input, hidden, weight, bias = leaves
            if self.name == "fac_predicted":
                options = {"block_bytes": case.block_bytes}
                return self.fac_predicted(input, hidden, weight, bias, case.kernel_size, **options)
            return self.fac(input, torch.nn.functional.conv2d(hidden, weight, bias), case.kernel_size)

        return call if mode == "forward" else lambda: torch.autograd.grad(call(), leaves, grad)

    def _products(self, mode: str) -> Callable[[], None]:
        torch = self.torch
        _, hidden, weight, *_ = self.operands
        last = self.options.layout == "channels_last"
        weight = weight.flatten(1)
        features = hidden[0].permute(1, 2, 0).flatten(0, 1) if last else hidden[0].flatten(1)
        axis = 0 if last else 1
        pixels = max(BUFFER // (weight.shape[0] * weight.element_size()), 1)
        parts = features.split(pixels, axis)
        if self.buffer is None:
            self.buffer = torch.zeros(weight.shape[0] * pixels, dtype=weight.dtype, device=weight.device)
        by_weight = torch.empty_like(weight.t() if last else weight)
        by_part = torch.empty_like(parts[0])

        def run() -> None:
            for part in parts:
                count = part.shape[axis]
                shape = (count, weight.shape[0]) if last else (weight.shape[0], count)
                made = self.buffer[: weight.shape[0] * count].view(shape)
                times = 1 if mode == "forward" else 2
                for _ in range(times):
                    torch.mm(*((part, weight.t()) if last else (weight, part)), out=made)
                if times == 2:
                    torch.mm(*((part.t(), made) if last else (made, part.t())), out=by_weight)
                    torch.mm(
                        *((made, weight) if last else (weight.t(), made)), out=by_part.narrow(axis, 0, count)
                    )

        return run

    def seconds(self, mode: str) -> float:
        if self.cuda or self.options.clock == "wall":
            return super().seconds(mode)
        run = self.prepare(mode)
        started = time.process_time()
        run()
        return time.process_time() - started

    def _warm_up(self, mode: str) -> None:
        operands, self.operands = self.operands, self._made(16, 16)
        self.prepare(mode)()
        self.operands, self.buffer = operands, None


def planned(case: types.SimpleNamespace, name: str) -> tuple[str, ...] | str:
    """The modes that there is memory for, or why there are none."""
    free, filters = 0.8 * free_bytes(case), filter_bytes(case)
    if name != "fac(conv2d)":
        return MODES
    if filters > free:
        return f"needs {filters / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
    return MODES if 3 * filters <= free else MODES[:1]


def measure(case: types.SimpleNamespace) -> dict[str, Any]:
    """{contender: {mode: {median_ms, quartiles_ms, extra_mb}}, or the reason why there is nothing}"""
    plans = {name: planned(case, name) for name in case.only}
    results: dict[str, Any] = {name: plan for name, plan in plans.items() if isinstance(plan, str)}
    workers = {name: start(Predicting, name, case) for name in plans if name not in results}

    def answer(name: str, what: str, mode: str) -> Any:
        said = ask(*workers[name], (what, mode))
        if isinstance(said, str):
            results[name] = said
        return said

    for mode in MODES:
        active = [name for name in workers if mode in plans[name] and not isinstance(results.get(name), str)]
        extra = {name: answer(name, "extra_bytes", mode) for name in active}
        times: dict[str, list[float]] = {name: [] for name in active}
        for repeat in range(1 + case.repeats):
            for name in active:
                if isinstance(results.get(name), str):
                    continue
                if len(times[name]) >= 3 and sum(times[name]) / 1e3 > case.seconds:
                    continue
                spent = answer(name, "seconds", mode)
                if repeat and not isinstance(spent, str):  # the first was to warm up
                    times[name].append(spent * 1e3)
        for name in active:
            if isinstance(results.get(name), str):
                continue
            several = times[name] if len(times[name]) > 1 else times[name] * 2
            low, median, high = statistics.quantiles(several, n=4)
            taken = extra[name]
            results.setdefault(name, {})[mode] = {
                "median_ms": round(median, 3),
                "quartiles_ms": [round(low, 3), round(high, 3)],
                "extra_mb": round(taken / 1e6, 2) if isinstance(taken, int) else None,
            }
    for _, process in workers.values():
        process.kill()
        process.join()
    return {name: results[name] for name in case.only}


SETTINGS = (
    "frame",
    "dtype",
    "layout",
    "channels",
    "hidden",
    "kernel_size",
    "block_bytes",
    "threads",
    "clock",
)


def main() -> int:
    options = parse()
    facts = environment(options)
    print(f"{facts['device']}, {threads_of(facts)}, torch {facts['torch']}, {options.device}")
    cases: list[dict[str, Any]] = []
    path = json_path(options.json, facts, "-predicted") if options.json else None
    for dtype in options.dtypes:
        for layout in options.layouts:
            for frame in options.frames:
                case = types.SimpleNamespace(
                    **vars(options) | {"dtype": dtype, "layout": layout, "frame": frame}
                )
                settings = {key: getattr(case, key) for key in SETTINGS}
                settings["filters_mb"] = round(filter_bytes(case) / 1e6, 2)
                cases.append({"settings": settings, "results": measure(case)})
                print(
                    "\n".join(predicted_table(cases[-1:]).splitlines()[0 if len(cases) == 1 else 2 :]),
                    flush=True,
                )
                if path:
                    path.write_text(json.dumps({"environment": facts, "cases": cases}, indent=1) + "\n")
    print("\n" + "\n".join(f"{name}: {what}" for name, what in CONTENDERS.items()))
    if path:
        print(path)
    return 1 if any(isinstance(case["results"].get("fac_predicted"), str) for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
