"""Video in, video out: what goes in comes out, and what can not is said in one line."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

av = pytest.importorskip("av", reason="PyAV is not installed")
from stfan.video import Sink, Source, deblur_video, to_tensor  # noqa: E402

RATE = 25


def make_video(
    path, frames=12, width=64, height=48, times=None, sound=None, codec="libx264", pix_fmt=None, tags=None
):
    """A moving pattern with a tone; times are in 1/1000 s where frames are not evenly spaced."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, RATE)
        video.width, video.height = width, height
        video.pix_fmt = pix_fmt or ("yuv420p" if width % 2 == height % 2 == 0 else "yuv444p")
        video.options = {"crf": "10"} if codec == "libx264" else {}
        if times is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        for key, value in (tags or {}).items():
            setattr(video.codec_context, key, value)
        tone = container.add_stream(sound, 48000) if sound else None
        y, x = np.mgrid[:height, :width]
        for t in range(frames):
            wave = [np.sin((x * (c + 1) + y * 2 + 9 * t) / 12) for c in range(3)]
            rgb = (127 + 100 * np.stack(wave, -1)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = (
                (t, Fraction(1, RATE)) if times is None else (times[t], Fraction(1, 1000))
            )
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound:
            samples = np.sin(np.arange(48000 * frames // RATE) / 20)[None].astype(np.float32)
            for start in range(0, samples.shape[1], 1024):
                part = np.ascontiguousarray(samples[:, start : start + 1024])
                audio = av.AudioFrame.from_ndarray(part, "fltp", "mono")
                if sound == "pcm_s16le":
                    audio = av.AudioFrame.from_ndarray((part * 32767).astype(np.int16), "s16", "mono")
                audio.sample_rate, audio.pts = 48000, start
                container.mux(tone.encode(audio))
            container.mux(tone.encode(None))
    return path


def same(frame):
    return frame


def frames_of(path):
    with av.open(str(path)) as container:
        return [(frame.time, to_tensor(frame).mul(255).numpy()) for frame in container.decode(video=0)]


def sound_of(path):
    with av.open(str(path)) as container:
        return [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.dts is not None]


def copy(source, out, **options):
    with Source(source) as opened:
        return deblur_video(opened, out, same, **options)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_frames_times_and_sound_are_kept(tmp_path, ending):
    source = make_video(tmp_path / f"in.{ending}", sound="aac")
    out = tmp_path / f"out.{ending}"
    assert copy(source, out) == 12
    before, after = frames_of(source), frames_of(out)
    assert [time for time, _ in after] == [time for time, _ in before]
    assert max(np.abs(a - b).mean() for (_, a), (_, b) in zip(before, after, strict=True)) < 3
    assert sound_of(out) == sound_of(source)
    assert list(tmp_path.glob(".*")) == []


def test_uneven_times_are_kept(tmp_path):
    times = [0, 40, 50, 200, 210, 215, 400, 1000, 1040, 1041, 1500, 1600]
    source = make_video(tmp_path / "in.mkv", times=times)
    copy(source, tmp_path / "out.mkv")
    assert [round(time * 1000) for time, _ in frames_of(tmp_path / "out.mkv")] == times


@pytest.mark.parametrize(("width", "height"), [(63, 47), (64, 47), (18, 16)])
def test_odd_sizes_are_kept(tmp_path, width, height):
    source = make_video(tmp_path / "in.mp4", width=width, height=height)
    copy(source, tmp_path / "out.mp4")
    assert frames_of(tmp_path / "out.mp4")[0][1].shape == (3, height, width)


@pytest.mark.parametrize("colorspace", [1, 5, 2])  # BT.709, BT.601, not named
@pytest.mark.parametrize("color_range", [1, 2])  # limited, full
def test_colours_and_their_tags_are_kept(tmp_path, colorspace, color_range):
    tags = {"colorspace": colorspace, "color_range": color_range, "color_primaries": 5, "color_trc": 6}
    source = make_video(tmp_path / "in.mp4", tags=tags)
    with Source(source) as opened, Sink(tmp_path / "out.mp4", opened, crf=0) as sink:
        for frame, _ in opened.packets():
            sink.write(to_tensor(frame), frame)
    tags = []
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            tags.append((frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc))
    assert tags[0] == tags[1] and tags[0][0] == colorspace and tags[0][2:] == (5, 6)
    before, after = frames_of(source)[3][1], frames_of(tmp_path / "out.mp4")[3][1]
    assert (
        np.abs(after - before).mean() < 1
    )  # the quick conversion costs 1.5, a wrong siting 4.6, a matrix 2.6


def test_rgb_video_becomes_yuv_that_says_so(tmp_path):
    source = make_video(tmp_path / "in.mov", codec="libx264rgb", pix_fmt="rgb24")
    copy(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert int(next(container.decode(video=0)).colorspace) != 0  # RGB's
    (_, before), (_, after) = frames_of(source)[3], frames_of(tmp_path / "out.mp4")[3]
    assert np.abs(after - before).mean() < 6  # colours at half the resolution


def test_shape_of_pixels_is_kept(tmp_path):
    source = make_video(tmp_path / "in.mp4", tags={"sample_aspect_ratio": Fraction(128, 117)})
    copy(source, tmp_path / "out.mp4")
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            assert container.streams.video[0].sample_aspect_ratio == Fraction(128, 117)


def test_a_long_last_frame_is_no_truncation(tmp_path):
    source = make_video(tmp_path / "in.mkv", frames=3, times=[0, 40, 4000])
    assert copy(source, tmp_path / "out.mkv") == 3


def test_frames_without_times_follow_at_the_rate(tmp_path):
    """A bare H.264 stream has none."""
    source = make_video(tmp_path / "in.h264")
    copy(source, tmp_path / "out.mp4")
    assert [time for time, _ in frames_of(tmp_path / "out.mp4")] == pytest.approx(
        [t / RATE for t in range(12)], abs=1e-3
    )


def test_a_name_with_a_colon(tmp_path):
    source = make_video(tmp_path / "in.mp4").rename(tmp_path / "12:30.mp4")
    assert copy(source, tmp_path / "at 12:30.mp4") == 12


def test_first_frames_alone(tmp_path):
    source = make_video(tmp_path / "in.mp4", sound="aac")
    assert copy(source, tmp_path / "out.mp4", max_frames=5) == 5
    assert len(frames_of(tmp_path / "out.mp4")) == 5
    assert copy(source, tmp_path / "all.mp4", max_frames=12) == 12
    assert sound_of(tmp_path / "all.mp4") == sound_of(source)


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path):
    source = make_video(tmp_path / "in.mp4")
    out = tmp_path / "out.mp4"
    out.write_text("precious")

    def breaks(frame, seen=[]):  # noqa: B006
        seen.append(frame)
        if len(seen) == 7:
            raise ValueError("enough")
        return frame

    with Source(source) as opened, pytest.raises(ValueError, match="enough"):
        deblur_video(opened, out, breaks)
    assert out.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_the_command_deblurs(tmp_path, stfan):
    source = make_video(tmp_path / "in.mp4", sound="aac")
    done = stfan("deblur", source, "--picture", tmp_path / "in.png")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "in_deblurred.mp4"
    said = re.fullmatch(
        rf"{out}: 12 frames, [\d.]+ s per frame\n{tmp_path}/in.png: frame (\d+), before .*\n", done.stdout
    )
    assert said, done.stdout
    before, after = frames_of(source), frames_of(out)
    assert len(after) == 12
    changes = [np.abs(a - b).mean() for (_, a), (_, b) in zip(before, after, strict=True)]
    assert 0.05 < max(changes) < 40
    with Image.open(tmp_path / "in.png") as picture:
        assert picture.size == (128, 48)
        left = np.array(picture)[:, :64].transpose(2, 0, 1)
    assert np.abs(left - before[int(said[1])][1]).mean() < 1
    again = stfan("deblur", source)
    assert again.returncode == 1 and "--overwrite" in again.stderr
    assert stfan("deblur", source, "--overwrite").returncode == 0


def test_a_real_clip(tmp_path, stfan, shared_video):
    source = shared_video("carphone_pristine.mp4")
    done = stfan("deblur", source, "-o", tmp_path / "out.mp4", "--max-frames", 6)
    assert done.returncode == 0, done.stderr
    assert len(frames_of(tmp_path / "out.mp4")) == 6


def bad_inputs(folder):
    good = make_video(folder / "good.mp4", frames=40)
    matroska = make_video(folder / "good.mkv", frames=40)
    late = folder / "late.mp4"  # its index is behind the pictures, and cut off
    late.write_bytes(good.read_bytes()[: good.stat().st_size * 3 // 4])
    early = folder / "early.mp4"  # its index is before them
    with av.open(str(good)) as source, av.open(str(early), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    early.write_bytes(early.read_bytes()[: early.stat().st_size * 3 // 4])
    (folder / "cut.mkv").write_bytes(matroska.read_bytes()[: matroska.stat().st_size * 3 // 4])
    avi = make_video(folder / "good.avi", frames=40, codec="mjpeg", pix_fmt="yuvj420p")
    (folder / "cut.avi").write_bytes(avi.read_bytes()[: avi.stat().st_size * 3 // 4])
    (folder / "text.mp4").write_text("no video at all\n" * 100)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "picture.png")
    with av.open(str(folder / "sound.m4a"), "w") as container:
        tone = container.add_stream("aac", 48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(tone.encode(frame))
        container.mux(tone.encode(None))
    return {
        "missing.mp4": "no such file",
        "folder.mp4": "is a folder",
        "late.mp4": "truncated",
        "cut.avi": "truncated",
        "early.mp4": "truncated",
        "cut.mkv": "truncated",
        "text.mp4": "not a video, or truncated",
        "empty.mp4": "not a video, or truncated",
        "picture.png": "holds no video stream",
        "sound.m4a": "holds no video stream",
    }


def test_bad_inputs_are_one_line_and_exit_code_1(tmp_path, stfan):
    for name, words in bad_inputs(tmp_path).items():
        done = stfan("deblur", tmp_path / name, "-o", tmp_path / "out.mp4")
        assert done.returncode == 1, (name, done)
        (line,) = done.stderr.splitlines()
        assert line.startswith("stfan: ") and words in line and name in line
        assert not (tmp_path / "out.mp4").exists() and list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("nowhere/out.mp4", "nowhere: no such folder"),
        ("out.txt", "out.txt: not the name of a video file; it should end in .mp4"),
        ("out.webm", "out.webm: not the name of a video file"),
        ("folder.mp4", "folder.mp4: is a folder"),
        ("in.mp4", "in.mp4: would replace its own input"),
        ("there.mp4", "there.mp4: exists already"),
    ],
)
def test_bad_outputs(tmp_path, stfan, out, words):
    source = make_video(tmp_path / "in.mp4", frames=3)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "there.mp4").touch()
    kept = source.read_bytes()
    done = stfan("deblur", source, "-o", tmp_path / out)
    assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert source.read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.mp4", "in.mp4", "there.mp4"]


def test_bad_pictures_and_devices(tmp_path, stfan):
    source = make_video(tmp_path / "in.mp4", frames=3).rename(tmp_path / "in.png")
    kept = source.read_bytes()
    for option, value, words in (
        ("--picture", tmp_path / "nowhere" / "p.png", "--picture must be a file in a folder that exists"),
        ("--picture", tmp_path / "p.xyz", "p.xyz: --picture must be"),
        ("--picture", source, "would replace its own input"),
        ("--device", "magic", "--device must be cpu, cuda or cuda:N, got 'magic'"),
        ("--device", "cuda:99", "--device cuda:99: torch sees"),
    ):
        done = stfan("deblur", source, "-o", tmp_path / "out.mp4", option, value, "--overwrite")
        assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1, (
            done.stderr
        )
        assert source.read_bytes() == kept and [p.name for p in tmp_path.iterdir()] == ["in.png"]


def test_sound_that_does_not_fit_is_named(tmp_path):
    source = make_video(tmp_path / "in.mkv", sound="pcm_s16le")
    assert copy(source, tmp_path / "out.mkv") == 12
    with pytest.raises(OSError, match=r"out.mp4: cannot be written: .*does not take pcm_s16le sound; .mkv"):
        copy(source, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_it_will_not_replace_its_own_input(tmp_path, stfan):
    source = make_video(tmp_path / "in.mp4", frames=3)
    kept = source.read_bytes()
    done = stfan("deblur", source, "-o", source, "--overwrite")
    assert done.returncode == 1 and "would replace its own input" in done.stderr
    assert source.read_bytes() == kept


def test_bad_weights(tmp_path, stfan):
    source = make_video(tmp_path / "in.mp4", frames=3)
    (tmp_path / "w.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0hello")
    for weights, words in (
        ("none.safetensors", "no such weight file"),
        ("w.safetensors", "not a weight file of STFAN"),
    ):
        done = stfan("deblur", source, "--weights", tmp_path / weights)
        assert done.returncode == 1 and words in done.stderr and weights in done.stderr, done.stderr


def test_usage_errors_exit_with_2(stfan):
    assert stfan("deblur").returncode == 2
    assert stfan("deblur", "a.mp4", "--max-frames", "0").returncode == 2


def test_broken_times_are_repaired(tmp_path):
    """Frames with no time, or one that goes back, follow at the last distance."""
    sink = Sink.__new__(Sink)
    sink._last, sink._step = None, 1
    assert [sink._next_time(t) for t in (0, 40, 80, 60, None, 200, 200)] == [0, 40, 80, 120, 160, 200, 240]


def test_upright(tmp_path):
    """A frame that its file says to turn is turned."""

    class Turned:
        rotation = 90  # counter-clockwise

        def reformat(self, **_):
            return self

        def to_ndarray(self):
            pixels = np.zeros((2, 4, 3), np.uint8)
            pixels[0, 3] = 255  # the right end of the top row becomes the left end of it
            return pixels

    shown = to_tensor(Turned())
    assert shown.shape == (3, 4, 2)
    assert torch.equal(shown[0].nonzero(), torch.tensor([[0, 0]]))
