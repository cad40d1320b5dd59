"""What stfan deblur says of an input that is sharp already."""

import json
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")


@pytest.fixture
def frames(tmp_path):
    """Make a folder of frames: frames(pixels of blur)."""

    def make(blur):
        rng, folder = np.random.default_rng(0), tmp_path / f"blur{blur}"
        folder.mkdir()
        for i in range(3):
            squares = np.kron(rng.integers(0, 255, (8, 12)), np.ones((8, 8)))
            moved = np.mean([np.roll(squares, shift, 1) for shift in range(blur)], 0)
            Image.fromarray(np.stack([moved] * 3, 2).astype(np.uint8)).save(folder / f"{i}.png")
        return folder

    return make


@pytest.mark.parametrize(
    ("blur", "options", "note"),
    [
        (1, (), "; little blur found; --strength 0.5 suggested"),
        (1, ("--strength", "0.5"), "; little blur found"),
        (6, (), ""),
    ],
)
def test_the_last_line_says_it(frames, run_deblur_stub, tmp_path, blur, options, note):
    source, page = frames(blur), tmp_path / "page.html"
    code, out, err = run_deblur_stub(source, *options, "--report", page)
    assert code == 0, err
    summary, _ = out.splitlines()
    said = re.search(
        rf"; (changed by [\d.]+ of 255 on average and [\d.]+ where it changed most: [a-z ]+{note})$", summary
    )
    assert said and f'"summary": "{said[1]}"' in page.read_text()
    assert f"<title>{source.name}: what stfan deblur changed · stfan</title>" in page.read_text()
    code, out, err = run_deblur_stub(source, *options, "--overwrite", "--json")
    said = json.loads(out)
    assert code == 0 and said["little_blur"] == bool(note)
    assert said["edge_width"] == pytest.approx(blur, rel=0.1)


def test_without_edges_nothing_is_said(run_deblur_stub, tmp_path):
    (tmp_path / "grey").mkdir()
    Image.new("RGB", (32, 32), (90, 90, 90)).save(tmp_path / "grey" / "0.png")
    code, out, _ = run_deblur_stub(tmp_path / "grey", "--json")
    assert code == 0 and json.loads(out)["edge_width"] is None and not json.loads(out)["little_blur"]
