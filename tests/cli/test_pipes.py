"""stfan deblur between other programs: y4m in and out, messages on stderr, a reader that goes away."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.video.pipe import FORMATS, PipeReader, PipeWriter  # noqa: E402
from stfan.video.reader import VideoReader  # noqa: E402
from support.samples import Interrupt, frames_of, make_video, names, pattern  # noqa: E402


def y4m(frames=6, pix_fmt="yuv420p", width=32, height=24, rate=25):
    """What ffmpeg -f yuv4mpegpipe - writes of the tests' pattern."""
    file = io.BytesIO()
    with av.open(file, "w", format="yuv4mpegpipe", options={"strict": "-1"}) as container:
        stream = container.add_stream("rawvideo", rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for t in range(frames):
            frame = pattern(t, width, height).reformat(format=pix_fmt)
            frame.pts = t
            container.mux(stream.encode(frame))
    return file.getvalue()


def bare(header="", frame="", frames=3, size=16 * 16 * 3 // 2):
    """A stream of noise, 16x16, with words of one's own in its headers."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(16, 236, size, np.uint8).tobytes() for _ in range(frames)]
    return f"YUV4MPEG2 W16 H16 F30000:1001{header}\n".encode() + b"".join(
        f"FRAME{frame}\n".encode() + one for one in noise
    )


def written(data):
    """The header of a stream that is made of another one, and its frames' bytes."""
    out = io.BytesIO()
    with PipeReader(io.BytesIO(data)) as reader:
        writer = PipeWriter(out, reader)
        writer.begin(Path("-"), None)
        for frame, coded in reader.coded_frames():
            writer.write(frame, writer.quantise(coded.coding.to_rgb(coded.samples)))
    header, _, frames = out.getvalue().partition(b"\n")
    return header.decode(), frames


def luma(data):
    """The luma of a y4m stream, (frames, height, width), and its rate."""
    with av.open(io.BytesIO(data), format="yuv4mpegpipe") as container:
        rate = container.streams.video[0].average_rate
        return np.stack([luma_of(frame) for frame in container.decode(video=0)]), rate


def luma_of(frame):
    plane = frame.planes[0]
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width].astype(int)


@pytest.fixture
def piped(run_deblur_stub, monkeypatch):
    """stfan deblur with bytes on its standard input: piped(data, ...) -> (exit code, bytes out, err)."""

    def run(data, *args):
        out = io.BytesIO()
        monkeypatch.setattr("stfan.cli.job.sys.stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=bool))
        monkeypatch.setattr("stfan.cli.job.PipeWriter", writer(out))
        code, said, err = run_deblur_stub(*args)
        assert said == ""
        return code, out.getvalue(), err

    def writer(out):
        from stfan.video.pipe import PipeWriter

        return lambda file, *args: PipeWriter(out, *args)

    return run


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_y4m_in_and_out(piped, pix_fmt):
    """By a stand-in that leaves the first frame as it is: it goes through bit for bit."""
    data = y4m(pix_fmt=pix_fmt)
    code, out, err = piped(data, "-", "-o", "-", "--pix-fmt", pix_fmt)
    # On a slow machine after a line that says how long it takes.
    assert code == 0 and re.search(r"^-: 6 frames, ", err, re.M), err
    (before, rate), (after, same_rate) = luma(data), luma(out)
    assert after.shape == before.shape and rate == same_rate == 25
    assert np.array_equal(after[0], before[0]) and not np.array_equal(after[5], before[5])


def test_from_a_file_and_into_a_file(tmp_path, piped, run_deblur_stub, monkeypatch):
    source = make_video(tmp_path / "in.mkv", frames=5, codec="ffv1", pix_fmt="yuv420p", rate=30)
    code, out, err = piped(b"", source, "-o", "-", "--max-frames", "4")
    assert code == 0 and len(luma(out)[0]) == 4 and luma(out)[1] == 30, err
    monkeypatch.setattr(
        "stfan.cli.job.sys.stdin", SimpleNamespace(buffer=io.BytesIO(y4m(rate=30)), isatty=bool)
    )
    code, said, err = run_deblur_stub("-", "-o", tmp_path / "out.mp4", "--end", "0.1")
    assert code == 0 and "out.mp4: 3 frames, " in said, err
    assert [time for time, _ in frames_of(tmp_path / "out.mp4")] == pytest.approx([0, 1 / 30, 2 / 30])
    assert names(tmp_path) == ["in.mkv", "out.mp4"]


def test_a_stream_that_ends_within_a_frame(tmp_path, piped, run_deblur_stub, monkeypatch):
    """It is an error, as of a file; the frames before are there."""
    data = y4m(frames=4)
    code, out, err = piped(data[:-100], "-", "-o", "-")
    assert code == 1 and err.endswith("stfan: -: broken or truncated: ends within frame 3\n")
    assert len(luma(out)[0]) == 3
    stdin = SimpleNamespace(buffer=io.BytesIO(data[:-100]), isatty=bool)
    monkeypatch.setattr("stfan.cli.job.sys.stdin", stdin)
    code, _, err = run_deblur_stub("-", "-o", tmp_path / "out.mp4")
    path = tmp_path / "out.mp4.partial/out.mp4"
    assert code == 1 and f"ends within frame 3 (the 3 frames before it: {path})" in err
    assert len(frames_of(path)) == 3
    # Whole frames and a header alone are no error and an error.
    assert piped(data, "-", "-o", "-")[0] == 0
    code, _, err = piped(data[: data.index(b"\n") + 9], "-", "-o", "-")
    assert code == 1 and err == "stfan: -: standard input holds no frames\n"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (" Ip A64:45 C420mpeg2", " Ip A64:45 C420mpeg2 XYSCSS=420MPEG2"),
        (" A1:1 C420jpeg XCOLORRANGE=FULL", " Ip A1:1 C420jpeg XYSCSS=420JPEG XCOLORRANGE=FULL"),
        (" C420paldv XCOLORRANGE=LIMITED", " Ip A0:0 C420paldv XYSCSS=420PALDV XCOLORRANGE=LIMITED"),
        ("", " Ip A0:0 C420jpeg XYSCSS=420JPEG"),
    ],
)
def test_what_a_header_says_is_kept(header, expected):
    """The samples of 4:2:0 stay where they are, and so does what is said of them."""
    data = bare(header)
    said, frames = written(data)
    assert said == "YUV4MPEG2 W16 H16 F30000:1001" + expected
    assert len(frames) == len(data.partition(b"\n")[2])


