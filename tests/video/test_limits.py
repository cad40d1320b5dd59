"""stfan deblur on real clips, on a disk that is full, and for so long that memory would show a leak."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.cli.hints import describe_error  # noqa: E402
from stfan.video.encoder import Encoding  # noqa: E402
from stfan.video.errors import KeptFramesError  # noqa: E402
from stfan.video.partial_output import SEGMENT_FRAMES  # noqa: E402
from stfan.video.reader import VideoReader  # noqa: E402
from support.checkout import ROOT, run  # noqa: E402
from support.deblurring import deblur  # noqa: E402
from support.samples import Trail, frames_of, make_video, same_frames, sound_of  # noqa: E402

NOISY = Encoding(lossless=True)  # of 64 x 48: some 5 kB a frame


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, and a function that makes it larger; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder, lambda: run("mount", "-o", "remount,size=9m", folder)
    run("umount", folder)


def test_a_full_disk_loses_nothing(tmp_path, small_disk):
    folder, enlarge = small_disk
    source = make_video(tmp_path / "in.mp4", frames=3 * SEGMENT_FRAMES)
    whole = deblur(source, tmp_path / "whole.mkv", NOISY, Trail).path
    out = folder / "out.mkv"
    with pytest.raises(
        KeptFramesError, match=r"out.mkv.partial: cannot be written: No space left .*kept in"
    ) as error:
        deblur(source, out, NOISY, Trail)
    kept = error.value.frames
    assert isinstance(error.value.cause, OSError) and error.value.path == folder / "out.mkv.partial"
    words = f"({kept} frames are kept in {out}.partial; --resume goes on from them)"
    assert describe_error(error.value).endswith(words)
    assert SEGMENT_FRAMES <= kept < 3 * SEGMENT_FRAMES and not out.exists()
    enlarge()
    result = deblur(source, out, NOISY, Trail, resume=True)
    assert result.resumed == kept and same_frames(out, whole)
    assert [path.name for path in folder.iterdir()] == ["out.mkv"]


def test_a_disk_that_can_not_be_written(tmp_path, small_disk):
    folder, _ = small_disk
    source = make_video(tmp_path / "in.mp4", frames=3)
    run("mount", "-o", "remount,ro", folder)
    with pytest.raises(OSError, match=r"disk: cannot be written to; choose another folder for out.mp4"):
        deblur(source, folder / "out.mp4")
    assert list(folder.iterdir()) == []


def test_no_room_for_the_last_file(tmp_path):
    """All frames are made, and the file of them all is larger than a file may be: they are not made again."""
    source = make_video(tmp_path / "in.mp4", frames=2 * SEGMENT_FRAMES + 10)
    size = deblur(source, tmp_path / "whole.mkv", NOISY).path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size * 3 // 4, before[1]))
    try:
        with pytest.raises(
            KeptFramesError, match=r"out.mkv.partial: cannot be written: File too large"
        ) as error:
            deblur(source, tmp_path / "out.mkv", NOISY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.frames == 2 * SEGMENT_FRAMES + 10
    assert not (tmp_path / "out.mkv").exists()
    assert deblur(source, tmp_path / "out.mkv", NOISY, resume=True).resumed == 2 * SEGMENT_FRAMES + 10
    assert same_frames(tmp_path / "out.mkv", tmp_path / "whole.mkv")


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path):
    source = make_video(tmp_path / "in.mp4")
    out = tmp_path / "out.mp4"
    out.write_text("precious")

    class Breaks(Trail):
        def __call__(self, frame):
            if self.past is not None:
                raise RuntimeError("enough")
            return super().__call__(frame)

    with pytest.raises(RuntimeError, match="enough"):
        deblur(source, out, model=Breaks, overwrite=True)
    assert out.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_one_run_at_a_time_has_an_output(tmp_path):
    """The second one is refused before it touches anything; and when the first has ended, it may go on."""
    source, out = make_video(tmp_path / "in.mp4", frames=SEGMENT_FRAMES + 4), tmp_path / "out.mkv"
    whole = deblur(source, tmp_path / "whole.mkv", NOISY, Trail).path
    refused = []

    def second(before, after):
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(FileExistsError, match=r"out\.mkv: another run is writing it"):
                deblur(source, out, NOISY, Trail, **options)
            refused.append(options)

    stop = iter([*[False] * SEGMENT_FRAMES, True])
    result = deblur(source, out, NOISY, Trail, on_frame=second, stop=lambda: next(stop))
    assert not result.complete and len(refused) == 3 * (SEGMENT_FRAMES + 1)
    result = deblur(source, out, NOISY, Trail, resume=True)
    assert result.resumed == SEGMENT_FRAMES + 1 and same_frames(out, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mkv", "whole.mkv"]


def test_beginning_again_clears_what_was_left(tmp_path):
    source, out = make_video(tmp_path / "in.mp4", frames=SEGMENT_FRAMES + 4), tmp_path / "out.mkv"
    stop = iter([*[False] * SEGMENT_FRAMES, True])
    assert deblur(source, out, NOISY, stop=lambda: next(stop)).saved == SEGMENT_FRAMES + 1
    left = tmp_path / "out.mkv.partial"
    (left / "folder").mkdir()
    names = []

    def look(before, after):
        names.append(sorted(path.name for path in left.iterdir()))

    assert deblur(source, out, NOISY, on_frame=look, overwrite=True).resumed == 0
    assert names[0] == ["00000.mkv", "lock", "state.safetensors"]
    assert not left.exists()


MEMORY = """
import sys
from pathlib import Path
from stfan.video.encoder import Encoding
from support.deblurring import deblur

