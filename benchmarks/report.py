"""Write tables, sentences and plots of the README and docs from the committed figures: results/*.json and the card."""

import json
import textwrap
from pathlib import Path
from typing import Any

from harness import (
    CONTENDERS,
    FRAMES,
    PREDICTED_SIZES,
    described,
    network_table,
    operator_table,
    renewed,
    shared_table,
    softmax_table,
    threads_of,
)

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 120  # of the lines of prose
RESULTS = ROOT / "benchmarks" / "results"
OTHERS = [
    "-pipeline",
    "-stfan",
    "-training",
    "-trainer",
    "-race",
    "-restarts",
    "-directions",
    "-judging",
    "-predicted",
    "-shared",
    "-blur",
    "-videos",
    "-gallery",
    "make-gpu",
]  # than the operator
DOCS = ROOT / "docs"
CARD = ROOT / "stfan" / "model" / "pretrained" / "compact.json"
README_DEVICE = "amd-epyc"  # whose figures the README shows
README_ROWS = ("floor", "fac", "shift compiled", "article")  # the contenders that the README shows
README_FRAME = "720p"


def median(case, name, mode="forward"):
    """Return milliseconds, or None."""
    modes = case["results"].get(name)
    return modes[mode]["median_ms"] if isinstance(modes, dict) and mode in modes else None


def ratio(case, name, mode, other):
    """Format a ratio of times; "" where one is missing, or where the filters are shared, which the floor's are not."""
    if other == "floor" and case["settings"]["groups"] != case["settings"]["shape"][1]:
        return ""
    one, two = median(case, name, mode), median(case, other, mode)
    return f"{one / two:.2f}" if one and two else ""


def alike(case, main):
    """Tell whether a case differs from the main one in its size alone."""
    same = ("kernel_size", "dtype", "layout", "padding_mode", "threads")
    ungrouped = case["settings"]["groups"] == case["settings"]["shape"][1]
    return ungrouped and all(case["settings"][key] == main["settings"][key] for key in same)


def sizes(report):
    """Return the cases that differ in size alone, each size once: {megapixels of the frame: case}."""
    found = {}
    for case in report["cases"]:
        n, c, h, w = case["settings"]["shape"]
        if alike(case, report["cases"][0]) and (n, c) == (1, 128):
            found.setdefault(h * w * 16 / 1e6, case)
    return dict(sorted(found.items()))


def fit(points):
    """Fit a least squares line through {x: y}; return (slope, intercept, R squared)."""
    n, mx, my = len(points), sum(points) / len(points), sum(points.values()) / len(points)
    spread = sum((x - mx) ** 2 for x in points)
    slope = sum((x - mx) * (y - my) for x, y in points.items()) / spread
    left = sum((y - my - slope * (x - mx)) ** 2 for x, y in points.items())
    return slope, my - slope * mx, 1 - left / sum((y - my) ** 2 for y in points.values()) if n > 2 else 1.0


def ran_on(environment):
    gpu = environment.get("driver")
    threads = "" if gpu else f", {threads_of(environment)}"
    return f"{environment['device']}{threads}, torch {environment['torch']}, {environment['date']}"