def test_a_file_has_its_colour_to_the_left(tmp_path):
    source = make_video(tmp_path / "in.mp4", frames=2, width=16, height=16)
    out = io.BytesIO()
    with VideoReader(source) as reader:
        PipeWriter(out, reader).begin(tmp_path, None)
    assert b" C420mpeg2 " in out.getvalue()


def test_parameters_of_frames_do_not_change_their_times():
    """FFmpeg takes times from places in the stream."""
    data = bare(frame=" Ipp X" + "long" * 15, frames=40)
    with PipeReader(io.BytesIO(data)) as reader:
        times = [frame.pts * frame.time_base for frame, _ in reader.coded_frames()]
    assert times == [number * Fraction(1001, 30000) for number in range(40)]


@pytest.mark.parametrize("letter", "tb")
def test_interlaced_streams_are_deinterlaced(caplog, letter):
    data = bare(f" I{letter} C420mpeg2")

    def read(**options):
        with PipeReader(io.BytesIO(data), **options) as reader:
            return [coded.samples for _, coded in reader.coded_frames()]

    whole, woven = read(), read(deinterlace=False)
    assert len(whole) == len(woven) == 3 and not torch.equal(whole[1], woven[1])
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "its frames are interlaced, and are deinterlaced, by bwdif",
        "its frames are interlaced, and are deblurred and written as if they were not",
    ]


def test_what_comes_from_a_pipe_is_not_resumed(tmp_path, run_deblur_stub, monkeypatch):
    """So no command that would be refused is printed."""
    for options in ((), ("--json", "--overwrite")):
        stdin = SimpleNamespace(buffer=io.BytesIO(y4m()), isatty=bool)
        monkeypatch.setattr("stfan.cli.job.sys.stdin", stdin)
        monkeypatch.setattr("stfan.cli.deblur.graceful_interrupt", Interrupt(3))
        code, out, err = run_deblur_stub("-", "-o", tmp_path / "out.mp4", *options)
        kept = tmp_path / "out.mp4.partial/out.mp4"
        assert code == 130 and err.endswith(f"stfan: interrupted after 3 frames; the frames so far: {kept}\n")
        assert len(frames_of(kept)) == 3
    record = json.loads(out)
    assert record["resume"] is None and record["saved"] == 0


