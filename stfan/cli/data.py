"""stfan data check, synth and preview."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from stfan.cli.console import screen
from stfan.devices import check_device
from stfan.files import check_writable

data = typer.Typer(help="Data for training.", no_args_is_help=True)


@data.command()
def check(
    root: Annotated[Path, typer.Argument(help="A data set as it was downloaded.")],
    sharp: Annotated[
        Path | None, typer.Argument(help="Of two plain folders the one with the sharp frames.")
    ] = None,
    layout: Annotated[
        str, typer.Option(help="auto, or its name, or the authors' JSON file of a split.")
    ] = "auto",
    gopro_blur: Annotated[
        Literal["blur_gamma", "blur"], typer.Option(help="Which of GoPro's two kinds of blurry frames.")
    ] = "blur_gamma",
    split: Annotated[Path | None, typer.Option(help="Also write what is found as the authors' JSON.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
):
    """Say what a data set holds, and what in it is amiss: unpaired, unreadable, of another size."""
    from stfan.data import paired_videos, splits
    from stfan.images import image_size

    check_writable("--split", split, ".json", overwrite)
    found = paired_videos.find_videos(
        root if sharp is None else (root, sharp), None, layout, gopro_blur, strict=False
    )
    if split is not None and any(video.phase is None for video in found.videos):
        raise ValueError(f"{root}: {found.layout} tells no phases apart, which --split would write")
    problems = paired_videos.check(
        found, lambda videos: track(videos, "frames", console=screen, transient=True)
    )
    shown = Table(title=found.layout, title_justify="left")
    for heading, justify in (("phase", "left"), ("video", "left"), ("pairs", "right"), ("size", "right")):
        shown.add_column(heading, justify=justify, overflow="fold")
    for video in found.videos:
        try:
            size = "x".join(map(str, image_size(video.blurry[0])))
        except OSError:
            size = "?"
        shown.add_row(video.phase or "", Text(video.name), str(len(video.blurry)), size)
    Console(width=None if sys.stdout.isatty() else 120).print(shown)
    for line in problems:
        print(line)
    pairs = sum(len(video.blurry) for video in found.videos)
    print(
        f"{len(found.videos)} videos, {pairs} pairs, {len(problems) or 'no'} problem{'s' * (len(problems) != 1)}"
    )
    if split is not None:
        splits.write_split(split, found.split)
        print(split)
    if problems:
        raise typer.Exit(1)


@data.command()
def synth(
    source: Annotated[
        Path, typer.Argument(help="A folder of pictures, or a sharp video of many frames a second.")
    ],
    root: Annotated[Path, typer.Argument(help="The folder to make, with the clips in it.")],
    cutouts: Annotated[
        Path | None, typer.Option(help="A folder of RGBA pictures, to move before the others.")
    ] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Training clips.", show_default="400")] = None,
    test_clips: Annotated[
        int | None, typer.Option(min=1, help="Test clips, of pictures not trained on.", show_default="24")
    ] = None,
    frames: Annotated[int, typer.Option(min=2, help="Frames a clip.")] = 10,
    size: Annotated[
        int | None, typer.Option(min=16, help="Width and height of a frame.", show_default="192")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random draws.")] = 0,
    device: Annotated[str, typer.Option(help="What renders: auto, cpu, cuda or cuda:N.")] = "cpu",
):
    """Make blurred and sharp clips: of pictures, every sixth one for the test clips alone; or of a video."""
    from stfan.synthesis.export import synthesize_set, video_set

    device = check_device(device)
    if source.is_dir():
        synthesize_set(
            source,
            root,
            clips or 400,
            test_clips or 24,
            frames,
            size or 192,
            seed,
            lambda jobs: track(jobs, "clips", console=screen),
            cutouts=cutouts,
            device=device,
        )
    elif any((cutouts, clips, test_clips, size)):
        raise typer.BadParameter(
            "of a video all is used, at its own size: only --frames and --seed go with it"
        )
    else:
        video_set(source, root, frames, seed)
    print(root)


@data.command()
def judging(
    pictures: Annotated[Path, typer.Argument(help="A folder of pictures that nothing is trained on.")],
    root: Annotated[Path, typer.Argument(help="The folder to make, with the clips in it.")],
    cutouts: Annotated[Path, typer.Option(help="A folder of RGBA pictures, to move before the others.")],
):
    """Make the clips to judge weights on: drifts of 0, 2, 4 and 8 pixels a frame, each with and without noise."""
    from stfan.synthesis.export import synthesize_judging_set

    synthesize_judging_set(
        pictures, root, cutouts, progress=lambda jobs: track(jobs, "clips", console=screen)
    )
    print(root)


@data.command()
def preview(
    root: Annotated[Path, typer.Argument(help="A data set.")],
    picture: Annotated[Path, typer.Option("-o", "--out", help="The PNG to write.")],
    clips: Annotated[int, typer.Option(min=1, help="How many, spread over all.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
):
    """Draw a contact sheet: of some clips a few frames, the blurry ones and their truth."""
    from stfan.data.paired_videos import find_videos
    from stfan.evaluation.contact_sheet import COLUMNS, contact_sheet
    from stfan.images import read_image

    check_writable("--out", picture, ".png", overwrite)
    found = [*find_videos(root).clips.items()]

    def spread(items, count):
        return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(min(count, len(items)))]

    def read(name, sides):
        blurry, sharp = (torch.stack([*map(read_image, spread(side, COLUMNS))]) for side in sides)
        return {"name": name, "blurry": blurry, "sharp": sharp}

    contact_sheet((read(*clip) for clip in spread(found, clips)), picture)
    print(picture)
