"""Times that are missing, repeated or go back, recordings that were joined, and frames that stay for long."""

import errno
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
from stfan.cli.hints import describe_error  # noqa: E402
from stfan.video import muxer  # noqa: E402
from stfan.video.encoder import Encoding  # noqa: E402
from stfan.video.errors import IncompleteOutputError, KeptFramesError  # noqa: E402
from stfan.video.reader import VideoReader  # noqa: E402
from stfan.video.times import (  # noqa: E402
    NO_TIME,
    Join,
    Packets,
    find_joins,
    repair_copy_times,
    repair_frame_times,
)
from support.deblurring import deblur  # noqa: E402
from support.samples import MS, RATE, frames_of, make_video, pattern, sound_of  # noqa: E402

STEP = 40  # ms, of 25 frames a second


def packets(shown, decoded=None, duration=STEP):
    made = Packets(MS)
    for place, time in enumerate(shown):
        made.add(time, time if decoded is None else decoded[place], duration, place)
    return made


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([0, 40, 40, 120, 160], [0, 40, 80, 120, 160]),  # repeated
        ([0, 40, None, 120, 160], [0, 40, 80, 120, 160]),  # missing
        ([0, 40, 30, 120, 160], [0, 40, 80, 120, 160]),  # back
        ([0, 40, 99999, 120, 160], [0, 40, 80, 120, 160]),  # far ahead
        ([None, 40, 80, 120, 160], [0, 40, 80, 120, 160]),
        ([0, 40, 80, 120, None], [0, 40, 80, 120, 160]),
        ([0, 1, 1, 2, 1000], [0, 1, 2, 3, 1000]),  # no room between: no two are the same
    ],
)
def test_one_wrong_time_is_put_between_its_neighbours(given, wanted):
    found = repair_frame_times(packets(given), Fraction(RATE), reordered=False, forward=False)
    assert list(found.times) == wanted and found.base == MS and not found.joins
    assert found.repaired == sum(a != b for a, b in zip(given, wanted, strict=True)) - (wanted[3] == 3)


def test_times_of_reordered_frames():
    """The third frame is shown second; the fourth one's time is that of the second."""
    shown, decoded = [0, 80, 40, 80, 160], [-40, 0, 40, 80, 120]
    found = repair_frame_times(packets(shown, decoded), Fraction(RATE), reordered=True, forward=False)
    assert list(found.times) == [0, 80, 40, 120, 160] and found.repaired == 1


def test_mostly_useless_times_are_the_rates():
    found = repair_frame_times(
        packets([0, 5, None, 4, None, 3]), Fraction(RATE), reordered=False, forward=False
    )
    assert found.times is None and found.base == Fraction(1, RATE) and found.duration(7) == 1


@pytest.mark.parametrize(
    ("clock", "forward", "joins"),
    [
        ([*range(5, 15), *range(3, 9)], None, [10]),
        ([*range(5, 15), 7, *range(15, 20)], None, []),  # one wrong time
        ([*range(5, 15), 99, *range(15, 20)], None, []),
        ([*range(5), *range(100, 105)], None, []),  # a pause
        ([*range(5), *range(100, 105)], 10, [5]),
        ([*range(5), 100, *range(5, 9)], 10, []),
        ([*range(5), *range(4), *range(6)], None, [5, 9]),
    ],
)
def test_a_clock_that_begins_anew(clock, forward, joins):
    assert find_joins(clock, forward) == joins


def test_sound_moves_with_the_video_it_was_joined_with():
    """Its clock changes two packets later in the file; the first one there would lie over the one before."""
    joins = [Join(4, Fraction(-200, 1000), Fraction(240, 1000))]
    times = [0, 40, 80, 120, 160, 200, 240, 0, 40, 80]
    found = repair_copy_times(packets(times), joins, overlapping=False)
    assert list(found.offsets) == [0] * 7 + [NO_TIME, 240, 240]
    assert (found.moved, found.left_out) == (2, 1)
    assert repair_copy_times(packets([0, 40, 80]), [], overlapping=False).offsets is None


def joined(folder, ending, codec, sound):
    """Two recordings, byte by byte one after the other, and the first alone."""
    parts = [
        make_video(
            folder / f"{n}.{ending}",
            frames=n,
            codec=codec,
            sound=sound,
            coding={"bf": "0"} if n == 15 else {},
        )
        for n in (15, 20)
    ]
    skip = 13 if ending == "flv" else 0  # its header, which only the first may have
    path = folder / f"joined.{ending}"
    path.write_bytes(parts[0].read_bytes() + parts[1].read_bytes()[skip:])
    return path, parts


