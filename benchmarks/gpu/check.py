"""`make gpu`: everything that only a GPU can say, in one call of 300 s on 16 cores. Nothing is downloaded or installed.

    step                                                     limit s   expected s
    build for the visible GPU (or the packed extension)          200           45
    clips rendered, beside all that is not timed                 150           70
    tests that take a CUDA device, 8 processes                   130     45 to 80
    memcheck, racecheck, synccheck, initcheck beside them        130    60 to 100
    errors in units of the last place, graph, streams             40           15
    bandwidth: 2 shapes, 3 types, 2 layouts, k = 3, 5, 7          60           30
    network: every type, tiles, time of a frame                   60           35
    a video from file to file: frames/s, the network's share      45           20
    250 training steps, which give the rate                       60           25
    150 of them as one CUDA graph                                 45           15

Each step writes to OUT/gpu.json and OUT/log.txt when it ends; none stops another, except that without an extension
nothing runs. What is made lies in WORK, outside the checkout, where `make gpu-train` finds it. --device cpu rehearses
it on tiny sizes. Expected seconds are estimates for an H100 until a run replaces them.
"""

import argparse
import datetime
import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

import machine
import recipes
from steps import Steps

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
TESTS = "tests/operator tests/model tests/training tests/synthesis tests/cli tests/test_devices.py"
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "-ra", "--durations", "10"]


