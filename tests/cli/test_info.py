"""stfan info: what it says is so, one fact a line."""

import json
import platform
import re
from unittest import mock

import pytest
import safetensors
import torch

from fac_ext import build_info
from stfan import STFAN
from stfan.cli import app
from stfan.model import weights


@pytest.fixture
def here_info(capsys):
    """stfan info in this process: here_info("--all") -> what it prints."""

    def run(*args):
        with pytest.raises(SystemExit) as end:
            app.app(["info", *args])
        assert not end.value.code
        return capsys.readouterr().out

    return run


def facts(text):
    """{name: value} of what was printed: the name and the value begin in columns of their own."""
    lines = text.splitlines()
    value = lines[0].index(re.split(r" {2,}", lines[0])[2])
    name = lines[0].index(re.split(r" {2,}", lines[0])[1])
    assert all(line[value - 2 : value] == "  " and line[value] != " " for line in lines)
    # Of a name that comes twice the first counts: the weights were trained with another torch.
    values = {line[name:value].strip(): line[value:].strip() for line in reversed(lines)}
    return values, {line[:name].strip() for line in lines}


def test_it_says_what_is_here(run_cli):
    done = run_cli("info", "--all")
    assert done.returncode == 0 and done.stderr == ""
    said, sections = facts(done.stdout)
    assert sections == {"", "Devices", "Operator", "Versions", "Weights"}
    build, card = build_info(), json.loads(weights.locate().with_suffix(".json").read_text())
    assert re.fullmatch(r"(1 thread|(?!1 )\d+ threads), .*", said["cpu"])
    assert said["CPU kernels"] == build["cpu_simd"] and said["fac_ext"] == build["version"]
    assert build["cuda"] or said["CUDA kernels"] == "not built in"
    assert (said["python"], said["torch"]) == (platform.python_version(), torch.__version__)
    assert said["safetensors"] == safetensors.__version__
    assert said["parameters"] == f"{card['parameters']:,}" and said["preset"] == card["preset"]
    assert said["date"] == card["date"]
    assert said["PSNR of output (rgb8)"] == f"{card['scores']['overall']['output']['psnr']:.2f}"
    assert said["SSIM of input (rgb8)"] == f"{card['scores']['overall']['input']['ssim']:.4f}"
    assert f"{card['data']['sequences']}" in said["data"]


def test_it_is_short_unless_all_is_asked_for(here_info):
    said, sections = facts(here_info())
    assert sections == {"", "Devices", "Operator", "Versions", "Weights"} and len(said) <= 17
    card = json.loads(weights.locate().with_suffix(".json").read_text())
    assert said["torch"] == torch.__version__ and said["preset"] == card["preset"]
    assert said["PSNR of output (rgb8)"] == f"{card['scores']['overall']['output']['psnr']:.2f}"
    assert not {"recipe", "data", "numpy"} & set(said)
    everything, _ = facts(here_info("--all"))
    assert {"recipe", "data", "numpy"} < set(everything) and said.items() <= everything.items()


@pytest.mark.parametrize(
    ("said", "words"), [("", "out of memory"), ("Unable to allocate 9 TiB", "Unable to allocate 9 TiB")]
)
def test_a_lack_of_memory_is_one_line(monkeypatch, capsys, said, words):
    monkeypatch.setattr("sys.argv", ["stfan", "info"])
    monkeypatch.setattr("stfan.cli.info.operator", mock.Mock(side_effect=MemoryError(said)))
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 1 and capsys.readouterr().err == f"stfan: {words}\n"


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        app.app(["--version"])
    assert not end.value.code and capsys.readouterr().out == f"stfan {build_info()['version']}\n"


def test_other_weights_need_no_card(tmp_path, run_cli_inprocess):
    folder = tmp_path / "[bold]"  # rich must not take it for a style
    folder.mkdir()
    weights.save(STFAN("official", 3), folder / "w.safetensors")
    done = run_cli_inprocess("info", "--weights", folder / "w.safetensors")
    assert done.returncode == 0, done.stderr
    assert "[bold]" in "".join(done.stdout.split())  # long paths are folded
    said, _ = facts(done.stdout)
    assert said["preset"] == "official" and said["filters"] == "3 x 3" and said["card"] == "none beside it"


@pytest.mark.parametrize("text", ["no JSON", "[1, 2]", '{"scores": 3}'])
def test_a_card_that_is_none_is_named(tmp_path, run_cli_inprocess, text):
    weights.save(STFAN(kernel_size=1), tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(text)
    done = run_cli_inprocess("info", "--weights", tmp_path / "w.safetensors")
    assert done.returncode == 1
    assert done.stderr.startswith(f"stfan: {tmp_path}/w.json: not the card of a weight file: ")
    assert len(done.stderr.splitlines()) == 1
