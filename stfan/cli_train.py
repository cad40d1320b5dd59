"""The command line's second half: stfan train, and stfan data check, synth and preview."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from stfan import recipe as recipes
from stfan.files import check_writable, to_json, whole
from stfan.info import check_device
from stfan.screen import Bar, Lines, say, stoppable

data = typer.Typer(help="Data for training.", no_args_is_help=True)
screen = Console(stderr=True)


def train(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of this run.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="Of the recipe: data=DVD batch=4 ..."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="A recipe (TOML); the article's if not given.")
    ] = None,
    resume: Annotated[
        Literal["never", "auto"],
        typer.Option(help="auto goes on from the newest checkpoint, if there is one."),
    ] = "never",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Stop after so long, ready to be resumed.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU, whatever else there is.")] = False,
):
    """Train the network; on several devices: torchrun --nproc-per-node N -m stfan train ..."""
    try:
        from stfan.train import Run
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"stfan train needs {error.name}; run: pip install 'fac-ext[train]'"
        ) from error
    from stfan.checkpoint import latest

    place, kept = latest(folder), folder / "recipe.toml"
    if place and resume == "never":
        raise FileExistsError(
            f"{folder}: holds a run with {int(place.name)} iterations; --resume auto goes on from them"
        )
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: must be the folder of a run, is a file")
    before = recipes.read(kept) if resume == "auto" and kept.exists() else None
    wanted = (recipes.read(config) if config else before or recipes.Recipe()).changed(settings or [])
    if place and before:
        check_same(folder, before, wanted)
    if not wanted.data:
        raise ValueError("recipe: data must be a folder; on the command line: data=FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    with Lines(screen, False, False).listening():
        run = Run(wanted, folder, cpu)
    if run.main:
        recipes.write(wanted, kept)
    if place:
        run.load(place)
    bar = Bar(screen, folder.name, wanted.iterations, run.main, "iterations")
    shown = not bar.progress.disable
    with Lines(screen, not run.main, False).listening(), bar.progress, stoppable(screen, "sequence") as stop:
        bar.start(run.iteration)
        done = run.train(
            minutes,
            on_step=lambda run, loss: bar.step(f", loss {float(loss):.5f}") if shown else None,
            report=lambda line: say(screen, line) if run.main else None,
            stop=stop,
        )
    if run.main:
        card = run.card(judge=done)
        with whole(folder / "weights.json") as partial:
            partial.write_text(to_json(card, indent=1) + "\n")
        print(folder / "weights.safetensors")
        if not done:
            ended = f"{run.iteration} of {wanted.iterations} iterations; --resume auto goes on"
            print(f"stfan: {ended}", file=sys.stderr)
    run.accelerator.end_training()
    if stop():
        raise typer.Exit(130)


def check_same(folder, before, wanted):
    """What alters the result of a run that goes on must be as it was."""
    free = ("workers", "log_every", "checkpoint_every", "validate_every", "skip_corrupt")
    other = [
        f"{name} was {value} and is {getattr(wanted, name)}"
        for name, value in vars(before).items()
        if name not in free and value != getattr(wanted, name)
    ]
    if other:
        raise ValueError(f"{folder}: was begun otherwise ({'; '.join(other)}); take another folder")


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
    from stfan import datasets
    from stfan.clips import image_size

    check_writable("--split", split, ".json", overwrite)
    found = datasets.find_videos(
        root if sharp is None else (root, sharp), None, layout, gopro_blur, strict=False
    )
    if split is not None and any(video.phase is None for video in found.videos):
        raise ValueError(f"{root}: {found.layout} tells no phases apart, which --split would write")
    problems = datasets.check(found, lambda videos: track(videos, "frames", console=screen, transient=True))
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
        datasets.write_split(split, found.split)
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
    from stfan.synth import synthesize_set, video_set

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
def preview(
    root: Annotated[Path, typer.Argument(help="A data set.")],
    picture: Annotated[Path, typer.Option("-o", "--out", help="The PNG to write.")],
    clips: Annotated[int, typer.Option(min=1, help="How many, spread over all.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
):
    """Draw a contact sheet: of some clips a few frames, the blurry ones and their truth."""
    from stfan.clips import read_image
    from stfan.datasets import find_videos
    from stfan.preview import COLUMNS, contact_sheet

    check_writable("--out", picture, ".png", overwrite)
    found = [*find_videos(root).clips.items()]

    def spread(items, count):
        return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(min(count, len(items)))]

    def read(name, sides):
        blurry, sharp = (torch.stack([*map(read_image, spread(side, COLUMNS))]) for side in sides)
        return {"name": name, "blurry": blurry, "sharp": sharp}

    contact_sheet((read(*clip) for clip in spread(found, clips)), picture)
    print(picture)
