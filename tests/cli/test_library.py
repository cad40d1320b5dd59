"""stfan deblur on many videos: what becomes what, what is refused, skipped, resumed, and what a bad file does."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from PIL import Image

from stfan.cli import library, library_run
from stfan.cli.estimate import Rest, describe
from stfan.cli.job import DeblurJob, Part
from stfan.cli.library import Work, measure
from stfan.cli.options import Shard
from stfan.model import weights
from support.samples import Interrupt, frames_of, make_video, names


@pytest.fixture
def films(tmp_path):
    """A tree of short videos, one of them broken: a.mp4 broken.mp4 more/b.avi more/deep/c.mkv"""
    root = tmp_path / "films"
    (root / "more" / "deep").mkdir(parents=True)
    make_video(root / "a.mp4", frames=3, width=32, height=32, sound="aac")
    make_video(root / "more" / "b.avi", frames=4, width=32, height=32, codec="mjpeg", pix_fmt="yuvj420p")
    make_video(root / "more" / "deep" / "c.mkv", frames=5, width=16, height=16)
    (root / "broken.mp4").write_text("no video " * 99)
    (root / "notes.txt").touch()
    return root


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_tree_of_videos(tmp_path, films, run_deblur_stub, monkeypatch):
    loads, load = [], weights.load
    monkeypatch.setattr(weights, "load", lambda *args: loads.append(args) or load(*args))
    out = tmp_path / "out"
    code, said, err = run_deblur_stub(films, "--recursive", "--out-dir", out)
    bad = f"{films}/broken.mp4: not a video, or truncated: Invalid data found when processing input"
    assert code == 1 and err == f"stfan: {bad}\nstfan: 1 of 4 failed:\n  {bad}\n", err
    assert re.sub(r"[\d.]+ frames/s.*", "", said).splitlines() == [
        f"{out}/a.mp4: 3 frames, ",
        f"{out}/more/b.mp4: 4 frames, ",
        f"{out}/more/deep/c.mkv: 5 frames, ",
        "3 of 4 deblurred, 0 skipped, 1 failed",
    ]
    assert tree(out) == ["a.mp4", "more/b.mp4", "more/deep/c.mkv"] and len(loads) == 1
    kept = {name: (out / name).read_bytes() for name in tree(out)}
    make_video(films / "broken.mp4", frames=2, width=16, height=16)
    code, said, err = run_deblur_stub(films, "--recursive", "--out-dir", out)
    assert code == 0 and err == "" and said.count("is there already, skipped") == 3
    assert said.endswith("1 of 4 deblurred, 3 skipped, 0 failed\n")
    assert kept == {name: (out / name).read_bytes() for name in kept} and len(loads) == 2
    code, said, _ = run_deblur_stub(films, "--recursive", "--out-dir", out)
    assert code == 0 and said.endswith("0 of 4 deblurred, 4 skipped, 0 failed\n") and len(loads) == 2


def test_a_folder_of_videos_as_the_one_input(tmp_path, films, run_deblur_stub):
    (films / "broken.mp4").unlink()
    assert run_deblur_stub(films)[0] == 0
    assert tree(tmp_path / "films_deblurred") == ["a.mp4"]
    code, _, err = run_deblur_stub(films, "--recursive", "--out-dir", films / "sharp")
    assert code == 0 and tree(films / "sharp") == ["a.mp4", "more/b.mp4", "more/deep/c.mkv"], err
    # Outputs are no inputs.
    code, said, _ = run_deblur_stub(films, "--recursive", "--out-dir", films / "sharp")
    assert code == 0 and said.endswith("0 of 3 deblurred, 3 skipped, 0 failed\n")


def test_files_and_folders_of_images_together(tmp_path, films, run_deblur_stub):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(2):
        Image.new("RGB", (16, 16)).save(pictures / f"{number}.png")
    code, said, err = run_deblur_stub(films / "a.mp4", pictures, "--out-dir", tmp_path / "out", "--json")
    assert code == 0 and tree(tmp_path / "out") == ["a.mp4", "pictures/0.png", "pictures/1.png"], err
    records = [json.loads(line) for line in said.splitlines()]
    assert [(one["status"], one["frames"], one["warnings"]) for one in records] == [
        ("done", 3, []),
        ("done", 2, []),
    ]
    code, said, _ = run_deblur_stub(
        films / "a.mp4", tmp_path / "missing.mp4", "--out-dir", tmp_path / "out", "--json", "-q"
    )
    first, second = [json.loads(line) for line in said.splitlines()]
    assert code == 1 and first == {
        "input": str(films / "a.mp4"),
        "path": str(tmp_path / "out/a.mp4"),
        "status": "skipped",
    }
    assert second["status"] == "failed" and second["error"] == f"{tmp_path}/missing.mp4: no such file"


def test_what_is_refused_before_any_work(tmp_path, films, run_deblur_stub):
    pictures = tmp_path / "pictures" / "more"
    pictures.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(pictures / "0.png")
    avi = make_video(films / "a.avi", frames=2, codec="mjpeg", pix_fmt="yuvj420p")
    before = tree(tmp_path)
    for arguments, words in (
        ((films, "--out-dir", tmp_path / "out"), "out/a.mp4: would be the output of both "),
        ((films / "a.mp4", films / "a.mp4", "--out-dir", tmp_path / "out"), "would be the output of both"),
        ((films / "a.mp4", "--out-dir", films), "films/a.mp4: would replace an input"),
        ((films / "a.mp4", "--out-dir", films / "notes.txt"), "notes.txt: is a file, not a folder for"),
        ((films / "a.mp4", "--out-dir", tmp_path / "no" / "where"), "no: no such folder"),
        ((films, "--out-dir", films), "films: holds the inputs; choose another folder"),
        (
            (films, "-o", tmp_path / "out.mp4"),
            "out.mp4: must be the name of a folder for several videos, got ",
        ),
        (
            (films, pictures, "--recursive", "--out-dir", tmp_path / "out"),
            "out/more/b.mp4: would lie in ",
        ),
    ):
        if words.startswith("out/more"):
            avi.unlink()
            before.remove("films/a.avi")
        code, said, err = run_deblur_stub(*arguments)
        assert code == 1 and said == "" and words in err and len(err.splitlines()) == 1, err
    assert tree(tmp_path) == before


def test_names_that_differ_in_case(tmp_path, run_deblur_stub, monkeypatch):
    """Two files, but one on a disk that takes no notice of case; nothing is left of finding out."""
    videos = [make_video(tmp_path / name, frames=2, width=16, height=16) for name in ("a.mp4", "A.mkv")]
    videos[1] = videos[1].rename(tmp_path / "A.avi")
    with monkeypatch.context() as patch:
        patch.setattr(library, "_ignores_case", lambda folder: True)
        code, _, err = run_deblur_stub(*videos, "--out-dir", tmp_path / "out")
    assert code == 1 and "out/A.mp4: would be the output of both " in err and "upper and lower case" in err
    assert run_deblur_stub(*videos, "--out-dir", tmp_path / "out")[0] == 0
    assert names(tmp_path / "out") == ["A.mp4", "a.mp4"] and names(tmp_path) == ["A.avi", "a.mp4", "out"]


def test_a_link_keeps_its_name(tmp_path, run_deblur_stub):
    make_video(tmp_path / "1f3a.mp4", frames=2, width=16, height=16)
    (tmp_path / "film.mp4").symlink_to("1f3a.mp4")
    assert run_deblur_stub(tmp_path / "film.mp4", "--out-dir", tmp_path / "out")[0] == 0
    assert names(tmp_path / "out") == ["film.mp4"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, films, run_deblur_stub, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (films / "broken.mp4").unlink()
    code, said, err = run_deblur_stub(films, "--recursive", "--out-dir", tmp_path / "out")
    assert code == 0 and said.endswith("2 of 2 deblurred, 0 skipped, 0 failed\n")
    assert err == f"stfan: {films}/more/deep: Permission denied; its videos are left out\n"


def test_what_is_there_but_not_complete(tmp_path, films, run_deblur_stub):
    """An empty folder is filled; half a video and a folder in the place of one are errors, and the others go on."""
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    for folder in (pictures, out / "pictures", out / "b.mp4"):
        folder.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(pictures / "0.png")
    data = (films / "a.mp4").read_bytes()
    (out / "a.mp4").write_bytes(data[:-50])
    (out / "c.mkv").touch()
    deep = films / "more"
    code, said, err = run_deblur_stub(
        films / "a.mp4", deep / "b.avi", deep / "deep" / "c.mkv", pictures, "--out-dir", out, "--resume"
    )
    assert code == 1 and said.endswith("1 of 4 deblurred, 0 skipped, 3 failed\n")
    assert f"{out}/a.mp4: is there, but 50 bytes of it are missing; delete it" in err
    assert f"{out}/c.mkv: is there, but all bytes of it are missing" in err
    assert f"{out}/b.mp4: is a folder" in err and names(out / "pictures") == ["0.png"]


def test_replacing_outputs_is_resumed_too(tmp_path, films, run_deblur_stub, monkeypatch):
    """What an interrupted --overwrite has replaced is not made again, and the rest is."""
    (films / "broken.mp4").unlink()
    out = tmp_path / "out"
    arguments = (films, "--recursive", "--out-dir", out, "--overwrite")
    assert run_deblur_stub(*arguments)[0] == 0 and tree(out) == ["a.mp4", "more/b.mp4", "more/deep/c.mkv"]
    for name in tree(out):
        os.utime(out / name, (1e9, 1e9))
    with monkeypatch.context() as patch:
        patch.setattr(library_run, "graceful_interrupt", Interrupt(7))
        code, _, err = run_deblur_stub(*arguments)
    assert code == 130 and err.endswith("--overwrite --resume\n")
    code, said, err = run_deblur_stub(*arguments, "--resume", "--json")
    statuses = [(record["status"], record.get("resumed")) for record in map(json.loads, said.splitlines())]
    assert code == 0 and statuses == [("skipped", None), ("done", 2), ("done", 0)], err
    assert tree(out) == ["a.mp4", "more/b.mp4", "more/deep/c.mkv"]
    # Of a run that ended there is nothing to go on with.
    assert "3 of 3 deblurred" in run_deblur_stub(*arguments, "--resume")[1]


def test_the_work_is_measured_by_headers(tmp_path, films, monkeypatch):
    """To read the packets of a whole library would take as long as to copy it."""
    monkeypatch.setattr("stfan.video.reader.probe", None)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(9):
        Image.new("RGB", (16, 8)).save(pictures / f"{number}.png")
    works = {
        films / "a.mp4": (3, 32 * 32),
        films / "more/b.avi": (4, 32 * 32),
        films / "more/deep/c.mkv": (5, 16 * 16),
        films / "broken.mp4": (0, 0),
        pictures: (9, 128),
        tmp_path / "missing": (0, 0),
    }
    for path, (frames, pixels) in works.items():
        assert measure(DeblurJob(path)) == Work(frames, pixels), path
    assert measure(DeblurJob(pictures, part=Part(2.0, 8.0, 5))).frames == 5
    assert measure(DeblurJob(films / "a.mp4", part=Part(0.04, 0.08))).frames == 1


def test_nobody_reads_what_it_says(tmp_path, films, run_deblur_stub, monkeypatch):
    """It ends, as other programs in a pipe do, and does not take it for an error of a file."""

    def closed(*_, **facts):
        raise BrokenPipeError

    monkeypatch.setattr(library_run.LibraryRun, "_record", closed)
    monkeypatch.setattr("stfan.cli.app.end_closed_pipe", lambda: sys.exit(141))
    code, _, err = run_deblur_stub(films, "--recursive", "--out-dir", tmp_path / "out", "--json")
    assert code == 141 and err == "" and tree(tmp_path / "out") == ["a.mp4"]


@pytest.mark.parametrize("when", ["at once", "between"])
def test_interrupted_without_frames_it_says_how_to_go_on_too(
    tmp_path, films, run_deblur_stub, monkeypatch, when
):
    def press(*_):
        raise KeyboardInterrupt

    if when == "at once":
        monkeypatch.setattr(library_run.LibraryRun, "_run_one", press)
        words = f"stfan: {films}/a.mp4: interrupted at once; to resume: "
    else:
        monkeypatch.setattr(library_run, "graceful_interrupt", Interrupt(5))
        words = f"stfan: interrupted before {films}/broken.mp4; to resume: "
    code, _, err = run_deblur_stub(films, "--recursive", "--out-dir", tmp_path / "out")
    assert code == 130 and f"{words}stfan deblur {films} --recursive --out-dir {tmp_path}/out --resume" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("a.mp4", "b.mp4"),
        ("a.mp4", "b.mp4", "-o", "out"),
        ("a.mp4", "-o", "b.mp4", "--out-dir", "out"),
        ("-", "--out-dir", "out"),
        ("a.mp4", "--out-dir", "-"),
        ("a.mp4", "b.mp4", "--out-dir", "out", "--report", "r.html"),
        ("a.mp4", "--recursive"),
        ("a.mp4", "--shard", "0/2"),
        ("a.mp4", "--out-dir", "out", "--start", "2", "--end", "1"),
        *(("a.mp4", "--out-dir", "out", "--shard", shard) for shard in ("2/2", "0/0", "-1/2", "1", "a/b")),
    ],
)
def test_usage_errors(run_deblur_stub, arguments):
    code, out, err = run_deblur_stub(*arguments)
    assert code == 2 and out == "" and "Usage: stfan deblur" in err


def test_shards_share_the_files(tmp_path, films, run_deblur_stub):
    (films / "broken.mp4").unlink()
    out, seen = tmp_path / "out", []
    for shard in ("0/2", "1/2"):
        code, said, _ = run_deblur_stub(films, "--recursive", "--out-dir", out, "--shard", shard, "--json")
        assert code == 0
        seen.append([json.loads(line)["input"].rsplit("/", 1)[1] for line in said.splitlines()])
    assert seen == [["a.mp4", "c.mkv"], ["b.avi"]]
    assert (
        list(Shard(1, 4).of([0])) == [] and run_deblur_stub(films, "--out-dir", out, "--shard", "1/9")[0] == 0
    )


def test_interrupted_it_says_how_to_go_on_with_the_rest(tmp_path, films, run_deblur_stub, monkeypatch):
    (films / "broken.mp4").unlink()
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run_deblur_stub(films, "--recursive", "--out-dir", whole)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(library_run, "graceful_interrupt", Interrupt(7))
        code, _, err = run_deblur_stub(films, "--recursive", "--out-dir", out)
    command = f"to resume from frame 2: stfan deblur {films} --recursive --out-dir {out} --resume"
    assert code == 130 and f"stfan: {films}/more/b.avi: interrupted after 2 frames; " in err, err
    assert err.endswith(f"{command}\n") and "a.mp4" in names(out)
    code, _, err = run_deblur_stub(films, "--recursive", "--out-dir", out)
    assert code == 1 and "b.mp4.partial: has 2 frames of an interrupted run; --resume goes on" in err
    code, _, err = run_deblur_stub(films, "--recursive", "--out-dir", out, "--resume")
    assert code == 0 and tree(out) == tree(whole), err
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in ("a.mp4", "more/b.mp4"))
    assert len(frames_of(out / "more/deep/c.mkv")) == 5


def test_what_a_kill_left_after_the_last_step_goes(tmp_path, films, run_deblur_stub):
    """The output has its name already; the state of a run that was to replace it stays."""
    out = tmp_path / "out"
    assert run_deblur_stub(films / "a.mp4", "--out-dir", out)[0] == 0
    left = out / "a.mp4.partial"
    for later, kept in ((-1, False), (1, True)):
        left.mkdir()
        (left / "state.safetensors").touch()
        at = (out / "a.mp4").stat().st_mtime_ns + later * 10**9
        os.utime(left / "state.safetensors", ns=(at, at))
        assert run_deblur_stub(films / "a.mp4", "--out-dir", out)[0] == 0
        assert left.exists() == kept


def test_the_estimate_is_of_all_files(tmp_path, films, run_deblur_stub, monkeypatch):
    monkeypatch.setattr("stfan.cli.estimate.FIRST", 0.0)
    monkeypatch.setattr("stfan.cli.estimate.LONG", 0.0)
    code, _, err = run_deblur_stub(films, "--recursive", "--out-dir", tmp_path / "out")
    (line,) = [line for line in err.splitlines() if " about " in line]
    # Two of a's frames are done; then come b and c.
    assert code == 1 and "for 10 frames in 4 files, " in line
    # 8 frames left at 2 s, and as long as 5 more.
    line = describe(2.0, 2, 10, None, Rest(frames=20, work=5.0, files=1))
    assert line.startswith("about 26 s for 28 frames in 2 files; ")


def test_what_is_said_of_a_file_names_it(tmp_path, run_deblur_stub):
    deep = make_video(tmp_path / "in.mkv", frames=2, codec="ffv1", pix_fmt="yuv420p10le")
    other = make_video(tmp_path / "other.mp4", frames=2)
    code, _, err = run_deblur_stub(deep, other, "--out-dir", tmp_path / "out", "-v")
    assert code == 0 and f"stfan: {other}: codec: libx264\n" in err
    assert f"stfan: {deep}: 10-bit input is written with 8 bits per channel; " in err


LIBRARY = """
import sys, time
from stfan.model.deblurrer import Deblurrer

