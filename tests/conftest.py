"""Every test that takes `device` runs on the CPU, and on CUDA where there is one and the package has kernels for it.

Random numbers are the same in every run: those of hypothesis too. FAC_EXT_SEED=n adds n to what tests give to
torch.manual_seed and numpy's default_rng, and hypothesis draws by --hypothesis-seed: make test-processors shows with
both that no seed is a lucky one. hypothesis draws 60 examples, and 300 in make test-all.
"""

import functools
import os
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import torch

from fac_ext import build_info
from support.checkout import ROOT, SHARED

# Inductor need not compile a program for each instruction set to learn what /proc/cpuinfo says
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")

# The files that take longest begin first: then two processes end at the same time. compile comes after predicted,
# mostly in the same process: or the header that Inductor compiles first is compiled twice.
LONGEST = (
    "kernels",
    "predicted",
    "predicted_torch",
    "benchmarks",
    "compile",
    "fac",
    "memory",
    "resume",
    "deblur",
    "onnx",
    "versions",
)
SHIFT = int(os.environ.get("FAC_EXT_SEED", "0"))


def shifted(seeded):
    """seeded(seed), with SHIFT added to a whole number that a test file gives; the package's seeds are its own."""

    @functools.wraps(seeded)
    def function(*args, **kwargs):
        caller = sys._getframe(1).f_code.co_filename
        if args and isinstance(args[0], int) and caller.startswith(str(ROOT / "tests")):
            args = (args[0] + SHIFT, *args[1:])
        return seeded(*args, **kwargs)

    return function


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Reset accelerate, which holds the first Accelerator's settings for all that follow in a process."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


def pytest_configure(config):
    examples = 60 if "not long" in config.option.markexpr else 300
    options = {"max_examples": examples, "derandomize": SHIFT == 0, "database": None, "deadline": None}
    hypothesis.settings.register_profile("fac_ext", **options)
    hypothesis.settings.load_profile("fac_ext")
    # Patched and no fixture: helpers in tests/support, hypothesis' cases and module fixtures draw too, and none could
    # forget it. The caller's file tells the tests' seeds from the package's own, which are part of what is tested.
    if SHIFT:
        torch.manual_seed, np.random.default_rng = shifted(torch.manual_seed), shifted(np.random.default_rng)


def pytest_collection_modifyitems(items):
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        cuda = torch.cuda.is_available() and build_info()["cuda"]
        metafunc.parametrize("device", ["cpu", "cuda"] if cuda else ["cpu"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def run_cli():
    """Runs the command line in a process of its own: run_cli("deblur", ...) -> CompletedProcess."""

    def run(*args, **options):
        command = [sys.executable, "-m", "stfan", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, **options)

    return run


@pytest.fixture
def run_cli_inprocess(capsys, monkeypatch):
    """The same in this process, without the seconds that imports take."""
    app = pytest.importorskip("stfan.cli.app")

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["stfan", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            app.main()
        return subprocess.CompletedProcess(sys.argv, end.value.code or 0, *capsys.readouterr())

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
    from stfan.model.network import STFAN, initialise

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return initialise(STFAN("compact", kernel_size=3), "identity", 0).eval()


@pytest.fixture
def run_deblur_stub(run_cli_inprocess, monkeypatch):
    """stfan deblur in this process, with a stand-in for the network: run_deblur_stub("in.mp4") -> (exit code, out, err).

    run_deblur_stub.made is what the Deblurrer was to be made of.
    """
    from support.samples import Trail

    def make(*given):
        run.made = given
        return Trail()

    def run(*args):
        monkeypatch.setattr("stfan.model.deblurrer.Deblurrer", make)
        done = run_cli_inprocess("deblur", *args)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(scope="session")
def moving_clips(tmp_path_factory):
    """Three clips to train on, one to judge on: a picture of coarse noise that wanders, and its blurred version."""
    from PIL import Image

    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for place in ("train/a", "train/b", "train/c", "test/d"):
        picture = np.kron(rng.integers(0, 255, (10, 14, 3)), np.ones((4, 4, 1)))
        for t in range(6):
            sharp = picture[t : t + 24, 2 * t : 2 * t + 32]
            blurry = (sharp + np.roll(sharp, 1, 1) + np.roll(sharp, -1, 1)) / 3
            for side, frame in (("GT", sharp), ("input", blurry)):
                folder = root / place / side
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(frame.astype(np.uint8)).save(folder / f"{t:05d}.png")
    return root
