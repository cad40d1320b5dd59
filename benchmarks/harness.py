"""Run what is timed: the operator, its peers in PyTorch, and the floor, each in a process of its own.

So each one's memory is its own, and so is its crash.
"""

import ctypes
import datetime
import multiprocessing
import platform
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CONTENDERS = {
    "floor": "reading the filters once (torch's sum); for both gradients, copying them once into existing memory",
    "fac": "fac_ext.fac",
    "fac, new memory": "fac without the memory of earlier results: the system clears each page first",
    "article": "the code of the article: windows and filters permuted to (N, H, W, C, k*k), multiplied, summed",
    "unfold": "fac_reference: pad, unfold, multiply, sum",
    "shift": "fac_shift_sum: the sum of k*k shifted images, each times its filter values",
    "shift compiled": "shift under torch.compile",
    "unfold compiled": "unfold under torch.compile",
}
# tensors of the filters' size that a contender holds at once: in a forward pass, and with a backward pass
TENSORS = {
    "floor": (1, 2),
    "fac": (1, 2),
    "fac, new memory": (1, 2),
    "article": (3, 6),
    "unfold": (3, 5),
    "shift": (1, 4),
}
TENSORS |= {"shift compiled": (1, 3), "unfold compiled": (3, 5)}
MODES = {
    "forward": (),
    "grad_input": (0,),
    "grad_filters": (1,),
    "gradients": (0, 1),
    "forward+backward": (0, 1),
}
FRAMES = {  # height and width; features have a quarter of them
    "256x256": (256, 256),
    "360p": (360, 640),
    "540p": (540, 960),
    "720p": (720, 1280),
    "1080p": (1080, 1920),
    "4K": (2160, 3840),
}
PREDICTED_SIZES = {"180p": (180, 320)} | {name: size for name, size in FRAMES.items() if name != "256x256"}

QUEUED = 4_000_000  # clocks of a GPU, about 2 ms, in which the launches of a run are queued behind each other
BEYOND_CACHES = 256 << 20  # bytes of operands that runs take in turn, so that none finds its own in a cache