def ratios(cases):
    """Make a Markdown table: fac's times over the floor's, and the peers' over fac's."""
    columns = (
        ("forward ms", lambda c: f"{median(c, 'fac'):.2f}"),
        ("/ sum", lambda c: ratio(c, "fac", "forward", "floor")),
        (
            "gradients ms",
            lambda c: f"{median(c, 'fac', 'gradients'):.2f}" if median(c, "fac", "gradients") else "",
        ),
        ("/ copy", lambda c: ratio(c, "fac", "gradients", "floor")),
        ("article's forward", lambda c: ratio(c, "article", "forward", "fac")),
        ("and backward", lambda c: ratio(c, "article", "forward+backward", "fac")),
        ("unfold's forward", lambda c: ratio(c, "unfold", "forward", "fac")),
        ("compiled shift's forward", lambda c: ratio(c, "shift compiled", "forward", "fac")),
    )
    lines = [f"| case | {' | '.join(name for name, _ in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for case in cases:
        cells = [described(case["settings"]), *(cell(case) for _, cell in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gpu_table(cases):
    """Make a Markdown table: the part of the measured copy bandwidth that fac reaches, a row per case."""
    names = ("forward", "grad_input", "grad_filters")
    lines = [f"| case | copy GB/s | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for case in cases:
        n, c, h, w = case["settings"]["shape"]
        element = {"float64": 8, "float32": 4}.get(case["settings"]["dtype"], 2)
        image = n * c * h * w * element
        filters = image // c * case["settings"]["groups"] * case["settings"]["kernel_size"] ** 2
        copied = 2 * filters / median(case, "floor", "gradients")
        parts = [f"{(filters + 2 * image) / median(case, 'fac', name) / copied:.2f}" for name in names]
        cells = [described(case["settings"]), f"{copied / 1e6:.0f}", *parts]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plots(report, stem):
    """Plot time and memory against megapixels: docs/STEM-time.png and docs/STEM-memory.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = sizes(report)
    styles = {"floor": "k--", "fac": "C0o-", "article": "C3^-", "unfold": "C1s-", "shift compiled": "C2d-"}
    labels = {"floor": "floor: sum of the filters", "shift compiled": "shift sum, torch.compile"}
    for kind, ylabel in (("time", "forward, ms"), ("memory", "memory beyond the operands, MB")):
        figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=110, layout="constrained")
        for name, style in styles.items():
            if kind == "memory" and name == "floor":
                continue
            key = "median_ms" if kind == "time" else "extra_mb"
            points = {
                x: case["results"][name]["forward"][key] for x, case in cases.items() if median(case, name)
            }
            if points:
                axes.loglog(list(points), list(points.values()), style, label=labels.get(name, name))
        axes.set_xlabel("megapixels of the frame (features: a quarter of each side, 128 channels)")
        axes.set_ylabel(ylabel)
        axes.grid(True, which="both", alpha=0.25)
        axes.legend()
        axes.set_title(f"{ran_on(report['environment'])}, k = 5, float32", fontsize=9)
        figure.savefig(DOCS / f"{stem}-{kind}.png", metadata={"Software": None})
        pyplot.close(figure)


def section(report, network, stem):
    """Write the part of docs/benchmarks.md on one device."""
    cases = report["cases"]
    lines = [f"## {ran_on(report['environment'])}", ""]
    lines += [f"Commit {report['environment']['commit']}. `{described(cases[0]['settings'])}`:", ""]
    lines += ["```", operator_table(cases[0]["results"]), "```", ""]
    lines += [
        "The times of fac, as multiples of the floor's, and the times of its peers, as multiples of fac's:",
        "",
    ]
    lines += [ratios(cases), ""]
    limits = [ratio(cases[0], "article", mode, "floor") for mode in ("forward", "forward+backward")]
    if all(limits):
        sentence = (
            f"In the first case the article's code takes {limits[0]} times the floor forward and {limits[1]} times with the "
            "backward pass. Code that is bound by the memory can be faster by no more than these factors."
        )
        lines += [filled(sentence), ""]
    if report["environment"].get("driver"):
        lines += ["The bandwidth of fac, as a part of the copy's:", "", gpu_table(cases), ""]
    times = {x: median(case, "fac") for x, case in sizes(report).items()}
    slope, start, fitted = fit(times)
    lines += [
        f"From {min(times):.2f} to {max(times):.1f} megapixels the forward pass takes {slope:.2f} ms per megapixel plus "
        f"{start:.2f} ms (least squares, R² = {fitted:.4f}).",
        "",
        f"![Time against megapixels]({stem}-time.png)",
        f"![Memory against megapixels]({stem}-memory.png)",
        "",
    ]
    if network:
        parts = next(c for c in network["cases"] if c["frame"] == "360p")["results"]["stfan"]["profile"]
        shares = ", ".join(f"{kind} {part:.0%}" for kind, part in sorted(parts.items(), key=lambda p: -p[1]))
        lines += [
            f"### The network, {ran_on(network['environment'])}",
            "",
            f"Commit {network['environment']['commit']}. `article` is the article's own code path, `stfan` is stfan.Deblurrer:",
            "",
            "```",
            network_table(network["cases"]),
            "```",
            "",
            f"The parts of the time of a 360p frame in float32: {shares}.",
            "",
        ]
    return "\n".join(lines)


def load():
    """Read the figures: {file stem: (of the operator, of the network or None)}."""
    reports = {}
    for path in sorted(RESULTS.glob("*.json")):
        if not path.stem.endswith(tuple(OTHERS)):
            network = path.with_name(f"{path.stem}-stfan.json")
            reports[path.stem] = (
                json.loads(path.read_text()),
                json.loads(network.read_text()) if network.exists() else None,
            )
    return reports


def benchmarks_page(reports):
    """Write docs/benchmarks.md."""
    contenders = "\n".join(f"- `{name}`: {what}" for name, what in CONTENDERS.items())
    head = f"""# Benchmarks

`make bench` measures and writes the files in [benchmarks/results](../benchmarks/results). `make bench-report` writes this
page from them. Each contender runs in a process of its own, and the contenders take turns. Each one cycles through so
many tensors that none of them is still in a cache. The tables give medians and quartiles. "gradients" is the backward
pass alone, for both operands, and includes the memory of its results. "extra MB" is what was allocated above the
operands, results included.

The contenders of the operator:

{contenders}
"""
    shared = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-shared.json"))]
    sections = [section(*both, stem) for stem, both in reports.items()]
    return "\n".join([head, *sections, *map(shared_section, shared)])


def shared_section(report: dict[str, Any]) -> str:
    """The part of docs/benchmarks.md on filters that all channels share, on one device."""
    environment = report["environment"]
    return f"""
## One filter for all channels, {ran_on(environment)}

Commit {environment["commit"]}, float32, written by benchmarks/bench_shared.py. Arithmetic is the bound here: `part` is the rate
of multiply-adds over that of a matrix product of 1024 x 1024 x 1024 in the same run. `unfold` is
`torch.nn.functional.unfold` (or fold) and einsum, `shift` the sum or stack of k\\*k shifted images (`--compiled` adds it under torch.compile);
`sdpa` is `scaled_dot_product_attention` over unfolded windows. attention is `fac_correlation`, then
`fac(..., normalize="softmax")`. x is the time over ours.

```
{shared_table(report["cases"])}
```

What `normalize="softmax"` saves against softmax and `fac`, where each channel has filters of its own:

```
{softmax_table(report["softmax"])}
```
"""


def with_figures(readme, reports):
    """Return the README with the text between its marks renewed."""
    report, network = reports[README_DEVICE]
    texts = {
        "operator": f"- {gpu_line(gpu_report())}\n\n{readme_table(report['cases'][0]['results'])}\n\n"
        f"`{described(report['cases'][0]['settings'])}` on {ran_on(report['environment'])}.",
        "network": network_sentence(network["cases"]),
        "weights": weights_sentence(json.loads(CARD.read_text())),
    }
    return renewed(readme, texts)


def gpu_report():
    """Return what the last committed `make gpu` left: of a GPU, or of a rehearsal on a CPU."""
    return json.loads((RESULTS / "make-gpu.json").read_text())


def gpu_line(report):
    """Say in a line whether the CUDA kernels have run on a GPU, when, and how many of the steps were good."""
    counted = f"{sum(step['code'] == 0 for step in report['steps'])} of {len(report['steps'])} steps good"
    where = "**GPU: not yet run**; `make gpu` was rehearsed on a CPU"
    if report["kind"] != "cpu":
        where = f"**GPU: run** on one {report['environment']['device']}"
    return f"{where} on {report['date']}: {counted} ([how](docs/cuda_kernels.md))."


def gpu_sentence(report):
    """Say of the last `make gpu` where and when it ran, and which of its steps were not good."""
    where = report["environment"]
    bad = [step["name"] for step in report["steps"] if step["code"] != 0]
    kind = "was rehearsed on a CPU" if report["kind"] == "cpu" else "ran on a GPU"
    what = (
        f"`make gpu` {kind}, {where['device']}, with torch {where['torch']} and Python {where['python']} on "
        f"{report['date']}, commit {where['commit']}: {len(report['steps'])} steps, not good: {', '.join(bad) or 'none'}."
    )
    if report["kind"] == "cpu":
        what += " Nothing of this section has run on a GPU."
    return textwrap.fill(what, WIDTH)


def kernels_page(page, report):
    """Return docs/cuda_kernels.md with the text between its marks renewed."""
    return renewed(page, {"gpu": gpu_sentence(report), "bandwidth": bandwidth_table(report)})


def bandwidth_table(report):
    """Make a Markdown table: each operator's GB/s, and its part of those of copying the filters; "" for a rehearsal."""
    if report["kind"] == "cpu":
        return "No bandwidth was measured."
    lines = [
        "| shape | k | type | layout | copy, GB/s | fac | grad_input | grad_filters |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in report["bandwidth"]["operators"]:
        rates = {name: figures["gb_per_s"] for name, figures in case["results"].items()}
        cells = ["x".join(map(str, case["shape"])), case["kernel_size"], case["dtype"], case["layout"]]
        cells += [f"{rates['copy']:.0f}"]
        cells += [f"{rates[name] / rates['copy']:.2f}" for name in ("fac", "grad_input", "grad_filters")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def readme_table(results):
    """Make a Markdown table of README_ROWS: times, times over the floor's, and memory."""
    modes = ("forward", "forward+backward")
    lines = [
        "| | forward, ms | x floor | and backward, ms | x floor | extra MB |",
        "|---|---|---|---|---|---|",
    ]
    for name in README_ROWS:
        cells = [f"`{name}`"]
        for mode in modes:
            time, floor = (results[one][mode]["median_ms"] for one in (name, "floor"))
            cells += [f"{time:.1f}", f"{time / floor:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {results[name][modes[-1]]['extra_mb']:.0f} |")
    return "\n".join(lines)


def network_sentence(cases):
    """Compare the network's time and memory of a README_FRAME with the article's code path, in words."""
    height, width = FRAMES[README_FRAME]
    parts = []
    for case in cases:
        if case["frame"] == README_FRAME:
            ours, article = (case["results"][name] for name in ("stfan", "article"))
            parts.append(
                f"{ours['median_s']:.1f} s and {ours['extra_mb'] / 1e3:.1f} GB in {case['dtype']} "
                f"(with the article's code: {article['median_s']:.1f} s and {article['extra_mb'] / 1e3:.1f} GB)"
            )
    return filled(f"For a frame of {width} x {height} the article's network takes {'; '.join(parts)}.")


def filled(text):
    """Break a paragraph into lines."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def weights_sentence(card):
    """Say what the default weights gain: without sensor noise and with it, by drift of the camera."""
    parts = []
    for kind, words in (("clean", "without sensor noise"), ("noisy", "with it")):
        gains = [f"{score['gain']:+.2f}" for score in card["buckets"][kind].values()]
        parts.append(f"{words} {', '.join(gains)} dB")
    drifts = ", ".join(card["buckets"]["clean"])
    return filled(
        f"On clips of {card['data']['test_pictures']} pictures that they were not trained on, the weights `{card['preset']}` gain in PSNR "
        f"({card['scores']['protocol']}), at drifts of {drifts} pixels a frame: {'; '.join(parts)}."
    )


def predicted_reports() -> dict[str, dict[str, Any]]:
    """{file stem: figures of fac_predicted}"""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-predicted.json"))}


def predicted_section(report: dict[str, Any], stem: str) -> str:
    """docs/predicted.md on one device: fac(conv2d) against fac_predicted, a line for each frame and type."""
    facts = report["environment"]
    clock = {case["settings"]["clock"] for case in report["cases"]} == {"cpu"}
    head = ["frame", "dtype", "forward, ms", "x", "and backward, ms", "x", "extra MB", "x"]
    lines = [
        f"{ran_on(facts)}, commit {facts['commit']}"
        f"{'; times are those of the threads, not of the clock on the wall' if clock else ''}:",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for case in report["cases"]:
        both = [case["results"].get(name) for name in ("fac(conv2d)", "fac_predicted")]
        if not all(isinstance(modes, dict) for modes in both):
            continue
        cells = [case["settings"]["frame"], case["settings"]["dtype"]]
        for mode in ("forward", "forward+backward"):
            cells += compared([modes.get(mode, {}).get("median_ms") for modes in both])
        cells += compared([modes.get("forward+backward", {}).get("extra_mb") for modes in both])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"![Time and memory against megapixels]({stem}.png)"])


def compared(pair: list[float | None]) -> list[str]:
    """Two cells: `before -> after`, and after over before."""
    before, after = pair
    arrow = " -> ".join("-" if figure is None else f"{figure:.0f}" for figure in pair)
    return [arrow, f"{after / before:.2f}" if before and after else ""]


def predicted_page(page: str) -> str:
    """docs/predicted.md with the text between its marks renewed."""
    sections = (predicted_section(report, stem) for stem, report in predicted_reports().items())
    return renewed(page, {"predicted": "\n\n".join(sections)})


def predicted_plot(report: dict[str, Any], stem: str) -> None:
    """Time and memory of the first type and layout against megapixels, as docs/STEM.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kind = [report["cases"][0]["settings"][key] for key in ("dtype", "layout")]
    cases = [c for c in report["cases"] if [c["settings"][key] for key in ("dtype", "layout")] == kind]
    figure, both = pyplot.subplots(1, 2, figsize=(10, 4.2), dpi=110, layout="constrained")
    for axes, key, label in zip(
        both, ("median_ms", "extra_mb"), ("ms", "MB beyond the operands"), strict=True
    ):
        for name, colour in (("products", "k"), ("fac(conv2d)", "C3"), ("fac_predicted", "C0")):
            for mode, line in (("forward", "o-"), ("forward+backward", "s--")):
                points = {}
                for case in cases:
                    figures, size = (
                        case["results"].get(name),
                        PREDICTED_SIZES[case["settings"]["frame"]],
                    )
                    if isinstance(figures, dict) and mode in figures and figures[mode][key]:
                        points[size[0] * size[1] / 1e6] = figures[mode][key]
                if points and (key == "median_ms" or name != "products"):
                    axes.loglog(list(points), list(points.values()), colour + line, label=f"{name}, {mode}")
        axes.set_xlabel("megapixels of the frame (features: a quarter of each side)")
        axes.set_ylabel(label)
        axes.grid(True, which="both", alpha=0.25)
        axes.legend(fontsize=8)
    figure.suptitle(f"{ran_on(report['environment'])}, {', '.join(kind)}", fontsize=9)
    figure.savefig(DOCS / f"{stem}.png", metadata={"Software": None})
    pyplot.close(figure)


def training_page(page):
    """Return docs/training.md with the text between its marks renewed."""
    training = json.loads((RESULTS / f"{README_DEVICE}-training.json").read_text())
    return renewed(page, {"training": training_table(training)})


def training_table(report):
    """Make a Markdown table: memory and time of a step against its frames, with and without recomputation."""
    height, width = report["crop"]
    lines = [f"{ran_on(report['environment'])}; one sequence, crops of {height} x {width}:", ""]
    lines += ["| window | MB | s a step | MB, recompute | s a step, recompute |", "|---|---|---|---|---|"]
    cases = {(case["frames"], case["recompute"]): case["result"] for case in report["cases"]}
    for frames in sorted({frames for frames, _ in cases}):
        cells = [str(frames)]
        for recompute in (False, True):
            result = cases[frames, recompute]
            known = isinstance(result, dict)
            cells += [f"{result['extra_mb']:.0f}", f"{result['seconds']:.1f}"] if known else [result, ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    reports = load()
    for stem, (report, _) in reports.items():
        plots(report, stem)
    (DOCS / "benchmarks.md").write_text(benchmarks_page(reports))
    readme = ROOT / "README.md"
    readme.write_text(with_figures(readme.read_text(), reports))
    for stem, report in predicted_reports().items():
        predicted_plot(report, stem)
    page = DOCS / "predicted.md"
    page.write_text(predicted_page(page.read_text()))
    page = DOCS / "cuda_kernels.md"
    page.write_text(kernels_page(page.read_text(), gpu_report()))
    page = DOCS / "training.md"
    page.write_text(training_page(page.read_text()))


if __name__ == "__main__":
    main()
