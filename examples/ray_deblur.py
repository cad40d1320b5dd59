"""Deblur many videos on a Ray cluster, a task for each video.

    pip install 'fac-ext[ray]'
    python examples/ray_deblur.py films --recursive --out-dir sharp --gpus 1

All machines must see the same folders. A worker that dies is replaced, and its task resumes the video; the same command
resumes the whole.
"""

import argparse
from functools import cache
from pathlib import Path

import ray

from stfan.cli.hints import describe_error
from stfan.cli.job import DeblurJob, LoadedNetwork, NetworkChoice
from stfan.cli.library import is_done, plan_jobs


@cache
def load(network: NetworkChoice) -> LoadedNetwork:
    """Load the network once for each worker."""
    return network.load()


@ray.remote(max_retries=5)
def deblur(job: DeblurJob) -> str:
    """Deblur one video; what is wrong with it is one line."""
    try:
        if is_done(job):
            return f"{job.out}: is there already"
        job.out.parent.mkdir(parents=True, exist_ok=True)
        return f"{job.out}: {job.run(load(job.network)).frames} frames"
    except Exception as error:
        # Not every error of the package can be sent to another process.
        raise RuntimeError(describe_error(error)) from None


def deblur_all(jobs: list[DeblurJob], gpus: float = 0) -> list[str]:
    """Deblur what is not there yet, print each result, and return what went wrong."""
    task, failed = deblur.options(num_gpus=gpus), []
    running = {task.remote(job): job for job in jobs}
    while running:
        (done,), _ = ray.wait(list(running))
        try:
            print(ray.get(done), flush=True)
        except ray.exceptions.RayError as error:
            failed.append(f"{running[done].input}: {getattr(error, 'cause', None) or error}")
        del running[done]
    return failed


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--out-dir", type=Path, required=True)
    parser.add_argument("--recursive", action="store_true")
    parser.add_argument("--gpus", type=float, default=0, help="of one video; 0.5 lets two share a GPU")
    args = parser.parse_args()
    # Workers have another working directory.
    inputs, out_dir = [path.absolute() for path in args.inputs], args.out_dir.absolute()
    jobs = plan_jobs(inputs, out_dir, DeblurJob(inputs[0], resume=True), args.recursive)
    failed = deblur_all(jobs, args.gpus)
    if failed:
        raise SystemExit("\n".join([f"{len(failed)} failed:", *failed]))


if __name__ == "__main__":
    main()
