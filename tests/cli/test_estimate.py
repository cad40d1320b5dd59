"""What stfan deblur says of the time and the memory of a long video."""

import pytest

pytest.importorskip("typer", reason="typer is not installed")
from stfan.cli import estimate
from stfan.cli.estimate import Estimate, describe, duration, peak_memory
from support.samples import make_video


def lines(total, seconds, resumed=0, frames=20):
    """What is said of frames that take so long each, the first one a hundred times as long."""
    said, now = [], 0.0
    one = Estimate(total, "cpu", said.append, lambda: now)
    one.start(resumed)
    for i in range(frames):
        now += seconds * (100 if i == 0 else 1)
        one.add()
    return said


def test_the_first_frames_tell_of_the_rest():
    """At 0.8 s a frame, 3 s are over with the 4th frame after the first."""
    (line,) = lines(205, 0.8)
    assert line.startswith("about 2 min 40 s for 200 frames, ") and " GB; Ctrl+C keeps" in line
    (line,) = lines(1205, 0.8, resumed=1000)
    assert line.startswith("about 2 min 40 s for 200 frames, ")


def test_of_short_work_nothing_is_said():
    assert lines(20, 0.8) == [] and lines(10_000, 0.001) == []
    assert lines(3, 0.8) == []  # a file with more frames than it says


def test_of_an_unknown_number_of_frames():
    (line,) = lines(None, 0.8)
    assert line.startswith("about 0.8 s a frame, ") and line.endswith("does not say how many frames it has")
    assert describe(1, 0, 60, None).startswith("about 1 min 0 s for 60 frames; ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(20.4, "20 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (7530, "2 h 6 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_the_memory_is_at_least_what_is_held():
    held = bytearray(300_000_000)
    held[::4096] = b"x" * len(held[::4096])
    assert 300_000_000 <= peak_memory("cpu") < 1e12


def test_the_command_says_it(tmp_path, run_deblur_stub, monkeypatch):
    monkeypatch.setattr(estimate, "FIRST", 0.0)
    monkeypatch.setattr(estimate, "LONG", 0.0)
    source = make_video(tmp_path / "in.mp4", frames=6)
    code, _, err = run_deblur_stub(source)
    assert code == 0 and err.startswith("stfan: about 0 s for 4 frames, "), err
    assert run_deblur_stub(source, "--overwrite", "-q") == (0, "", "")
