"""Time and memory of fac beside its peers in PyTorch, and beside the floor that the memory sets.

FAC reads each filter value once and does one multiply-add with it, so no implementation can be faster than
reading the filters (forward) or writing as much again (the gradient of the filters). Both floors are measured
in the same run. Every contender lives in a process of its own, so that its memory is its own and its crash
too, and they take turns, so that a busy moment of the machine hits all alike.
"""

import argparse
import ctypes
import datetime
import json
import multiprocessing
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path

MODES = ("forward", "forward+backward")
CONTENDERS = {
    "floor": "torch: sum of the filters; copy of the filters into an existing buffer",
    "fac": "fac_ext.fac",
    "unfold": "fac_reference: pad, unfold, multiply, sum",
    "shift": "fac_shift_sum: k*k shifted products",
    "shift compiled": "the same under torch.compile",
}


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", default="1,128,90,160", help="N,C,H,W of the input [%(default)s: features of a 360p frame]"
    )
    parser.add_argument("--kernel-size", "-k", type=int, default=5, help="taps per side, odd [%(default)s]")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="[%(default)s]")
    parser.add_argument(
        "--padding-mode", choices=("zeros", "replicate"), default="zeros", help="[%(default)s]"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N [%(default)s]")
    parser.add_argument("--threads", type=int, help="CPU threads [torch's own choice]")
    parser.add_argument(
        "--repeats",
        type=int,
        default=7,
        help="timed runs of each contender at the most, after one to warm up [%(default)s]",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=4,
        help="a contender stops after so long in a mode, and three runs [%(default)s]",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(CONTENDERS),
        default=list(CONTENDERS),
        metavar="NAME",
        help=f"contenders: {', '.join(CONTENDERS)} [all]",
    )
    parser.add_argument(
        "--json", type=Path, help="also write the figures to this file, or to DEVICE.json in this folder"
    )
    parser.add_argument("--commit", help="the commit to name in the JSON [asked of git]")
    options = parser.parse_args(arguments)  # fmt: skip
    try:
        options.shape = tuple(map(int, options.shape.split(",")))
        if len(options.shape) != 4 or min(options.shape) < 1:
            raise ValueError
    except ValueError:
        parser.error("--shape must be four positive numbers N,C,H,W")
    if options.kernel_size < 1 or options.kernel_size % 2 == 0:
        parser.error("--kernel-size must be positive and odd")
    if options.repeats < 1:
        parser.error("--repeats must be positive")
    import torch

    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        parser.error("--device must be cpu, cuda or cuda:N")
    if options.device != "cpu" and int(options.device[5:] or 0) >= torch.cuda.device_count():
        parser.error(f"--device {options.device}: torch sees {torch.cuda.device_count()} CUDA devices")
    return options


def contender(name, options, pipe):
    """A process: makes one contender's tensors, then times a run or measures its memory whenever it is asked."""
    import torch

    import fac_ext
    from fac_ext.reference import fac_shift_sum

    if options.threads:
        torch.set_num_threads(options.threads)
    cuda = options.device.startswith("cuda")
    torch.manual_seed(0)
    n, c, h, w = options.shape
    k = options.kernel_size
    new = {"dtype": getattr(torch, options.dtype), "device": options.device}
    filters = torch.randn(n, c * k * k, h, w, **new)
    if name == "floor":
        buffer = torch.empty_like(filters).copy_(filters)
    else:
        input, grad = torch.randn(options.shape, **new), torch.randn(options.shape, **new)
        function = {"fac": fac_ext.fac, "unfold": fac_ext.fac_reference}.get(name, fac_shift_sum)
        if name == "shift compiled":
            function = torch.compile(function)

    def run(mode):
        if name == "floor":
            filters.sum() if mode == "forward" else (filters.sum(), buffer.copy_(filters))
        elif mode == "forward":
            with torch.no_grad():
                function(input, filters, k, padding_mode=options.padding_mode)
        else:
            a, b = input.detach().requires_grad_(), filters.detach().requires_grad_()
            function(a, b, k, padding_mode=options.padding_mode).backward(grad)

    def seconds(mode):
        if not cuda:
            started = time.perf_counter()
            run(mode)
            return time.perf_counter() - started
        torch.empty(
            2**28, dtype=torch.uint8, device=options.device
        ).zero_()  # 256 MB: nothing left in the cache
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(mode)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def extra_bytes(mode):
        """The most that was allocated at once above the operands, results included."""
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(mode)
            return torch.cuda.max_memory_allocated() - before
        if not Path("/proc/self/clear_refs").exists():
            return None
        ctypes.CDLL(None).malloc_trim(0)  # what earlier runs freed is not to hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        before = _status("VmRSS")
        run(mode)
        return max(_status("VmHWM") - before, 0)

    while True:
        what, mode = pipe.recv()
        try:
            pipe.send({"seconds": seconds, "extra_bytes": extra_bytes}[what](mode))
        except Exception:
            pipe.send(traceback.format_exc().strip().splitlines()[-1])
            return


def _status(key):
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


def ask(pipe, process, question):
    """A contender's answer: a number, or why there is none."""
    try:
        pipe.send(question)
        return pipe.recv()
    except (EOFError, ConnectionError):
        process.join()
        return f"crashed (exit code {process.exitcode})"


def measure(options):
    """{contender: {mode: {median_ms, quartiles_ms, extra_mb}, or the reason why there is nothing}}"""
    spawn = multiprocessing.get_context("spawn")
    results = {}
    workers = {}
    for name in options.only:
        pipe, theirs = spawn.Pipe()
        process = spawn.Process(target=contender, args=(name, options, theirs), daemon=True)
        process.start()
        theirs.close()
        workers[name] = pipe, process
    for mode in MODES:
        times = {name: [] for name in options.only}
        for repeat in range(1 + options.repeats):
            for name in options.only:
                spent = sum(times[name]) / 1e3
                if isinstance(results.get(name), str) or (len(times[name]) >= 3 and spent > options.seconds):
                    continue
                if sys.stderr.isatty():
                    print(
                        f"\r{mode}: {repeat}/{options.repeats} {name:20}", end="", file=sys.stderr, flush=True
                    )
                answer = ask(*workers[name], ("seconds", mode))
                if isinstance(answer, str):
                    results[name] = answer
                elif repeat:  # the first was to warm up
                    times[name].append(answer * 1e3)
        for name in options.only:
            if isinstance(results.get(name), str):
                continue
            extra = ask(*workers[name], ("extra_bytes", mode))
            low, median, high = (
                statistics.quantiles(times[name], n=4) if len(times[name]) > 1 else times[name] * 3
            )
            results.setdefault(name, {})[mode] = {
                "median_ms": round(median, 4),
                "quartiles_ms": [round(low, 4), round(high, 4)],
                "extra_mb": round(extra / 1e6, 2) if isinstance(extra, int) else extra,
            }
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    for _, process in workers.values():
        process.kill()
    return results


def environment(options):
    """What ran where: it goes into the JSON beside the figures."""
    import torch

    import fac_ext

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found.group(1) if found else cpu
    facts = {
        "device": cpu,
        "threads": options.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "fac_ext": fac_ext.build_info(),
        "python": platform.python_version(),
        "commit": options.commit
        or _said_by("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "date": datetime.date.today().isoformat(),
    }
    if options.device.startswith("cuda"):
        facts["device"] = torch.cuda.get_device_name(options.device)
        facts["driver"] = _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return facts


def _said_by(*command):
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return said[0] if said else None
    except (OSError, subprocess.CalledProcessError):
        return None


def table(results):
    """The figures as lines of text; x floor and x fac are times over theirs."""
    head = (
        f"{'':16}{'mode':18}{'median ms':>10}{'quartiles ms':>20}{'x floor':>9}{'x fac':>8}{'extra MB':>10}"
    )
    lines = [head, "-" * len(head)]
    for name, modes in results.items():
        if isinstance(modes, str):
            lines.append(f"{name:16}{modes}")
            continue
        for mode, figures in modes.items():
            ratios = []
            for other in ("floor", "fac"):
                base = results.get(other)
                ratios.append(
                    f"{figures['median_ms'] / base[mode]['median_ms']:.2f}" if isinstance(base, dict) else ""
                )
            low, high = figures["quartiles_ms"]
            extra = "" if figures["extra_mb"] is None else f"{figures['extra_mb']:.1f}"
            lines.append(
                f"{name:16}{mode:18}{figures['median_ms']:10.2f}{f'{low:.2f} - {high:.2f}':>20}"
                f"{ratios[0]:>9}{ratios[1]:>8}{extra:>10}"
            )
    return "\n".join(lines)


def main():
    options = parse()
    facts = environment(options)
    print(f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}")
    print(
        f"input {options.shape}, k {options.kernel_size}, {options.dtype}, {options.padding_mode}, {options.device}"
    )
    results = measure(options)
    print(table(results))
    for name in options.only:
        print(f"  {name}: {CONTENDERS[name]}")
    if options.json:
        path = options.json
        if path.suffix != ".json":
            path.mkdir(parents=True, exist_ok=True)
            path = path / (re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-") + ".json")
        settings = {
            key: getattr(options, key)
            for key in ("shape", "kernel_size", "dtype", "padding_mode", "device", "repeats")
        }
        path.write_text(
            json.dumps({"environment": facts, "settings": settings, "results": results}, indent=1) + "\n"
        )
        print(path)
    return 1 if isinstance(results.get("fac"), str) else 0


if __name__ == "__main__":
    sys.exit(main())
