"""The examples of docs/video.md that share videos between processes: a shell, a Slurm array, Ray."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.cli.job import DeblurJob
from stfan.cli.library import plan_jobs
from support.checkout import ROOT
from support.samples import frames_of, make_video, names

SHELL, SLURM = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/video.md").read_text(), re.S)[:2]


@pytest.fixture
def films(tmp_path):
    """Three short videos in a folder, and a program named stfan on PATH."""
    (tmp_path / "films").mkdir()
    for number in range(3):
        make_video(tmp_path / "films" / f"{number}.mp4", frames=3, width=16, height=16)
    program = tmp_path / "bin" / "stfan"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m stfan "$@"\n')
    program.chmod(0o755)
    return tmp_path


def run_script(folder, script, **variables):
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    python = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": python} | variables
    return subprocess.run(["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_shell_example(films):
    """On two CPUs; a broken video makes it fail, and the others are there."""
    script = SHELL.replace("--device cuda:$i", "--device cpu")
    assert script != SHELL
    (films / "films" / "3.mp4").touch()
    done = run_script(films, script)
    assert done.returncode == 1 and done.stderr.count("3.mp4: not a video") == 2, done.stderr
    assert names(films / "sharp") == ["0.mp4", "1.mp4", "2.mp4"]


def test_the_slurm_example(films):
    for task in range(2):
        variables = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"}
        done = run_script(films, SLURM, **variables)
        assert done.returncode == 0, done.stderr
        assert len(names(films / "sharp")) == (2, 3)[task]


class KilledOnce(DeblurJob):
    """A job that kills its process after 55 frames, the first time."""

    def run(self, network=None):
        mark = self.out.with_suffix(".killed")
        if mark.exists():
            return super().run(network)
        mark.touch()
        frames = iter(range(1000))
        opened = self.open()
        with opened.reader:
            return opened.run(
                network, stop=lambda: next(frames) == 55 and os.kill(os.getpid(), signal.SIGKILL)
            )


@pytest.mark.long
def test_ray(tmp_path, monkeypatch):
    """Two workers: one that is killed loses no video, and what is there is not made again."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    for number in range(3):
        make_video(films / f"{number}.mp4", frames=60, width=16, height=16)
    (films / "broken.mp4").touch()
    paths = [str(ROOT), str(ROOT / "examples"), str(ROOT / "tests"), str(ROOT / "tests" / "examples")]
    for path in paths:
        monkeypatch.syspath_prepend(path)
    import ray_deblur

    jobs = plan_jobs([films], out, DeblurJob(films, resume=True), recursive=False)
    jobs[1] = KilledOnce(jobs[1].input, jobs[1].output, resume=True)
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env=environment, log_to_driver=False)
    try:
        (failed,) = ray_deblur.deblur_all(jobs)
        assert "broken.mp4: not a video" in failed
        assert names(out) == ["0.mp4", "1.killed", "1.mp4", "2.mp4"]
        assert all(len(frames_of(out / f"{number}.mp4")) == 60 for number in range(3))
        times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
        assert len(ray_deblur.deblur_all(jobs)) == 1
        assert times == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    finally:
        ray.shutdown()
    DeblurJob(jobs[1].input, tmp_path / "alone.mp4").run()
    assert (out / "1.mp4").read_bytes() == (tmp_path / "alone.mp4").read_bytes()
