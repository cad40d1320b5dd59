"""Inputs that claim to be huge, read-only folders, JSON of another form: one line each, and nothing is left."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.cli import app
from support.samples import make_video, names

SIDE = 60_000  # pixels, of pictures that hold a few


@pytest.fixture
def command(capsys, monkeypatch):
    """A command of stfan in this process: command("data", "check", ...) -> (exit code, out, err)."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["stfan", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            app.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def bomb(path):
    """Write a small picture whose header claims SIDE x SIDE."""
    data = io.BytesIO()
    Image.new("RGB", (32, 32)).save(data, Image.registered_extensions()[path.suffix])
    data = bytearray(data.getvalue())
    if path.suffix == ".png":
        struct.pack_into(">II", data, 16, SIDE, SIDE)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif path.suffix == ".bmp":
        struct.pack_into("<ii", data, 18, SIDE, SIDE)
    else:
        struct.pack_into(">HH", data, data.find(b"\xff\xc0") + 5, SIDE, SIDE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "jpg"])
def test_a_picture_that_claims_to_be_huge(tmp_path, run_deblur_stub, ending):
    picture = bomb(tmp_path / "in" / f"0.{ending}")
    code, said, err = run_deblur_stub(picture.parent, "-o", tmp_path / "out")
    assert (code, said, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"stfan: {picture}: cannot be read: Image size (3600000000 pixels) exceeds limit")
    assert names(tmp_path) == ["in"]


def test_a_text_in_a_picture_that_unpacks_to_much(tmp_path, run_deblur_stub):
    picture = bomb(tmp_path / "in" / "0.png")
    Image.new("RGB", (32, 32)).save(picture)
    data, text = picture.read_bytes(), b"zTXtx\0\0" + zlib.compress(bytes(9 << 20))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    picture.write_bytes(data[:33] + chunk + data[33:])
    code, _, err = run_deblur_stub(picture.parent, "-o", tmp_path / "out")
    assert code == 1 and f"{picture}: cannot be read: Decompressed data too large" in err
    assert names(tmp_path) == ["in"]


def test_data_with_a_picture_that_claims_to_be_huge(tmp_path, command):
    picture = bomb(tmp_path / "set" / "input" / "0.png")
    bomb(tmp_path / "set" / "GT" / "0.png")
    code, said, _ = command("data", "check", tmp_path / "set")
    assert code == 1 and f"{picture}: cannot be read: Image size" in said and "1 pairs, 2 problems" in said
    code, said, err = command("data", "synth", picture.parent, tmp_path / "made")
    assert (code, said, len(err.splitlines())) == (1, "", 1) and f"{picture}: cannot be read: Image" in err
    assert names(tmp_path) == ["set"]


@pytest.mark.parametrize("side", [15_000, 16_384, 65_500])
def test_a_video_that_claims_to_be_huge(tmp_path, run_deblur_stub, side):
    source = make_video(tmp_path / "in.avi", frames=3, codec="mjpeg", pix_fmt="yuvj420p")
    data, at = bytearray(source.read_bytes()), 0
    while (at := data.find(b"\xff\xc0\x00\x11", at + 1)) > 0:
        struct.pack_into(">HH", data, at + 5, side, side)
    struct.pack_into("<ii", data, data.find(b"strf") + 12, side, side)
    source.write_bytes(data)
    code, said, err = run_deblur_stub(source, "-o", tmp_path / "out.mp4")
    assert (code, said, len(err.splitlines())) == (1, "", 1)
    assert f"{source}: broken or truncated after 0.00 s" in err and names(tmp_path) == ["in.avi"]


def test_out_of_memory_is_said_in_one_line(tmp_path, command, run_deblur_stub, monkeypatch):
    """Python's MemoryError often has no words of its own."""

    def fail(*_):
        raise MemoryError

    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "0.png")
    monkeypatch.setattr("stfan.video.image_folder.to_pillow", fail)
    assert run_deblur_stub(folder, "-o", tmp_path / "out")[::2] == (1, "stfan: out of memory\n")
    monkeypatch.setattr(Image.Image, "load", fail)
    code, _, err = run_deblur_stub(folder, "-o", tmp_path / "out")
    assert code == 1 and err == f"stfan: {folder}/0.png: cannot be read: out of memory\n"
    assert names(tmp_path) == ["in"]


