"""An error that nobody foresaw is one line and leaves what any error leaves; STFAN_TRACEBACK=1 shows all of it."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.cli.hints import describe_error
from stfan.video import pipeline
from stfan.video.errors import KeptFramesError
from support.checkout import ROOT
from support.samples import Trail, make_video, names

REPORT = "(a bug of stfan: please report it, with what is printed if STFAN_TRACEBACK=1 is set)"


@pytest.fixture
def bug(monkeypatch):
    """Make the network fail at the fourth frame as a bug would."""

    def call(self, frame, right=Trail.__call__):
        self.count = getattr(self, "count", 0) + 1
        return {}["no such key"] if self.count == 4 else right(self, frame)

    monkeypatch.delenv("STFAN_TRACEBACK", raising=False)
    monkeypatch.setattr(Trail, "__call__", call)


def test_one_line_and_nothing_under_the_final_name(tmp_path, run_deblur_stub, bug):
    source = make_video(tmp_path / "in.mp4", frames=8)
    code, out, err = run_deblur_stub(source)
    assert (code, out, err) == (1, "", f"stfan: internal error: KeyError: 'no such key' {REPORT}\n")
    assert names(tmp_path) == ["in.mp4"]


def test_frames_that_are_safe_are_kept(tmp_path, run_deblur_stub, bug, monkeypatch):
    monkeypatch.setattr(pipeline, "SEGMENT_FRAMES", 3)
    code, _, err = run_deblur_stub(make_video(tmp_path / "in.mp4", frames=8))
    assert code == 1 and len(err.splitlines()) == 1
    kept = tmp_path / "in_deblurred.mp4.partial"
    assert err.endswith(f"{REPORT} (3 frames are kept in {kept}; --resume goes on from them)\n")
    assert kept.is_dir() and not (tmp_path / "in_deblurred.mp4").exists()


def test_the_traceback_is_shown_if_asked_for(tmp_path, run_deblur_stub, bug, monkeypatch):
    monkeypatch.setenv("STFAN_TRACEBACK", "1")
    with pytest.raises(KeyError, match="no such key"):
        run_deblur_stub(make_video(tmp_path / "in.mp4", frames=8))
    assert names(tmp_path) == ["in.mp4"]


def test_what_is_foreseen_is_no_internal_error():
    assert describe_error(ValueError("in.mp4: is empty")) == "in.mp4: is empty"
    assert describe_error(ZeroDivisionError()) == f"internal error: ZeroDivisionError {REPORT}"


@pytest.mark.parametrize("wanted", ["", "1"])
def test_a_process_with_a_bug(tmp_path, wanted):
    """Show no picture of a traceback, whatever typer and rich have in mind."""
    code = "import stfan.cli.info as i; i.devices = lambda: [][0]; from stfan.__main__ import main; main()"
    environment = os.environ | {"STFAN_TRACEBACK": wanted, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "info"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    if wanted:
        assert done.stderr.startswith("Traceback (most recent call last):") and "\u256d" not in done.stderr
        assert done.stderr.endswith("IndexError: list index out of range\n")
    else:
        assert done.stderr == f"stfan: internal error: IndexError: list index out of range {REPORT}\n"


@pytest.mark.parametrize(("damaged", "words"), [(0, ""), (1, "; 1 frame was "), (2, "; 2 frames were ")])
def test_one_frame_is_no_frames(tmp_path, damaged, words):
    result = pipeline.DeblurResult(tmp_path, True, 3, 0, 0, 1.0, damaged)
    assert result.damage == (f"{words}decoded with errors" if words else "")
    assert describe_error(KeptFramesError(ValueError("bad"), 1, tmp_path)).startswith(
        "bad (1 frame is kept in"
    )
