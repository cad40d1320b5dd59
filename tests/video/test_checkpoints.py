"""What a run saves of a segment that is still open, and how the next run goes on from it."""

from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

av = pytest.importorskip("av", reason="PyAV is not installed")
from stfan.cli.hints import describe_error  # noqa: E402
from stfan.video.encoder import Encoding  # noqa: E402
from stfan.video.errors import DamagedPartialError  # noqa: E402
from support.deblurring import deblur  # noqa: E402
from support.samples import Trail, make_video, names  # noqa: E402


def stop_after(count):
    stops = iter([False] * (count - 1) + [True])
    return lambda: next(stops)


def packets(path):
    """All but the head of a Matroska file, in which FFmpeg puts a random number."""
    with av.open(str(path)) as container:
        return [(p.pts, p.dts, bytes(p)) for p in container.demux() if p.size]


def frames_saved(folder):
    with safetensors.safe_open(folder / "state.safetensors", "pt") as file:
        return int(file.metadata()["frames"])


@pytest.mark.parametrize(
    ("seconds", "saved"),
    [
        (14, [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12]),
        (90, list(range(1, 13))),  # a frame longer than a minute: each is saved
        (1, [0] * 12),
    ],
)
def test_no_more_than_a_minute_is_lost(tmp_path, monkeypatch, seconds, saved):
    clock, seen = SimpleNamespace(now=0.0), []

    class Slow(Trail):
        def __call__(self, frame):
            clock.now += seconds
            return super().__call__(frame)

    def look(before, after):
        seen.append(frames_saved(tmp_path / "out.mp4.partial"))

    monkeypatch.setattr("stfan.video.pipeline.time", SimpleNamespace(monotonic=lambda: clock.now))
    source = make_video(tmp_path / "in.mp4", frames=12)
    deblur(source, tmp_path / "out.mp4", model=Slow, on_frame=look)
    assert seen == saved


@pytest.mark.parametrize("memory", [128 << 20, 20_000])
@pytest.mark.parametrize(
    "encoding", [Encoding(), Encoding(pix_fmt="yuv420p10le"), Encoding(lossless=True)], ids=str
)
def test_interrupted_often_it_is_as_if_uninterrupted(tmp_path, monkeypatch, encoding, memory):
    """Also where the frames of the open segment do not fit in the memory that is for them."""
    monkeypatch.setattr("stfan.video.frame_log.MEMORY", memory)
    monkeypatch.setattr("stfan.video.writer.SEGMENT_FRAMES", 7)
    monkeypatch.setattr("stfan.video.pipeline.SEGMENT_FRAMES", 7)
    source = make_video(tmp_path / "in.mp4", frames=25, width=62, height=50)
    whole = deblur(source, tmp_path / "whole.mkv", encoding, Trail).path
    out, made = tmp_path / "out.mkv", 0
    for count in (3, 2, 6, 3, 1):  # within a segment, twice; across its end; at its end; one frame
        result = deblur(source, out, encoding, Trail, resume=True, stop=stop_after(count))
        assert (result.complete, result.resumed, result.saved) == (False, made, made + count)
        made += count
    assert deblur(source, out, encoding, Trail, resume=True).resumed == made
    assert packets(out) == packets(whole) and names(tmp_path) == ["in.mp4", "out.mkv", "whole.mkv"]


def test_what_no_state_counts_is_written_anew(tmp_path):
    """As by a kill after frames were written and before they were counted."""
    source = make_video(tmp_path / "in.mp4", frames=15)
    whole = deblur(source, tmp_path / "whole.mp4", model=Trail).path.read_bytes()
    out = tmp_path / "out.mp4"
    deblur(source, out, model=Trail, stop=stop_after(5))
    with (tmp_path / "out.mp4.partial/open.frames").open("ab") as file:
        file.write(b"\x55" * 30_000)
    assert deblur(source, out, model=Trail, resume=True, stop=stop_after(4)).resumed == 5
    assert (tmp_path / "out.mp4.partial/open.frames").stat().st_size == 9 * 3 * 64 * 48
    assert deblur(source, out, model=Trail, resume=True).resumed == 9 and out.read_bytes() == whole


@pytest.mark.parametrize("size", [None, 0, 5 * 3 * 64 * 48 - 1])
def test_a_damaged_log_is_refused(tmp_path, size):
    source, out = make_video(tmp_path / "in.mp4", frames=8), tmp_path / "out.mp4"
    deblur(source, out, model=Trail, stop=stop_after(5))
    log = tmp_path / "out.mp4.partial/open.frames"
    if size is None:
        log.unlink()
    else:
        log.write_bytes(log.read_bytes()[:size])
    words = rf"open.frames: must hold 5 frames, 46080 bytes, has {size or 0}$"
    # No KeptFramesError, which would say that --resume goes on.
    with pytest.raises(DamagedPartialError, match=words) as error:
        deblur(source, out, model=Trail, resume=True)
    assert describe_error(error.value).endswith("; --overwrite without --resume begins again")
    assert deblur(source, out, model=Trail, overwrite=True).complete


def test_a_state_that_lacks_something_is_refused(tmp_path):
    source, out = make_video(tmp_path / "in.mp4", frames=8), tmp_path / "out.mp4"
    deblur(source, out, model=Trail, stop=stop_after(5))
    state = tmp_path / "out.mp4.partial/state.safetensors"
    with safetensors.safe_open(state, "pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file({"reorder": torch.tensor(0)}, state, metadata)
    with pytest.raises(DamagedPartialError, match=r"out.mp4.partial: its state lacks open, times$"):
        deblur(source, out, model=Trail, resume=True)
