"""Names of files that begin with a dash, or that are no UTF-8; and every printed command runs."""

import os
import shlex

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.cli import deblur
from stfan.video.partial_output import SEGMENT_FRAMES
from support.samples import Interrupt, make_video, names


def test_a_name_that_is_no_utf8(tmp_path, run_cli):
    source = os.fsencode(tmp_path / "in") + b"\xff.mp4"
    make_video(tmp_path / "in.mp4", frames=3, width=16, height=16).rename(os.fsdecode(source))
    done = run_cli("try", os.fsdecode(source), errors="surrogateescape")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout.splitlines()[-1].removeprefix("the whole: "))
    assert os.fsencode(command[2]) == source
    assert [os.fsencode(name) for name in names(tmp_path)] == [
        b"in\xff.mp4",
        b"in\xff_try.html",
        b"in\xff_try.mp4",
    ]


def test_the_command_for_the_whole_runs(tmp_path, run_cli_inprocess, monkeypatch):
    make_video(tmp_path / "-in.mp4", frames=3, width=16, height=16)
    monkeypatch.chdir(tmp_path)
    done = run_cli_inprocess("try", "./-in.mp4", "--strength", "0.5")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout.splitlines()[-1].removeprefix("the whole: "))
    assert command[0] == "stfan" and run_cli_inprocess(*command[1:]).returncode == 0
    assert names(tmp_path) == ["-in.mp4", "-in_deblurred.mp4", "-in_try.html", "-in_try.mp4"]


@pytest.mark.parametrize("given", [["--", "-in.mp4"], ["./-in.mp4"]])
def test_the_command_that_resumes_runs(tmp_path, run_deblur_stub, run_cli_inprocess, monkeypatch, given):
    make_video(tmp_path / "-in.mp4", frames=SEGMENT_FRAMES + 4, width=16, height=16)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(deblur, "graceful_interrupt", Interrupt(SEGMENT_FRAMES + 2))
        code, _, err = run_deblur_stub(*given)
    assert code == 130
    command = shlex.split(err.strip().rpartition(": ")[2])
    assert command[:2] == ["stfan", "deblur"] and run_deblur_stub(*command[2:])[0] == 0
    assert names(tmp_path) == ["-in.mp4", "-in_deblurred.mp4"]
