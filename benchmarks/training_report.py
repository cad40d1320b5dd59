"""Write docs/training.md's and docs/video.md's tables from results/*.json and the card of the weights."""

import json
import sys
from math import fsum
from pathlib import Path

from harness import FRAMES, renewed, threads_of

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CARD = ROOT / "stfan" / "model" / "pretrained" / "compact.json"
PAGE, VIDEO_PAGE = ROOT / "docs" / "training.md", ROOT / "docs" / "video.md"
DRIFTS = ("0", "2", "4", "8")


def table(headings, rows):
    """Write a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def gains(scores):
    return [f"{scores[drift]:+.2f}" for drift in DRIFTS]


def judging_table(card):
    """The bundled weights by bucket, with and without noise beside each other and never averaged."""
    rows = []
    for kind, words in (("clean", "no"), ("noisy", "yes")):
        scores = (card["buckets"][kind][drift] for drift in DRIFTS)
        rows.append([words, *(f"{score['gain']:+.2f} ({score['worse']:.0%} worse)" for score in scores)])
    hours = card["hours"] + card["begun_from"]["hours"] if "begun_from" in card else card["hours"]
    return (
        f"`{card['preset']}`, trained for {hours:.0f} hours on {card['device']}, {card['date']}: gain in dB in float32, and the "
        "share of clips that got worse.\n\n" + table(["noise", *(f"{drift} px" for drift in DRIFTS)], rows)
    )


def trainer_table(report):
    """Pixels per second of the two ways, in both precisions: the best turn."""
    speeds, rows = {name: max(turns) for name, turns in report["pixels_per_second"].items()}, []
    for precision in ("float32", "bfloat16"):
        before, after = (speeds[f"{way} {precision}"] for way in ("rendered", "stored"))
        rows.append([precision, f"{before / 1e3:.0f}", f"{after / 1e3:.0f}", f"{after / before:.2f}"])
    environment = report["environment"]
    return (
        f"{environment['device']}, one thread, torch {environment['torch']}, {environment['date']}; thousand pixels a second "
        "of CPU time:\n\n" + table(["precision", "rendered anew", "stored", "ratio"], rows)
    )


def presets_table(report):
    """Time and memory of the presets, and of compact beside the article's preset in the same run."""
    environment, rows = report["environment"], []
    for case in report["cases"]:
        article, compact = case["results"]["stfan"], case["results"]["compact"]
        rows.append(
            [
                f"{case['frame']}, {case['dtype']}",
                *(f"{figures['median_s']:.3f}" for figures in (article, compact)),
                f"{article['median_s'] / compact['median_s']:.1f}",
                *(f"{figures['extra_mb']:.0f}" for figures in (article, compact)),
            ]
        )
    heading = ["frame", "article, s", "compact, s", "times as fast", "article, MB", "compact, MB"]
    where = f"{environment['device']}, {threads_of(environment)}, torch {environment['torch']}, {environment['date']}"
    return f"A frame in `stfan.Deblurrer`; {where}:\n\n{table(heading, rows)}"


def speeds_table(reports):
    """Seconds and memory of a frame, by size, preset and device, of every report."""
    rows = []
    for report in reports:
        environment = report["environment"]
        device = f"{environment['device']}, {threads_of(environment)}"
        for case in report["cases"]:
            for preset, name in (("compact", "compact"), ("article", "stfan")):
                if isinstance(figures := case["results"].get(name), dict):
                    cells = [f"{figures['median_s']:.2f}", f"{figures['extra_mb']:.0f}", environment["date"]]
                    rows.append([case["frame"], preset, device, case["dtype"], *cells])
    sizes = list(FRAMES)
    rows.sort(key=lambda row: (sizes.index(row[0]), row[1] != "compact", row[2:]))
    return table(["frame", "weights", "device", "type", "s a frame", "MB", "measured"], rows)


def blur_table(report):
    """How many of the judging clips are below the threshold of little blur, by drift."""
    rows = []
    for drift in DRIFTS:
        clean, noisy = (report["below"][f"drift-{drift}-{kind}"] for kind in ("clean", "noisy"))
        counts = (f"{low} of {clean['clips']}" for low in (clean["GT"], clean["input"], noisy["input"]))
        rows.append([drift if int(drift) else "0 (only cut-outs move)", *counts])
    return table(["drift", "sharp frames", "blurred, clean", "blurred, noisy"], rows)


def videos_table(report):
    """What the weights do to real videos: sharper by how much, at the beginning and at the end; ghosts at cuts."""
    rows = []
    for name, video in report["videos"].items():
        before, after = video["before"], video["after"]
        tenth = max(len(before) // 10, 1)
        parts = (slice(None), slice(tenth), slice(-tenth, None))
        gains = (f"{fsum(after[part]) / fsum(before[part]):.2f}" for part in parts)
        change = f"{fsum(video['change']) / len(before):.2f}"
        ghosts = ", ".join(f"{ghost:.1f}" for ghost in video["cuts"].values()) or "no cuts"
        size = " x ".join(map(str, video["size"]))
        rows.append([name, size, video["frames"], *gains, change, ghosts])
    heading = [
        "video",
        "size",
        "frames",
        "sharpness, times",
        "first tenth",
        "last tenth",
        "change, of 255",
        "at cuts, of 255",
    ]
    environment = report["environment"]
    return f"Weights `{report['weights']}`, {environment['device']}, {environment['date']}:\n\n{table(heading, rows)}"


def videos_plot(report):
    """Plot the sharpness of each frame after over before: docs/real-videos.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), dpi=110, layout="constrained")
    for name, video in report["videos"].items():
        ratios = [after / before for after, before in zip(video["after"], video["before"], strict=True)]
        (line,) = axes.plot(ratios, label=name)
        for cut in map(int, video["cuts"]):
            axes.axvline(cut, color=line.get_color(), alpha=0.3, linestyle=":")
    axes.axhline(1, color="0.5", linewidth=1)
    axes.set_xlabel("frame (dotted: a new shot)")
    axes.set_ylabel("sharpness, after / before")
    axes.grid(True, alpha=0.25)
    axes.legend()
    figure.savefig(ROOT / "docs" / "real-videos.png", metadata={"Software": None})
    pyplot.close(figure)


def speeds():
    """Read the reports of bench_stfan.py."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-stfan.json"))]


def videos():
    """Read the report of bench_videos.py."""
    return json.loads(sorted(RESULTS.glob("*-videos.json"))[-1].read_text())


def video_page(page):
    """Return docs/video.md with the text between its marks renewed."""
    blur = json.loads((RESULTS / "little-blur.json").read_text())
    texts = {"speeds": speeds_table(speeds()), "blur": blur_table(blur), "videos": videos_table(videos())}
    return renewed(page, texts)


def training_page(page):
    """Return docs/training.md with the text between its marks renewed."""

    def newest(pattern):
        found = sorted(RESULTS.glob(pattern))
        return json.loads(found[-1].read_text()) if found else sys.exit(f"{RESULTS}: no {pattern}")

    def with_compact():
        found = [r for r in speeds() if all("compact" in case["results"] for case in r["cases"])]
        return max(found, key=lambda r: len({case["dtype"] for case in r["cases"]}))

    texts = {
        "presets": presets_table(with_compact()),
        "judging": judging_table(json.loads(CARD.read_text())),
        "trainer": trainer_table(newest("*-trainer.json")),
    }
    return renewed(page, texts)


def main():
    PAGE.write_text(training_page(PAGE.read_text()))
    VIDEO_PAGE.write_text(video_page(VIDEO_PAGE.read_text()))
    videos_plot(videos())


if __name__ == "__main__":
    main()
