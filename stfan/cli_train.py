"""The command line's second half: stfan train, and stfan data check, synth and preview."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from stfan import recipe as recipes
from stfan.files import to_json, whole
from stfan.screen import Bar, Lines, say, stoppable

data = typer.Typer(help="Data for training.", no_args_is_help=True)
screen = Console(stderr=True)
log = logging.getLogger("stfan")


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
        from stfan.train import Run, latest
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"stfan train needs {error.name}; run: pip install 'fac-ext[train]'"
        ) from error

    wanted = (recipes.read(config) if config else recipes.Recipe()).changed(settings or [])
    place, kept = latest(folder), folder / "recipe.toml"
    if place and resume == "never":
        raise FileExistsError(
            f"{folder}: holds a run with {place.name} iterations; --resume auto goes on from them"
        )
    if place:
        before = recipes.read(kept)
        wanted = check_same(folder, before, wanted if config or settings else before)
    if not wanted.data:
        raise ValueError("recipe: data must be a folder; on the command line: data=FOLDER")
    run = Run(wanted, folder, cpu)
    folder.mkdir(parents=True, exist_ok=True)
    if run.main:
        recipes.write(wanted, kept)
    if place:
        run.load(place)
    bar = Bar(screen, folder.name, wanted.iterations, run.main, "iterations")
    with Lines(screen, not run.main, False).listening(), bar.progress, stoppable(screen, "sequence") as stop:
        bar.start(run.iteration)
        done = run.train(
            minutes,
            on_step=lambda run, loss: bar.step(f", loss {float(loss):.5f}"),
            report=lambda line: say(screen, line),
            stop=stop,
        )
    if run.main:
        card = run.card()
        with whole(folder / "weights.json") as partial:
            partial.write_text(to_json(card, indent=1) + "\n")
        print(folder / "weights.safetensors")
    run.accelerator.end_training()
    if not done:
        if run.main:
            print(
                f"stfan: {run.iteration} of {wanted.iterations} iterations; --resume auto goes on",
                file=sys.stderr,
            )
        raise typer.Exit(130 if stop() else 0)


def check_same(folder, before, wanted):
    """The recipe to go on with; what alters the result must be as it was."""
    free = ("workers", "log_every", "checkpoint_every", "validate_every")
    other = [
        f"{name} was {value} and is {getattr(wanted, name)}"
        for name, value in vars(before).items()
        if name not in free and value != getattr(wanted, name)
    ]
    if other:
        raise ValueError(f"{folder}: was begun otherwise ({'; '.join(other)}); take another folder")
    return wanted


@data.command()
def check(
    root: Annotated[Path, typer.Argument(help="A data set, as it was downloaded, or a folder of clips.")],
    sharp: Annotated[
        Path | None, typer.Argument(help="Of two plain folders the one with the sharp frames.")
    ] = None,
    split: Annotated[
        Path | None, typer.Option(help="The authors' JSON, which says what is for training.")
    ] = None,
    write_split: Annotated[Path | None, typer.Option(help="Also write that JSON.")] = None,
):
    """Say what a data set holds, and what in it is amiss: unpaired, unreadable, of another size."""


@data.command()
def synth(
    source: Annotated[Path, typer.Argument(help="A folder of pictures, or a sharp video.")],
    root: Annotated[Path, typer.Argument(help="The folder to make, with the clips in it.")],
    cutouts: Annotated[Path | None, typer.Option(help="A folder of RGBA pictures, to move before them.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Training clips.")] = 400,
    test_clips: Annotated[int, typer.Option(min=1, help="Test clips, of pictures not trained on.")] = 24,
    frames: Annotated[int, typer.Option(min=2, help="Frames a clip.")] = 10,
    size: Annotated[int, typer.Option(min=16, help="Width and height of a frame.")] = 192,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
):
    """Make blurred and sharp clips; every sixth picture is for the test clips alone."""


@data.command()
def preview(
    root: Annotated[Path, typer.Argument(help="A data set.")],
    picture: Annotated[Path, typer.Option("-o", "--out", help="The PNG to write.")],
    clips: Annotated[int, typer.Option(min=1, help="How many, spread over all.")] = 8,
):
    """Draw a contact sheet: of some clips a few frames, blurry above and sharp below."""