@pytest.mark.parametrize("to", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("ending", "codec", "sound"),
    [("ts", "libx264", "aac"), ("vob", "mpeg2video", "ac3"), ("flv", "libx264", "aac")],
)
def test_joined_recordings_follow_each_other(tmp_path, caplog, ending, codec, sound, to):
    source, parts = joined(tmp_path, ending, codec, sound)
    out = deblur(source, tmp_path / f"out.{to}").path
    times = [time for time, _ in frames_of(out)]
    assert len(times) == 35
    assert [b - a for a, b in pairwise(times)] == pytest.approx([1 / RATE] * 34, abs=2e-3)
    assert next(r.getMessage() for r in caplog.records).startswith(
        "times are converted: its clock begins anew once"
    )
    said = [r.getMessage() for r in caplog.records if "lie over others" in r.getMessage()]
    before = sum(len(sound_of(part)) for part in parts)
    lost = before - len(sound_of(out))
    assert (
        0 <= lost <= 2
        and len(said) == (lost > 0)
        and all(f"but for {lost} of {before} " in line for line in said)
    )
    # the sound of the second part is as far from its pictures as it was
    with av.open(str(out)) as container:
        unit = float(container.streams.audio[0].time_base)
    data = [(pts * unit, packet) for pts, packet in sound_of(out)]
    with av.open(str(parts[1])) as container:
        begins = {s.type: float(s.start_time * s.time_base) for s in container.streams}
        length = 1024 if sound == "aac" else 1536
    second = sound_of(parts[1])[2][1]
    (at,) = (
        time for time, packet in data[len(sound_of(parts[0])) - 2 :] if second.endswith(packet)
    )  # but for ADTS
    expected = times[15] + begins["audio"] - begins["video"] + 2 * length / 48000
    assert at == pytest.approx(expected, abs=3e-3)


