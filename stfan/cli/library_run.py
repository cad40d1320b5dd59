"""Deblur many videos one after the other: what is there is skipped, and a bad file does not end the run."""

from collections.abc import Callable, Sequence
from typing import Any

import typer

from stfan.cli.console import LogHandler, ProgressBar, graceful_interrupt, print_line, stderr_console
from stfan.cli.estimate import Estimate, Rest
from stfan.cli.hints import describe_error
from stfan.cli.job import DeblurJob, LoadedNetwork
from stfan.cli.library import Work, measure
from stfan.cli.outcome import interrupted_at_once, interrupted_line, json_record, last_line, print_error
from stfan.cli.run_monitor import RunMonitor
from stfan.files import to_json
from stfan.internal_errors import traceback_wanted
from stfan.video.partial_output import remove_published


class LibraryRun:
    """Deblurs the videos of many jobs by one network.

    Args:
        jobs: all with the same network.
        quiet: print nothing but errors.
        verbose: print what is chosen.
        as_json: print a JSON object for each file.
    """

    def __init__(self, jobs: Sequence[DeblurJob], quiet: bool, verbose: bool, as_json: bool):
        self.jobs, self.quiet, self.as_json = jobs, quiet, as_json
        self._handler = LogHandler(stderr_console, quiet, verbose)
        self._done: list[DeblurJob] = []
        self._failed: list[str] = []
        self._estimated = False

    def run(self) -> None:
        """Do all jobs.

        Raises:
            typer.Exit: with code 1 after the last file, if some failed; with 130 if the run was interrupted.
        """
        pending = [job for job in self.jobs if job.overwrite or not job.out.exists()]
        for job in self.jobs:
            if job not in pending:
                remove_published(job.out)
                self._record(job, "skipped")
                self._say(f"{job.out}: is there already, skipped")
        if pending:
            with self._handler.attached(), graceful_interrupt(stderr_console) as stop:
                self._run(pending, stop)
        if len(self.jobs) > 1 or not pending:
            skipped = len(self.jobs) - len(pending)
            self._say(
                f"{len(self._done)} of {len(self.jobs)} deblurred, {skipped} skipped, {len(self._failed)} failed"
            )
        if self._failed:
            print_error("\n  ".join([f"{len(self._failed)} of {len(self.jobs)} failed:", *self._failed]))
            raise typer.Exit(1)

    def _run(self, jobs: Sequence[DeblurJob], stop: Callable[[], bool]) -> None:
        network = jobs[0].network.load()
        work = {job.out: measure(job) for job in jobs}
        before = 0
        total = sum(one.frames for one in work.values())
        whole = ProgressBar(stderr_console, "", total or None, not self.quiet)
        with whole.progress:
            whole.start(0)
            for number, job in enumerate(jobs):
                whole.rename(f"{number} of {len(jobs)} files", before)
                rest = [work[other.out] for other in jobs[number + 1 :]]
                try:
                    self._run_one(job, network, whole, work[job.out], rest, stop)
                except KeyboardInterrupt as error:
                    print_error(interrupted_at_once(error))
                    raise typer.Exit(130) from error
                except typer.Exit:
                    raise
                # Whatever is wrong with a file, the others go on.
                except Exception as error:
                    if traceback_wanted():
                        raise
                    line = describe_error(error)
                    self._failed.append(line)
                    self._record(job, "failed", error=line)
                    print_line(stderr_console, line)
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
            follows = Rest(
                sum(one.frames for one in rest),
                sum(one.frames * one.pixels for one in rest) / max(work.pixels, 1),
                len(rest),
            )
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
