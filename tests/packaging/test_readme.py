"""Run the code of the README and the docs, and compare the figures of the pages with the committed files."""

import json
import re
import sys

import pytest

from support.checkout import ROOT

README = (ROOT / "README.md").read_text()
PREDICTED = (ROOT / "docs" / "predicted.md").read_text()
# docs/video.md needs a video: tests/cli/test_deblur.py runs it
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "video.md"),
]
BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_code_runs(page, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), {})


def test_benchmarks_are_the_committed_ones():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import report
    import training_report

    sys.path.insert(0, str(ROOT / "research"))
    import tables

    reports = report.load()
    assert report.with_figures(README, reports) == README, "make bench-report renews the figures"
    page = (ROOT / "docs" / "training.md").read_text()
    assert training_report.training_page(page) == page
    video_page = (ROOT / "docs" / "video.md").read_text()
    assert training_report.video_page(video_page) == video_page
    assert report.training_page(page) == page
    import gallery

    (figures,) = (ROOT / "benchmarks" / "results").glob("*-gallery.json")
    assert gallery.page(json.loads(figures.read_text())) == (ROOT / "docs" / "gallery.md").read_text()
    log = (ROOT / "research" / "LOG.md").read_text()
    assert tables.log_page(log) == log
    assert report.benchmarks_page(reports) == (ROOT / "docs" / "benchmarks.md").read_text()
    assert report.predicted_page(PREDICTED) == PREDICTED
    kernels = (ROOT / "docs" / "cuda_kernels.md").read_text()
    assert report.kernels_page(kernels, report.gpu_report()) == kernels
    for stem in report.predicted_reports():
        assert (ROOT / "docs" / f"{stem}.png").exists()
    for stem, (figures, network) in reports.items():
        for part in (figures, network) if network else (figures,):
            assert {"device", "threads", "torch", "commit", "date"} <= set(part["environment"])
        assert (ROOT / "docs" / f"{stem}-time.png").exists() and (
            ROOT / "docs" / f"{stem}-memory.png"
        ).exists()
