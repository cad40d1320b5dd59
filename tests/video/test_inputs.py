"""Inputs as cameras and broadcasts make them: late, interlaced, bare, damaged, HDR."""

import json
import re
from fractions import Fraction

import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.video.reader import VideoReader  # noqa: E402
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


INTERLACED = {"libx264": {"x264-params": "tff=1"}, "mpeg2video": {"flags": "+ildct+ilme"}}


@pytest.mark.parametrize("codec", INTERLACED)
def test_interlaced_frames_are_warned_of(tmp_path, caplog, codec):
    """Once, and before any frame is computed; the advice runs with FFmpeg's filter."""
    source = make_video(tmp_path / "in.ts", frames=4, height=64, codec=codec, coding=INTERLACED[codec])
    seen = []
    deblur(source, tmp_path / "out.mp4", on_start=lambda resumed: seen.append(caplog.text))
    assert seen == [caplog.text] and len(caplog.records) == 1
    advice = re.search(rf"its frames are interlaced, .*: ffmpeg -i {source} -vf (\w+) ", caplog.text)
    assert advice and advice[1] == "bwdif" and advice[1] in av.filter.filters_available


@pytest.mark.parametrize(("ending", "codec"), [("h264", "libx264"), ("hevc", "libx265")])
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(50)])
def test_bare_streams_have_the_rate_of_their_headers(tmp_path, ending, codec, rate):
    """FFmpeg puts 25 for the file."""
    quiet = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    source = make_video(tmp_path / f"in.{ending}", frames=6, codec=codec, rate=rate, coding=quiet)
    with VideoReader(source) as opened:
        assert opened.rate == rate and opened.video.average_rate == 25
    out = deblur(source, tmp_path / "out.mp4").path
    assert [time for time, _ in frames_of(out)] == pytest.approx([t / rate for t in range(6)], abs=1e-6)


def test_interlaced_bare_streams_have_the_rate_of_frames(tmp_path):
    source = make_video(
        tmp_path / "in.h264", frames=4, height=64, rate=Fraction(30000, 1001), coding=INTERLACED["libx264"]
    )
    with VideoReader(source) as opened:
        assert opened.rate == Fraction(30000, 1001)


def flip(source, path, numbers):
    """Copy a file with some bytes of the packets of these numbers changed, behind their headers."""
    with av.open(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(source.read_bytes())
    for pos, size in (places[number] for number in numbers):
        for at in (pos + size * 3 // 4, pos + size * 7 // 8):
            data[at] ^= 0x5A
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("ending", "codec", "coding"),
    [
        ("mp4", "libx264", {"x264-params": "keyint=1"}),
        ("mp4", "mpeg4", {"qscale": "2"}),
        ("mkv", "ffv1", {"slicecrc": "1", "level": "3"}),
    ],
)
def test_frames_decoded_with_errors_are_counted(tmp_path, here, ending, codec, coding):
    """In the last line and in --json; FFmpeg conceals them."""
    source = make_video(tmp_path / f"in.{ending}", width=160, height=128, codec=codec, coding=coding)
    bad = flip(source, tmp_path / f"bad.{ending}", (3, 7))
    out = tmp_path / "out.mkv"
    for path, count in ((source, 0), (bad, 2)):
        code, said, err = here(path, "-o", out, "--json", "--overwrite")
        assert code == 0 and json.loads(said)["damaged"] == count and json.loads(said)["frames"] == 12, err
        code, said, err = here(path, "-o", out, "--overwrite")
        ending = "; 2 frames were decoded with errors" if count else ""
        assert code == 0 and re.fullmatch(rf"{out}: 12 frames, [\d.]+ frames/s{ending}\n", said) and not err


def test_counting_leaves_the_log_as_it_was(tmp_path, capfd):
    source = make_video(tmp_path / "in.mp4", width=160, height=128, codec="mpeg4", coding={"qscale": "2"})
    bad = flip(source, tmp_path / "bad.mp4", (3,))
    for level in (None, av.logging.ERROR):
        av.logging.set_level(level)
        try:
            with VideoReader(bad) as opened:
                assert sum(1 for _ in opened.frames()) == 12 and opened.damaged == 1
            assert av.logging.get_level() == level
        finally:
            av.logging.set_level(None)
        assert level or capfd.readouterr() == ("", "")
