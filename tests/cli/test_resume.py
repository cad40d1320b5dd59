"""stfan deblur interrupted: by kill, by Ctrl+C at any time; what it leaves, and how it goes on."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from rich.console import Console

from stfan.cli import app, deblur
from stfan.cli.console import graceful_interrupt
from stfan.video.partial_output import SEGMENT_FRAMES
from support.checkout import ROOT
from support.samples import Interrupt, frames_of, make_video, names, same_frames, sound_of


def wait_for(condition, process):
    for _ in range(6000):  # a loaded machine may take minutes to import torch
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("nothing happened in 5 minutes")


def start(*args):
    command = [sys.executable, "-m", "stfan", "deblur", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def frames_kept(folder):
    """The number of frames that the state in a folder counts, or 0."""
    try:
        head = (folder / "state.safetensors").read_bytes()
    except FileNotFoundError:
        return 0
    return int(json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]["frames"])


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Two segments and a bit, deblurred without interruption."""
    folder = tmp_path_factory.mktemp("long")
    source = make_video(folder / "in.mp4", frames=2 * SEGMENT_FRAMES + 10, width=16, height=16, sound="aac")
    with pytest.raises(SystemExit) as end:
        app.app(["deblur", str(source), "-o", str(folder / "whole.mp4"), "--quiet"])
    assert not end.value.code
    return source, folder / "whole.mp4"


