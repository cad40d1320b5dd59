"""Run the benchmarks, compare their JSON with their tables, and check the report that is made of it."""

import importlib
import json
import multiprocessing
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from support import oracle
from support.checkout import ROOT, run

sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def contenders():
    """Where a contender's process comes from: of one that has imported torch it takes a tenth of the time to start."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload(["fac_ext", "stfan"])
    return multiprocessing.get_context("forkserver")


@pytest.fixture
def bench(monkeypatch, capsys, contenders):
    """A benchmark in this process, its contenders in theirs: bench("fac", "-k", 3) -> (exit code, out, err)."""

    def call(name, *options):
        monkeypatch.setattr("harness.multiprocessing.get_context", lambda method: contenders)
        monkeypatch.setattr(sys, "argv", [f"bench_{name}.py", *map(str, options)])
        try:
            code = importlib.import_module(f"bench_{name}").main()
        except SystemExit as end:
            code = end.code
        return code or 0, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def report():
    import report

    return report


def test_figures(tmp_path, bench):
    out = tmp_path / "figures.json"
    names = ("floor", "fac", "article", "unfold")
    code, said, err = bench("fac", "--shape", "1,8,64,64", "--repeats", 3, "--only", *names, "--json", out)
    assert code == 0, err
    figures = json.loads(out.read_text())
    assert {"device", "threads", "torch", "fac_ext", "commit", "date"} <= set(figures["environment"])
    (case,) = figures["cases"]
    assert tuple(case["results"]) == names
    for modes in case["results"].values():
        for mode in ("forward", "gradients", "forward+backward"):
            low, high = modes[mode]["quartiles_ms"]
            assert 0 < low <= modes[mode]["median_ms"] <= high
            assert f"{modes[mode]['median_ms']:.2f}" in said
    # unfold holds the patches and the product: 2 * 25 times the input, 131 kB
    assert case["results"]["unfold"]["forward"]["extra_mb"] > 6
    assert case["results"]["fac"]["forward"]["extra_mb"] < 2


def test_the_gradients_memory_is_counted(tmp_path, bench):
    """fac keeps it for the next result, where a second measurement would not see it."""
    out = tmp_path / "figures.json"
    code, _, err = bench(
        "fac", "--shape", "1,64,128,160", "-k", 3, "--repeats", 1, "--only", "fac", "--json", out
    )
    assert code == 0, err
    (case,) = json.loads(out.read_text())["cases"]
    image = 64 * 128 * 160 * 4 / 1e6  # of the output and of each gradient, that of the filters being nine
    assert 10.95 * image < case["results"]["fac"]["forward+backward"]["extra_mb"] < 12 * image


def test_settings_reach_the_contenders(tmp_path, bench):
    out = tmp_path / "figures.json"
    options = ("--layout", "channels_last", "--dtype", "bfloat16", "--groups", 2, "-k", 3, "--threads", 1)
    code, said, err = bench(
        "fac", "--shape", "2,8,8,8", "--repeats", 1, *options, "--json", out, "--only", "fac", "article"
    )
    assert code == 0, err
    assert "2 x 8 x 8 x 8, k = 3, bfloat16, channels_last, 2 groups, 1 thread\n" in said
    (case,) = json.loads(out.read_text())["cases"]
    assert case["results"]["article"] == "has no groups" and case["settings"]["threads"] == 1


def test_predicted_figures(tmp_path, report, bench):
    out = tmp_path / "figures.json"
    sizes = ("--frames", "180p", "--channels", 8, "--hidden", 4, "--dtypes", "float32", "--repeats", 1)
    code, said, err = bench("predicted", *sizes, "--block-bytes", 10**5, "--json", out)
    assert code == 0, err
    cases = json.loads(out.read_text())["cases"]
    assert [case["settings"]["layout"] for case in cases] == ["row_major", "channels_last"]
    for case in cases:
        assert tuple(case["results"]) == ("products", "fac(conv2d)", "fac_predicted")
        for modes in case["results"].values():
            for mode in ("forward", "forward+backward"):
                low, high = modes[mode]["quartiles_ms"]
                assert 0 < low <= modes[mode]["median_ms"] <= high
                assert f"{modes[mode]['median_ms']:.1f}" in said
    text = report.predicted_section(json.loads(out.read_text()), "name")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(cases) and all(" -> " in row for row in rows[1:]) and "name.png" in text
    assert bench("predicted", "--hidden", 0)[0] == 2


def test_shared_figures(tmp_path, report, bench):
    out = tmp_path / "figures.json"
    for layout in ("row_major", "channels_last", "row_major"):
        sizes = ("--channels", 8, "-k", 3, "--size", 6, 20, "--layout", layout, "--seconds", 0.01)
        assert bench("shared", *sizes, "--threads", torch.get_num_threads(), "--json", out)[0] == 0
    threads = ("--threads", torch.get_num_threads())
    assert bench("shared", "--softmax", *sizes, *threads, "--repeats", 1, "--json", out)[0] == 0
    found = json.loads(out.read_text())
    assert [case["settings"]["layout"] for case in found["cases"]] == ["channels_last", "row_major"]
    kept = {name: found["softmax"][0][name]["kept_mb"] for name in ("fused", "softmax, fac")}
    assert kept["fused"] == 0 < kept["softmax, fac"]
    for case in found["cases"]:
        assert {name: set(one) for name, one in case["results"].items()} == {
            **{name: {"ours", "unfold", "shift"} for name in ("fac", "correlation", "transpose")},
            "attention": {"ours", "unfold", "sdpa"},
        }
    text = report.shared_section(found)
    assert text.count("ours") >= 8 and f"Commit {found['environment']['commit']}" in text


def test_what_is_compared_computes_the_same():
    import bench_shared

    torch.manual_seed(0)
    options = SimpleNamespace(channels=4, kernel_size=3, size=[6, 7], layout="row_major", compiled=False)
    for operator, (functions, _) in bench_shared.contenders(options).items():
        ours = functions["ours"]()
        for name, function in functions.items():
            # float32 sums of 4 channels and 9 taps, then a softmax and as many again
            allowed = oracle.spread(torch.float32, 2 * 36, 100)
            assert function().shape == ours.shape, f"{operator}, {name}"
            oracle.assert_within(function(), ours, allowed)


def test_video_figures(tmp_path, bench):
    pytest.importorskip("av", reason="PyAV is not installed")
    from stfan.evaluation.metrics import sharpness
    from stfan.video.reader import VideoReader
    from support.samples import make_video

    source, out = make_video(tmp_path / "in.mp4", frames=4, width=64, height=48), tmp_path / "figures.json"
    code, _, err = bench("videos", source, "--json", out)
    assert code == 0, err
    (video,) = json.loads(out.read_text())["videos"].values()
    assert video["size"] == [64, 48] and video["frames"] == len(video["after"]) == 4 and video["cuts"] == {}
    with VideoReader(source) as reader:
        assert video["before"] == [round(sharpness(pixels), 2) for _, pixels in reader.frames()]
    assert min(video["change"]) > 0 and video["after"] != video["before"]


def test_the_gallery_shows_the_blurriest_tile(tmp_path, monkeypatch, capsys):
    """Of the first frame that is looked at, the blurred tile: not the sharp one, nor a faint ramp with wider edges."""
    import gallery

    from stfan.images import write_clip

    generator = torch.Generator().manual_seed(1)
    sharp = torch.rand(1, 1, 4, 12, generator=generator).repeat_interleave(24, 2).repeat_interleave(24, 3)
    sharp = (255 * sharp.expand(1, 3, 96, 288)).to(torch.uint8).clone()
    sharp[..., 192:] = (128 + 2 * (torch.arange(96) - 40).clamp(0, 10)).to(torch.uint8)
    blurry = sharp.clone()
    blurry[..., 96:192] = torch.nn.functional.avg_pool2d(sharp[..., 92:195].float(), (1, 8), 1)
    for name in ("one", "two"):
        write_clip(tmp_path / name, blurry.expand(5, 3, 96, 288), sharp.expand(5, 3, 96, 288))
    out = ("--json", str(tmp_path / "gallery.json"), "--docs", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["gallery.py", str(tmp_path / "one"), str(tmp_path / "two"), *out])
    gallery.main()
    assert gallery.choose(tmp_path / "one") == (3, (slice(0, 96), slice(96, 192)))
    report = json.loads((tmp_path / "gallery.json").read_text())
    facts = report["clips"]["one"]
    assert (
        facts["frame"] == 3 and facts["before"] > 4 and facts["after"] < facts["before"] and facts["gain"] > 0
    )
    page = (tmp_path / "gallery.md").read_text()
    assert page == gallery.page(report) and f"| one | 3 | {facts['before']:.1f} |" in page
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.size == (3 * (3 * 96 + 6), 2 * (3 * 96 + 6))


def test_figures_of_the_pipeline(tmp_path, bench):
    """One step after the other, the network runs in a part of the time."""
    pytest.importorskip("av", reason="PyAV is not installed")
    out = tmp_path / "figures.json"
    code, _, err = bench("pipeline", "--size", "32", "16", "--frames", "6", "--json", out)
    assert code == 0, err
    runs = json.loads(out.read_text())["runs"]
    assert set(runs) == {"warm-up", "serial", "overlapped"}
    for one in runs.values():
        assert one["frames_per_second"] > 0 and 0 < one["network_share"] < 1


def test_contenders_agree():
    from harness import article_fac

    from fac_ext import fac_reference

    input, filters = torch.randn(2, 3, 6, 7, dtype=float), torch.randn(2, 27, 6, 7, dtype=float)
    for mode in ("zeros", "replicate"):
        wanted = fac_reference(input, filters, 3, padding_mode=mode)
        size = fac_reference(input.abs(), filters.abs(), 3, padding_mode=mode).max()
        got = article_fac(input, filters, 3, mode)
        oracle.assert_within(got, wanted, oracle.spread(torch.float64, 9, size))


def test_without_memory_for_it_a_contender_says_so(monkeypatch):
    import bench_fac

    options = bench_fac.parse(["--shape", "1,128,180,320", "--only", "floor", "fac", "unfold"])
    monkeypatch.setattr(bench_fac, "room", lambda _: (10e9, 3e9))
    plans = bench_fac.plan(options, bench_fac.SHOWN)
    assert plans["floor"] == plans["fac"] == ("forward",)
    assert plans["unfold"] == "needs 9 GB, 2 GB are free"
    monkeypatch.setattr(bench_fac, "room", lambda _: (100e9, 3e9))
    assert set(bench_fac.plan(options, bench_fac.SHOWN).values()) == {bench_fac.SHOWN}


def test_a_folder_gets_a_file_named_by_the_device(tmp_path):
    """Run as a user does, in new processes."""
    options = ("--shape", "1,2,8,8", "--repeats", "1", "--only", "fac", "--json", tmp_path / "results")
    said = run(sys.executable, ROOT / "benchmarks" / "bench_fac.py", *options)
    (file,) = (tmp_path / "results").iterdir()
    assert file.suffix == ".json" and str(file) in said


@pytest.mark.parametrize(
    "options",
    [
        ("--shape", "1,2,3"),
        ("--shape", "a"),
        ("-k", "4"),
        ("--repeats", "0"),
        ("--only", "magic"),
        ("--groups", "3"),
        ("--threads", "0"),
    ],
)
def test_bad_options_are_usage_errors(options, bench):
    assert bench("fac", *options)[0] == 2


def test_network(tmp_path, bench, monkeypatch):
    import bench_stfan

    from support.contenders import SmallNetwork

    monkeypatch.setattr(bench_stfan, "Network", SmallNetwork)
    out = tmp_path / "network.json"
    options = ("--frames", "256x256", "--dtypes", "float32", "--repeats", 1, "--only", "article", "stfan")
    code, said, err = bench("stfan", *options, "--json", out)
    assert code == 0, err
    (case,) = json.loads(out.read_text())["cases"]
    for figures in case["results"].values():
        low, high = figures["quartiles_s"]
        assert 0 < low <= figures["median_s"] <= high and figures["extra_mb"] > 10
        assert f"{figures['median_s']:.3f}" in said
    profile = case["results"]["stfan"]["profile"]
    assert sum(profile.values()) == pytest.approx(1, abs=1e-3) and profile["convolution"] > profile["fac"] > 0


def test_the_articles_path_computes_the_same(monkeypatch):
    import argparse

    from bench_stfan import FRAMES, Network

    from stfan import STFAN

    monkeypatch.setitem(FRAMES, "64x64", (64, 64))
    options = argparse.Namespace(threads=None, device="cpu", dtype="float32", frame="64x64")
    ours = Network("stfan", options)
    outputs = [ours.prepare(None)() for _ in range(2)]
    theirs = Network("article", options)
    with theirs.patches:
        for output in outputs:
            allowed = oracle.network(STFAN(), torch.float32, frames=2)
            oracle.assert_within(output[None], theirs.prepare(None)(), allowed)


def test_plots(report, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "DOCS", tmp_path)
    report.plots(report.load()["amd-epyc"][0], "new")
    for kind in ("time", "memory"):
        assert (tmp_path / f"new-{kind}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_fit(report):
    slope, start, fitted = report.fit({x: 3 * x + 2 for x in (1, 2, 5, 9)})
    assert (slope, start, fitted) == pytest.approx((3, 2, 1))
    assert report.fit({1: 1, 2: 3, 3: 1, 4: 3})[2] == pytest.approx(0.2)


def test_gpu_table_is_parts_of_the_copys_bandwidth(report):
    """2 x 4 x 10 x 10 of k = 3: 28.8 kB of filters; a copy in 1 ms moves twice that."""
    settings = {
        "shape": (2, 4, 10, 10),
        "kernel_size": 3,
        "groups": 4,
        "dtype": "float32",
        "layout": "row_major",
    }
    settings |= {"padding_mode": "zeros", "threads": None}
    times = {"forward": 1.0, "grad_input": 2.0, "grad_filters": 0.5, "gradients": 1.0}
    results = {name: {mode: {"median_ms": ms} for mode, ms in times.items()} for name in ("floor", "fac")}
    row = report.gpu_table([{"settings": settings, "results": results}]).splitlines()[-1]
    part = (28800 + 2 * 3200) / (2 * 28800)
    assert row.split("|")[3:6] == [f" {part:.2f} ", f" {part / 2:.2f} ", f" {part * 2:.2f} "]


def test_gpu_sentence_says_what_ran_where(report):
    steps = [{"name": "build", "code": 0}, {"name": "tests", "code": None}, {"name": "network", "code": 1}]
    where = {"device": "NVIDIA H200", "torch": "2.11.0", "python": "3.12.3", "commit": "abc"}
    run = {"kind": "cuda", "date": "2026-12-01", "environment": where, "steps": steps}
    said = report.gpu_sentence(run).replace("\n", " ")
    assert said == (
        "`make gpu` ran on a GPU, NVIDIA H200, with torch 2.11.0 and Python 3.12.3 on 2026-12-01, commit abc: 3 steps, "
        "not good: tests, network."
    )
    line = "on 2026-12-01: 1 of 3 steps good ([how](docs/cuda_kernels.md))."
    assert report.gpu_line(run) == f"**GPU: run** on one NVIDIA H200 {line}"
    rehearsal = run | {"kind": "cpu"}
    assert report.gpu_line(rehearsal) == f"**GPU: not yet run**; `make gpu` was rehearsed on a CPU {line}"
    assert report.gpu_sentence(rehearsal).endswith("Nothing of this section has run on a GPU.")
    rates = {"copy": 4000.0, "fac": 3600.0, "grad_input": 3200.0, "grad_filters": 3000.0}
    case = {"shape": [1, 2, 3, 4], "dtype": "float16", "layout": "row_major", "kernel_size": 3}
    case["results"] = {name: {"gb_per_s": rate} for name, rate in rates.items()}
    row = report.bandwidth_table(run | {"bandwidth": {"operators": [case]}}).splitlines()[-1]
    assert row == "| 1x2x3x4 | 3 | float16 | row_major | 4000 | 0.90 | 0.80 | 0.75 |"


def test_readme_table_and_network_sentence(report):
    times = {
        "floor": (8.0, 16.0),
        "fac": (10.0, 20.0),
        "shift compiled": (12.0, 80.0),
        "article": (200.0, 400.0),
    }
    results = {
        name: {
            "forward": {"median_ms": forward, "extra_mb": 1.0},
            "forward+backward": {"median_ms": both, "extra_mb": both / 2},
        }
        for name, (forward, both) in times.items()
    }
    assert report.readme_table(results).splitlines()[2:] == [
        "| `floor` | 8.0 | 1.0 | 16.0 | 1.0 | 8 |",
        "| `fac` | 10.0 | 1.2 | 20.0 | 1.2 | 10 |",
        "| `shift compiled` | 12.0 | 1.5 | 80.0 | 5.0 | 40 |",
        "| `article` | 200.0 | 25.0 | 400.0 | 25.0 | 200 |",
    ]
    results = {name: {"median_s": s, "extra_mb": 1000 * s} for name, s in (("stfan", 3.25), ("article", 6.5))}
    case = {"frame": "720p", "dtype": "float32", "results": results}
    said = report.network_sentence([case, case | {"frame": "360p", "results": {}}]).replace("\n", " ")
    assert said == (
        "For a frame of 1280 x 720 the article's network takes 3.2 s and 3.2 GB in float32 "
        "(with the article's code: 6.5 s and 6.5 GB)."
    )


def test_training_table_and_what_the_weights_gain(report):
    cases = [
        {"frames": frames, "recompute": recompute, "result": {"extra_mb": 100.4 * frames, "seconds": 1.25}}
        for frames in (1, 20)
        for recompute in (False, True)
    ]
    cases[2]["result"] = "crashed (exit code -9)"
    machine = {"device": "X", "threads": 2, "torch": "2", "date": "today"}
    table = report.training_table({"environment": machine, "crop": [320, 448], "cases": cases})
    assert table.splitlines()[-2:] == [
        "| 1 | 100 | 1.2 | 100 | 1.2 |",
        "| 20 | crashed (exit code -9) |  | 2008 | 1.2 |",
    ]
    buckets = {
        kind: {drift: {"gain": gain} for drift, gain in (("0", -0.1), ("4", first))}
        for kind, first in (("clean", 0.5), ("noisy", 0.25))
    }
    card = {"preset": "compact", "scores": {"protocol": "rgb8"}, "buckets": buckets}
    card["data"] = {"test_clips": 3, "test_pictures": 2}
    said = report.weights_sentence(card).replace("\n", " ")
    assert "clips of 2 pictures" in said and "drifts of 0, 4 pixels a frame" in said
    assert "without sensor noise -0.10, +0.50 dB; with it -0.10, +0.25 dB." in said


def test_judging_table_adds_the_hours_of_all_runs():
    from training_report import judging_table

    score = {"gain": 0.125, "worse": 0.5}
    card = {"preset": "compact", "hours": 1.5, "begun_from": {"hours": 2.75}, "device": "X", "date": "today"}
    card["buckets"] = {kind: {drift: dict(score) for drift in "0248"} for kind in ("clean", "noisy")}
    card["buckets"]["noisy"]["8"]["gain"] = -1.0
    lines = judging_table(card).splitlines()
    assert "for 4 hours on X, today" in lines[0]
    assert lines[-1].endswith("| +0.12 (50% worse) | -1.00 (50% worse) |")


def test_training_step_figures(tmp_path, bench, monkeypatch):
    monkeypatch.setattr("bench_training.CROP", (16, 16))
    out = tmp_path / "figures.json"
    code, said, err = bench("training", "--windows", 1, "--json", out)
    assert code == 0, err
    cases = json.loads(out.read_text())["cases"]
    assert [(case["frames"], case["recompute"]) for case in cases] == [(1, False), (1, True)]
    assert all(case["result"]["seconds"] > 0 for case in cases) and "16 x 16" in said


def test_trainer_figures(tmp_path, monkeypatch, capsys):
    """With a network and clips as small as they can be, and its processes in this one."""
    import bench_trainer

    for name in ("pictures", "cutouts"):
        (tmp_path / name).mkdir()
        noise = torch.randint(0, 255, (80, 80, 4 if name == "cutouts" else 3), dtype=torch.uint8).numpy()
        Image.fromarray(noise).save(tmp_path / name / "0.png")
    small = {"length": 2, "window": 2, "crop": [16, 16], "batch": 1}
    monkeypatch.setattr(bench_trainer, "WARM_UP", 1)
    few = bench_trainer.FEW | small | {"clips": 2, "clip_length": 2, "clip_size": [16, 16]}
    monkeypatch.setattr(bench_trainer, "FEW", few)
    monkeypatch.setattr(bench_trainer, "RENDERED", bench_trainer.RENDERED | small)
    monkeypatch.setattr(bench_trainer.multiprocessing, "get_context", lambda method: Here())
    out = tmp_path / "figures.json"
    places = (tmp_path / "pictures", tmp_path / "cutouts", tmp_path / "scratch")
    options = (*places, "--seconds", 0.01, "--turns", 1, "--json", out)
    monkeypatch.setattr(sys, "argv", ["bench_trainer.py", *map(str, options)])
    bench_trainer.main()
    said = capsys.readouterr().out
    figures = json.loads(out.read_text())["pixels_per_second"]
    assert set(figures) == {
        f"{way} {kind}" for way in ("rendered", "stored") for kind in ("float32", "bfloat16")
    }
    assert all(speed > 0 for (speed,) in figures.values()) and said.count("thousand pixels a second") == 4


class Here:
    """A context of multiprocessing whose processes run in this one."""

    def Pipe(self):
        answers = []
        ours = SimpleNamespace(recv=lambda: answers.pop(0))
        return ours, SimpleNamespace(send=answers.append, close=lambda: None)

    def Process(self, target, args):
        from accelerate.state import AcceleratorState

        # It keeps a process's precision for good.
        AcceleratorState._reset_state(reset_partial_state=True)
        return SimpleNamespace(start=lambda: target(*args), join=lambda: None)


def test_threshold_of_blur(tmp_path, capsys):
    """Of clips with edges of one pixel, and blurred ones with ramps over eight."""
    import blur_threshold

    ramp = torch.arange(64).sub(28).div(8).clamp(0, 1)
    for side, line in (("GT", torch.arange(64).ge(32).float()), ("input", ramp)):
        picture = (line.mul(255).byte()[None, :, None].expand(32, 64, 3)).numpy()
        for drift in "048":
            folder = tmp_path / "clips" / "test" / f"clean-{drift}-00" / side
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(picture).save(folder / f"{i}.png")
    out = tmp_path / "threshold.json"
    blur_threshold.main(tmp_path / "clips", out)
    found = json.loads(out.read_text())
    assert 1 < found["threshold"] <= 8 and found["below"]["clean-4"] == {"clips": 1, "GT": 1, "input": 0}
    assert f"threshold {found['threshold']}" in capsys.readouterr().out


def test_every_script_is_run_here():
    tests = (ROOT / "tests/packaging/test_benchmarks.py").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        name = path.stem
        assert re.search(rf'\b{name}\b|bench\("{name.removeprefix("bench_")}"', tests), path.name
