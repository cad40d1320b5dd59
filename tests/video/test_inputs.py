"""Inputs as cameras and broadcasts make them: late, interlaced, bare, damaged, HDR."""

import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
from support.deblurring import deblur  # noqa: E402
from support.samples import frames_of, make_video  # noqa: E402


def seconds(path):
    """The length that a file states."""
    with av.open(str(path)) as container:
        return container.duration / av.time_base


@pytest.mark.parametrize(("ending", "to"), [("ts", "mp4"), ("ts", "mkv"), ("mkv", "mp4")])
def test_a_late_start_is_left_out(tmp_path, ending, to):
    """All streams are earlier by the same: what begins first begins at 0."""
    late = make_video(tmp_path / f"late.{ending}", sound="aac", late=40000)
    out = deblur(late, tmp_path / f"out.{to}").path
    before, after = frames_of(late), frames_of(out)
    with av.open(str(late)) as old, av.open(str(out)) as new:
        begin = min(float(s.start_time * s.time_base) for s in old.streams)
        sounds = [float(c.streams.audio[0].start_time * c.streams.audio[0].time_base) for c in (old, new)]
    assert begin > 39999 and seconds(out) < 1
    unit = 1e-3 if to == "mkv" else 1e-5
    # Where the sound of an MP4 begins before 0, a Matroska file is later by as much.
    assert [t for t, _ in after] == pytest.approx([t - begin for t, _ in before], abs=unit)
    assert sounds[1] == pytest.approx(sounds[0] - begin, abs=unit)
