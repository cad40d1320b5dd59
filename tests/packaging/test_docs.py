"""Check README, docs and CONTRIBUTING against the tree: links, paths, names and the README's length."""

import importlib
import re
import subprocess

import pytest

from support.checkout import ROOT

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "research/LOG.md",
    *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))),
)
SOURCES = (".py", ".h", ".cpp", ".cu", ".cuh")  # a bare name with such an ending is a file of the project
# Former names of files, classes and functions, which nothing else is called. No text file may hold one.
FORMER = (
    *("stfan.stream", "stfan/stream", "stfan.job", "stfan/job", "stfan.mux", "stfan/mux", "stfan.cuts", "stfan/cuts"),
    *("stfan/clips", "stfan/pictures", "stfan/weights", "stfan/video.py", "stfan/model.py", "stfan/synth.py"),
    *("VideoTarget", "PictureTarget", "fac_cpu.h", "fac_cuda.cuh", "csrc/ops", "csrc/fac_cpu", "csrc/fac_cuda", "csrc/types.h"),
    *("image_count", "image_at", "fits_rows", "fits_pixels", "filter_eights", "fetch_ahead", "kMost"),
    *("tests/test_fac.py", "tests/fac_ext", "benchmarks/contenders.py", "docs/demo.png"),
)  # fmt: skip


def text_of(page):
    return (ROOT / page).read_text("utf-8")


def tracked():
    """Return the files that git tracks or would track; skip where there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("no git on this machine")
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code_blocks(text):
    return re.sub(r"^```.*?^```|<!--.*?-->", "", text, flags=re.S | re.M)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(text_of(page))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        assert not anchor or anchor in anchors(file.relative_to(ROOT)), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page):
    """A path in backticks that begins with a folder of the project, or a source file by its name alone."""
    tops = {path.name for path in ROOT.iterdir()}
    names = {
        path.name
        for top in ("fac_ext", "csrc", "stfan", "tests", "benchmarks")
        for path in (ROOT / top).rglob("*")
    }
    for quoted in re.findall(r"`([\w./\-]+)`", without_code_blocks(text_of(page))):
        if "/" in quoted and quoted.split("/")[0] in tops:
            assert (ROOT / quoted).exists(), f"{page}: {quoted}"
        elif "/" not in quoted and quoted.endswith(SOURCES):
            assert quoted in names or quoted in tops, f"{page}: {quoted}"


@pytest.mark.parametrize("page", PAGES)
def test_names_exist(page):
    """A dotted name in backticks that begins with fac_ext or stfan."""
    for quoted in re.findall(r"`((?:fac_ext|stfan)(?:\.\w+)+)`", without_code_blocks(text_of(page))):
        found, *names = quoted.split(".")
        value = importlib.import_module(found)
        for name in names:
            if not hasattr(value, name):
                importlib.import_module(f"{value.__name__}.{name}")
            value = getattr(value, name)


def test_readme_has_every_public_name():
    import fac_ext
    import stfan

    cells = re.findall(r"^\| (.*?) \|", text_of("README.md"), re.M)
    rows = {name for cell in cells for name in re.findall("`(.*?)`", cell)}
    named = {f"{module.__name__}.{name}" for module in (fac_ext, stfan) for name in module.__all__}
    assert named <= rows
    folders = {path.name for path in (ROOT / "stfan").iterdir() if (path / "__init__.py").exists()}
    assert all(f"`stfan/{folder}/`" in text_of("docs/structure.md") for folder in folders)


def test_readme_is_short():
    assert len(text_of("README.md").splitlines()) < 120


def test_every_page_is_in_the_index():
    index = text_of("docs/README.md")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_no_former_names():
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, FORMER))})(?!\w)")
    for path in tracked():
        if path == "tests/packaging/test_docs.py":
            continue
        try:
            text = text_of(path)
        except UnicodeDecodeError:
            continue
        found = pattern.search(text)
        assert not found, f"{path}: {found[0]}"