sizes = []

def on_frame(before, after):
    sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)

result = deblur(Path(sys.argv[1]), Path(sys.argv[2]), Encoding(preset="ultrafast"), on_frame=on_frame)
print(result.frames, min(sizes[100:200]), min(sizes[-100:]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("frames", [405, pytest.param(795, marks=pytest.mark.long)])
def test_memory_is_flat(tmp_path, frames):
    """A frame in float32 is 0.9 MB, a decoded one 0.1 MB: to keep each of either kind would take 23 MB or more.

    The least of 100 frames counts, since what is free is given back now and then.
    """
    short = make_video(tmp_path / "short.mkv", frames=15, width=320, height=240)
    source = tmp_path / "in.mkv"
    with av.open(str(short)) as once, av.open(str(source), "w") as container:
        stream = container.add_stream_from_template(once.streams.video[0], opaque=True)
        packets = [packet for packet in once.demux(video=0) if packet.size]
        for n in range(frames // 15):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.time_base, again.stream = packet.pts + 600 * n, packet.time_base, stream
                again.is_keyframe = packet.is_keyframe
                container.mux(again)
    said = run(sys.executable, "-c", MEMORY, source, tmp_path / "out.mp4", cwd=ROOT / "tests")
    count, before, after = map(int, said.split())
    assert count == frames and after - before < 12e6


@pytest.mark.parametrize(
    ("name", "part", "sound"),
    [
        ("carphone_pristine.mp4", (0.0, None, None), None),
        ("bikes.mp4", (0.0, None, 12), None),
        ("bigbuckbunny.mp4", (0.0, None, 4), "aac"),
        ("cup.mp4", (3.02, 3.3, None), "aac"),
    ],
)
def test_real_clips(tmp_path, shared_video, name, part, sound):
    """All but the network: times, colours and sound of real files, up to the losses of the codec."""
    source = shared_video(name)
    result = deblur(source, tmp_path / "out.mp4", Encoding(crf=4), part=part)
    with VideoReader(source, *part) as opened, VideoReader(tmp_path / "out.mp4") as made:
        assert opened.expected_frames == result.frames
        begin = opened.first_frame().time if part[0] else 0
        frames = 0
        for (before, pixels), (after, new) in zip(opened.frames(), made.frames(), strict=True):
            assert after.time == pytest.approx(before.time - begin, abs=1e-6)
            assert (new - pixels).abs().mean() < 2 / 255
            assert (new - pixels).mean((1, 2)).abs().max() < 0.5 / 255
            frames += 1
    assert frames == result.frames > 3
    if sound:
        with av.open(str(source)) as container:
            unit = 1 / container.streams.audio[0].rate
        wanted, got = sound_of(source), sound_of(tmp_path / "out.mp4")
        wanted = [(pts * unit - begin, data) for pts, data in wanted if pts * unit >= begin]
        assert [data for _, data in got] == [data for _, data in wanted[: len(got)]] and len(got) > 5
        times = [time for time, _ in wanted[: len(got)]]
        assert [pts * unit for pts, _ in got] == pytest.approx(times, abs=unit)


def test_a_real_clip_through_the_network(tmp_path, run_cli_inprocess, shared_video):
    source = shared_video("carphone_pristine.mp4")
    done = run_cli_inprocess(
        "deblur", source, "-o", tmp_path / "out.mp4", "--max-frames", 4, "--reset-on-cut", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["frames"] == 4 and result["warnings"] == []
    before, after = frames_of(source)[:4], frames_of(tmp_path / "out.mp4")
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before])
    assert all(0.1 < np.abs(a - b).mean() < 20 for (_, a), (_, b) in zip(before, after, strict=True))
