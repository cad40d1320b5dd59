"""The command stfan deblur: what it says, what it leaves when it is interrupted, and how it goes on."""

import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from typer.main import get_command  # noqa: E402

from stfan.cli import app  # noqa: E402
from stfan.cli.most_changed import SEEN, MostChangedFrame, most_changed_part  # noqa: E402
from stfan.devices import fast_bfloat16  # noqa: E402
from support.checkout import ROOT  # noqa: E402
from support.samples import frames_of, make_video, names, sound_of, texts_of  # noqa: E402


def test_the_command_deblurs(tmp_path, run_cli):
    source = make_video(tmp_path / "in.mp4", sound="aac")
    # what it says is of before encoding
    done = run_cli("deblur", source, "--crf", 1, "--picture", tmp_path / "in.png")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    out = tmp_path / "in_deblurred.mp4"
    said = re.fullmatch(
        rf"{out}: 12 frames, [\d.]+ frames/s; changed by ([\d.]+) of 255 on average and [\d.]+ where it changed most: (.*)\n"
        rf"{tmp_path}/in.png: frame (\d+), before .*\n",
        done.stdout,
    )
    assert said, done.stdout
    before, after = frames_of(source), frames_of(out)
    assert len(after) == 12 and sound_of(out) == sound_of(source)
    changes = [np.abs(a - b).mean() for (_, a), (_, b) in zip(before, after, strict=True)]
    assert 0.05 < max(changes) < 40
    assert abs(float(said[1]) - np.mean(changes)) < 1 and said[2] in [words for _, words in SEEN]
    with Image.open(tmp_path / "in.png") as picture:
        assert picture.size == (128, 96)
        shown = np.array(picture).transpose(2, 0, 1).astype(int)
    left, right = shown[:, :48, :64], shown[:, :48, 64:]
    assert np.abs(left - before[int(said[3])][1]).mean() < 1
    details = shown[:, 48::4, ::4]  # enlarged by repeating pixels
    assert (shown[:, 48:] == np.kron(details, np.ones((4, 4), int))).all()
    parts = [(slice(y, y + 12), slice(x, x + 16)) for y in range(0, 37, 3) for x in range(0, 49, 4)]
    change = {at: np.abs(left - right).mean(0)[parts[at]].mean() for at in range(len(parts))}
    same = [
        at
        for at, part in enumerate(parts)
        if (details == np.concatenate([frame[:, *part] for frame in (left, right)], 2)).all()
    ]
    assert same and max(change[at] for at in same) > max(change.values()) - 1  # both are rounded to 8 bits
    assert names(tmp_path) == ["in.mp4", "in.png", "in_deblurred.mp4"]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_command_on_a_device(tmp_path, run_cli_inprocess, device, dtype):
    """Compare the frames with the CPU's in float32, both after an encoder that loses little."""
    source = make_video(tmp_path / "in.mp4")
    common = ("--crf", 1, "--overwrite")
    right, out = tmp_path / "right.mp4", tmp_path / "out.mp4"
    assert run_cli_inprocess("deblur", source, "-o", right, "--device", "cpu", *common).returncode == 0
    done = run_cli_inprocess("deblur", source, "-o", out, "--device", device, "--dtype", dtype, *common)
    assert done.returncode == 0, done.stderr
    for (_, a), (_, b) in zip(frames_of(out), frames_of(right), strict=True):
        assert np.abs(a - b).mean() < 1.5


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([0, 0.4], "0.1 of 255 on average and 0.2 where it changed most: not visible"),
        ([0.5, 1], "0.4 of 255 on average and 0.8 where it changed most: hardly visible"),
        ([2], "1.0 of 255 on average and 2.0 where it changed most: visible in details"),
        ([0, 8], "2.0 of 255 on average and 4.0 where it changed most: visible"),
        ([255.001], "127.5 of 255 on average and 255.0 where it changed most: visible"),  # a mean is rounded
    ],
)
def test_the_change_in_words(levels, words):
    found = MostChangedFrame()
    assert found.words == ""
    for level in levels:
        after = torch.zeros(3, 16, 24)
        after[:, :8] = level / 255
        found.add(torch.zeros(3, 16, 24), after)
    assert found.words == f"changed by {words}"


