"""Measure the three operators where all channels share a filter, beside what one would write in PyTorch.

Each filter value then serves many channels, so arithmetic is the bound and not memory: every time is also given as the
part of this run's matrix product rate (float32, 1024 x 1024 x 1024) that its multiply-adds reach. All take turns, so
that a busy moment of the machine hits all alike. A case of the same settings in the JSON is replaced. Times are those
of the thread, not of the clock on the wall.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import environment, json_path, shared_table, softmax_table

from fac_ext import fac, fac_correlation, fac_transpose
from fac_ext.arguments import check_window, resolve
from fac_ext.reference import shift_correlation, shift_sum, shift_transpose

LAYOUTS = {"row_major": torch.contiguous_format, "channels_last": torch.channels_last}


def windows(image, k):
    n, c, h, w = image.shape
    return F.unfold(image, k, padding=k // 2).view(n, c, k * k, h, w)


def unfold_fac(input, filters, k):
    return torch.einsum("nctyx,ntyx->ncyx", windows(input, k), filters)


def unfold_correlation(input, query, k):
    return torch.einsum("nctyx,ncyx->ntyx", windows(input, k), query)


def fold_transpose(filters, input, k):
    patches = torch.einsum("ntyx,ncyx->nctyx", filters, input)
    return F.fold(patches.flatten(3).flatten(1, 2), input.shape[2:], k, padding=k // 2)


def in_tokens(image):
    """Return (N*H*W, 1, C, C') of (N, C, C', H, W): a head's keys for each pixel."""
    return image.permute(0, 3, 4, 2, 1).flatten(0, 2)[:, None]


def sdpa(query, key, value, k):
    """Neighbourhood attention by PyTorch's attention over unfolded windows; zeros beyond the border are keys too."""
    n, c, h, w = query.shape
    out = F.scaled_dot_product_attention(
        in_tokens(query[:, :, None]), in_tokens(windows(key, k)), in_tokens(windows(value, k)), scale=1.0
    )
    return out.view(n, h, w, c).permute(0, 3, 1, 2)


def attention(query, key, value, k):
    return fac(value, fac_correlation(key, query, k, groups=1), k, normalize="softmax")


def unfold_attention(query, key, value, k):
    return unfold_fac(value, unfold_correlation(key, query, k).softmax(1), k)


def contenders(options):
    """Return {operator: ({contender: function}, multiply-adds)}."""
    shape, k = (1, options.channels, *options.size), options.kernel_size
    layout = LAYOUTS[options.layout]
    torch.manual_seed(0)

    def image(channels):
        return torch.randn(1, channels, *options.size).contiguous(memory_format=layout)

    x, y, v, filters = image(shape[1]), image(shape[1]), image(shape[1]), image(k * k)
    geometry = resolve(x, filters, check_window(k))
    compiled = {
        name: torch.compile(lambda a, b, f=f: f(a, b, geometry))
        for name, f in (
            ("fac", shift_sum),
            ("correlation", shift_correlation),
            ("transpose", shift_transpose),
        )
    }
    work = shape[1] * k * k * options.size[0] * options.size[1]
    found = {
        "fac": {
            "ours": lambda: fac(x, filters, k),
            "unfold": lambda: unfold_fac(x, filters, k),
            "shift": lambda: shift_sum(x, filters, geometry),
            "shift compiled": lambda: compiled["fac"](x, filters),
        },
        "correlation": {
            "ours": lambda: fac_correlation(x, y, k, groups=1),
            "unfold": lambda: unfold_correlation(x, y, k),
            "shift": lambda: shift_correlation(x, y, geometry),
            "shift compiled": lambda: compiled["correlation"](x, y),
        },
        "transpose": {
            "ours": lambda: fac_transpose(filters, x, k),
            "unfold": lambda: fold_transpose(filters, x, k),
            "shift": lambda: shift_transpose(filters, x, geometry),
            "shift compiled": lambda: compiled["transpose"](filters, x),
        },
        "attention": {
            "ours": lambda: attention(x, y, v, k),
            "unfold": lambda: unfold_attention(x, y, v, k),
            "sdpa": lambda: sdpa(x, y, v, k),
        },
    }
    if not options.compiled:
        for functions in found.values():
            functions.pop("shift compiled", None)
    return {name: (functions, work * (1 + (name == "attention"))) for name, functions in found.items()}


def keep(tensor, kept):
    """Note the bytes of a tensor that autograd saves, by its memory."""
    storage = tensor.untyped_storage()
    kept[storage.data_ptr()] = storage.nbytes()
    return tensor


