"""Measure time and memory of fac beside its peers in PyTorch, and beside the floor that the memory sets.

FAC reads each filter value once and does one multiply-add with it, so no implementation can be faster than
reading the filters (forward) or writing as much again (the gradient of the filters). The same run measures both
floors. Every contender has a process of its own. They take turns, so that a busy moment of the machine hits all
alike, and each goes through so many tensors that none finds its own in a cache.
"""

import argparse
import json
import os
import re
import statistics
import sys
import types
from pathlib import Path

from harness import (
    CONTENDERS,
    FRAMES,
    MODES,
    TENSORS,
    Contender,
    ask,
    described,
    environment,
    free_bytes,
    json_path,
    operand_bytes,
    operator_table,
    sets,
    start,
    threads_of,
)

SHOWN = ("forward", "gradients", "forward+backward")
FLOOR = ["floor", "fac"]
PEERS = [*FLOOR, "fac, new memory", "article", "unfold", "shift", "shift compiled"]


def suite(cuda):
    """List the cases of `--suite`, each as the options that differ from the ones given."""
    features = {name: (height // 4, width // 4) for name, (height, width) in FRAMES.items()}
    sizes = [{"shape": (1, 128, *features[name])} for name in ("360p", "720p")]
    sizes.append({"shape": (16 if cuda else 8, 128, *features["256x256"])})
    everyone = list(CONTENDERS) if cuda else PEERS
    cases = [sizes[0] | {"only": everyone}]
    cases += [
        {"shape": (1, 128, *features[name]), "only": [*FLOOR, "unfold"]}
        for name in features
        if name not in ("360p", "720p")
    ]
    cases += [size | {"only": [name for name in everyone if name != "shift"]} for size in sizes[1:]]
    strided = {"layout": "channels_last", "only": [*FLOOR, "article"]}
    cases += [size | strided for size in sizes] + [strided | {"kernel_size": k} for k in (3, 7)]
    cases += [{"kernel_size": k, "only": [*FLOOR, "article", "shift compiled"]} for k in (3, 7)]
    few = {"only": FLOOR}
    cases += [{"dtype": dtype} | few for dtype in ("bfloat16", "float16", "float64")]
    cases += [{"dtype": "bfloat16", "layout": "channels_last"} | few]
    cases += [{"groups": groups} | few for groups in (8, 1)]
    if cuda:
        cases += [
            size | {"dtype": "bfloat16", "layout": layout} | few for size in sizes for layout in LAYOUTS
        ]
    else:
        cases += [{"threads": threads} | few for threads in range(1, os.cpu_count() + 1)]
    return cases


DTYPES = ("float32", "float64", "float16", "bfloat16")
LAYOUTS = ("row_major", "channels_last")
SETTINGS = (
    "shape",
    "kernel_size",
    "groups",
    "dtype",
    "layout",
    "padding_mode",
    "device",
    "threads",
    "repeats",
)


def parse(arguments=None):
    parser = argument_parser()
    options = parser.parse_args(arguments)
    check_shape(parser, options)
    check_device(parser, options)
    return options


def argument_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    shape = "N,C,H,W of the input [%(default)s: features of a 360p frame]"
    seconds = "a contender stops after so long in a mode, and three runs [4]"
    only = f"contenders: {', '.join(CONTENDERS)} [{', '.join(PEERS)}]"
    add("--shape", default="1,128,90,160", help=shape)
    add("--kernel-size", "-k", type=int, default=5, help="taps per side, odd [%(default)s]")
    add("--groups", type=int, help="groups of channels that share a filter [C: none do]")
    add("--dtype", choices=DTYPES, default="float32", help="[%(default)s]")
    add("--layout", choices=LAYOUTS, default="row_major", help="of all tensors [%(default)s]")
    add("--padding-mode", choices=("zeros", "replicate"), default="zeros", help="[%(default)s]")
    add("--device", default="cpu", help="cpu, cuda or cuda:N [%(default)s]")
    add("--threads", type=int, help="CPU threads [torch's own choice]")
    add("--repeats", type=int, default=9, help="timed runs of each contender at the most [%(default)s]")
    add("--seconds", type=float, default=4, help=seconds)
    add("--only", nargs="+", choices=list(CONTENDERS), default=PEERS, metavar="NAME", help=only)
    add("--suite", action="store_true", help="all the cases of the report, not one")
    add("--json", type=Path, help="also write the figures to this file, or to DEVICE.json in this folder")
    add("--commit", help="the commit to name in the JSON [asked of git]")
    return parser


def check_shape(parser, options):
    """Parse --shape, fill in --groups, and refuse numbers that make no call."""
    try:
        options.shape = tuple(map(int, options.shape.split(",")))
        if len(options.shape) != 4 or min(options.shape) < 1:
            raise ValueError
    except ValueError:
        parser.error("--shape must be four positive numbers N,C,H,W")
    options.groups = options.groups or options.shape[1]
    if options.groups < 1 or options.shape[1] % options.groups:
        parser.error("--groups must divide the channels")
    if options.kernel_size < 1 or options.kernel_size % 2 == 0:
        parser.error("--kernel-size must be positive and odd")
    for name in ("repeats", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be positive")


def check_device(parser, options):
    import torch

    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        parser.error("--device must be cpu, cuda or cuda:N")
    if options.device != "cpu" and int(options.device[5:] or 0) >= torch.cuda.device_count():
        parser.error(f"--device {options.device}: torch sees {torch.cuda.device_count()} CUDA devices")


def room(options):
    """Return the free bytes and the bytes of one set of operands, most of them the filters'."""
    return free_bytes(options), operand_bytes(options)


def plan(options, modes):
    """Return {contender: the modes that there is memory for beside the ones before it, or why there are none}."""
    free, filters = room(options)
    free *= 0.8
    plans = {}
    for name in options.only:
        forward, both = ((need - 1 + sets(options)) * filters for need in TENSORS[name])
        if name == "article" and options.groups != options.shape[1]:
            plans[name] = "has no groups"
        elif forward > free:
            plans[name] = f"needs {forward / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
        else:
            enough = 2 * both <= free or (both <= free and name != "floor")
            plans[name] = modes if enough else ("forward",)
            free -= both if enough else forward
    return plans


class Workers:
    """The contenders' processes, and what came of each."""

    def __init__(self, options, plans):
        self.plans = plans
        self.results = {name: why for name, why in plans.items() if isinstance(why, str)}
        self.processes = {name: start(Contender, name, options) for name in plans if name not in self.results}

    def active(self, mode):
        """The contenders that run in a mode and have not failed."""
        return [
            name
            for name in self.processes
            if mode in self.plans[name] and not isinstance(self.results.get(name), str)
        ]

    def answer(self, name, method, mode):
        """Ask a contender for a figure; a failure in words becomes its result."""
        figure = ask(*self.processes[name], (method, mode))
        if isinstance(figure, str):
            self.results[name] = figure
        return figure

    def stop(self):
        for _, process in self.processes.values():
            process.kill()
            process.join()


def measure(options):
    """Return {contender: {mode: {median_ms, quartiles_ms, extra_mb}}}, or the reason why there is nothing."""
    modes = SHOWN if options.device == "cpu" else tuple(MODES)
    workers, extra = Workers(options, plan(options, modes)), {}
    for mode in ("forward", "forward+backward"):
        extra |= {(name, mode): workers.answer(name, "extra_bytes", mode) for name in workers.active(mode)}
    for mode in modes:
        times = time_in_turn(workers, mode, options)
        for name in workers.active(mode):
            workers.results.setdefault(name, {})[mode] = figures(times[name], extra.get((name, mode)))
    progress("")
    workers.stop()
    return {name: workers.results[name] for name in options.only}


def time_in_turn(workers, mode, options):
    """Time the contenders of a mode in turn, so that a busy moment hits all alike; return {contender: [ms]}."""
    times = {name: [] for name in workers.active(mode)}
    for repeat in range(1 + options.repeats):
        for name in workers.active(mode):
            if len(times[name]) >= 3 and sum(times[name]) / 1e3 > options.seconds:
                continue
            progress(f"{mode}: {repeat}/{options.repeats} {name}")
            seconds = workers.answer(name, "seconds", mode)
            if repeat and not isinstance(seconds, str):  # the first was to warm up
                times[name].append(seconds * 1e3)
    return times


def figures(times, extra_bytes):
    """Summarise the ms of a contender in a mode."""
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {
        "median_ms": round(median, 4),
        "quartiles_ms": [round(low, 4), round(high, 4)],
        "extra_mb": round(extra_bytes / 1e6, 2) if isinstance(extra_bytes, int) else None,
    }


def progress(text):
    """Show one line on a terminal in place of the last one; an empty text clears it."""
    if sys.stderr.isatty():
        print(f"\r{text:60}", end="" if text else "\r", file=sys.stderr, flush=True)


def main():
    options = parse()
    facts = environment(options)
    print(f"{facts['device']}, {threads_of(facts)}, torch {facts['torch']}, {options.device}")
    cases = []
    for changes in suite(options.device != "cpu") if options.suite else [{}]:
        case = types.SimpleNamespace(**vars(options) | changes)
        case.groups = min(case.groups, case.shape[1])
        settings = {key: getattr(case, key) for key in SETTINGS}
        print(f"\n{described(settings)}")
        cases.append({"settings": settings, "results": measure(case)})
        print(operator_table(cases[-1]["results"]), flush=True)
        if options.json:  # after each case, so that an interrupted run keeps what it has
            path = json_path(options.json, facts)
            path.write_text(json.dumps({"environment": facts, "cases": cases}, indent=1) + "\n")
    print("\n" + "\n".join(f"{name}: {what}" for name, what in CONTENDERS.items()))
    if options.json:
        print(path)
    return 1 if any(isinstance(case["results"].get("fac"), str) for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
