"""Turn the figures of the trials (results/*.json) into the tables of LOG.md: python research/tables.py."""

import json
import sys
from math import fsum
from pathlib import Path

RESEARCH = Path(__file__).resolve().parent
sys.path.insert(0, str(RESEARCH.parent / "benchmarks"))

from harness import renewed, threads_of  # noqa: E402
from training_report import DRIFTS, gains, table  # noqa: E402

PAGE = RESEARCH / "LOG.md"


def race_table(race):
    """The networks at the last point of CPU time that all of them reached."""
    common = max(
        set.intersection(*({p["cpu_seconds"] for p in n["curve"]} for n in race["networks"].values()))
    )
    rows = []
    for name, network in race["networks"].items():
        point = next(p for p in network["curve"] if p["cpu_seconds"] == common)
        size = f"{network['parameters']:,}", network["kflop_per_pixel"]
        rows.append([name, network["what"], *size, point["iterations"], *gains(point["clean"])])
    environment = race["environment"]
    return (
        f"{environment['device']}, {threads_of(environment)}, torch {environment['torch']}, {environment['date']}; "
        f"after {common} s of CPU time each. {race['networks_recipe']}.\n\n"
        + table(["", "network", "parameters", "kFLOP/px", "iterations", *(f"{d} px" for d in DRIFTS)], rows)
    )


def pairs_table(race):
    """Every point of every way to train that was tried."""
    rows = [
        [pair["what"], point["cpu_seconds"], point["iterations"], point["megapixels"], *gains(point["clean"])]
        for pair in race["pairs"].values()
        for point in pair["curve"]
    ]
    heading = ["way", "CPU s", "iterations", "megapixels", *(f"{drift} px" for drift in DRIFTS)]
    return f"{race['pairs_recipe']}.\n\n{table(heading, rows)}"


def restarts_table(report):
    """Every point of every second stage that was tried."""
    rows = [
        [
            way["what"],
            f"{point['iterations']:,}",
            *gains(point["clean"]),
            f"{fsum(point['noisy'].values()) / 4:+.2f}",
        ]
        for way in report["ways"].values()
        for point in way["curve"]
    ]
    heading = ["way", "iterations", *(f"{drift} px" for drift in DRIFTS), "mean with noise"]
    return f"{report['device']}, {report['date']}. {report['recipe']}.\n\n{table(heading, rows)}"


def directions_table(report):
    """Gains on blurs of few and all directions, with and without supervision; then, sharpening along each axis."""
    rows = [
        [
            way["what"],
            f"{point['iterations']:,}",
            *(f"{point[key]:+.2f}" if key in point else "" for key in ("below_28", "28_to_34", "above_34")),
            "" if point["correlation"] is None else f"{point['correlation']:.2f}",
        ]
        for way in report["ways"].values()
        for point in way["curve"]
    ]
    heading = ["way", "iterations", "below 28 dB", "28 to 34 dB", "above 34 dB", "correlation"]
    axes = [
        [row["weights"], str(row["px"]), row["moved"], f"{row['along']:.2f}", f"{row['across']:.2f}"]
        for row in report["axes"]["rows"]
    ]
    second = table(["weights", "px a frame", "moved along", "along it", "across it"], axes)
    where = f"{report['device']}, {report['date']}"
    return f"{where}. {report['recipe']}.\n\n{table(heading, rows)}\n\n{report['axes']['what']}.\n\n{second}"


def stages_table(report):
    """The gains of each stage of the weights `compact` against the hours of the clock, on one thread."""
    rows, hours, iterations = [], 0.0, 0
    for stage in report["stages"]:
        last = 0
        for point in stage["curve"]:
            if "iterations_per_second" in point:
                hours += (point["iteration"] - last) / point["iterations_per_second"] / 3600
                last = point["iteration"]
            elif "gains" in point:
                clean, noisy = (point["gains"][kind] for kind in ("clean", "noisy"))
                means = (f"{fsum(kind.values()) / len(DRIFTS):+.2f}" for kind in (clean, noisy))
                done = f"{iterations + point['iteration']:,}"
                rows.append([stage["stage"], f"{hours:.2f}", stage["device"], done, *gains(clean), *means])
        iterations += stage["iterations"]
    heading = ["stage", "hours", "device", "iterations", *(f"{drift} px" for drift in DRIFTS)]
    return f"{report['what']}:\n\n" + table([*heading, "mean", "mean with noise"], rows)


def mean(gains):
    return f"{fsum(gains) / len(gains):+.2f}"


def past_table(report):
    """What the network gains with parts of the past."""
    rows = [[words, *(mean(gains[drift]) for drift in DRIFTS)] for words, gains in report["past"].items()]
    return table(["what the network is given", *(f"{drift} px" for drift in DRIFTS)], rows)


def steering_table(report):
    """Gains of the network with a filter after it, by what the filter is told."""
    rows = [[row["what"], *(mean(row["gains"][drift]) for drift in DRIFTS)] for row in report["steering"]]
    return table(["what the filter is told", *(f"{drift} px" for drift in DRIFTS)], rows)


def motion_trials_table(report):
    """Short trials from the same weights, on the same clips in the same order: losses, and gains where one ended."""
    rows = [
        [
            trial["what"],
            trial["steps"],
            trial["cpu_seconds"],
            *(f"{loss:.2f}" for loss in trial["losses"][:4]),
            ", ".join(gains(trial["gains"])) if "gains" in trial else "stopped",
        ]
        for trial in report["trials"]
    ]
    heading = ["arm", "steps", "CPU s", *(f"loss to {10 * (i + 1)}" for i in range(4)), "0, 2, 4, 8 px"]
    return f"{report['recipe']}.\n\n" + table(heading, rows)


def motion_estimates_table(report):
    """How well displacement and blur are known, and what a filter after the network makes of it."""
    rows = [
        [entry["what"], entry["cpu_seconds"], entry["of"], *(entry["values"].get(d, "") for d in DRIFTS)]
        for entry in report["estimates"]
    ]
    return table(["way", "CPU s", "measured", *(f"{drift} px" for drift in DRIFTS)], rows)


def moved_table(report):
    """Gains with last frame, last output and state moved, without training for it."""
    drifts = DRIFTS[1:]
    rows = [[row["what"], *(f"{row['gains'][drift]:+.2f}" for drift in drifts)] for row in report["moved"]]
    return table(["moved", *(f"{drift} px" for drift in drifts)], rows)


def read(name):
    """Read a file of results."""
    return json.loads((RESEARCH / "results" / name).read_text())


def log_page(page):
    """Return LOG.md with the text between its marks renewed."""
    race, motion, trials = (read(f"compact-{name}.json") for name in ("race", "motion", "motion-trials"))
    texts = {
        "race": race_table(race),
        "ways": pairs_table(race),
        "restarts": restarts_table(read("compact-restarts.json")),
        "directions": directions_table(read("compact-directions.json")),
        "stages": stages_table(read("compact-stages.json")),
        "past": past_table(motion),
        "steering": steering_table(motion),
        "motion-estimates": motion_estimates_table(trials),
        "motion-trials": motion_trials_table(trials),
        "motion-moved": moved_table(trials),
    }
    return renewed(page, texts)


if __name__ == "__main__":
    PAGE.write_text(log_page(PAGE.read_text()))