def article_fac(input, filters, kernel_size, padding_mode="zeros"):
    """Compute FAC as the article's PyTorch code does: everything as (N, H, W, C, k*k), then one sum."""
    from torch.nn import functional

    border = (kernel_size // 2,) * 4
    mode = "constant" if padding_mode == "zeros" else padding_mode
    padded = functional.pad(input, border, mode=mode)
    windows = padded.unfold(2, kernel_size, 1).unfold(3, kernel_size, 1).flatten(4).permute(0, 2, 3, 1, 4)
    taps = filters.permute(0, 2, 3, 1).unflatten(3, (input.shape[1], -1))
    return (windows * taps).sum(4).permute(0, 3, 1, 2)


def operand_bytes(options):
    """Return the bytes of one set of input, filters and gradient."""
    import torch

    n, c, h, w = options.shape
    element = torch.empty(0, dtype=getattr(torch, options.dtype)).element_size()
    return n * (options.groups * options.kernel_size**2 + 2 * c) * h * w * element


def sets(options):
    """Return how many sets of operands the runs take in turn."""
    return -(-BEYOND_CACHES // operand_bytes(options))


class Contender:
    """Hold one contender's tensors and run it. options are the settings of bench_fac.py."""

    operands: Any
    other = None  # what is read between two runs on a GPU

    def __init__(self, name, options):
        import torch

        import fac_ext
        from fac_ext.reference import fac_shift_sum

        if options.threads:
            torch.set_num_threads(options.threads)
        self.torch, self.name, self.options = torch, name, options
        self.release_memory = fac_ext.release_memory
        functions = {
            "fac": fac_ext.fac,
            "fac, new memory": fac_ext.fac,
            "article": article_fac,
            "unfold": fac_ext.fac_reference,
        }
        self.function = functions.get(name.removesuffix(" compiled"), fac_shift_sum)
        if name.endswith("compiled"):
            self.function = torch.compile(self.function)
        self.cuda = options.device.startswith("cuda")
        self.buffer = None
        torch.manual_seed(0)
        n, c, h, w = options.shape
        taps = options.groups * options.kernel_size**2
        layout = torch.channels_last if options.layout == "channels_last" else torch.contiguous_format
        new = {"dtype": getattr(torch, options.dtype), "device": options.device}

        def made(channels):
            empty = torch.empty(n, channels, h, w, **new, memory_format=layout)
            return empty.uniform_(-1, 1)

        self.operands = [(made(c), made(taps), made(c)) for _ in range(sets(options))]
        self.turn = 0

    def prepare(self, mode):
        """Do what a run needs, and return the function to time."""
        torch, k, padding_mode = self.torch, self.options.kernel_size, self.options.padding_mode
        self.turn = (self.turn + 1) % len(self.operands)
        input, filters, grad = self.operands[self.turn]
        if self.name == "floor":
            if self.buffer is None and mode not in ("forward", "grad_input"):
                self.buffer = torch.empty_like(filters).zero_()
            # sum any dtype as float32: torch sums the others at less than the memory's speed
            values = torch.empty(0, device=filters.device).set_(filters.untyped_storage())
            return {
                "forward": values.sum,
                "grad_input": values.sum,
                "grad_filters": lambda: self.buffer.zero_(),
                "gradients": lambda: self.buffer.copy_(filters),
                "forward+backward": lambda: (values.sum(), self.buffer.copy_(filters)),
            }[mode]
        tensors = [one.detach().requires_grad_(i in MODES[mode]) for i, one in enumerate((input, filters))]
        call = lambda: self.function(*tensors, k, padding_mode=padding_mode)  # noqa: E731
        leaves = [one for one in tensors if one.requires_grad]
        if mode in ("forward", "forward+backward"):
            return lambda: torch.autograd.grad(call(), leaves, grad) if leaves else call()
        output = call()
        return lambda: torch.autograd.grad(output, leaves, grad)

    def seconds(self, mode):
        """Time one run. An untimed one before it, where that is short, wakes the threads."""
        if self.cuda:
            return self._cuda_seconds(mode)
        spent = []
        while len(spent) < 2 and sum(spent) < 0.7:
            run = self.prepare(mode)
            if self.name == "fac, new memory":
                self.release_memory()
            started = time.perf_counter()
            result = run()
            spent.append(time.perf_counter() - started)
            del result, run
        return spent[-1]

    def _cuda_seconds(self, mode):
        torch = self.torch
        run = self.prepare(mode)
        if self.other is None:
            self.other = torch.zeros(2**26, device=self.options.device)
        # empties the cache; by reading, as lines that are written would be stored within the time that is measured
        self.other.sum()
        torch.cuda._sleep(QUEUED)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def extra_bytes(self, mode):
        """Return the most bytes allocated at once above the operands, results included."""
        self._warm_up(mode)
        self.release_memory()  # memory kept from earlier results would hide what fac takes
        if self.cuda:
            memory = self.torch.cuda
            run = self.prepare(mode)
            memory.reset_peak_memory_stats()
            before = memory.memory_allocated()
            run()
            return memory.max_memory_allocated() - before
        if not Path("/proc/self/clear_refs").exists():
            return None
        run = self.prepare(mode)
        ctypes.CDLL(None).malloc_trim(0)  # memory freed by earlier runs would hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        before = _status("VmRSS")
        run()
        return max(_status("VmHWM") - before, 0)

    def _warm_up(self, mode):
        """Load and start what is not to be counted: with a small run or, to compile, one of the true size."""
        torch, k, operands = self.torch, self.options.kernel_size, self.operands
        if not self.name.endswith("compiled"):
            new = {"dtype": operands[0][0].dtype, "device": self.options.device}
            self.operands = [tuple(torch.zeros(1, c, 16, 16, **new) for c in (8, 8 * k * k, 8))]
        self.prepare(mode)()
        self.operands, self.buffer = operands, None


def _status(key):
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


def ask(pipe, process, question):
    """Ask a contender's process for a figure; return it, or in words why there is none."""
    try:
        pipe.send(question)
        return pipe.recv()
    except (EOFError, ConnectionError):
        process.join()
        return f"crashed (exit code {process.exitcode})"


def start(kind, name, options):
    """Start a process that holds kind(name, options) and is asked for figures; return its pipe and the process."""
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(kind, name, options, theirs), daemon=True)
    process.start()
    theirs.close()
    return pipe, process


def serve(kind, name, options, pipe):
    """Answer (method, argument), in a contender's process, with a figure or with the error."""
    contender = None
    while True:
        what, mode = pipe.recv()
        try:
            contender = contender or kind(name, options)
            pipe.send(getattr(contender, what)(mode))
        except Exception:
            pipe.send(traceback.format_exc().strip().splitlines()[-1])
            return


def free_bytes(options):
    """Return the free bytes on the device."""
    import torch

    if options.device != "cpu":
        return torch.cuda.mem_get_info(options.device)[0]
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found.group(1)) * 1024