def softmax_figures(options):
    """Measure softmax(filters), then fac, against fac(normalize="softmax"), each channel with filters of its own."""
    shape, k = (1, options.channels, *options.size), options.kernel_size
    layout = LAYOUTS[options.layout]
    x, filters = (
        torch.randn(1, n, *options.size).contiguous(memory_format=layout).requires_grad_()
        for n in (shape[1], shape[1] * k * k)
    )
    grad = torch.randn(shape).contiguous(memory_format=layout)

    def apart(x, f):
        return fac(x, f.unflatten(1, (-1, k * k)).softmax(2).flatten(1, 2), k)

    def backward(function):
        return torch.autograd.grad(function(x, filters), (x, filters), grad)

    figures = {
        "settings": {name: getattr(options, name) for name in ("channels", "kernel_size", "size", "layout")}
    }
    functions = {"softmax, fac": apart, "fused": lambda x, f: fac(x, f, k, normalize="softmax")}
    times = {(name, mode): [] for name in functions for mode in ("forward", "forward+backward")}
    for _ in range(1 + options.repeats):
        for name, function in functions.items():
            with torch.no_grad():
                times[name, "forward"].append(seconds(lambda f=function: f(x, filters)) * 1e3)
            times[name, "forward+backward"].append(seconds(lambda f=function: backward(f)) * 1e3)
    for (name, mode), values in times.items():
        figures.setdefault(name, {})[mode] = round(statistics.median(values[1:]), 3)
    own = {x.untyped_storage().data_ptr(), filters.untyped_storage().data_ptr()}
    for name, function in functions.items():
        kept = {}
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: keep(t, kept), lambda t: t)
        with hooks:
            output = function(x, filters)
        del output
        figures[name]["kept_mb"] = round(sum(n for place, n in kept.items() if place not in own) / 1e6, 3)
    figures["filters_mb"] = round(filters.nbytes / 1e6, 3)
    return figures


def seconds(function):
    """Time the second of two runs, as the first may find caches and allocator as another contender left them."""
    for _ in range(2):
        started = time.process_time()
        function()
        spent = time.process_time() - started
        if spent > 0.1:
            break
    return spent


def measure(options):
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    everyone = contenders(options)
    runs = {("", "product"): lambda: a @ b} | {
        (operator, name): function
        for operator, (functions, _) in everyone.items()
        for name, function in functions.items()
    }
    with torch.no_grad():
        for function in runs.values():
            function()
        if options.prepare:
            return None
        times = {key: [] for key in runs}
        started = time.perf_counter()
        while time.perf_counter() - started < options.seconds or len(times["", "product"]) < 3:
            for key, function in runs.items():
                times[key].append(seconds(function) * 1e3)
    medians = {key: statistics.median(values) for key, values in times.items()}
    rate = 2 * 1024**3 / medians["", "product"] / 1e6
    return {
        "settings": {name: getattr(options, name) for name in ("channels", "kernel_size", "size", "layout")},
        "runs": len(times["", "product"]),
        "product_gflops": round(rate, 2),
        "results": {
            operator: {
                name: {
                    "median_ms": round(medians[operator, name], 4),
                    "gflops": round(2 * work / medians[operator, name] / 1e6, 2),
                }
                for name in functions
            }
            for operator, (functions, work) in everyone.items()
        },
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--channels", type=int, default=64, help="that share a filter [%(default)s]")
    add("--kernel-size", "-k", type=int, default=9, help="taps per side, odd [%(default)s]")
    add("--size", type=int, nargs=2, default=(48, 80), help="height and width [48 80]")
    add("--layout", choices=LAYOUTS, default="row_major", help="[%(default)s]")
    add("--threads", type=int, default=1, help="[%(default)s]")
    add("--seconds", type=float, default=8, help="to measure for, once compiled [%(default)s]")
    add(
        "--compiled",
        action="store_true",
        help="also the shifts under torch.compile, which takes minutes at first",
    )
    add("--prepare", action="store_true", help="only fill torch.compile's cache")
    add(
        "--softmax",
        action="store_true",
        help="what normalize='softmax' saves, each channel with its own filters",
    )
    add("--repeats", type=int, default=5, help="of --softmax [%(default)s]")
    add(
        "--json",
        type=Path,
        help="also write the figures to this file, or to DEVICE-shared.json in this folder",
    )
    add("--commit", help="the commit to name in the JSON [asked of git]")
    options = parser.parse_args()
    options.size, options.device = list(options.size), "cpu"
    torch.set_num_threads(options.threads)
    case = softmax_figures(options) if options.softmax else measure(options)
    if case is None:
        return
    kind = "softmax" if options.softmax else "cases"
    print(softmax_table([case]) if options.softmax else shared_table([case]))
    if options.json:
        facts = environment(options)
        path = json_path(options.json, facts, "-shared")
        found = json.loads(path.read_text()) if path.exists() else {"cases": [], "softmax": []}
        others = [one for one in found[kind] if one["settings"] != case["settings"]]
        found |= {"environment": facts, kind: [*others, case]}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
