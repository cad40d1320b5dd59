"""stfan deblur between other programs: y4m in and out, messages on stderr, a reader that goes away."""

import io
import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.video.pipe import FORMATS, PipeReader  # noqa: E402
from support.samples import frames_of, make_video, names, pattern  # noqa: E402


def y4m(frames=6, pix_fmt="yuv420p", width=32, height=24, rate=25):
    """What ffmpeg -f yuv4mpegpipe - writes."""
    file = io.BytesIO()
    with av.open(file, "w", format="yuv4mpegpipe", options={"strict": "-1"}) as container:
        stream = container.add_stream("rawvideo", rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for t in range(frames):
            frame = pattern(t, width, height).reformat(format=pix_fmt)
            frame.pts = t
            container.mux(stream.encode(frame))
    return file.getvalue()


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
    assert code == 0 and re.match(r"-: 6 frames, ", err), err
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


def test_a_stream_that_ends_within_a_frame(piped):
    data = y4m(frames=4)
    _, out, err = piped(data[:-100], "-", "-o", "-")
    assert len(luma(out)[0]) == 3, err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("-", "--resume"), "resume is for files"),
        (("-", "--start", "1"), "start is for files"),
        (("-", "-o", "-", "--crf", "3"), "codec, crf, preset and lossless are for files"),
        (("-", "a.mp4", "--out-dir", "out"), "- must be the one INPUT"),
    ],
)
def test_what_pipes_cannot_do(piped, args, words):
    code, out, err = piped(y4m(), *args)
    assert code == 2 and out == b"" and words in " ".join(err.replace("│", " ").split())


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
        process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout.read(10) == b"YUV4MPEG2 "
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (141, b"")
        process.stderr.close()


def test_frames_are_read_as_they_come():
    """The first one before the second is there."""
    data = y4m(frames=3)
    ends = [len(data) - 2 * (32 * 24 * 3 // 2 + 6), len(data)]
    fed = []

    class Slowly(io.RawIOBase):
        def read(self, size=-1):
            start = fed[-1] if fed else 0
            end = next((end for end in ends if end > start), start)
            fed.append(min(end, start + size))
            return data[start : fed[-1]]

    with PipeReader(Slowly()) as reader:
        assert sum(1 for _ in reader.coded_frames()) == 3
        assert reader.expected_frames is None