def write_times(path, times, sound=None):
    """A motion JPEG of frames with these times."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", RATE)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        for t, pts in enumerate(times):
            frame = pattern(t)
            frame.pts, frame.time_base = t, Fraction(1, RATE)
            for packet in video.encode(frame):
                packet.pts, packet.dts, packet.time_base = pts, t, MS
                container.mux(packet)
    return path


def times_of(path):
    return [round(1000 * time) for time, _ in frames_of(path)]


def test_one_time_that_goes_back_leaves_the_others(tmp_path, caplog):
    source = write_times(tmp_path / "in.mkv", [0, 80, 40, 200, 300, 1000, 1700])
    deblur(source, tmp_path / "out.mp4")
    assert times_of(tmp_path / "out.mp4") == [0, 80, 140, 200, 300, 1000, 1700]
    assert "times of the frames are converted: 1 of 7 are missing or go back" in caplog.text


def test_a_part_is_selected_by_the_repaired_times(tmp_path):
    source = write_times(tmp_path / "in.mkv", [0, 80, 40, 200, 300, 1000, 1700])
    assert deblur(source, tmp_path / "out.mkv", part=(0.1, 0.3)).frames == 2
    assert times_of(tmp_path / "out.mkv") == [0, 60]
    with VideoReader(source, 0.1, 0.3) as reader:
        assert reader.expected_frames == 2


def test_most_times_wrong_and_all_follow_at_the_rate(tmp_path, caplog):
    source = write_times(tmp_path / "in.mkv", [0, 900, 600, 500, 400, 300])
    with VideoReader(source) as reader:
        rate = reader.rate
    deblur(source, tmp_path / "out.mp4")
    assert [t for t, _ in frames_of(tmp_path / "out.mp4")] == pytest.approx(
        [float(t / rate) for t in range(6)]
    )
    assert "most of their times are missing or go back" in caplog.text


def test_sound_that_goes_back_is_left_out_where_it_lies_over_other_sound(tmp_path, caplog):
    source = make_video(tmp_path / "in.flv", frames=15, sound="aac", coding={"bf": "0"})
    data, at = bytearray(source.read_bytes()), 13
    while at < len(data):
        size, time = (
            int.from_bytes(data[at + 1 : at + 4], "big"),
            int.from_bytes(data[at + 4 : at + 7], "big"),
        )
        if data[at] == 8 and time > 300:
            data[at + 4 : at + 7] = (time - 60).to_bytes(3, "big")
        at += 15 + size
    source.write_bytes(data)
    deblur(source, tmp_path / "out.mp4")
    before, after = sound_of(source), sound_of(tmp_path / "out.mp4")
    lost = len(before) - len(after)
    assert (
        f"is kept: but for {lost} of {len(before)} packets, which lie over others" in caplog.text
        and 2 <= lost <= 3
    )
    assert [b - a for a, b in pairwise(times_of(tmp_path / "out.mp4"))] == [STEP] * 14
    assert [packet for _, packet in after[-5:]] == [packet for _, packet in before[-5:]]
    first, last = (1000 * (sounds[-1][0] - sounds[0][0]) for sounds in (before, after))
    with av.open(str(source)) as old, av.open(str(tmp_path / "out.mp4")) as new:
        spans = [float(s * c.streams.audio[0].time_base) for s, c in ((first, old), (last, new))]
    assert spans[1] == pytest.approx(spans[0], abs=2)


@pytest.mark.parametrize("to", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("ending", "times", "last"),
    [
        ("mp4", [0, 40, 80, 1000, 1040, 2000, 2040], 5000),
        ("mkv", [0, 2000, 4000], 6000),
        ("mp4", [0], 3_600_000),
        ("mp4", [0, 3_000_000], 3_000_000),
    ],
    ids=("screen", "slides", "an hour", "one in 50 minutes"),
)
@pytest.mark.parametrize("reordered", [False, True])
def test_the_last_frame_stays_as_long_as_it_did(tmp_path, ending, times, last, to, reordered):
    source = tmp_path / f"in.{ending}"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", RATE)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.options = {"bf": "2" if reordered else "0"}
        video.time_base = MS
        coded = []
        for t in range(len(times)):
            frame = pattern(t)
            frame.pts, frame.time_base = t, Fraction(1, RATE)
            coded += video.encode(frame)
        coded += video.encode(None)
        unit = round(1 / RATE / coded[0].time_base)
        ends = [*times[1:], times[-1] + last]
        late = max(n - round(packet.pts / unit) for n, packet in enumerate(coded))
        for n, packet in enumerate(coded):
            shown = round(packet.pts / unit)
            packet.pts, packet.time_base = times[shown], MS
            packet.dts = times[n - late] if n >= late else times[0] - (late - n)
            packet.duration = ends[shown] - times[shown]
            if n == len(coded) - 1:
                packet.dts, packet.duration = packet.pts, ends[-1] - packet.pts
            container.mux(packet)
    out = deblur(source, tmp_path / f"out.{to}").path
    assert times_of(out) == times
    with av.open(str(out)) as container:
        assert container.duration / 1000 == pytest.approx(times[-1] + last, abs=2)


@pytest.mark.parametrize("to", ["mp4", "mkv"])
def test_a_stream_that_the_container_refuses_in_the_end_leaves_the_frames(tmp_path, monkeypatch, to):
    """As a file that plays; and they are not computed again."""
    source, out = make_video(tmp_path / "in.mp4", sound="aac"), tmp_path / f"out.{to}"
    copied = muxer._copied_packets

    def refuse(container, new, *others):
        yield from [packet for packet, _ in zip(copied(container, new, *others), range(2), strict=False)]
        if new:
            raise av.ArgumentError(errno.EINVAL, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(muxer, "_copied_packets", refuse)
        with pytest.raises(KeptFramesError, match="has all frames, but not stream 1") as error:
            deblur(source, out)
    cause = error.value.cause
    assert isinstance(cause, IncompleteOutputError) and error.value.frames == 12
    assert cause.path == tmp_path / f"out.{to}.partial" / f"out.{to}"
    assert times_of(cause.path) == times_of(source) and not out.exists()
    assert "take that file, or --resume --no-audio" in describe_error(error.value)
    result = deblur(source, out, resume=True)
    assert result.resumed == 12 and len(sound_of(out)) == len(sound_of(source))


def test_lossless_times_of_a_gif(tmp_path):
    from PIL import Image

    pictures = [Image.fromarray(np.full((48, 64, 3), 40 * i, np.uint8)) for i in range(5)]
    source = tmp_path / "in.gif"
    pictures[0].save(source, save_all=True, append_images=pictures[1:], duration=[100, 200, 50, 100, 2000])
    deblur(source, tmp_path / "out.mkv", Encoding())
    assert times_of(tmp_path / "out.mkv") == [0, 100, 300, 350, 450]
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.duration == 2450 * 1000
