"""Deblur many videos one after the other: what is there is skipped, and a bad file does not end the run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from stfan.cli.console import LogHandler, ProgressBar, graceful_interrupt, print_line, stderr_console
from stfan.cli.estimate import Estimate, Rest
from stfan.cli.hints import describe_error
from stfan.cli.job import DeblurJob, LoadedNetwork
from stfan.cli.library import Work, is_done, measure
from stfan.cli.outcome import (
    interrupted_at_once,
    interrupted_line,
    json_record,
    last_line,
    print_error,
    resume_command,
)
from stfan.cli.run_monitor import RunMonitor
from stfan.files import to_json
from stfan.internal_errors import traceback_wanted
from stfan.video.partial_output import remove_published


class LibraryRun:
    """Deblurs the videos of many jobs by one network.

    Args:
        jobs: all with the same network.
        mark: a file whose time says when the run began that replaces outputs; it is there until all are replaced.
        quiet: print nothing but errors.
        verbose: print what is chosen.
        as_json: print a JSON object for each file.
    """

    def __init__(self, jobs: Sequence[DeblurJob], mark: Path, quiet: bool, verbose: bool, as_json: bool):
        self.jobs, self.mark, self.quiet, self.as_json = jobs, mark, quiet, as_json
        self._handler = LogHandler(stderr_console, quiet, verbose)
        self._done: list[DeblurJob] = []
        self._failed: list[str] = []
        self._estimated = False

    def run(self) -> None:
        """Do all jobs.

        Raises:
            typer.Exit: with code 1 after the last file, if some failed; with 130 if the run was interrupted.
        """
        pending = self._skip_done()
        if pending:
            with self._handler.attached(), graceful_interrupt(stderr_console) as stop:
                self._run(pending, stop)
        if len(self.jobs) > 1 or not pending:
            done, failed = len(self._done), len(self._failed)
            skipped = len(self.jobs) - done - failed
            self._say(f"{done} of {len(self.jobs)} deblurred, {skipped} skipped, {failed} failed")
        if self._failed:
            print_error("\n  ".join([f"{len(self._failed)} of {len(self.jobs)} failed:", *self._failed]))
            raise typer.Exit(1)
        self.mark.unlink(missing_ok=True)

    def _skip_done(self) -> list[DeblurJob]:
        """Return the jobs whose outputs are not there, or with `overwrite` not replaced yet."""
        since, pending = -1, list[DeblurJob]()
        if any(job.overwrite for job in self.jobs):
            if not (self.jobs[0].resume and self.mark.exists()):
                self.mark.parent.mkdir(exist_ok=True)
                self.mark.unlink(missing_ok=True)
                self.mark.touch()
            since = self.mark.stat().st_mtime_ns
        for job in self.jobs:
            try:
                done = is_done(job, since)
            except (OSError, ValueError) as error:
                self._fail(job, error)
                continue
            if done:
                remove_published(job.out)
                self._record(job, "skipped")
                self._say(f"{job.out}: is there already, skipped")
            else:
                pending.append(job)
        return pending

    def _fail(self, job: DeblurJob, error: Exception) -> None:
        """Say what is wrong with a file; the others go on."""
        if traceback_wanted():
            raise error
        line = describe_error(error)
        self._failed.append(line)
        self._record(job, "failed", error=line)
        print_line(stderr_console, line)

    def _run(self, jobs: Sequence[DeblurJob], stop: Callable[[], bool]) -> None:
        network = jobs[0].network.load()
        work = {job.out: measure(job) for job in jobs}
        before = 0
        total = sum(one.frames for one in work.values())
        whole = ProgressBar(stderr_console, "", total or None, not self.quiet)
        with whole.progress:
            whole.start(0)
            for number, job in enumerate(jobs):
                if stop():
                    print_error(f"interrupted before {job.input}; to resume: {resume_command()}")
                    raise typer.Exit(130)
                whole.rename(f"{number} of {len(jobs)} files", before)
                rest = [work[other.out] for other in jobs[number + 1 :]]
                try:
                    self._run_one(job, network, whole, work[job.out], rest, stop)
                except KeyboardInterrupt as error:
                    self._record(job, "interrupted", resume=resume_command())
                    print_error(f"{job.input}: {interrupted_at_once(error, resumable=True, done=True)}")
                    raise typer.Exit(130) from error
                # Of standard output, not of a file.
                except (typer.Exit, BrokenPipeError):
                    raise
                # Whatever is wrong with a file, the others go on.
                except Exception as error:
                    self._fail(job, error)
                before += work[job.out].frames

    def _run_one(
        self,
        job: DeblurJob,
        network: LoadedNetwork,
        whole: ProgressBar,
        work: Work,
        rest: Sequence[Work],
        stop: Callable[[], bool],
    ) -> None:
        self._handler.subject, self._handler.warnings = str(job.input), []
        job.out.parent.mkdir(parents=True, exist_ok=True)
        opened = job.open()
        with opened.reader as reader:
            opened.log_choices(network)
            frames, pixels = sum(one.frames for one in rest), sum(one.frames * one.pixels for one in rest)
            follows = Rest(frames, pixels / work.pixels if work.pixels else frames, len(rest))
            estimate = Estimate(reader.expected_frames, network.device, self._say_estimate, rest=follows)
            bar = ProgressBar(
                stderr_console, reader.path.name, reader.expected_frames, progress=whole.progress
            )
            monitor = RunMonitor(
                reader.path.resolve().name, network, job.look, bar, estimate, whole, opened.plan
            )
            try:
                result = opened.run(network, monitor.start, monitor, stop)
            finally:
                bar.remove()
        if not result.complete:
            self._record(job, "interrupted", **json_record(result, network, monitor, self._handler.warnings))
            print_error(f"{job.input}: {interrupted_line(result)}")
            raise typer.Exit(130)
        self._done.append(job)
        self._record(job, "done", **json_record(result, network, monitor, self._handler.warnings))
        self._say(last_line(result, monitor))

    def _say_estimate(self, line: str) -> None:
        """Say how long all files take, once."""
        if not (self._estimated or self.quiet):
            self._estimated = True
            print_line(stderr_console, line)

    def _say(self, line: str) -> None:
        if not (self.quiet or self.as_json):
            print(line, flush=True)

    def _record(self, job: DeblurJob, status: str, **facts: Any) -> None:
        if self.as_json:
            record = {"input": str(job.input), "path": str(job.out), "status": status}
            print(to_json(record | facts), flush=True)
