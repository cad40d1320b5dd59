"""stfan data preview, and what the commands say of names that are not there."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("typer", reason="typer is not installed")
from stfan.cli import app
from stfan.cli.data import spread
from stfan.images import write_image


@pytest.fixture
def five_clips(tmp_path):
    """Three clips to train on and two for tests, each of another grey."""
    import torch

    for number, place in enumerate(("train/a", "train/b", "train/c", "test/d", "test/e")):
        for side in ("input", "GT"):
            folder = tmp_path / "set" / place / side
            folder.mkdir(parents=True)
            for t in range(2):
                write_image(folder / f"{t}.png", torch.full((3, 16, 16), 40 * number + 20, dtype=torch.uint8))
    return tmp_path / "set"


@pytest.mark.parametrize(("clips", "greys"), [((), [20, 60, 100, 140, 180]), (("--clips", "2"), [20, 180])])
def test_preview_shows_each_clip_once(five_clips, tmp_path, clips, greys):
    """The test clips too, in a set that has fewer than the eight clips that are shown."""
    with pytest.raises(SystemExit) as end:
        app.app(["data", "preview", str(five_clips), "-o", str(tmp_path / "sheet.png"), *clips])
    assert not end.value.code
    with Image.open(tmp_path / "sheet.png") as sheet:
        rows = np.array(sheet)[:, 4 + 8, 0]  # through the middle of the first frames
    height = 18 + 2 * (16 + 4)
    assert [rows[top + 18 + 8] for top in range(0, len(rows), height)] == greys


def test_check_warns_of_a_number_that_is_missing(five_clips, capsys):
    for side in ("input", "GT"):
        folder = five_clips / "train" / "a" / side
        for name in ("5.png", "6.png"):
            (folder / name).write_bytes((folder / "0.png").read_bytes())
    with pytest.raises(SystemExit) as end:
        app.app(["data", "check", str(five_clips)])
    said = capsys.readouterr()
    assert not end.value.code and "5 videos, 12 pairs, no problems" in said.out
    assert f"stfan: {five_clips / 'train' / 'a' / 'input'}: numbers are missing between 1 and 5;" in said.err


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("items", [1, 2, 5, 8, 30])
def test_a_choice_holds_nothing_twice(items, count):
    chosen = spread(list(range(items)), count)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(items, count)
    assert chosen[0] == 0 and (len(chosen) == 1 or chosen[-1] == items - 1)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("train", "run", "-c", "missing.toml"), "missing.toml: no such file; a recipe must be a TOML file"),
        (("data", "preview", "missing", "-o", "sheet.png"), "missing: no such folder"),
    ],
)
def test_names_that_are_not_there(tmp_path, monkeypatch, capsys, args, words):
    if args[0] == "train":
        pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stfan", *args])
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 1 and capsys.readouterr().err == f"stfan: {words}\n"
    assert list(tmp_path.iterdir()) == []
