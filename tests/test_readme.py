"""The README's code runs, and its figures are those of the committed files."""

import json
import re
import sys

import pytest

from conftest import ROOT
from stfan import weights

README = (ROOT / "README.md").read_text()


OPERATOR = (ROOT / "docs/operator.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README + OPERATOR, re.S))
def test_code_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_benchmarks_are_the_committed_ones():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import report

    reports = report.load()
    assert report.with_tables(README, reports) == README, "make bench-report renews the tables"
    assert report.benchmarks_page(reports) == (ROOT / "docs" / "benchmarks.md").read_text()
    for stem, (figures, network) in reports.items():
        for part in (figures, network) if network else (figures,):
            assert {"device", "threads", "torch", "commit", "date"} <= set(part["environment"])
        assert (ROOT / "docs" / f"{stem}-time.png").exists() and (
            ROOT / "docs" / f"{stem}-memory.png"
        ).exists()


def test_scores_are_the_cards():
    card = json.loads(weights.BUNDLED.with_suffix(".json").read_text())
    mean, clips = card["psnr"]["mean"], card["psnr"]["clips"]
    worse = sum(score["output"] < score["input"] for score in clips.values())
    gains = [score["output"] - score["input"] for score in clips.values() if score["input"] < 28]
    pictures = {
        part: {f for clip, f in card["data"]["clips"].items() if clip.startswith(part)}
        for part in ("train", "test")
    }
    assert set(card["data"]["pictures"]) == pictures["train"] | pictures["test"]
    wanted = (
        f"made of {len(pictures['train'])} pictures",
        f"of {len(pictures['test'])} other pictures",
        f"gain {min(gains):.2f} to {max(gains):.2f} dB",
        f"in {card['recipe']['minutes']:.0f} minutes on two CPU cores",
        f"{len(clips)} clips",
        f"from {mean['input']:.2f} to {mean['output']:.2f} dB",
        f"{worse} of the {len(clips)} became worse",
        f"{card['recipe']['steps']:,} steps",
    )
    for words in wanted:
        assert words in re.sub(r"\s+", " ", README), words


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
