"""The command stfan eval."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stfan.cli.console import LogHandler, ProgressBar, stderr_console, stdout_console
from stfan.cli.options import Device, Dtype, Overwrite, Page, Tile, Weights, resolve_dtype, torch_dtype
from stfan.devices import resolve_device
from stfan.files import check_writable

Root = Annotated[
    Path,
    typer.Option(
        "--data",
        help="A data set with known truth: its test videos, or all videos if it has no test part.",
    ),
]
ProtocolName = Annotated[
    Literal["rgb8", "moved8", "stfan", "tsp", "koehler", "dvd30"], typer.Option(help="The rule for scoring.")
]
Csv = Annotated[Path | None, typer.Option(help="Also write the table as CSV.")]
Json = Annotated[Path | None, typer.Option(help="Also write all scores, each frame's too, as JSON.")]


def evaluate(
    root: Root,
    weights: Weights = None,
    protocol: ProtocolName = "rgb8",
    device: Device = "auto",
    dtype: Dtype = "fp32",
    tile: Tile = None,
    csv: Csv = None,
    json: Json = None,
    report: Page = None,
    overwrite: Overwrite = False,
) -> None:
    """Deblur clips with known truth: PSNR and SSIM of input and output, by a named protocol."""
    from stfan.data.paired_videos import find_videos
    from stfan.evaluation import evaluate as evaluation
    from stfan.evaluation.metrics import PROTOCOLS
    from stfan.evaluation.report import Report
    from stfan.model.deblurrer import Deblurrer
    from stfan.model.weights import count, load

    check_writable("--csv", csv, ".csv", overwrite)
    check_writable("--json", json, ".json", overwrite)
    check_writable("--report", report, ".html", overwrite)
    device = resolve_device(device)
    precision, rule = resolve_dtype(dtype, device), PROTOCOLS[protocol]
    with LogHandler(stderr_console).attached():
        dataset = find_videos(root, strict=False)
    dataset = (dataset.only("test") if "test" in dataset.phases else dataset).raise_problems()
    clips = dataset.clips
    evaluation.check_clips(clips, rule)
    model = load(weights, device, torch_dtype(precision))
    facts: dict[str, Any] = {
        "data": str(root),
        "layout": dataset.layout,
        "weights": str(weights or "bundled"),
    }
    facts |= {"parameters": count(model), "device": device, "dtype": precision}
    name = root.resolve().name
    page = Report(model, name, facts, {"name": "PSNR", "rule": str(rule)}) if report else None
    bar = ProgressBar(stderr_console, name, sum(len(blurry) for blurry, _ in clips.values()))

    def on_frame(score: evaluation.FrameScore) -> None:
        bar.advance()
        if page:
            page.add_score(score)

    with LogHandler(stderr_console).attached(), bar.progress:
        bar.start(0)
        result = facts | evaluation.evaluate(Deblurrer(model, tile), clips, rule, on_frame)
    print_scores(result)
    seconds = result["overall"]["seconds_per_frame"]
    print(f"{facts['parameters']:,} parameters, {seconds:.3f} s per frame on {device} in {precision}")
    if csv:
        evaluation.write_csv(csv, result)
        print(csv)
    if json:
        evaluation.write_json(json, result)
        print(json)
    if report and page:
        page.write(report, result)
        print(report)


def print_scores(result: dict[str, Any]) -> None:
    """Print the table of the clips and, where they come in buckets, that of the buckets; add those to the result."""
    from stfan.cli.score_tables import bucket_table, clip_table
    from stfan.evaluation.buckets import bucket_scores

    console = stdout_console()
    console.print(clip_table(result))
    if buckets := bucket_scores(result):
        result["buckets"] = buckets
        console.print(bucket_table(buckets))
