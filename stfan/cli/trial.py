"""The command stfan try: a few seconds of a video, before and after, to judge by before the whole is deblurred."""

import math
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from stfan.cli import options
from stfan.cli.deblur import deblur
from stfan.images import image_files

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
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Deblur a few seconds from the middle, before and after side by side, with a report; print the whole's command."""
    if not math.isfinite(seconds):
        raise typer.BadParameter(f"--seconds must be a finite number, got {seconds}")
    start, end = middle(source, seconds)
    out = out or default_trial(source)
    chosen: dict[str, Any] = {"device": device, "dtype": dtype, "strength": strength}
    deblur(
        source,
        out,
        weights,
        tile=tile,
        start=start,
        end=end,
        no_audio=not source.is_dir(),
        compare="side",
        reset_on_cut=reset_on_cut,
        report=out.with_name(f"{out.name if source.is_dir() else out.stem}.html"),
        resume=resume,
        overwrite=overwrite,
        **chosen,
    )
    defaults = {"device": "auto", "dtype": "auto", "strength": 1.0, "weights": None, "tile": None}
    chosen |= {"weights": weights, "tile": tile}
    words = ["stfan", "deblur", str(source)]
    for name, value in chosen.items():
        if value != defaults[name]:
            words += [f"--{name}", str(value)]
    print(f"the whole: {shlex.join([*words, *(['--reset-on-cut'] if reset_on_cut else [])])}")


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


def default_trial(source: Path) -> Path:
    """Name the output after the input: INPUT_try, with a suffix that a video can be written to."""
    if source.is_dir():
        return Path(f"{source.resolve()}_try")
    suffix = source.suffix if source.suffix.lower() in (".mkv", ".mov") else ".mp4"
    return source.with_name(f"{source.stem}_try{suffix}")