def environment(options):
    """Describe what ran where, for the JSON beside the figures."""
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
        or _output_of("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "date": datetime.date.today().isoformat(),
    }
    if options.device.startswith("cuda"):
        facts["device"] = torch.cuda.get_device_name(options.device)
        facts["driver"] = _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return facts


def _output_of(*command):
    try:
        words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return words[0] if words else None
    except (OSError, subprocess.CalledProcessError):
        return None


def json_path(path, facts, suffix=""):
    """Return the file for the figures: the named one or, in the named folder, one with the device's name."""
    if path.suffix == ".json":
        return path
    path.mkdir(parents=True, exist_ok=True)
    return path / (re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-") + suffix + ".json")


def operator_table(results):
    """Format the figures as lines of text; x floor and x fac are times over theirs."""
    head = (
        f"{'':17}{'mode':18}{'median ms':>10}{'quartiles ms':>20}{'x floor':>9}{'x fac':>8}{'extra MB':>10}"
    )
    lines = [head, "-" * len(head)]
    for name, modes in results.items():
        if isinstance(modes, str):
            lines.append(f"{name:17}{modes}")
            continue
        for mode, figures in modes.items():
            ratios = []
            for other in ("floor", "fac"):
                base = results.get(other)
                known = isinstance(base, dict) and mode in base
                ratios.append(f"{figures['median_ms'] / base[mode]['median_ms']:.2f}" if known else "")
            low, high = figures["quartiles_ms"]
            extra = "" if figures["extra_mb"] is None else f"{figures['extra_mb']:.1f}"
            lines.append(
                f"{name:17}{mode:18}{figures['median_ms']:10.2f}{f'{low:.2f} - {high:.2f}':>20}"
                f"{ratios[0]:>9}{ratios[1]:>8}{extra:>10}"
            )
    return "\n".join(lines)


def threads_of(facts):
    """Say how many threads a benchmark had: "1 thread"."""
    return f"{facts['threads']} thread{'s' * (facts['threads'] != 1)}"


def described(settings):
    """Describe a case in a few words."""
    n, c, h, w = settings["shape"]
    words = [f"{n} x {c} x {h} x {w}", f"k = {settings['kernel_size']}", settings["dtype"]]
    words += [settings["layout"]] * (settings["layout"] != "row_major")
    words += ["1 group" if settings["groups"] == 1 else f"{settings['groups']} groups"] * (
        settings["groups"] != c
    )
    words += [settings["padding_mode"]] * (settings["padding_mode"] != "zeros")
    words += [threads_of(settings)] * bool(settings["threads"])
    return ", ".join(words)


def network_table(cases):
    """Format the figures as lines of text; x article is the time over the article's."""
    head = f"{'frame':10}{'dtype':10}{'':16}{'s per frame':>12}{'quartiles':>20}{'x article':>11}{'extra MB':>10}"
    lines = [head, "-" * len(head)]
    for case in cases:
        base = case["results"].get("article")
        for name, figures in case["results"].items():
            start = f"{case['frame']:10}{case['dtype']:10}{name:16}"
            if isinstance(figures, str):
                lines.append(start + figures)
                continue
            low, high = figures["quartiles_s"]
            ratio = f"{figures['median_s'] / base['median_s']:.2f}" if isinstance(base, dict) else ""
            lines.append(
                f"{start}{figures['median_s']:12.3f}{f'{low:.3f} - {high:.3f}':>20}{ratio:>11}"
                f"{figures['extra_mb']:10.0f}"
            )
    return "\n".join(lines)


def renewed(page, texts):
    """A page with the text between each two marks of a name renewed."""
    for name, text in texts.items():
        mark = f"<!-- benchmark: {name} -->"
        page, count = re.subn(
            f"{mark}\n(.*?\n)?{mark}", lambda _, t=text, m=mark: f"{m}\n{t}\n{m}", page, flags=re.S
        )
        if count != 1:
            sys.exit(f"{mark} must stand before and after the text")
    return page


def predicted_table(cases: list[dict[str, Any]]) -> str:
    """Write fac_predicted's figures as text; x is the time over fac(conv2d)'s, parts are of all filters' bytes."""
    head = f"{'frame':7}{'dtype':10}{'layout':15}{'':15}{'mode':18}{'median ms':>10}{'x':>7}{'extra MB':>10}{'part':>7}"
    lines = [head, "-" * len(head)]
    for case in cases:
        settings, results = case["settings"], case["results"]
        words = f"{settings['frame']:7}{settings['dtype']:10}{settings['layout']:15}"
        for name, modes in results.items():
            if isinstance(modes, str):
                lines.append(f"{words}{name:15}{modes}")
                continue
            for mode, figures in modes.items():
                base = results.get("fac(conv2d)")
                known = isinstance(base, dict) and mode in base
                ratio = f"{figures['median_ms'] / base[mode]['median_ms']:.2f}" if known else ""
                extra, part = "", ""
                if figures["extra_mb"] is not None:
                    extra = f"{figures['extra_mb']:.1f}"
                    part = f"{figures['extra_mb'] / settings['filters_mb']:.3f}"
                lines.append(
                    f"{words}{name:15}{mode:18}{figures['median_ms']:10.1f}{ratio:>7}{extra:>10}{part:>7}"
                )
    return "\n".join(lines)


def shared_table(cases: list[dict[str, Any]]) -> str:
    """Write bench_shared.py's figures as text; x is the time over ours, part the rate over the matrix product's."""
    head = f"{'channels':>8}{'k':>4}  {'layout':15}{'operator':13}{'':16}{'median ms':>10}{'x':>8}{'GFLOP/s':>9}{'part':>7}"
    lines = [head, "-" * len(head)]
    for case in cases:
        settings = case["settings"]
        words = f"{settings['channels']:8}{settings['kernel_size']:4}  {settings['layout']:15}"
        for operator, contenders in case["results"].items():
            ours = contenders["ours"]["median_ms"]
            for name, figures in contenders.items():
                lines.append(
                    f"{words}{operator:13}{name:16}{figures['median_ms']:10.2f}{figures['median_ms'] / ours:8.2f}"
                    f"{figures['gflops']:9.1f}{figures['gflops'] / case['product_gflops']:7.2f}"
                )
    return "\n".join(lines)


def softmax_table(cases: list[dict[str, Any]]) -> str:
    """Write what normalize="softmax" saves as text; kept is what autograd keeps between the passes but for operands."""
    head = f"{'channels':>8}{'k':>4}  {'layout':15}{'':14}{'forward ms':>11}{'and backward ms':>17}{'kept MB':>9}{'filters MB':>12}"
    lines = [head, "-" * len(head)]
    for case in cases:
        settings = case["settings"]
        for name in ("softmax, fac", "fused"):
            figures = case[name]
            lines.append(
                f"{settings['channels']:8}{settings['kernel_size']:4}  {settings['layout']:15}{name:14}"
                f"{figures['forward']:11.1f}{figures['forward+backward']:17.1f}{figures['kept_mb']:9.1f}"
                f"{case['filters_mb']:12.1f}"
            )
    return "\n".join(lines)