@pytest.mark.parametrize(
    ("rows", "columns"), [(slice(-1, None), slice(None)), (slice(None), slice(-1, None))]
)
def test_the_last_rows_and_columns_count(rows, columns):
    before, after = torch.zeros(3, 43, 54), torch.zeros(3, 43, 54)
    after[:, rows, columns] = 1
    height, width = most_changed_part(before, after)
    assert (height.stop - height.start, width.stop - width.start) == (10, 13)
    assert after[:, height, width].any()
    found = MostChangedFrame()
    found.add(before, after)
    mean, most = map(float, re.findall(r"(\d+\.\d) (?:of|where)", found.words))
    assert most > 2 * mean > 0


def test_one_frame_is_no_frames(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mp4", frames=2)
    name = "a" * 240 + ".html"  # with what a partial file's name has besides, longer than a name can be
    code, said, err = run_deblur_stub(source, "--max-frames", "1", "--report", tmp_path / name)
    assert code == 0 and "_deblurred.mp4: 1 frame, " in said + err and (tmp_path / name).exists()


def test_the_report_says_what_becomes_of_the_file(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mkv", frames=2, sound="pcm_s16le")
    assert run_deblur_stub(source, "-o", tmp_path / "out.webm", "--report", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    plan = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])["plan"]
    assert re.fullmatch(r"stream 0 \(video, .*\): 2 frames, 64x48, .* s is kept", plan[0])
    assert plan[1:] == ["stream 1 (sound, pcm_s16le) is left out: .webm does not take it, .mkv would"]


def test_an_output_that_exists(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mp4", frames=3)
    (tmp_path / "in_deblurred.mp4").write_text("precious")
    code, _, err = run_deblur_stub(source)
    assert code == 1 and "in_deblurred.mp4: exists already; --overwrite" in err
    assert (tmp_path / "in_deblurred.mp4").read_text() == "precious"
    assert run_deblur_stub(source, "--overwrite")[0] == 0
    assert len(frames_of(tmp_path / "in_deblurred.mp4")) == 3


def test_options_reach_the_file(tmp_path, run_deblur_stub):
    source = make_video(
        tmp_path / "in.mkv", frames=30, sound="aac", texts=("subrip", [(0, 300, "No"), (600, 800, "Yes")])
    )
    code, out, _ = run_deblur_stub(
        *(source, "-o", tmp_path / "out.mov", "--start", "0:00:00.4", "--end", "1", "--no-audio"),
        *("--codec", "libx265", "--crf", "5", "--preset", "ultrafast", "--pix-fmt", "yuv444p"),
        *("--compare", "side", "--json"),
    )
    result = json.loads(out)
    assert code == 0 and result["frames"] == 15 and result["complete"] and result["warnings"] == []
    assert result["path"] == str(tmp_path / "out.mov") and result["resume"] is None
    with av.open(str(tmp_path / "out.mov")) as container:
        assert [stream.type for stream in container.streams] == ["video", "subtitle"]
        video = container.streams.video[0]
        assert (video.codec_context.name, video.pix_fmt, video.width) == ("hevc", "yuv444p", 128)
    assert texts_of(tmp_path / "out.mov")[1] == [(200, 400, "Yes")]
    before, both = frames_of(source)[12][1], frames_of(tmp_path / "out.mov")[2][1]
    assert np.abs(both[..., :64] - before).mean() < 2


def test_options_reach_the_network(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mp4", frames=2)
    assert (
        run_deblur_stub(
            source,
            "--tile",
            "64",
            "--reset-on-cut",
            "--dtype",
            "bf16",
            "--device",
            "cpu",
            "--strength",
            "0.5",
        )[0]
        == 0
    )
    model, *made = run_deblur_stub.made
    assert (*made, next(model.parameters()).dtype) == (64, True, 0.5, torch.bfloat16)
    for given, tile in (((), None), (("--tile", "auto"), None), (("--tile", "0"), 0)):
        assert run_deblur_stub(source, "--device", "cpu", "--overwrite", *given)[0] == 0
        model, *made = run_deblur_stub.made
        chosen = torch.bfloat16 if fast_bfloat16("cpu") else torch.float32
        assert made == [tile, False, 1] and next(model.parameters()).dtype == chosen


def test_auto_is_what_there_is(tmp_path, run_deblur_stub, monkeypatch):
    """CUDA where there is some, and half precision on it."""
    from stfan.model import weights

    source, asked, load = make_video(tmp_path / "in.mp4", frames=2), [], weights.load
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    def here_all_the_same(path, device, dtype):
        asked.append((device, dtype))
        return load(path, "cpu", dtype)

    monkeypatch.setattr(weights, "load", here_all_the_same)
    monkeypatch.setattr("stfan.cli.options.fast_bfloat16", lambda device: False)
    for options in ((), ("--dtype", "fp32"), ("--device", "cpu")):
        assert run_deblur_stub(source, "--overwrite", *options)[0] == 0
    assert asked == [("cuda", torch.float16), ("cuda", torch.float32), ("cpu", torch.float32)]


@pytest.mark.parametrize("command", [("deblur", "in.mp4"), ("eval", "--data", ".")])
@pytest.mark.parametrize("tile", ["30", "-4", "whole", "8.0"])
def test_sides_of_tiles(command, tile, capsys):
    with pytest.raises(SystemExit) as end:
        app.app([*command, "--tile", tile])
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert end.value.code == 2
    assert f"Invalid value for '--tile': must be auto, 0 or a multiple of 4, got '{tile}'" in said


def test_comparison_in_halves(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mp4", frames=4)
    assert run_deblur_stub(source, "-o", tmp_path / "all.mkv", "--lossless")[0] == 0
    assert run_deblur_stub(source, "-o", tmp_path / "out.mkv", "--lossless", "--compare", "split")[0] == 0
    before, after, split = (
        frames_of(path)[3][1] for path in (source, tmp_path / "all.mkv", tmp_path / "out.mkv")
    )
    assert np.array_equal(split[..., :32], np.rint(before)[..., :32])
    assert np.array_equal(split[..., 33:], after[..., 33:]) and (split[..., 32] == 255).all()


def test_strength_is_a_part_of_the_change(tmp_path, run_cli_inprocess):
    source = make_video(tmp_path / "in.mp4", frames=4)
    written = {}
    for strength in ("0", "0.5", "1"):
        out = tmp_path / f"{strength}.mkv"
        done = run_cli_inprocess(
            *("deblur", source, "-o", out, "--lossless", "--strength", strength, "--json"),
            *("--report", tmp_path / f"{strength}.html"),
        )
        assert done.returncode == 0 and json.loads(done.stdout)["strength"] == float(strength), done.stderr
        assert f'"strength": {float(strength)}' in (tmp_path / f"{strength}.html").read_text()
        written[strength] = np.stack([pixels for _, pixels in frames_of(out)])
    before = np.stack([pixels for _, pixels in frames_of(source)])
    assert np.array_equal(written["0"], np.rint(before)) and not np.array_equal(written["0"], written["1"])
    # Of the middle, half a level for its own rounding, a quarter each for that of the two ends.
    inside = (written["1"] > 0) & (written["1"] < 255)
    middle = (before + written["1"]) / 2
    assert np.abs(written["0.5"] - middle)[inside].max() <= 0.5 + 0.25 + 1e-3


def test_quiet_and_verbose(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mkv", frames=3, sound="pcm_s16le")
    assert run_deblur_stub(source, "-o", tmp_path / "1.webm", "-q") == (0, "", "")
    code, out, err = run_deblur_stub(source, "-o", tmp_path / "2.webm", "-v")
    assert code == 0 and out.startswith(f"{tmp_path}/2.webm: 3 frames, ")
    assert f"stfan: {source}: stream 1 (sound, pcm_s16le) is left out" in err
    assert f"stfan: {source}: codec: libvpx-vp9\n" in err
    warned = json.loads(run_deblur_stub(source, "-o", tmp_path / "3.webm", "--json", "-q")[1])["warnings"]
    assert len(warned) == 1 and "is left out" in warned[0]


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("in.mp4", "--max-frames", "0"),
        ("in.mp4", "--start", "soon"),
        ("in.mp4", "--start", "2", "--end", "1"),
        ("in.mp4", "--compare", "left"),
        ("in.mp4", "--strength", "1.6"),
        ("in.mp4", "--strength", "-0.1"),
        ("in.mp4", "-q", "-v"),
        (".", "--crf", "3"),
        (".", "--start", "1.5"),
    ],
)
def test_usage_errors_exit_with_2(run_deblur_stub, args):
    code, out, err = run_deblur_stub(*args)
    assert code == 2 and out == "" and "Usage: stfan deblur" in err


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
    make_video(folder / "none.mkv", frames=0, texts=("subrip", [(0, 100, "alone")]))
    (folder / "folder.mp4").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "picture.png")
    with av.open(str(folder / "sound.m4a"), "w") as container:
        tone = container.add_stream("aac", 48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(tone.encode(frame))
        container.mux(tone.encode(None))
    broken = folder / "pictures"
    broken.mkdir()
    for name in ("1.png", "2.png", "3.png"):
        Image.new("RGB", (32, 32)).save(broken / name)
    (broken / "2.png").write_bytes((broken / "2.png").read_bytes()[:60])
    return {
        "missing.mp4": "no such file",
        "folder.mp4": "holds no images",
        "late.mp4": "truncated",
        "cut.avi": "truncated",
        "early.mp4": "truncated",
        "cut.mkv": "truncated",
        "text.mp4": "not a video, or truncated",
        "empty.mp4": "not a video, or truncated",
        "none.mkv": "holds no frames",
        "picture.png": "is one picture; deblurring needs the frames of a video, or a folder",
        "sound.m4a": "holds no video stream",
        "pictures": "pictures/2.png: cannot be read",
    }


def test_bad_inputs_are_one_line_and_exit_code_1(tmp_path, run_deblur_stub):
    cases = bad_inputs(tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, words in cases.items():
        out = tmp_path / ("out" if name == "pictures" else "out.mp4")
        code, said, err = run_deblur_stub(tmp_path / name, "-o", out)
        assert code == 1 and said == "", (name, err)
        (line,) = err.splitlines()
        assert line.startswith("stfan: ") and words in line and name in line
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept
        assert not out.exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("nowhere/out.mp4", "nowhere: no such folder"),
        ("out.txt", "out.txt: not the name of a video file; it should end in .mp4"),
        ("out.avi", "out.avi: not the name of a video file"),
        ("folder.mp4", "folder.mp4: is a folder"),
        ("in.mp4", "in.mp4: would replace its own input"),
        ("there.mp4", "there.mp4: exists already"),
        ("taken.mp4", "taken.mp4.partial: is in the way"),
        ("there.mp4/out.mp4", "there.mp4: no such folder"),
    ],
)
def test_bad_outputs(tmp_path, run_deblur_stub, out, words):
    source = make_video(tmp_path / "in.mp4", frames=3)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "there.mp4").touch()
    (tmp_path / "taken.mp4.partial").mkdir()
    (tmp_path / "taken.mp4.partial" / "diary.txt").write_text("mine")
    kept = source.read_bytes()
    code, _, err = run_deblur_stub(source, "-o", tmp_path / out)
    assert code == 1 and words in err and len(err.splitlines()) == 1, err
    assert source.read_bytes() == kept
    assert (tmp_path / "taken.mp4.partial" / "diary.txt").read_text() == "mine"
    assert names(tmp_path) == ["folder.mp4", "in.mp4", "taken.mp4.partial", "there.mp4"]


def test_bad_pictures_and_devices(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mp4", frames=3).rename(tmp_path / "in.png")
    kept = source.read_bytes()
    for option, value, words in (
        ("--picture", tmp_path / "nowhere" / "p.png", "nowhere: no such folder"),
        ("--picture", tmp_path / "p.xyz", "p.xyz: --picture must be"),
        ("--picture", source, "would replace its own input"),
        ("--device", "magic", "device 'magic': there is none; this machine has "),
        ("--device", "cuda:99", "device 'cuda:99': there is none; this machine has "),
        ("--weights", "none.safetensors", "none.safetensors: no such weight file"),
    ):
        code, _, err = run_deblur_stub(source, "-o", tmp_path / "out.mp4", option, value, "--overwrite")
        assert code == 1 and words in err and len(err.splitlines()) == 1, err
        assert source.read_bytes() == kept and names(tmp_path) == ["in.png"]


def test_a_picture_is_not_put_among_the_inputs(tmp_path, run_deblur_stub):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(2):
        Image.new("RGB", (16, 16), (i, i, i)).save(folder / f"{i}.png")
    for name in ("0.png", "2.png"):
        code, _, err = run_deblur_stub(
            folder, "-o", tmp_path / "out", "--picture", folder / name, "--overwrite"
        )
        assert code == 1 and "would replace its own input, or be part of it" in err
    assert names(tmp_path) == ["in"] and names(folder) == ["0.png", "1.png"]


def test_a_title_in_another_encoding(tmp_path, run_deblur_stub):
    with av.open(str(tmp_path / "titled.mkv"), "w") as titled:
        titled.metadata["title"] = "cafeX"
        stream = titled.add_stream("libx264", 25)
        stream.width = stream.height = 16
        for _ in range(3):
            titled.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        titled.mux(stream.encode(None))
    bytes_ = (tmp_path / "titled.mkv").read_bytes()
    assert b"cafeX" in bytes_
    (tmp_path / "titled.mkv").write_bytes(bytes_.replace(b"cafeX", b"caf\xe9 "))
    code, out, err = run_deblur_stub(tmp_path / "titled.mkv", "-o", tmp_path / "out.mkv")
    assert code == 0 and "3 frames" in out, err


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="glibc fills new memory if asked to")
@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "libsvtav1"])
def test_what_memory_held_before_does_not_show(tmp_path, run_cli, codec):
    """x264 reads some of it with its macroblock tree."""
    source = make_video(tmp_path / "in.mp4", frames=30, width=64, height=64)
    files = []
    for filling in (0, 85):
        files.append(tmp_path / f"{filling}.mp4")
        memory = {"MALLOC_PERTURB_": str(filling), "MALLOC_MMAP_MAX_": "0"}
        done = run_cli("deblur", source, "-o", files[-1], "--codec", codec, env=os.environ | memory)
        assert done.returncode == 0, done.stderr
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_document_knows_every_option_and_its_code_runs(tmp_path, monkeypatch, capsys):
    document = (ROOT / "docs/video.md").read_text()
    table = document[document.index("## Options") : document.index("## Exit codes")]
    told = {
        option for row in re.findall(r"^\| (`-.*?) \|", table, re.M) for option in re.findall("`(.*?)`", row)
    }
    command = get_command(app.app).commands["deblur"]
    assert told == {option for one in command.params for option in one.opts if option.startswith("-")} - {
        "--help"
    }
    make_video(tmp_path / "holiday.mp4", width=16, height=16)
    monkeypatch.chdir(tmp_path)
    block = re.findall(r"```python\n(.*?)```", document, re.S)[0]
    exec(compile(block, "video.md", "exec"), {})
    assert capsys.readouterr().out == "3\n" and len(frames_of(tmp_path / "sharp.mp4")) == 3
