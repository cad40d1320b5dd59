"""Seconds per frame and peak memory of the network: on the article's own code path, as it is here, and compiled.

Each contender deblurs the same frames in a process of its own; they take turns. Weights are random: the time does not
depend on them.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
import types
from pathlib import Path
from unittest import mock

from harness import (
    FRAMES,
    Contender,
    article_fac,
    ask,
    environment,
    json_path,
    network_table,
    start,
    threads_of,
)

CONTENDERS = {
    "article": "the article's code path: unfolded FAC, the summary made of all filters, row-major",
    "stfan": "stfan.Deblurrer",
    "stfan compiled": "the same, its network under torch.compile",
    "compact": "stfan.Deblurrer with the preset compact",
}


class Network(Contender):
    """One way to run the network on frames of one size."""

    def __init__(self, name, options):
        import torch

        import fac_ext
        import stfan.model.network

        if options.threads:
            torch.set_num_threads(options.threads)
        self.torch, self.cuda, self.options = torch, options.device.startswith("cuda"), options
        self.name, self.release_memory = name, fac_ext.release_memory
        torch.manual_seed(0)
        dtype = getattr(torch, options.dtype)
        preset = "compact" if name == "compact" else "article"
        network = stfan.model.network.STFAN(preset).eval().to(options.device, dtype)
        self.frame = torch.rand(3, *FRAMES[options.frame], dtype=dtype, device=options.device)
        if name == "article":
            self.step, self.past = network, None
            self.patches = contextlib.ExitStack()
            self.patches.enter_context(mock.patch.object(stfan.model.network.STFAN, "_filter", _filter))
            self.patches.enter_context(mock.patch.object(stfan.model.network.STFAN, "_align", _align))
        else:
            if name.endswith("compiled"):
                network.compile()
            self.step = stfan.Deblurrer(network)

    def prepare(self, mode):
        """A function that deblurs the next frame."""
        if self.name != "article":
            return lambda: self.step(self.frame)
        return self.torch.inference_mode()(self._article_step)

    def _article_step(self):
        frame = self.frame[None]
        before, output, state = self.past or (frame, frame, self.step.initial_state(frame))
        output, state = self.step(before, frame, output, state)
        self.past = frame, output.clamp(0, 1), state
        return self.past[1]

    def _warm_up(self, mode):
        """The first frame, of its own kind, and what is loaded and compiled once."""
        self.prepare(mode)()

    def profile(self, mode):
        """{kind of operator: its part of the time of one frame}"""
        self.prepare(mode)()
        with self.torch.profiler.profile() as profile:
            self.prepare(mode)()
        parts = {}
        for event in profile.key_averages():
            spent = event.self_device_time_total if self.cuda else event.self_cpu_time_total
            kind = next(
                (kind for kind, names in KINDS.items() if any(n in event.key for n in names)), "other"
            )
            parts[kind] = parts.get(kind, 0) + spent
        return {kind: round(spent / sum(parts.values()), 4) for kind, spent in parts.items()}


KINDS = {
    "fac": ("fac_ext::",),
    "convolution": ("conv", "gemm", "mm"),
    "activation": ("leaky_relu", "clamp"),
    "copy, cat, add": ("cat", "copy", "add", "clone", "contiguous"),
}


def _filter(network, image, hidden, last):
    return article_fac(image, last(hidden), network.kernel_size, padding_mode=network.padding_mode)


def _align(network, state, motion):
    filters = network.align(motion)
    aligned = article_fac(state, filters, network.kernel_size, padding_mode=network.padding_mode)
    return aligned, network.align_summary(filters)


def measure(options, names):
    """{name: {median_s, quartiles_s, extra_mb}, or the reason why there is nothing}"""
    workers = {name: start(Network, name, options) for name in names}
    results, times = {}, {name: [] for name in names}
    extra = {name: ask(*workers[name], ("extra_bytes", None)) for name in names}
    for repeat in range(1 + options.repeats):
        for name in names:
            spent = (
                ask(*workers[name], ("seconds", None)) if not isinstance(extra[name], str) else extra[name]
            )
            if isinstance(spent, str):
                extra[name] = results[name] = spent
            elif repeat:
                times[name].append(spent)
    for name in names:
        if name in results:
            continue
        spent = times[name] if len(times[name]) > 1 else times[name] * 2
        low, median, high = statistics.quantiles(spent, n=4, method="inclusive")
        results[name] = {
            "median_s": round(median, 5),
            "quartiles_s": [round(low, 5), round(high, 5)],
            "extra_mb": round(extra[name] / 1e6, 1),
            "profile": ask(*workers[name], ("profile", None)) if name == "stfan" else None,
        }
    for _, process in workers.values():
        process.kill()
        process.join()
    return results


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--frames", nargs="+", choices=list(FRAMES), help="sizes [256x256, 360p, 720p; on a GPU 1080p too]")
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    add("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="NAME")
    add("--device", default="cpu", help="cpu, cuda or cuda:N [%(default)s]")
    add("--threads", type=int, help="CPU threads [torch's own choice]")
    add("--repeats", type=int, default=5, help="timed frames [%(default)s]")
    add(
        "--json",
        type=Path,
        help="also write the figures to this file, or to DEVICE-stfan.json in this folder",
    )
    add("--commit", help="the commit to name in the JSON [asked of git]")
    options = parser.parse_args(arguments)
    large = [] if options.device == "cpu" else ["1080p"]
    options.frames = options.frames or ["256x256", "360p", "720p", *large]
    if options.repeats < 1:
        parser.error("--repeats must be positive")
    return options


def main():
    options = parse()
    facts = environment(options)
    print(f"{facts['device']}, {threads_of(facts)}, torch {facts['torch']}, {options.device}")
    cases = []
    for frame in options.frames:
        for dtype in options.dtypes:
            started = time.monotonic()
            case = types.SimpleNamespace(**vars(options), frame=frame, dtype=dtype)
            cases.append({"frame": frame, "dtype": dtype, "results": measure(case, options.only)})
            print(f"{frame} {dtype}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            if options.json:
                path = json_path(options.json, facts, "-stfan")
                path.write_text(json.dumps({"environment": facts, "cases": cases}, indent=1) + "\n")
    print(network_table(cases))
    print("\n" + "\n".join(f"{name}: {what}" for name, what in CONTENDERS.items()))
    if options.json:
        print(path)


if __name__ == "__main__":
    main()