def test_a_file_named_like_a_pipe(tmp_path, run_deblur_stub, monkeypatch):
    make_video(tmp_path / "in.mkv", frames=2).rename(tmp_path / "-")
    monkeypatch.chdir(tmp_path)
    code, out, err = run_deblur_stub("./-", "-o", "out.mp4")
    assert code == 0 and "out.mp4: 2 frames, " in out, err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_standard_output_on_a_full_disk(tmp_path):
    """Nothing is left in a buffer, which Python would write once more as it exits."""
    source = make_video(tmp_path / "in.mp4", frames=2, width=16, height=16)
    with VideoReader(source) as reader, open("/dev/full", "wb") as file:
        writer = PipeWriter(file, reader)
        with pytest.raises(OSError, match="No space left on device"):
            writer.begin(tmp_path, None)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("-", "--resume"), "resume is for files"),
        (("-", "--start", "1"), "start is for files"),
        (("-", "-o", "-", "--crf", "3"), "codec, crf, preset and lossless are for files"),
        (("-", "a.mp4", "--out-dir", "out"), "- is for one video"),
    ],
)
def test_what_pipes_cannot_do(piped, args, words):
    code, out, err = piped(y4m(), *args)
    assert code == 2 and out == b"" and words in " ".join(err.replace("│", " ").split())


def test_closed_standard_input(run_deblur_stub, monkeypatch):
    monkeypatch.setattr("stfan.cli.job.sys.stdin", None)
    code, _, err = run_deblur_stub("-", "-o", "out.mp4")
    assert code == 2 and "input is a terminal, or closed" in " ".join(err.replace("│", " ").split())


def test_what_is_no_y4m(piped):
    code, out, err = piped(b"no video" * 99, "-")
    assert code == 1 and out == b"" and err.startswith("stfan: -: standard input is no y4m: ")
    code, out, err = piped(y4m(), "-", "--pix-fmt", "bgr0")
    assert code == 1 and "-: y4m must have a pixel format of yuv420p, " in err and len(err.splitlines()) == 1


def test_a_terminal_is_refused(tmp_path):
    """As input and as output: nothing could be read there, and binary would be written to it."""
    source, (main, terminal) = make_video(tmp_path / "in.mp4", frames=2), pty.openpty()
    try:
        command = [sys.executable, "-m", "stfan", "deblur"]
        options = {"stderr": subprocess.PIPE, "text": True, "stdin": terminal, "stdout": terminal}
        for args, words in (((source, "-o", "-"), "output is a terminal"), (("-",), "input is a terminal")):
            done = subprocess.run([*command, *map(str, args)], **options)
            assert done.returncode == 2 and words in " ".join(done.stderr.replace("│", " ").split())
    finally:
        os.close(main)
        os.close(terminal)


def test_between_programs(tmp_path):
    """Real pipes; and a reader that goes away ends it without a word, as it ends other programs."""
    command = [sys.executable, "-m", "stfan", "deblur", "-", "-o", "-"]
    data = y4m(frames=10, width=64, height=48)
    done = subprocess.run(command, input=data, capture_output=True)
    assert done.returncode == 0 and len(luma(done.stdout)[0]) == 10
    assert re.search(rb"^-: 10 frames, ", done.stderr, re.M)
    (tmp_path / "in.y4m").write_bytes(data)
    with (tmp_path / "in.y4m").open() as file:
        # More than a pipe holds, so that it cannot end before; quiet, or a slow machine prints an estimate.
        more = [*command, "--pix-fmt", "yuv444p12le", "-q"]
        process = subprocess.Popen(more, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout.read(10) == b"YUV4MPEG2 "
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (141, b"")
        process.stderr.close()


def test_frames_are_read_as_they_come():
    """The first one before the second is there."""
    data, came = y4m(frames=3), threading.Event()
    there, here = os.pipe()

    def read():
        with open(there, "rb") as file, PipeReader(file) as reader:
            for _ in reader.coded_frames():
                counts.append(reader.expected_frames)
                came.set()

    counts, thread = [], threading.Thread(target=read)
    thread.start()
    with open(here, "wb") as file:
        file.write(data[: -2 * (32 * 24 * 3 // 2 + 6)])
        file.flush()
        # As long as the pipe is open, so that a reader that waits for more waits for ever.
        first = came.wait(60)
        file.write(data[-2 * (32 * 24 * 3 // 2 + 6) :])
    thread.join()
    assert first and counts == [None] * 3
