"""Run steps with limits, one by one or side by side; write each result at once, and let none stop another."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LOG_BYTES = 200_000  # of a step's output that the log keeps


@dataclass
class Step:
    """A command with a limit in seconds, and how it went."""

    name: str
    command: list[str]
    limit: float
    code: int | None = None  # None: it was ended at its limit
    seconds: float | None = None
    said: str = ""  # its last line, or what it says of itself
    started: float = field(default=0.0, repr=False)


class Steps:
    """The steps of a run, and the two files that it leaves: gpu.json, renewed after each step, and log.txt.

    Args:
        out: the folder of the two files.
        work: where the output of running steps is, and everything else that is made.
        tree: the checkout in which steps run.
        patience: times the limits.
    """

    def __init__(self, out: Path, work: Path, tree: Path, patience: float = 1):
        self.out, self.work, self.tree, self.patience = out, work, tree, patience
        self.began = time.monotonic()
        self.report: dict[str, Any] = {"steps": []}
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]),
            "PYTHONPATH": str(tree),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        out.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        (out / "log.txt").write_text("")

    def start(self, name: str, command: list[Any], limit: float, **environment: str) -> "Running":
        """Begin a step beside others."""
        limit *= self.patience
        step = Step(name, [str(part) for part in command], limit, started=time.monotonic())
        return Running(self, step, self.environment | environment)

    def run(self, name: str, command: list[Any], limit: float, **environment: str) -> Step:
        """Run a step to its end."""
        return self.start(name, command, limit, **environment).wait()

    def skip(self, name: str, reason: str) -> None:
        """Record a step that does not run here, with the reason."""
        self.done(Step(name, [], 0, code=0, seconds=0.0, said=f"skipped: {reason}"), "")

    def done(self, step: Step, output: str) -> None:
        """Record a step."""
        # the log has the commands; the report, which may be committed, has no folder of this machine
        step.said = step.said.replace(str(self.tree), "TREE").replace(str(self.work), "WORK")
        facts = {key: value for key, value in asdict(step).items() if key not in ("command", "started")}
        self.report["steps"].append(facts)
        with (self.out / "log.txt").open("a") as log:
            log.write(f"\n== {step.name}: {step.code}, {step.seconds} s: {' '.join(step.command)}\n")
            log.write(output[-LOG_BYTES:])
        self.write()
        end = (
            "stopped at its limit" if step.code is None else f"exit code {step.code}" if step.code else "good"
        )
        at = time.monotonic() - self.began
        print(
            f"[{at:4.0f} s] {step.name}: {end}, {step.seconds:.0f} of {step.limit:.0f} s: {step.said}",
            flush=True,
        )

    def write(self) -> None:
        """Write gpu.json in one step."""
        partial = self.out / "gpu.partial"
        partial.write_text(json.dumps(self.report, indent=1) + "\n")
        partial.replace(self.out / "gpu.json")

    def guard(self, name: str, function: Callable[[], Any]) -> Any:
        """Run a step that is a function; its error is its end."""
        step = Step(name, [], 0, started=time.monotonic())
        result = None
        try:
            result = function()
            step.code, step.said = 0, str(result)[:200]
        except Exception as error:
            step.code, step.said = 1, f"{type(error).__name__}: {error}"[:300]
        step.seconds = round(time.monotonic() - step.started, 1)
        self.done(step, "")
        return result


class Running:
    """A step that has begun, in a process group of its own."""

    def __init__(self, steps: Steps, step: Step, environment: dict[str, str]):
        self.steps, self.step = steps, step
        self.file = steps.work / f"{step.name.replace(' ', '-')}.log"
        self.output = self.file.open("wb")
        self.process: subprocess.Popen[bytes] | None = None
        self.ended: float | None = None
        try:
            self.process = subprocess.Popen(
                step.command,
                cwd=steps.tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            threading.Thread(target=self._note_end, daemon=True).start()
        except OSError as error:
            self.output.write(f"{error}\n".encode())

    def _note_end(self) -> None:
        """Keep when the step ended, which others may wait for much later."""
        assert self.process is not None
        self.process.wait()
        self.ended = time.monotonic()

    def _end_at_limit(self) -> None:
        """Interrupt the step's processes, then kill them."""
        assert self.process is not None
        for sign, wait in ((signal.SIGINT, 5), (signal.SIGKILL, 5)):
            os.killpg(self.process.pid, sign)
            try:
                self.process.wait(wait)
            except subprocess.TimeoutExpired:
                continue
            return

    def wait(self) -> Step:
        """Wait for the end or the limit, and record the step."""
        step = self.step
        if self.process is None:
            step.code = 127
        else:
            left = step.limit - (time.monotonic() - step.started)
            try:
                step.code = self.process.wait(max(left, 0.1))
            except subprocess.TimeoutExpired:
                self._end_at_limit()
        step.seconds = round((self.ended or time.monotonic()) - step.started, 1)
        self.output.close()
        output = self.file.read_text(errors="replace")
        lines = output.strip().splitlines()
        step.said = lines[-1][:300] if lines else ""
        self.steps.done(step, output)
        return step