def test_killed_and_resumed_it_is_as_if_uninterrupted(tmp_path, run_cli_inprocess, long_video):
    source, whole = long_video
    out, partial = tmp_path / "out.mp4", tmp_path / "out.mp4.partial"
    process = start(source, "-o", out)
    wait_for(lambda: frames_kept(partial) >= SEGMENT_FRAMES, process)
    process.kill()
    process.wait()
    kept = frames_kept(partial)
    assert not out.exists() and SEGMENT_FRAMES <= kept < 2 * SEGMENT_FRAMES + 10
    done = run_cli_inprocess("deblur", source, "-o", out)
    assert done.returncode == 1 and f"has {kept} frames of an interrupted run; --resume" in done.stderr
    done = run_cli_inprocess("deblur", source, "-o", out, "--resume", "--crf", "30")
    assert done.returncode == 1 and "was begun otherwise (crf was 16 and is 30)" in done.stderr
    done = run_cli_inprocess("deblur", source, "-o", out, "--resume", "--strength", "0.5")
    assert done.returncode == 1 and "strength was 1.0 and is 0.5" in done.stderr
    done = run_cli_inprocess("deblur", source, "-o", out, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == kept
    assert same_frames(out, whole) and out.read_bytes() == whole.read_bytes()
    assert names(tmp_path) == ["out.mp4"]


OFTEN = """
import itertools, sys, time
from stfan.model.deblurrer import Deblurrer
from stfan.video import pipeline

pipeline.CHECKPOINT_SECONDS = 0.0
step, earlier = Deblurrer.__call__, itertools.count(-50)
Deblurrer.__call__ = lambda *args: time.sleep(0.1 if next(earlier) > 0 else 0) or step(*args)
from stfan.cli.app import main

main()
"""


def test_killed_within_a_segment_it_goes_on_from_there(tmp_path, run_cli_inprocess, long_video):
    """What a minute saves of an open segment; here the minute is short, and a frame of the second one takes long."""
    source, whole = long_video
    out, partial = tmp_path / "out.mp4", tmp_path / "out.mp4.partial"
    command = [sys.executable, "-c", OFTEN, "deblur", str(source), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: frames_kept(partial) > SEGMENT_FRAMES + 3, process)
    process.kill()
    process.communicate()
    kept = frames_kept(partial)
    assert SEGMENT_FRAMES + 3 < kept < 2 * SEGMENT_FRAMES
    done = run_cli_inprocess("deblur", source, "-o", out, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == kept
    assert out.read_bytes() == whole.read_bytes() and names(tmp_path) == ["out.mp4"]


def test_interrupted_it_leaves_what_plays_and_says_how_to_go_on(tmp_path, run_cli_inprocess, long_video):
    source, whole = long_video
    out, partial = tmp_path / "out.mp4", tmp_path / "out.mp4.partial"
    process = start(source, "-o", out)
    wait_for(lambda: frames_kept(partial) >= SEGMENT_FRAMES, process)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=600)  # the machine may be loaded
    assert process.returncode == 130 and said == ""
    told = re.search(
        rf"interrupted after (\d+) frames; the frames so far: ({partial}/out.mp4); .*: (.*)", err
    )
    assert told and not out.exists()
    frames = int(told[1])
    some, all_ = frames_of(told[2]), frames_of(whole)
    assert len(some) == frames >= SEGMENT_FRAMES
    assert [time for time, _ in some] == [time for time, _ in all_[:frames]]
    # the last packet, of 1024 samples, begins before the frames end, and the next one would not
    assert 0 < frames * 48000 // 25 - sound_of(told[2])[-1][0] <= 1024
    resume = shlex.split(told[3])
    assert resume[:3] == [sys.executable, "-m", "stfan"]  # as it was started
    done = run_cli_inprocess(*resume[3:])
    assert done.returncode == 0, done.stderr
    assert same_frames(out, whole) and names(tmp_path) == ["out.mp4"]


def test_resume_with_nothing_to_resume_begins(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mp4", frames=3)
    assert run_deblur_stub(source, "--resume")[0] == 0
    code, _, err = run_deblur_stub(source, "--resume")
    assert code == 1 and "exists already" in err


def test_a_changed_input_is_not_gone_on_with(tmp_path, run_deblur_stub, monkeypatch):
    source = make_video(tmp_path / "in.mp4", frames=SEGMENT_FRAMES + 10)
    with monkeypatch.context() as patch:
        patch.setattr(deblur, "graceful_interrupt", Interrupt(SEGMENT_FRAMES + 4))
        code, _, err = run_deblur_stub(source)
    resume = f"to resume from frame {SEGMENT_FRAMES + 4}: stfan deblur {source} --resume"
    assert code == 130 and resume in err
    os.utime(source, (1, 1))
    code, _, err = run_deblur_stub(source, "--resume")
    assert code == 1 and "was begun otherwise (input was " in err
    assert run_deblur_stub(source, "--overwrite")[0] == 0
    assert names(tmp_path) == ["in.mp4", "in_deblurred.mp4"]


def test_auto_goes_on_with_the_dtype_that_it_chose(tmp_path, run_deblur_stub, monkeypatch):
    """And where all frames are there, there is nothing to show of them."""
    monkeypatch.setattr("stfan.cli.options.fast_bfloat16", lambda device: False)
    source = make_video(tmp_path / "in.mp4", frames=SEGMENT_FRAMES, width=16, height=16)
    with monkeypatch.context() as patch:
        patch.setattr(deblur, "graceful_interrupt", Interrupt(SEGMENT_FRAMES))
        assert run_deblur_stub(source, "--device", "cpu")[0] == 130
    code, _, err = run_deblur_stub(source, "--resume", "--dtype", "bf16")
    assert code == 1 and "was begun otherwise (dtype was fp32 and is bf16)" in err
    shown = tmp_path / "p.png", tmp_path / "r.html"
    options = "--dtype", "fp32", "--picture", shown[0], "--report", shown[1]
    code, out, err = run_deblur_stub(source, "--resume", *options)
    assert code == 0 and out.startswith(f"{tmp_path}/in_deblurred.mp4: {SEGMENT_FRAMES} frames, ")
    assert len(out.splitlines()) == 1 and not any(path.exists() for path in shown)
    words = "nothing for --picture or --report to show: an earlier run made all frames"
    assert err == f"stfan: {source}: {words}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_for_an_end_and_a_second_one_ends_at_once(number):
    """SIGTERM, which a system that shuts down sends, as Ctrl+C."""
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), graceful_interrupt(Console(quiet=True)) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        os.kill(os.getpid(), number)
        time.sleep(9)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("start", ["from stfan.__main__ import main; main()", None])
def test_interrupted_while_torch_is_imported(tmp_path, start):
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)"
    )
    command = ["-c", start] if start else ["-m", "stfan"]
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, *command, "info"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stfan: interrupted\n")
