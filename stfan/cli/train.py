"""stfan train."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from stfan.cli.console import Bar, Lines, say, screen, stoppable
from stfan.files import to_json, whole
from stfan.training import recipe as recipes


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
        from stfan.training.trainer import Run
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"stfan train needs {error.name}; run: pip install 'fac-ext[train]'"
        ) from error
    from stfan.training.card import card
    from stfan.training.checkpoint import latest

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
        facts = card(run, judge=done)
        with whole(folder / "weights.json") as partial:
            partial.write_text(to_json(facts, indent=1) + "\n")
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
