"""The README's code runs, and its figures are those of the committed files."""

import re
import sys

import pytest

from support.checkout import ROOT

README = (ROOT / "README.md").read_text()


OPERATOR = (ROOT / "docs/operator.md").read_text()
PREDICTED = (ROOT / "docs/predicted.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README + OPERATOR + PREDICTED, re.S))
def test_code_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_benchmarks_are_the_committed_ones():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import report

    reports = report.load()
    assert report.with_tables(README, reports) == README, "make bench-report renews the tables"
    page = (ROOT / "docs" / "training.md").read_text()
    assert report.training_page(page) == page and (ROOT / "docs" / "training.png").exists()
    assert report.benchmarks_page(reports) == (ROOT / "docs" / "benchmarks.md").read_text()
    assert report.predicted_page(PREDICTED) == PREDICTED
    for stem in report.predicted_reports():
        assert (ROOT / "docs" / f"{stem}.png").exists()
    for stem, (figures, network) in reports.items():
        for part in (figures, network) if network else (figures,):
            assert {"device", "threads", "torch", "commit", "date"} <= set(part["environment"])
        assert (ROOT / "docs" / f"{stem}-time.png").exists() and (
            ROOT / "docs" / f"{stem}-memory.png"
        ).exists()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