COMMANDS = """
import json, sys
from stfan.cli.app import main

codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["stfan", *arguments]
    try:
        main()
    except SystemExit as end:
        codes.append(end.code or 0)
print(codes)
"""


@pytest.fixture
def read_only(tmp_path):
    """A folder with a video and a folder of pictures, all read-only, and what runs commands that cannot write there."""
    folder = tmp_path / "ro"
    (folder / "pictures").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "pictures" / "0.png")
    make_video(folder / "in.mp4", frames=2)
    plain = []
    if os.geteuid() == 0:  # whom rights do not stop
        plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if shutil.which("setpriv") is None:
            pytest.skip("root, and there is no setpriv")
    for path in (folder, folder / "pictures"):
        path.chmod(0o555)
    yield folder, [*plain, sys.executable, "-c", COMMANDS]
    for path in (folder, folder / "pictures"):
        path.chmod(0o755)


def test_read_only_folders_are_refused_before_the_work(tmp_path, read_only):
    folder, command = read_only
    words = f"stfan: {folder}: cannot be written to; choose another folder for "
    refused = {
        "in_deblurred.mp4": (folder / "in.mp4",),
        "pictures_deblurred": (folder / "pictures",),
        "page.html": (folder / "in.mp4", "-o", tmp_path / "out.mp4", "--report", folder / "page.html"),
    }

    def run(*commands):
        texts = json.dumps([["deblur", *map(str, arguments)] for arguments in commands])
        return subprocess.run([*command, texts], capture_output=True, text=True)

    done = run(*refused.values())
    assert (done.stdout, done.stderr) == ("[1, 1, 1]\n", "".join(f"{words}{name}\n" for name in refused))
    assert names(tmp_path) == ["ro"] and names(folder) == ["in.mp4", "pictures"]
    done = run((folder / "in.mp4", "-o", tmp_path / "out.mp4", "-q"))
    assert done.stdout == "[0]\n", done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"settings"', "is not JSON: Expecting ':' delimiter: line 1 column 12 (char 11)"),
        ("[" * 100_000, "is not JSON: maximum recursion depth exceeded"),
        ('[{"clip": 1}]', 'must be a JSON object, got [{"clip": 1}]'),
        ('{"settings": {}, "clips": [1]}', "clips must be a JSON object, got [1]"),
        (
            '{"settings": {}, "clips": {"train/a": {}}}',
            'clip train/a must be {"pictures": [name, ...], ...}, got {}',
        ),
        (
            '{"settings": {}, "clips": {"train/a": {"pictures": [7]}}}',
            'clip train/a must be {"pictures": [name, ...], ...}, got {"pictures": [7]}',
        ),
    ],
)
def test_clips_of_another_form(tmp_path, command, moving_clips, text, words):
    """Training reads where its clips are from; a check of the frames does not."""
    root = tmp_path / "set"
    shutil.copytree(moving_clips, root)
    (root / "clips.json").write_text(text)
    settings = f"data={root}", "crop=16,16", "length=2", "iterations=1", "perceptual_weight=0"
    code, said, err = command("train", tmp_path / "run", "--cpu", *settings)
    assert (code, said, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"stfan: {root}/clips.json: {words}") and names(tmp_path) == ["set"]
    code, said, _ = command("data", "check", root)
    assert code == 0 and "24 pairs, no problems" in said


def test_stored_clips_of_another_form(tmp_path, command):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "store").mkdir()
    for i in range(7):
        noise = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "store" / "clips.json").write_text("[1, 2]")
    settings = "synthetic=true", "clips=2", "clip_size=32,32", "crop=16,16", "length=2", "perceptual_weight=0"
    folders = f"data={tmp_path}/pictures", f"store={tmp_path}/store"
    code, said, err = command("train", tmp_path / "run", "--cpu", *settings, *folders)
    words = f"stfan: {tmp_path}/store/clips.json: must be a JSON object, got [1, 2]\n"
    assert (code, said, err) == (1, "", words) and names(tmp_path) == ["pictures", "store"]