def arguments(description: str) -> argparse.ArgumentParser:
    """Return the parser of what both calls take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--out", type=Path, default=Path("build/gpu"), help="folder of the results [%(default)s]")
    add("--work", type=Path, default=Path(tempfile.gettempdir()) / "fac-ext-gpu", help="[%(default)s]")
    add("--data", type=Path, default=Path(".gpu"), help="folder of photos/ and cutouts/ [%(default)s]")
    add("--ready", type=Path, help="an extension _C*.so that was built for this Python and torch")
    add("--clips", type=int, default=3000, help="number of clips to train on [%(default)s]")
    add("--commit", help="what is recorded as the commit")
    return parser


def begin(options: argparse.Namespace, trains: bool) -> Steps:
    """End the program where the machine lacks something; else return the steps, with the environment recorded."""
    if refused := machine.refusals(options.device, trains):
        sys.exit("\n".join(f"make gpu: {line}" for line in refused))
    if options.ready is None:
        options.ready = next(iter(sorted(options.data.glob("_C*.so"))), None)
    options.out, options.work, options.data = (
        path.resolve() for path in (options.out, options.work, options.data)
    )
    patience = 1 if options.device == "cuda" else 10  # a CPU is slow, and busy
    steps = Steps(options.out, options.work, options.work / "tree", patience)
    steps.guard("copy of the tree", lambda: machine.copy_tree(steps.tree))
    return steps


def record_environment(steps: Steps, options: argparse.Namespace) -> None:
    """Record what runs where."""
    facts = [sys.executable, "-c", ENVIRONMENT, options.device, options.commit or ""]
    steps.run("environment", facts, 60)
    log = (steps.work / "environment.log").read_text(errors="replace").strip().splitlines()
    steps.report["kind"] = options.device
    steps.report["date"] = datetime.date.today().isoformat()
    steps.report["environment"] = json.loads(log[-1]) if log and log[-1].startswith("{") else {}
    steps.write()


ENVIRONMENT = """
import sys, json, types
sys.path.insert(0, "benchmarks")
from harness import environment
print(json.dumps(environment(types.SimpleNamespace(device=sys.argv[1], threads=0, commit=sys.argv[2]))))
"""


def read_json(steps: Steps, name: str) -> None:
    """Put what a step measured into the report."""
    file = steps.work / f"{name}.json"
    if file.exists():
        steps.report[name] = json.loads(file.read_text())
        steps.write()


def main() -> None:
    """Run all steps."""
    options = arguments(__doc__).parse_args()
    cuda = options.device == "cuda"
    steps = begin(options, trains=False)
    python, here = [sys.executable], "benchmarks/gpu"
    if not machine.build(steps, options.device, options.ready, 200):
        sys.exit("make gpu: there is no extension, so nothing else runs; the log says why")
    record_environment(steps, options)
    chosen = recipes.settings(options.data, steps.work, options.clips, tiny=not cuda)
    rendering = None
    if (options.data / "photos").is_dir():
        rendering = steps.start("clips", recipes.render(options.clips, chosen), 150)
    sanitizers = []
    program = [*python, f"{here}/every_kernel.py", "--device", options.device]
    if cuda and shutil.which("compute-sanitizer", path=steps.environment["PATH"]):
        for tool in TOOLS:
            # initcheck must see who writes what
            only = [] if tool == "initcheck" else ["--kernel-name", "kns=_ZN3fac"]
            command = ["compute-sanitizer", "--tool", tool, *only, "--error-exitcode", "1", *program]
            sanitizers.append(steps.start(tool, command, 130, PYTORCH_NO_CUDA_MEMORY_CACHING="1"))
    else:
        sanitizers.append(steps.start("every kernel, no sanitizer", program, 130))
    where = TESTS.split() if cuda else ["tests/operator/test_gpu.py"]
    processes = ["-n", "8"] if cuda else ["-n", "0"]
    marked = ["-o", "addopts=", "--strict-markers", "-m", "not long and not network and not wheels"]
    of_device = ["-k", "cuda or captured_graph or two_streams" if cuda else "units and float32"]
    steps.run("tests", [*python, *PYTEST, *processes, *marked, *where, *of_device], 130, OMP_NUM_THREADS="2")
    for running in sanitizers:
        running.wait()
    if rendering:
        rendering.wait()
    # from here on nothing runs beside what is measured
    exact = [*python, *PYTEST, *marked, "tests/operator/test_gpu.py", "-rP", "-n", "0"]
    steps.run("units of the last place", exact, 40)
    measure = ["--device", options.device, "--json"]
    tiny = ["--shapes", "1,8,16,32", "--kernels", "3", "--repeats", "2"] if not cuda else []
    steps.run(
        "bandwidth", [*python, f"{here}/bandwidth.py", *measure, steps.work / "bandwidth.json", *tiny], 60
    )
    read_json(steps, "bandwidth")
    tiny = ["--compare", "32x48", "--sizes", "tiny"] if not cuda else []
    steps.run(
        "network",
        [*python, f"{here}/network.py", *measure, steps.work / "network.json", *tiny],
        60,
    )
    read_json(steps, "network")
    if importlib.util.find_spec("av") is None:
        steps.skip("pipeline", "there is no PyAV")
    else:
        tiny = ["--size", "64", "48", "--frames", "5"] if not cuda else ["--frames", "100"]
        command = [*python, "benchmarks/bench_pipeline.py", *measure, steps.work / "pipeline.json", *tiny]
        steps.run("pipeline", command, 45)
        read_json(steps, "pipeline")
    if rendering:
        shutil.rmtree(steps.work / "short", ignore_errors=True)
        length = ["iterations=250", "warmup=20"] if cuda else ["iterations=3", "warmup=1"]
        short = recipes.train(steps.work / "short", options.device, chosen + length)
        steps.run("training", short, 60)
        recipes.measured_rate(steps, "training")
        # the same steps; without effect on a CPU
        shutil.rmtree(steps.work / "graph", ignore_errors=True)
        length = ["cuda_graph=true", "iterations=150" if cuda else "iterations=3", "warmup=1"]
        graphed = recipes.train(steps.work / "graph", options.device, chosen + length)
        steps.run("training as a graph", graphed, 45)
        recipes.report_rate(steps, "training as a graph", "iterations_per_second_as_a_graph")
    bad = [step["name"] for step in steps.report["steps"] if step["code"] != 0]
    print(
        f"make gpu: {len(steps.report['steps'])} steps, not good: {', '.join(bad) or 'none'}; {steps.out}/gpu.json"
    )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
