"""The command stfan try: the part that it deblurs, what it leaves, and the command for the whole that it prints."""

import shlex

import pytest
from PIL import Image

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from typer.main import get_command

from stfan.cli import app, trial
from stfan.cli.job import default_output
from support.samples import frames_of, make_video, names


def test_the_middle_is_deblurred_side_by_side(tmp_path, run_cli_inprocess):
    source = make_video(tmp_path / "in it.mp4", frames=30, width=32, height=16)
    done = run_cli_inprocess(
        "try",
        source,
        "--seconds",
        "0.2",
        "--strength",
        "0.5",
        "--weights",
        "compact",
        "--tile",
        "64",
        "--deinterlace",
        "off",
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert names(tmp_path) == ["in it.mp4", "in it_try.html", "in it_try.mp4"]
    shown, whole = frames_of(tmp_path / "in it_try.mp4"), frames_of(source)
    assert len(shown) == 5 and shown[0][1].shape[-1] == 2 * whole[0][1].shape[-1]
    # 0.2 s of 1.2 s at 25 frames a second: from 0.5 s on, which is between the frames 12 and 13.
    left = [pixels[..., :32] for _, pixels in shown]
    errors = [abs(left[0] - pixels).mean() for _, pixels in whole]
    assert errors.index(min(errors)) == 13
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("the whole: ")]
    command = shlex.split(line.removeprefix("the whole: "))
    assert command == [
        "stfan",
        "deblur",
        str(source),
        "--weights",
        "compact",
        "--tile",
        "64",
        "--strength",
        "0.5",
        "--deinterlace",
        "off",
    ]
    context = get_command(app.app).commands["deblur"].make_context("deblur", command[2:])
    assert context.params["strength"] == 0.5 and context.params["tile"] == 64
    assert context.params["deinterlace"] == "off"


def test_a_second_try_needs_overwrite(tmp_path, run_cli_inprocess):
    source = make_video(tmp_path / "in.mkv", frames=3, width=16, height=16)
    (tmp_path / "in_try.html").write_text("mine")
    done = run_cli_inprocess("try", source)
    assert done.returncode == 1 and "in_try.html: exists already; --overwrite" in done.stderr
    assert names(tmp_path) == ["in.mkv", "in_try.html"]
    done = run_cli_inprocess("try", source, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"the whole: stfan deblur {source}\n")


@pytest.mark.parametrize(
    ("frames", "seconds", "part"), [(50, 1, (0.5, 1.5)), (50, 3, (None, None)), (50, 2, (None, None))]
)
def test_the_middle_of_a_video(tmp_path, frames, seconds, part):
    source = make_video(tmp_path / "in.mp4", frames=frames, width=16, height=16)
    assert trial.middle(source, seconds) == (part if part[0] is None else pytest.approx(part))


def test_the_middle_of_a_folder(tmp_path, caplog):
    """What else it holds is said once, by stfan deblur."""
    for i in range(60):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").touch()
    assert trial.middle(tmp_path, 1) == (17, 42) and trial.middle(tmp_path, 3) == (None, None)
    assert trial.middle(tmp_path, 0.01) == (29, 30) and not caplog.records
    assert default_output(tmp_path, word="try") == tmp_path.with_name(f"{tmp_path.name}_try")


@pytest.mark.parametrize("seconds", ["inf", "nan", "0"])
def test_a_length_that_is_none(tmp_path, capsys, seconds):
    with pytest.raises(SystemExit) as end:
        app.app(["try", str(tmp_path), "--seconds", seconds])
    assert end.value.code == 2 and "--seconds" in capsys.readouterr().err