step = Deblurrer.__call__
Deblurrer.__call__ = lambda *args: time.sleep(0.02) or step(*args)
from stfan.cli.app import main

main()
"""


@pytest.mark.long
def test_a_library_killed_twice(tmp_path):
    """30 clips, 3 of them broken, one command, two kills: each output is that of a run by itself."""
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    for number in range(30):
        make_video(films / f"{number}.mp4", frames=10 + number, width=32, height=16 + 2 * number)
    for number in (4, 11, 25):
        data = (films / f"{number}.mp4").read_bytes()
        (films / f"{number}.mp4").write_bytes(data[: len(data) // 2])
    command = [sys.executable, "-c", LIBRARY, "deblur", str(films), "--out-dir", str(out)]
    for count in (5, 15):
        process = subprocess.Popen([*command, "--resume"], stderr=subprocess.PIPE)
        while len(list(out.glob("*.mp4")) if out.exists() else []) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and "3 of 30 failed" in done.stderr, done.stderr
    failed = [one["input"].rsplit("/", 1)[1] for one in records if one["status"] == "failed"]
    assert failed == ["4.mp4", "11.mp4", "25.mp4"]
    assert len(records) == 30 and len(list(out.iterdir())) == 27
    alone = tmp_path / "alone"
    for path in out.iterdir():
        shutil.rmtree(alone, ignore_errors=True)
        alone.mkdir()
        single = [sys.executable, "-m", "stfan", "deblur", str(films / path.name), "-o", alone / path.name]
        subprocess.run(single, check=True, capture_output=True)
        assert path.read_bytes() == (alone / path.name).read_bytes(), path.name
