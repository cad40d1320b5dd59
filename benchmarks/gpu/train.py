"""`make gpu-train MINUTES=6`: as many steps of the recipe as the time allows, so that the rate falls to zero in time.

On the machine of `make gpu` the tree, the clips and the rate are there; elsewhere they are made first. OUT gets the
weights, their card, the recipe and the run's folder as run.tgz, beside gpu.json and log.txt.
"""

import shutil
import sys
import tarfile
import time
from pathlib import Path

import machine
import recipes
from check import arguments, begin, record_environment

PART = 0.93  # of the steps that the measured rate promises
ENDING = 20  # seconds for imports, the last checkpoint and the card


def main() -> None:
    """Render, measure, train, and put the results in OUT."""
    began = time.monotonic()
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=6.0, help="for all of it [%(default)s]")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    if not (options.data / "photos").is_dir():
        sys.exit(f"make gpu-train: there is no {options.data}/photos; make gpu-pack prepares it")
    steps = begin(options, trains=True)

    def left() -> float:
        return 60 * options.minutes - (time.monotonic() - began)

    if not machine.build(steps, options.device, options.ready, left()):
        sys.exit("make gpu-train: there is no extension; the log says why")
    record_environment(steps, options)
    chosen = recipes.settings(options.data, steps.work, options.clips, tiny=not cuda)
    steps.run("clips", recipes.render(options.clips, chosen), left())
    if not (steps.work / "rate").exists():
        short = ["iterations=250", "warmup=20"] if cuda else ["iterations=3", "warmup=1"]
        shutil.rmtree(steps.work / "short", ignore_errors=True)
        steps.run("training", recipes.train(steps.work / "short", options.device, chosen + short), left())
        if recipes.measured_rate(steps, "training") is None:
            sys.exit("make gpu-train: no rate was measured; the log says why")
    rate = float((steps.work / "rate").read_text())
    iterations = max(int(PART * rate * (left() - ENDING)), 2)
    print(f"make gpu-train: {rate} iterations/s, {left():.0f} s left: {iterations} iterations", flush=True)
    run = steps.work / "run"
    shutil.rmtree(run, ignore_errors=True)
    length = [
        f"iterations={iterations}",
        f"warmup={min(200, iterations // 2)}",
        "learning_rate=6e-4",
        "ema_decay=0.998",
    ]
    minutes = ["--minutes", str(max((left() - ENDING / 2) / 60, 0.05))]
    step = steps.run(
        "long training", recipes.train(run, options.device, chosen + length, *minutes), left() + ENDING
    )
    for name in ("weights.safetensors", "weights.json", "recipe.toml"):
        if (run / name).exists():
            shutil.copy(run / name, steps.out)
    if run.exists():
        older = {place.name for place in sorted((run / "checkpoints").glob("[0-9]*"))[:-1]}
        with tarfile.open(steps.out / "run.tgz", "w:gz") as packed:
            # the newest checkpoint is enough to go on from; one takes 9 MB
            packed.add(run, "run", filter=lambda file: file if Path(file.name).name not in older else None)
    sys.exit(step.code != 0)


if __name__ == "__main__":
    main()
