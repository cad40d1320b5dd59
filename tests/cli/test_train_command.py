"""stfan train and stfan data as commands: killed and resumed, in two processes, on damaged data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stfan.data.paired_videos import find_videos
from stfan.model.network import STFAN
from stfan.training.checkpoint import checkpoints, latest
from support import oracle
from support.runs import SMALL, small

pytest.importorskip("accelerate")
from stfan.model.network import initialise
from stfan.training.trainer import Trainer


@pytest.fixture
def clips(moving_clips):
    return moving_clips


def command(folder, *arguments, processes=1):
    launch = [sys.executable, "-m", "stfan"]
    if processes > 1:
        launch = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(processes),
            "-m",
            "stfan",
        ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [*launch, "train", str(folder), "--cpu", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def settings(clips, **changes):
    chosen = {"data": clips, **SMALL, "crop": [16, 16], **changes}
    return [f"{name}={value}" for name, value in chosen.items()]


@pytest.mark.long
def test_killed_and_resumed_it_is_as_if_uninterrupted(clips, tmp_path):
    """Compare to the bit, also with workers that only the killed run had."""
    chosen = settings(clips, iterations=24, ema_decay=0.9, window=2)
    process = command(tmp_path / "whole", *chosen)
    assert process.wait(300) == 0, process.stderr.read()
    process = command(
        tmp_path / "killed", *settings(clips, iterations=24, ema_decay=0.9, window=2, workers=2)
    )
    deadline = time.monotonic() + 300
    while not checkpoints(tmp_path / "killed") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 4 <= int(latest(tmp_path / "killed").name) < 24
    refused = command(tmp_path / "killed", *chosen)
    _, error = refused.communicate(timeout=300)
    assert refused.returncode == 1 and "--resume auto goes on" in error
    process = command(tmp_path / "killed", "--resume", "auto", "workers=0")
    assert process.wait(300) == 0, process.stderr.read()
    for name in (
        "checkpoints/00000024/model.safetensors",
        "checkpoints/00000024/mean.safetensors",
        "weights.safetensors",
    ):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    refused = command(tmp_path / "killed", "--resume", "auto", "seed=1")
    _, error = refused.communicate(timeout=300)
    assert refused.returncode == 1 and "begun otherwise (seed was 0 and is 1)" in error


@pytest.mark.long
def test_two_processes_are_one_with_twice_the_batch(clips, tmp_path):
    chosen = dict(clip_norm=0.1, schedule="steps", decay_every=4, learning_rate=1e-4, iterations=8)
    process = command(tmp_path / "two", *settings(clips, batch=1, **chosen), processes=2)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    Trainer(small(clips, batch=2, **chosen), tmp_path / "one", cpu=True).train()
    states = [torch.load(latest(tmp_path / name) / "state.pt", weights_only=True) for name in ("one", "two")]
    rates = [[point["learning_rate"] for point in state["curve"] if "loss" in point] for state in states]
    assert rates[0] == rates[1] == pytest.approx([1e-4, 1e-5])
    losses = [[point["loss"] for point in state["curve"] if "loss" in point] for state in states]
    # float32, in another order: eight steps of two frames each, forward and backward
    rounding = oracle.network(STFAN(SMALL["preset"]), torch.float32, frames=8 * 2 * 2)
    assert losses[0] == pytest.approx(losses[1], rel=rounding, abs=0)
    one, two = (
        torch.load(latest(tmp_path / name) / "state.pt", weights_only=True)["optimiser"]["state"]
        for name in ("one", "two")
    )
    # Adam's moments: weights differ by the sign of noise where the gradient is next to nothing.
    for index, moments in one.items():
        size = moments["exp_avg"].abs().max()
        oracle.assert_within(moments["exp_avg"], two[index]["exp_avg"], rounding * size)
    ours, theirs = (load_file(latest(tmp_path / name) / "model.safetensors") for name in ("one", "two"))
    start = initialise(STFAN(SMALL["preset"]), "kaiming", 0).state_dict()
    for name, tensor in ours.items():  # eight steps of at most 1e-4, of which these are a small part
        assert (tensor - theirs[name]).norm() < 0.05 * (tensor - start[name]).norm(), name
    assert json.loads((tmp_path / "two" / "weights.json").read_text())["processes"] == 2


def test_data_check_lists_videos_and_problems(clips, tmp_path, run_cli_inprocess):
    done = run_cli_inprocess("data", "check", clips, "--split", tmp_path / "split.json")
    assert done.returncode == 0 and "4 videos, 24 pairs, no problems" in done.stdout, done.stderr
    entries = json.loads((tmp_path / "split.json").read_text())
    assert [entry["phase"] for entry in entries] == ["train"] * 3 + ["test"] and len(
        entries[0]["sample"]
    ) == 6
    root = tmp_path / "set"
    shutil.copytree(clips, root)
    (root / "train" / "a" / "GT" / "00002.png").unlink()
    (root / "train" / "b" / "input" / "00001.png").write_bytes(b"no picture")
    done = run_cli_inprocess("data", "check", root)
    assert done.returncode == 1 and "4 videos, 23 pairs, 2 problems" in done.stdout, done.stdout + done.stderr
    assert "00002" in done.stdout and "b/input/00001.png: cannot be read" in done.stdout.replace("\n", "")


def test_data_synth_and_preview(tmp_path, run_cli_inprocess):
    pictures, rng = tmp_path / "pictures", np.random.default_rng(0)
    pictures.mkdir()
    for i in range(6):
        picture = np.kron(rng.integers(0, 255, (10, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(picture).save(pictures / f"{i}.png")
    root = tmp_path / "set"
    counts = ("--clips", 2, "--test-clips", 1, "--frames", 3, "--size", 32)
    done = run_cli_inprocess("data", "synth", pictures, root, *counts)
    assert done.returncode == 0, done.stderr
    made = json.loads((root / "clips.json").read_text())["clips"]
    assert sorted(made) == ["test/00000", "train/00000", "train/00001"]
    assert made["test/00000"]["pictures"] == ["5.png"]
    again = run_cli_inprocess("data", "synth", pictures, root, *counts)
    assert again.returncode == 1 and "exists already" in again.stderr
    done = run_cli_inprocess("data", "preview", root, "-o", tmp_path / "sheet.png", "--clips", 2)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 + 3 * (32 + 4), 2 * (18 + 2 * (32 + 4)))


def test_a_video_becomes_clips(tmp_path, run_cli_inprocess):
    pytest.importorskip("av", reason="PyAV is not installed")
    from support.samples import make_video

    source = make_video(tmp_path / "in.mp4", frames=60, width=32, height=32)
    done = run_cli_inprocess("data", "synth", source, tmp_path / "set", "--frames", 4)
    assert done.returncode == 0, done.stderr
    assert len(find_videos(tmp_path / "set", "train").videos[0].blurry) == 4
    done = run_cli_inprocess("data", "synth", source, tmp_path / "other", "--frames", 40)
    assert done.returncode == 1 and "too few" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "set"]


# a worker of a process that xdist began takes 5 seconds to end
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_corrupt_picture_is_named_and_passed_over_only_if_asked(
    clips, tmp_path, run_cli_inprocess, workers
):
    root = tmp_path / "set"
    shutil.copytree(clips, root)
    whole = (root / "train" / "a" / "input" / "00001.png").read_bytes()
    (root / "train" / "a" / "input" / "00001.png").write_bytes(whole[: len(whole) // 2])
    chosen = settings(root, workers=workers)
    done = run_cli_inprocess("train", tmp_path / "run", "--cpu", *chosen)
    assert done.returncode == 1 and "a/input/00001.png: cannot be read" in done.stderr
    assert "skip_corrupt=true" in done.stderr and "Traceback" not in done.stderr
    done = run_cli_inprocess("train", tmp_path / "other", "--cpu", *chosen, "skip_corrupt=true")
    assert done.returncode == 0, done.stderr
    assert latest(tmp_path / "other").name == "00000008"
