"""The command stfan train."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stfan.cli.console import LogHandler, ProgressBar, graceful_interrupt, print_line, stderr_console
from stfan.files import atomic_write, to_json

if TYPE_CHECKING:  # it needs torch, which takes seconds to import
    from stfan.training.recipe import Recipe

# Settings that do not alter the result of a run, and that a resumed one may change.
FREE = ("workers", "log_every", "checkpoint_every", "validate_every", "skip_corrupt")

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of this run.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME=VALUE]...", help="Settings of the recipe: data=DVD batch=4 ..."),
]
Config = Annotated[
    Path | None, typer.Option("-c", "--config", help="A recipe (TOML); the article's if not given.")
]
Resume = Annotated[
    Literal["never", "auto"],
    typer.Option(help="auto: go on from the newest checkpoint, if there is one."),
]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Stop after this many minutes, ready to be resumed.")
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPU, even if there is a GPU.")]


def train(
    folder: Folder,
    settings: Settings = None,
    config: Config = None,
    resume: Resume = "never",
    minutes: Minutes = None,
    cpu: Cpu = False,
) -> None:
    """Train the network; on several devices: torchrun --nproc-per-node N -m stfan train ..."""
    import fac_ext  # noqa: F401  # its errors say themselves what to do

    try:
        from stfan.training.trainer import Trainer
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        reason = f"needs {error.name}" if missing else f"cannot be loaded: {error}"
        raise ImportError(f"stfan train {reason}; run: pip install 'fac-ext[train]'") from error
    from stfan.training import recipe as recipes
    from stfan.training.checkpoint import latest

    newest = latest(folder)
    check_folder(folder, newest, resume)
    recipe = choose_recipe(folder, newest, settings or [], config, resume)
    with LogHandler(stderr_console).attached():
        trainer = Trainer(recipe, folder, cpu)
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.main:
        recipes.write(recipe, folder / "recipe.toml")
    if newest:
        trainer.load(newest)
    done, stop = run_training(trainer, minutes)
    if trainer.main:
        write_card(trainer, done)
        print(folder / "weights.safetensors")
        if not done:
            progress = f"{trainer.iteration} of {recipe.iterations} iterations"
            print(f"stfan: {progress}; --resume auto goes on", file=sys.stderr)
    trainer.accelerator.end_training()
    if stop():
        raise typer.Exit(130)


def check_folder(folder: Path, newest: Path | None, resume: str) -> None:
    """Raise an OSError if the folder is a file, or holds a run that is not to be resumed."""
    if newest and resume == "never":
        raise FileExistsError(
            f"{folder}: holds a run with {int(newest.name)} iterations; --resume auto goes on from them"
        )
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: must be the folder of a run, is a file")


def choose_recipe(
    folder: Path, newest: Path | None, settings: list[str], config: Path | None, resume: str
) -> "Recipe":
    """Return the recipe of --config, else of the run that is resumed, else the article's, with the settings changed.

    Raises:
        ValueError: a setting is wrong, data is missing, or the resumed run would have another result.
    """
    from stfan.training import recipe as recipes

    path = folder / "recipe.toml"
    earlier = recipes.read(path) if resume == "auto" and path.exists() else None
    recipe = (recipes.read(config) if config else earlier or recipes.Recipe()).changed(settings)
    if newest and earlier:
        check_same(folder, earlier, recipe)
    if not recipe.data:
        raise ValueError("recipe: data must be a folder; on the command line: data=FOLDER")
    return recipe


def check_same(folder: Path, earlier: "Recipe", recipe: "Recipe") -> None:
    """Raise ValueError, naming each difference, if a resumed run would have another result."""
    changes = [
        f"{name} was {value} and is {getattr(recipe, name)}"
        for name, value in vars(earlier).items()
        if name not in FREE and value != getattr(recipe, name)
    ]
    if changes:
        raise ValueError(f"{folder}: was begun otherwise ({'; '.join(changes)}); take another folder")


def run_training(trainer: Any, minutes: float | None) -> tuple[bool, Callable[[], bool]]:
    """Train with a progress bar; return whether all iterations are done, and whether Ctrl+C was pressed."""
    bar = ProgressBar(
        stderr_console, trainer.folder.name, trainer.recipe.iterations, trainer.main, "iterations"
    )
    handler = LogHandler(stderr_console, quiet=not trainer.main)

    def on_step(trainer: Any, loss: Any) -> None:
        if not bar.progress.disable:  # else no GPU has to wait for its loss
            bar.advance(f", loss {float(loss):.5f}")

    def report(line: str) -> None:
        if trainer.main:
            print_line(stderr_console, line)

    with handler.attached(), bar.progress, graceful_interrupt(stderr_console, "sequence") as stop:
        bar.start(trainer.iteration)
        done = trainer.train(minutes, on_step=on_step, report=report, stop=stop)
    return done, stop


def write_card(trainer: Any, with_scores: bool) -> None:
    """Write the card of the weights and the run's record, with scores if `with_scores` is set."""
    from stfan.training.card import build_card, build_record, card_text, judge

    scores = judge(trainer) if with_scores else {}
    for name, text in (
        ("record.json", to_json(build_record(trainer, scores)) + "\n"),
        ("weights.json", card_text(build_card(trainer, scores))),
    ):
        with atomic_write(trainer.folder / name) as partial:
            partial.write_text(text)
