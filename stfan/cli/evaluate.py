"""stfan eval."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from stfan.cli.console import Bar, Lines, screen
from stfan.cli.options import DTYPES, Device, Dtype, Overwrite, Page, Tile, Weights, choose_dtype
from stfan.devices import check_device
from stfan.evaluation.metrics import PROTOCOLS
from stfan.files import check_writable


def evaluate(
    root: Annotated[
        Path,
        typer.Option(
            "--data", help="A data set with known truth: its test videos, or all where it has no such thing."
        ),
    ],
    weights: Weights = None,
    protocol: Annotated[Literal[*PROTOCOLS], typer.Option(help="How to judge.")] = "rgb8",
    device: Device = "auto",
    dtype: Dtype = "fp32",
    tile: Tile = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write each frame's scores too, as JSON.")] = None,
    report: Page = None,
    overwrite: Overwrite = False,
):
    """Deblur clips with known truth: PSNR and SSIM of input and output, by a named protocol."""
    from stfan.data.paired_videos import find_videos, phases
    from stfan.evaluation import evaluate
    from stfan.evaluation.buckets import bucket_scores, bucket_table
    from stfan.evaluation.report import Report
    from stfan.model.deblurrer import Deblurrer
    from stfan.model.weights import count, load

    check_writable("--csv", csv, ".csv", overwrite)
    check_writable("--json", json, ".json", overwrite)
    check_writable("--report", report, ".html", overwrite)
    device = check_device(device)
    dtype = choose_dtype(dtype, device)
    found, judge = find_videos(root, "test" if "test" in phases(root) else None), PROTOCOLS[protocol]
    clips = found.clips
    evaluate.check_clips(clips, judge)
    model = load(weights, device, DTYPES[dtype])
    facts = {
        "data": str(root),
        "layout": found.layout,
        "weights": str(weights or "bundled"),
        "parameters": count(model),
    }
    facts |= {"device": device, "dtype": dtype}
    page = report and Report(model, root.resolve().name, facts, {"name": "PSNR", "rule": str(judge)})
    bar = Bar(screen, root.resolve().name, sum(len(blurry) for blurry, _ in clips.values()), True)

    def on_frame(judged):
        bar.step()
        if page:
            page.see_judged(judged)

    with Lines(screen, False, False).listening(), bar.progress:
        bar.start(0)
        result = facts | evaluate.evaluate(Deblurrer(model, tile), clips, judge, on_frame)
    shown = Console(width=None if sys.stdout.isatty() else 120)
    shown.print(evaluate.table(result))
    if buckets := bucket_scores(result):
        result["buckets"] = buckets
        shown.print(bucket_table(buckets))
    seconds = result["overall"]["seconds_per_frame"]
    print(f"{facts['parameters']:,} parameters, {seconds:.3f} s per frame on {device} in {dtype}")
    writers = {csv: evaluate.write_csv, json: evaluate.write_json, report: page and page.write}
    for path in filter(None, writers):
        writers[path](path, result)
        print(path)
