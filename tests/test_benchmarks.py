"""The benchmark runs, and its JSON holds what its table says."""

import json
import subprocess
import sys

from conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "bench_fac.py"


def bench(*options):
    return subprocess.run([sys.executable, SCRIPT, *map(str, options)], capture_output=True, text=True)


def test_figures(tmp_path):
    out = tmp_path / "figures.json"
    done = bench("--shape", "1,8,64,64", "--repeats", 3, "--only", "floor", "fac", "unfold", "--json", out)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert {"device", "threads", "torch", "fac_ext", "commit", "date"} <= set(figures["environment"])
    assert set(figures["results"]) == {"floor", "fac", "unfold"}
    for modes in figures["results"].values():
        for mode in ("forward", "forward+backward"):
            low, high = modes[mode]["quartiles_ms"]
            assert 0 < low <= modes[mode]["median_ms"] <= high
            assert f"{modes[mode]['median_ms']:.2f}" in done.stdout
    # unfold holds the patches and the product: 2 * 25 times the input, 131 kB
    assert figures["results"]["unfold"]["forward"]["extra_mb"] > 6
    assert figures["results"]["fac"]["forward"]["extra_mb"] < 2


def test_a_folder_gets_a_file_named_by_the_device(tmp_path):
    done = bench("--shape", "1,2,8,8", "--repeats", 1, "--only", "fac", "--json", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "results").iterdir()
    assert file.suffix == ".json" and str(file) in done.stdout


def test_bad_options_are_usage_errors():
    for options in (
        ("--shape", "1,2,3"),
        ("--shape", "a"),
        ("-k", "4"),
        ("--repeats", "0"),
        ("--only", "magic"),
    ):
        assert bench(*options).returncode == 2
