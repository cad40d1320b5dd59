"""The scripts of `make gpu`, rehearsed on a CPU: no step stops another; what a machine lacks is said first."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fac_ext
from support.checkout import ROOT, run
from support.discs import discs

SCRIPTS = ROOT / "benchmarks/gpu"
sys.path.insert(0, str(SCRIPTS))
machine, steps = (importlib.import_module(name) for name in ("machine", "steps"))


@pytest.fixture
def data(tmp_path):
    """A folder of pictures and cut-outs."""
    (tmp_path / "data").mkdir()
    discs(tmp_path / "data/photos", 6, 64)
    discs(tmp_path / "data/cutouts", 2, 40, alpha=True)
    return tmp_path / "data"


def test_no_step_stops_another(tmp_path, capsys):
    made = steps.Steps(tmp_path / "out", tmp_path / "work", ROOT)
    python = [sys.executable, "-c"]
    made.run("fails", [*python, "print('three'); raise SystemExit(3)"], 60)
    made.run("is too slow", [*python, "import time; print('begun', flush=True); time.sleep(60)"], 1)
    made.run("is not there", [tmp_path / "nothing"], 60)
    beside = made.start("beside", [*python, "print('good')"], 60)
    made.guard("a function", lambda: 1 / 0)
    assert beside.wait().code == 0
    found = json.loads((tmp_path / "out/gpu.json").read_text())["steps"]
    assert [step["code"] for step in found] == [3, None, 127, 1, 0]
    assert found[0]["said"] == "three" and "division" in found[3]["said"]
    assert found[1]["seconds"] < 15
    log = (tmp_path / "out/log.txt").read_text()
    assert all(f"== {step['name']}: {step['code']}" in log for step in found)
    assert "is too slow: stopped at its limit" in capsys.readouterr().out


def test_what_a_machine_lacks_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.refusals("cpu") == []
    lines = machine.refusals("cuda")
    assert len(lines) == 2 and "sees no GPU; DEVICE=cpu" in lines[0] and "no nvcc" in lines[1]
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    monkeypatch.setattr(machine, "NEEDED", ("numpy", "no_such_package"))
    assert machine.refusals("cpu") == [
        f"there is no no_such_package for {sys.executable}",
        "torch must be 2.10 or newer, is 2.9.1+cpu",
    ]


def test_another_nvcc_is_said_first(tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho release 12.8, V12.8.1\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.refusals("cuda") == ["nvcc is of CUDA 12.8, torch of CUDA 13.0"]


def test_a_pack_says_what_travels(tmp_path, data):
    said = run(sys.executable, SCRIPTS / "pack.py", "--data", data, "--to", tmp_path / "pack")
    assert "6 pictures, 2 cut-outs, no extension" in said and "of 64 MiB" in said
    assert len(list((tmp_path / "pack/photos").glob("*.jpg"))) == 6
    done = subprocess.run(
        [sys.executable, SCRIPTS / "pack.py", "--data", tmp_path / "none"], capture_output=True, text=True
    )
    assert (
        done.returncode and done.stderr.strip() == f"make gpu-pack: there is no folder {tmp_path}/none/photos"
    )


@pytest.mark.long
def test_both_calls_on_a_cpu(tmp_path, data):
    """Run every step on tiny sizes, then train for some seconds on what the first call left."""
    pytest.importorskip("accelerate")
    extension = next(Path(fac_ext.__file__).parent.glob("_C*.so"))
    options = ["--device", "cpu", "--out", tmp_path / "out", "--work", tmp_path / "work", "--data", data]
    options += ["--ready", extension, "--clips", "4"]
    run(sys.executable, SCRIPTS / "check.py", *options)
    report = json.loads((tmp_path / "out/gpu.json").read_text())
    assert {step["code"] for step in report["steps"]} == {0} and len(report["steps"]) == 12
    assert report["kind"] == "cpu" and report["environment"]["torch"] == torch.__version__
    assert len(report["bandwidth"]["operators"]) == 6 and len(report["network"]["compared"]) == 16
    assert report["iterations_per_second"] > 0 and report["iterations_per_second_as_a_graph"] > 0
    (pipeline,) = (step for step in report["steps"] if step["name"] == "pipeline")
    if importlib.util.find_spec("av"):
        assert all(run["frames_per_second"] > 0 for run in report["pipeline"]["runs"].values())
    else:
        assert pipeline["said"] == "skipped: there is no PyAV"
    run(sys.executable, SCRIPTS / "train.py", *options, "--minutes", "0.6")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"gpu.json", "log.txt", "run.tgz", "weights.safetensors", "weights.json", "recipe.toml"}
