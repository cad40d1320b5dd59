"""Pixels per second of the trainer, one thread: clips rendered anew for each step against the compact recipe's way.

Both train the same network, the preset compact, in a process of its own; they take turns, and the best of the turns
counts, since whatever else runs can only make a turn slower. The time of rendering the stored clips is given beside it.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path

from harness import environment, json_path

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 5  # steps
FEW = {
    "clips": 40,
    "validation": None,
    "sources": None,
    "iterations": 10**6,
    "checkpoint_every": 10**6,
    "log_every": 10**6,
}
# As the recipe of the article's weights had it: one sequence of ten frames, an optimiser step after every second one.
RENDERED = {"clips": 0, "store": None, "length": 10, "crop": [96, 96], "batch": 1, "window": 2}
RENDERED |= {"pixel_loss": "l1", "clip_norm": 0.5}


def train(recipe, folder, seconds, pipe):
    """Send the pixels per second of CPU time of a run of so many seconds, after a warm-up."""
    import torch

    torch.set_num_threads(1)
    from stfan.training.trainer import Trainer

    trainer = Trainer(recipe, folder, cpu=True)
    steps, started = [], []

    def on_step(trainer, loss):
        steps.append(time.process_time())
        if len(steps) == WARM_UP:
            started.append(time.process_time())

    def late():
        return bool(started) and time.process_time() - started[0] > seconds

    trainer.train(on_step=on_step, stop=late)
    done = [at for at in steps if at > started[0]]
    pixels = len(done) * recipe.batch * recipe.window * recipe.crop[0] * recipe.crop[1]
    pipe.send(pixels / (done[-1] - started[0]))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, help="a folder of pictures")
    parser.add_argument("cutouts", type=Path, help="a folder of RGBA pictures")
    parser.add_argument("scratch", type=Path, help="a folder for the runs and the stored clips")
    parser.add_argument("--seconds", type=float, default=20, help="CPU time of a turn [%(default)s]")
    parser.add_argument("--turns", type=int, default=3, help="[%(default)s]")
    parser.add_argument(
        "--json",
        type=Path,
        help="also write the figures to this file, or to DEVICE-trainer.json in this folder",
    )
    parser.set_defaults(threads=1, device="cpu", commit=None)
    options = parser.parse_args()
    from stfan.training import recipe as recipes

    compact = recipes.read(ROOT / "stfan" / "model" / "pretrained" / "compact.toml")
    places = {"data": str(options.pictures), "cutouts": str(options.cutouts)}
    compact = compact.changed(FEW | places | {"store": str(options.scratch / "clips")})
    render_seconds = render(compact)
    figures = {}
    for precision in ("float32", "bfloat16"):
        for turn in range(options.turns):
            for name, changes in (("rendered", RENDERED), ("stored", {})):
                chosen = compact.changed(changes | {"precision": precision})
                ours, theirs = multiprocessing.get_context("spawn").Pipe()
                worker = multiprocessing.get_context("spawn").Process(
                    target=train,
                    args=(chosen, options.scratch / f"{name}-{precision}-{turn}", options.seconds, theirs),
                )
                worker.start()
                theirs.close()  # so that a worker that fails ends the wait
                figures.setdefault(f"{name} {precision}", []).append(round(ours.recv()))
                worker.join()
    for name, speeds in figures.items():
        print(f"{name:20} {max(speeds) / 1e3:8.0f} thousand pixels a second of CPU time")
    print(f"to render a stored clip: {render_seconds:.2f} s of CPU time")
    if options.json:
        facts = environment(options)
        path = json_path(options.json, facts, "-trainer")
        report = {"environment": facts, "pixels_per_second": figures, "render_seconds": render_seconds}
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(path)


def render(recipe):
    """Render the stored clips; give the seconds of CPU time of each."""
    import torch

    torch.set_num_threads(1)
    from stfan.training.loader import build_synthetic

    stored = build_synthetic(recipe)
    stored.load_clip(0)
    started = time.process_time()
    for number in range(1, recipe.clips):
        stored.load_clip(number)
    return round((time.process_time() - started) / (recipe.clips - 1), 4)


if __name__ == "__main__":
    main()
