"""The command line: stfan deblur, stfan train, stfan data synth."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    track,
)

app = typer.Typer(
    help="Video deblurring with STFAN.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Data for training.", no_args_is_help=True)
app.add_typer(data, name="data")
screen = Console(stderr=True)
PICTURES = (".png", ".jpg", ".jpeg")


@app.command()
def deblur(
    video: Annotated[Path, typer.Argument(help="The video to deblur.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file to write, VIDEO_deblurred.mp4 if not given.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A weight file, the bundled one if not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also write a picture: the frame that changed most, before and after.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
):
    """Deblur a video: as many frames out as in, times and sound kept."""
    from stfan.stream import Deblurrer
    from stfan.video import Source, check_name, deblur_video
    from stfan.weights import load

    out = out or video.with_name(f"{video.stem}_deblurred.mp4")
    check_name(out)
    if picture is not None and (picture.suffix.lower() not in PICTURES or not picture.parent.is_dir()):
        raise ValueError(
            f"{picture}: --picture must be a file in a folder that exists, {' or '.join(PICTURES)}"
        )
    for path in filter(None, (out, picture)):
        if path.exists() and video.exists() and path.samefile(video):
            raise ValueError(f"{path}: would replace its own input")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path}: exists already; --overwrite replaces it")
    check_device(device)
    best = Most()
    with Source(video) as source:
        deblurrer = Deblurrer(load(weights, device))
        total = min(filter(None, (source.expected_frames, max_frames)), default=None)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        name = TextColumn("{task.description}", markup=False)
        with Progress(
            name, *columns, console=screen, transient=True, disable=not screen.is_terminal
        ) as progress:
            task = progress.add_task(video.name, total=total, speed="")
            started = time.monotonic()

            def on_frame(before, after):
                best.see(before, after)
                speed = (time.monotonic() - started) / best.seen
                progress.update(task, advance=1, speed=f"{speed:.2f} s/frame")

            frames = deblur_video(source, out, deblurrer, on_frame, max_frames)
            seconds = time.monotonic() - started
    print(f"{out}: {frames} frames, {seconds / frames:.3f} s per frame")
    if picture is not None:
        best.save(picture)
        print(f"{picture}: frame {best.frame}, before (left) and after (right)")


def check_device(device):
    """Refuse a device that is not here, in words."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = None
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA devices")


class Most:
    """Of all frames the one that changed most, and what became of it."""

    def __init__(self):
        self.seen, self.change, self.frame, self.pair = 0, -1.0, None, None

    def see(self, before, after):
        change = float((after - before).abs().mean())
        if change > self.change:
            self.change, self.frame, self.pair = change, self.seen, (before, after)
        self.seen += 1

    def save(self, path):
        from stfan.clips import write_image
        from stfan.metrics import to_8bit

        partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        write_image(partial, to_8bit(torch.cat(self.pair, 2)))
        os.replace(partial, path)


@app.command()
def train(
    root: Annotated[Path, typer.Argument(help="Clips: ROOT/{train,test}/<clip>/{input,GT}/<frame>.png")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The weight file to write; a card goes beside it.")
    ],
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train.")] = 55.0,
    crop: Annotated[int, typer.Option(min=16, help="Side of the crops in pixels, a multiple of 4.")] = 96,
    lr: Annotated[float, typer.Option(help="The first learning rate of Adam.")] = 2.5e-4,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
):
    """Train the default network for a while, and judge it on the test clips."""
    from stfan.train import train

    check_device(device)
    train(root, out, minutes, crop, lr, seed, device, report=print)


@data.command()
def synth(
    pictures: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    root: Annotated[Path, typer.Argument(help="The folder to make, with the clips in it.")],
    clips: Annotated[int, typer.Option(min=1, help="Training clips.")] = 560,
    test_clips: Annotated[int, typer.Option(min=1, help="Test clips, of pictures not trained on.")] = 22,
    frames: Annotated[int, typer.Option(min=2, help="Frames a clip.")] = 10,
    size: Annotated[int, typer.Option(min=16, help="Width and height of a frame.")] = 192,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
):
    """Make blurred and sharp clips from pictures; every sixth picture is for the test clips alone."""
    from stfan.synth import synthesize_set

    synthesize_set(
        pictures,
        root,
        clips,
        test_clips,
        frames,
        size,
        seed,
        lambda jobs: track(jobs, "clips", console=screen),
    )
    print(root)


def main():
    """Run the command line; what went wrong is one line, and exit code 1."""
    try:
        app(prog_name="stfan")
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        print(f"stfan: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
