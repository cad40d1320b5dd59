"""The command stfan try: a few seconds of a video, before and after, to judge by before the whole is deblurred."""

import math
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stfan.cli import options
from stfan.cli.deblur import run_one
from stfan.cli.outcome import as_argument
from stfan.images import image_files

if TYPE_CHECKING:
    from stfan.cli.job import NetworkChoice

IMAGES = 25  # images of a folder that count as a second

Seconds = Annotated[
    float, typer.Option(min=0.1, help="How much to deblur; 25 images of a folder count as one second.")
]
TrialOut = Annotated[
    Path | None, typer.Option("-o", "--out", help="Video or folder to write; INPUT_try if not given.")
]


def trial(
    source: options.Input,
    out: TrialOut = None,
    seconds: Seconds = 2.0,
    weights: options.Weights = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tile: options.Tile = None,
    reset_on_cut: options.ResetOnCut = False,
    strength: options.Strength = 1.0,
    deinterlace: options.Deinterlace = "auto",
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Deblur a few seconds from the middle, before and after side by side, with a report; print the whole's command."""
    from stfan.cli.job import DeblurJob, Look, NetworkChoice, Part, default_output

    if not math.isfinite(seconds):
        raise typer.BadParameter(f"--seconds must be a finite number, got {seconds}")
    start, end = middle(source, seconds)
    out = out or default_output(source, word="try")
    report = out.with_name(f"{out.name if source.is_dir() else out.stem}.html")
    network = NetworkChoice(weights, device, dtype, tile, reset_on_cut, strength)
    job = DeblurJob(
        source,
        out,
        network,
        part=Part(start, end),
        look=Look("side", report=report),
        sound=source.is_dir(),
        deinterlace=deinterlace,
        resume=resume,
        overwrite=overwrite,
    )
    run_one(job)
    words = options_of(network) + (["--deinterlace", deinterlace] if deinterlace != "auto" else [])
    print(f"the whole: {shlex.join(['stfan', 'deblur', as_argument(source), *words])}")


def options_of(network: "NetworkChoice") -> list[str]:
    """Return the options of stfan deblur that choose the same network."""
    words = []
    for field in fields(network):
        value, option = getattr(network, field.name), f"--{field.name.replace('_', '-')}"
        if value != field.default:
            words += [option] if value is True else [option, str(value)]
    return words


def middle(source: Path, seconds: float) -> tuple[float | None, float | None]:
    """Return --start and --end of so many seconds in the middle of a video, or images of a folder.

    Both are None where there is no more than that; the start is None where the file does not say how long it is.
    """
    from stfan.video.reader import VideoReader

    if source.is_dir():  # what is wrong with a folder is said where it is deblurred
        count, part = len(image_files(source)), max(1, round(seconds * IMAGES))
        first = (count - part) // 2
        return (None, None) if count <= part else (float(first), float(first + part))
    with VideoReader(source) as reader:
        total, rate = reader.expected_frames, float(reader.rate)
    if total is None:
        return None, seconds
    length = total / rate
    start = (length - seconds) / 2
    return (None, None) if length <= seconds else (start, start + seconds)
