"""Every test that takes `device` runs on the CPU, and on CUDA where there is one and the package has kernels for it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fac_ext import build_info

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"  # pictures and clips that a clone need not have


def run(*command, **options):
    """What a command says; its end is the message where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        cuda = torch.cuda.is_available() and build_info()["cuda"]
        metafunc.parametrize("device", ["cpu", "cuda"] if cuda else ["cpu"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def stfan():
    """Runs the command line in a process of its own: stfan("deblur", ...) -> CompletedProcess."""

    def run(*args, **options):
        command = [sys.executable, "-m", "stfan", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, **options)

    return run


@pytest.fixture
def shared_video():
    """The path of a real clip by its name; skips where there is none."""

    def find(name):
        path = SHARED / "videos" / name
        if not path.exists():
            pytest.skip(f"{name} is not on this machine")
        return path

    return find


@pytest.fixture(scope="session")
def small():
    """A network to try the handling of frames with, where it does not matter what it makes of them."""
    from stfan.model import STFAN
    from stfan.window import initialise

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return initialise(STFAN(kernel_size=3), "identity", 0).eval()


@pytest.fixture
def here(capsys, monkeypatch):
    """stfan deblur in this process, with a stand-in for the network: here("in.mp4", ...) -> (exit code, out, err).

    here.made is what the Deblurrer was to be made of.
    """
    cli = pytest.importorskip("stfan.cli")
    from samples import Trail

    def make(*given):
        run.made = given
        return Trail()

    def run(*args):
        monkeypatch.setattr("stfan.stream.Deblurrer", make)
        monkeypatch.setattr(sys, "argv", ["stfan", "deblur", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return run
