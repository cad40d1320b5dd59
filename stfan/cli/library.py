"""Many videos in one run: which videos the inputs hold, and which output each of them has."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stfan.cli.job import DeblurJob, video_suffix
from stfan.files import check_parent, visible_files
from stfan.images import image_files, natural_sort_key
from stfan.video.image_folder import VIDEOS
from stfan.video.reader import VideoReader


@dataclass(frozen=True)
class Work:
    """How much there is to do of a file, as its header has it.

    Attributes:
        frames: number of frames; 0 if the file does not say, or cannot be read.
        pixels: of a frame.
    """

    frames: int = 0
    pixels: int = 0


def is_library(folder: Path, recursive: bool = False) -> bool:
    """Say whether a folder holds videos, not the images of one: as many as images or more, or with `recursive` any."""
    if recursive and next(_videos(folder, True, None), None):
        return True
    videos = list(_videos(folder, False, None))
    return bool(videos) and len(videos) >= len(image_files(folder))


def plan_jobs(inputs: Sequence[Path], out_dir: Path, like: DeblurJob, recursive: bool) -> list[DeblurJob]:
    """Make a job for each video of the inputs, in a stable order, with all else as in `like`.

    A file and a folder of images keep their name in `out_dir`, and the videos of a folder their place in it. The ending
    becomes .mp4 where a video cannot be written with its own.

    Raises:
        ValueError: two outputs have the same name, an output would replace an input, or there is no video.
        OSError: `out_dir` is a file, or cannot be made.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise NotADirectoryError(f"{out_dir}: is a file, not a folder for the outputs")
    if not out_dir.exists():
        check_parent(out_dir)
    sources: dict[Path, Path] = {}
    for path in inputs:
        if path.is_dir() and is_library(path, recursive):
            found = [(video, video.relative_to(path)) for video in _videos(path, recursive, out_dir)]
        else:
            found = [(path, Path(path.resolve().name))]
        for source, place in found:
            if not source.is_dir():
                place = place.with_suffix(video_suffix(place, like.encoding.lossless))
            out = out_dir / place
            if out in sources:
                raise ValueError(
                    f"{out}: would be the output of both {sources[out]} and {source}; rename one"
                )
            sources[out] = source
    if not sources:
        raise ValueError(f"{', '.join(map(str, inputs))}: no videos")
    originals = {_identity(source) for source in sources.values() if source.exists()}
    for out, source in sources.items():
        if out.exists() and _identity(out) in originals:
            raise ValueError(
                f"{out}: would replace an input, {source}; choose another folder for the outputs"
            )
    jobs = [replace(like, input=source, output=out) for out, source in sources.items()]
    return sorted(jobs, key=lambda job: [natural_sort_key(Path(part)) for part in job.out.parts])


def measure(job: DeblurJob) -> Work:
    """Read from the input's header how much there is to do."""
    if job.input.is_dir():
        return Work(len(image_files(job.input)), 1)
    part = job.part
    try:
        with VideoReader(job.input, part.start or 0.0, part.end, part.max_frames) as reader:
            return Work(reader.expected_frames or 0, reader.video.width * reader.video.height)
    # It is told when the file's turn comes.
    except (OSError, ValueError):
        return Work()


def _videos(folder: Path, recursive: bool, out_dir: Path | None) -> Iterator[Path]:
    """Yield the video files of a folder, with `recursive` of all folders in it but hidden, partial and output ones."""
    if not recursive:
        yield from (path for path in visible_files(folder) if _is_video(path))
        return
    for place, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(".partial")
            and not (out_dir and out_dir.exists() and out_dir.samefile(Path(place, name)))
        ]
        yield from (
            path for path in map(Path(place).joinpath, files) if _is_video(path) and path.name[0] != "."
        )


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS and path.is_file()


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino
