"""Many videos in one run: which videos the inputs hold, and which output each of them has."""

import logging
import os
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av

from stfan.cli.job import DeblurJob, Part, video_suffix
from stfan.files import check_parent, visible_files
from stfan.images import SUFFIXES, image_files, natural_sort_key, open_image
from stfan.video.image_folder import VIDEOS
from stfan.video.partial_output import PartialOutput
from stfan.video.source import open_video
from stfan.video.truncation import missing_bytes

log = logging.getLogger("stfan")


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
    _check_folder(out_dir)
    sources: dict[Path, Path] = {}
    for path in inputs:
        if path.is_dir() and is_library(path, recursive):
            # Or the next run would take outputs for inputs.
            if out_dir.is_dir() and out_dir.samefile(path):
                raise ValueError(f"{out_dir}: holds the inputs; choose another folder for the outputs")
            found = [(video, video.relative_to(path)) for video in _videos(path, recursive, out_dir)]
        else:
            # Of a link its own name, and of ".." that of the folder.
            found = [(path, Path(os.path.basename(os.path.abspath(path))))]
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
    _check_outputs(sources, out_dir)
    jobs = [replace(like, input=source, output=out) for out, source in sources.items()]
    return sorted(jobs, key=lambda job: [natural_sort_key(Path(part)) for part in job.out.parts])


def _check_folder(out_dir: Path) -> None:
    """Check that outputs can be written to a folder of this name."""
    if out_dir.is_dir():
        return
    if out_dir.exists():
        raise NotADirectoryError(f"{out_dir}: is a file, not a folder for the outputs")
    if out_dir.suffix.lower() in (*VIDEOS, *SUFFIXES):
        raise ValueError(
            f"{out_dir}: must be the name of a folder for several videos, got that of a {out_dir.suffix} file"
        )
    check_parent(out_dir)


def _check_outputs(sources: Mapping[Path, Path], out_dir: Path) -> None:
    """Raise ValueError for an output that is an input, lies in another output, or is another one but for its case."""
    originals = {_identity(source) for source in sources.values() if source.exists()}
    folded: dict[str, Path] = {}
    for out, source in sources.items():
        if out.exists() and _identity(out) in originals:
            raise ValueError(
                f"{out}: would replace an input, {source}; choose another folder for the outputs"
            )
        outer = next((parent for parent in out.parents if parent in sources), None)
        if outer:
            raise ValueError(f"{out}: would lie in {outer}, the output of {sources[outer]}; rename one")
        like = folded.setdefault(unicodedata.normalize("NFC", str(out)).casefold(), out)
        if like != out and _ignores_case(out_dir if out_dir.is_dir() else out_dir.parent):
            raise ValueError(
                f"{out}: would be the output of both {sources[like]} and {source}, since this disk takes no notice "
                "of upper and lower case; rename one"
            )


def _ignores_case(folder: Path) -> bool:
    """Say whether the disk of a folder takes names for the same that differ in upper and lower case."""
    with tempfile.NamedTemporaryFile(prefix=".stfan", dir=folder) as file:
        path = Path(file.name)
        return path.with_name(path.name.upper()).exists()


def measure(job: DeblurJob) -> Work:
    """Read from the input's header how much there is to do."""
    try:
        if job.input.is_dir():
            images = image_files(job.input)
            with open_image(images[0]) as image:
                return Work(_selected(job.part, len(images), 1.0), image.width * image.height)
        with open_video(job.input) as container:
            video = container.streams.best("video")
            if not isinstance(video, av.VideoStream):
                return Work()
            rate = float(video.average_rate or 0)
            frames = video.frames or round((container.duration or 0) / av.time_base * rate)
            return Work(_selected(job.part, frames, rate), video.width * video.height)
    # Whatever it is, it is told when the file's turn comes.
    except Exception:
        return Work()


def _selected(part: Part, frames: int, rate: float) -> int:
    """Count the frames of a part, of so many that are evenly spaced."""
    end = frames if part.end is None else min(frames, round(part.end * rate))
    return min(max(end - round((part.start or 0) * rate), 0), part.max_frames or frames)


def is_done(job: DeblurJob, since: int = -1) -> bool:
    """Say whether a job's output is there, and complete.

    Args:
        job: the job.
        since: what is there counts only if it was written after this time, in ns of the disk's clock.

    Raises:
        ValueError: the output is there, but shorter than it says.
    """
    out = job.out
    if not out.exists() or out.is_dir() != job.input.is_dir() or out.stat().st_mtime_ns <= since:
        return False
    if out.is_dir():
        # Images move there one by one.
        return any(out.iterdir()) and not PartialOutput(out, {}).folder.exists()
    missing = missing_bytes(out) if out.stat().st_size else "all"
    if missing and not job.overwrite:
        raise ValueError(f"{out}: is there, but {missing} bytes of it are missing; delete it")
    return not missing


def _videos(folder: Path, recursive: bool, out_dir: Path | None) -> Iterator[Path]:
    """Yield the video files of a folder, with `recursive` of all folders in it but hidden, partial and output ones."""
    if not recursive:
        yield from (path for path in visible_files(folder) if _is_video(path))
        return
    for place, folders, files in os.walk(folder, onerror=_warn_of_folder if out_dir else None):
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


def _warn_of_folder(error: OSError) -> None:
    log.warning("%s: %s; its videos are left out", error.filename, error.strerror)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS and path.is_file()


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino
