"""Decoding, network and encoding that overlap: the same bytes as one after the other, whatever fails, and less time."""

import multiprocessing
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch

av = pytest.importorskip("av", reason="PyAV is not installed")
from stfan.video import pipeline  # noqa: E402
from stfan.video.colour import code_frame  # noqa: E402
from stfan.video.encoder import Encoding  # noqa: E402
from stfan.video.errors import KeptFramesError, KeptFramesInterrupt  # noqa: E402
from stfan.video.pipeline import OVERLAPPED, SERIAL, Overlap  # noqa: E402
from stfan.video.reader import VideoReader  # noqa: E402
from stfan.video.stages import Ahead, Behind  # noqa: E402
from stfan.video.transfer import transfer_to  # noqa: E402
from stfan.video.writer import VideoWriter  # noqa: E402
from support.samples import Trail, make_video, names  # noqa: E402

OVERLAPS = [OVERLAPPED, Overlap(depth=1, lag=0), Overlap(depth=0, lag=2), Overlap(depth=2, lag=3)]


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    """Segments of 7 frames; and no thread outlives its run."""
    monkeypatch.setattr("stfan.video.writer.SEGMENT_FRAMES", 7)
    monkeypatch.setattr("stfan.video.pipeline.SEGMENT_FRAMES", 7)
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.fixture
def source(tmp_path):
    return make_video(tmp_path / "in.mp4", frames=25, width=32, height=32, sound="aac")


def deblur(source, out, model=None, overlap=OVERLAPPED, writer=VideoWriter, **options):
    with VideoReader(source) as reader:
        made = writer(out, reader, Encoding())
        return pipeline.deblur_video(reader, made, out, model or Trail(), overlap=overlap, **options)


@pytest.mark.parametrize("overlap", OVERLAPS, ids=str)
def test_the_bytes_are_those_of_one_after_the_other(tmp_path, source, overlap):
    whole = deblur(source, tmp_path / "whole.mp4", overlap=SERIAL).path.read_bytes()
    seen, out = [], tmp_path / "out.mp4"
    result = deblur(source, out, overlap=overlap, on_frame=lambda before, after: seen.append(after.mean()))
    assert result.frames == len(seen) == 25 and out.read_bytes() == whole
    # Stopped at any frame, the frames that are decoded already are kept too.
    out.unlink()
    made = 0
    for count in (3, 6, 1):
        stops = iter([False] * (count - 1) + [True])
        result = deblur(source, out, overlap=overlap, resume=True, stop=lambda stops=stops: next(stops))
        assert not result.complete and result.resumed == made
        made = result.saved
        assert made >= result.resumed + count and result.frames == made
    assert deblur(source, out, overlap=overlap, resume=True).resumed == made
    assert out.read_bytes() == whole and names(tmp_path) == ["in.mp4", "out.mp4", "whole.mp4"]


@pytest.mark.parametrize(("overlap", "together"), [(OVERLAPPED, True), (SERIAL, False)])
def test_the_steps_run_at_the_same_time(tmp_path, source, overlap, together):
    """The network's second frame waits for the fifth to be decoded, the first's writing for the network's fourth."""
    decoded, launched, seen = (
        [threading.Event() for _ in range(25)],
        [threading.Event() for _ in range(25)],
        [],
    )
    patience = 60 if together else 0.05

    class Reader(VideoReader):
        def coded_frames(self, skip=0):
            for event, item in zip(decoded, super().coded_frames(skip), strict=False):
                event.set()
                yield item

    class Network(Trail):
        count = 0

        def __call__(self, frame):
            launched[self.count].set()
            if self.count == 1:
                seen.append(decoded[4].wait(patience))
            self.count += 1
            return super().__call__(frame)

    class Writer(VideoWriter):
        def write(self, like, samples):
            if not self.times:
                seen.append(launched[3].wait(patience))
            super().write(like, samples)

    with Reader(source) as reader:
        writer = Writer(tmp_path / "out.mp4", reader, Encoding())
        pipeline.deblur_video(reader, writer, tmp_path / "out.mp4", Network(), overlap=overlap)
    assert seen == [together, together]


@pytest.mark.parametrize("where", ["decode", "network", "write", "checkpoint"])
@pytest.mark.parametrize("count", [3, 17])
def test_an_error_of_any_step_ends_the_run(tmp_path, source, monkeypatch, where, count):
    """What a checkpoint has is kept, and resumed from; before the first nothing is left."""
    whole = deblur(source, tmp_path / "whole.mp4", overlap=SERIAL).path.read_bytes()
    left = [count // 7 if where == "checkpoint" else count]

    def fail(*args):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    class Failing(VideoWriter):
        def write(self, like, samples):
            if where == "write":
                fail()
            super().write(like, samples)

        def checkpoint(self, segment_ends):
            if where == "checkpoint":
                fail()
            return super().checkpoint(segment_ends)

    class FailingTrail(Trail):
        def __call__(self, frame):
            if where == "network":
                fail()
            return super().__call__(frame)

    if where == "decode":
        monkeypatch.setattr("stfan.video.reader.code_frame", lambda *given: fail() or code_frame(*given))
    out = tmp_path / "out.mp4"
    error = KeptFramesError if count == 17 else OSError
    with pytest.raises(error, match="No space left on device"):
        deblur(source, out, FailingTrail(), writer=Failing)
    monkeypatch.undo()
    assert names(tmp_path) == ["in.mp4", *(["out.mp4.partial"] if count == 17 else []), "whole.mp4"]
    monkeypatch.setattr("stfan.video.writer.SEGMENT_FRAMES", 7)
    monkeypatch.setattr("stfan.video.pipeline.SEGMENT_FRAMES", 7)
    result = deblur(source, out, resume=True)
    assert result.resumed == (14 if count == 17 else 0) and out.read_bytes() == whole


def deblur_alone(*args, **options):
    """Deblur in a forked process, which lacks the threads that OpenMP had in the one before it, and would wait."""
    torch.set_num_threads(1)
    deblur(*args, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
@pytest.mark.parametrize("where", ["decode", "network", "write", "checkpoint"])
def test_killed_in_any_step_it_is_resumed(tmp_path, source, monkeypatch, where):
    """By kill -9 of a process of its own, in the 17th call, or in the second checkpoint."""
    whole = deblur(source, tmp_path / "whole.mp4", overlap=SERIAL).path.read_bytes()
    out, left = tmp_path / "out.mp4", [1 if where == "checkpoint" else 16]

    def kill():
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    class Writer(VideoWriter):
        def write(self, like, samples):
            if where == "write":
                kill()
            super().write(like, samples)

        def checkpoint(self, segment_ends):
            if where == "checkpoint":
                kill()
            return super().checkpoint(segment_ends)

    class Network(Trail):
        def __call__(self, frame):
            if where == "network":
                kill()
            return super().__call__(frame)

    with monkeypatch.context() as patch:
        if where == "decode":
            patch.setattr("stfan.video.reader.code_frame", lambda *args: kill() or code_frame(*args))
        process = multiprocessing.get_context("fork").Process(
            target=deblur_alone, args=(source, out, Network()), kwargs={"writer": Writer}
        )
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    resumed = deblur(source, out, resume=True).resumed
    # A step behind another one may have been so many frames behind it.
    assert resumed in ((7,) if where == "checkpoint" else (7, 14)) and out.read_bytes() == whole


def test_ctrl_c_at_once(tmp_path, source):
    """It reaches the main thread while another one writes the ninth frame; the checkpoint after the seventh is kept."""
    whole = deblur(source, tmp_path / "whole.mp4", overlap=SERIAL).path.read_bytes()
    main = threading.main_thread().ident

    class Writer(VideoWriter):
        def write(self, like, samples):
            if len(self.times) == 8:
                signal.pthread_kill(main, signal.SIGINT)
            super().write(like, samples)

    # a shell lets what it runs in the background ignore the signal, and the tests with it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeptFramesInterrupt) as error:
            deblur(source, tmp_path / "out.mp4", writer=Writer)
    finally:
        signal.signal(signal.SIGINT, before)
    assert error.value.frames == 7
    assert deblur(source, tmp_path / "out.mp4", resume=True).resumed == 7
    assert (tmp_path / "out.mp4").read_bytes() == whole


def test_what_is_not_finite_is_not_written(tmp_path, source):
    """It is found one frame late, and before the frame is written."""
    written = []

    class Writes(VideoWriter):
        def write(self, like, samples):
            written.append(samples)
            super().write(like, samples)

    class Breaks(Trail):
        count = 0

        def launch(self, frame):
            self.count += 1
            return self(frame), torch.tensor(self.count != 5)

        def check_finite(self, finite):
            if not finite:
                raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError):
        deblur(source, tmp_path / "out.mp4", Breaks(), writer=Writes)
    assert len(written) <= 4 and names(tmp_path) == ["in.mp4"]


def test_a_broken_input_keeps_the_frames_before(tmp_path):
    small, large = (make_video(tmp_path / f"{side}.h264", frames=9, width=side) for side in (64, 80))
    (tmp_path / "in.h264").write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(KeptFramesError, match="frame 9 is 80x48") as error:
        deblur(tmp_path / "in.h264", tmp_path / "out.mp4")
    assert error.value.frames == 9 and error.value.playable
    with av.open(str(error.value.path)) as kept:
        assert sum(1 for _ in kept.decode(video=0)) == 9


def until(condition):
    """Wait until something is so, however slow the machine is."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("nothing happened in a minute")


def test_no_more_frames_wait_than_they_may():
    """Of a source that could give as many as one likes, and for an output that takes none."""
    made, gate = [], threading.Event()

    def items():
        for number in range(100):
            made.append(number)
            yield number

    source, output, put = Ahead(items(), 3), Behind(2), []
    try:
        thread = threading.Thread(target=lambda: [output.put(gate.wait) or put.append(1) for _ in range(9)])
        thread.start()
        until(lambda: len(made) == 4 and len(put) == 3)
        # More would come soon.
        time.sleep(0.2)
        # Three wait, one is in the hands of the thread; one call is made, two wait.
        assert len(made) == 4 and len(put) == 3
        gate.set()
        thread.join()
        output.wait()
        assert next(iter(source)) == 0
    finally:
        source.close()
        output.close()
    assert len(made) <= 6


def test_no_thread_keeps_the_process_alive():
    """Where Ctrl+C comes once more while a thread is waited for."""
    gate = threading.Event()
    source, output = Ahead((gate.wait() for _ in range(9)), 1), Behind(1)
    try:
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("stfan ")]
        assert len(threads) == 2 and all(thread.daemon for thread in threads)
    finally:
        gate.set()
        source.close()
        output.close()


def test_an_error_as_the_source_is_closed():
    """Who waits for the next frame is told, and does not wait for ever."""
    seen = []

    def items():
        try:
            yield 0
        finally:
            raise OSError("the input's disk is gone")

    def read():
        try:
            seen.extend(source)
        except OSError as error:
            seen.append(str(error))

    source = Ahead(items(), 2)
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert seen == [0, "the input's disk is gone"]
    source.close()


def test_counts_of_errors_do_not_hear_other_threads(tmp_path):
    """An encoder that logs at the same time is not taken for the decoder."""
    from stfan.video.decode_errors import decode

    source = make_video(tmp_path / "in.mkv", frames=12, codec="ffv1", pix_fmt="yuv420p")
    over = threading.Event()

    def log():
        while not over.is_set():
            av.logging.log(av.logging.ERROR, "libx264", "not me")

    thread = threading.Thread(target=log)
    thread.start()
    try:
        with av.open(str(source)) as container:
            assert [damaged for _, damaged in decode(container.streams.video[0])].count(True) == 0
    finally:
        over.set()
        thread.join()


def test_samples_cross_the_bus_unchanged(device):
    transfer = transfer_to(torch.device(device))
    rng = np.random.default_rng(0)
    waiting = []
    for number in range(7):
        samples = torch.from_numpy(rng.integers(0, 1 << 16, (3, 8, 10 + number // 4)).astype(np.uint16))
        there = transfer.upload(samples)
        assert there.device.type == device
        waiting.append((samples, transfer.download(there, there.view(torch.int16).sum())))
        if len(waiting) > 1:
            samples, fetch = waiting.pop(0)
            back, total = fetch()
            assert torch.equal(back.view(torch.int16), samples.view(torch.int16))
            assert total == samples.view(torch.int16).sum()
