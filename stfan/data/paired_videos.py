"""Videos with known truth in data sets as people download them: which blurry frame belongs to which sharp one."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any, Self

from stfan.data.layouts import LAYOUTS, VideoFolders, recognise_layout
from stfan.data.splits import PHASES, find_split, read_split
from stfan.files import first_names
from stfan.images import image_files, natural_sort_key, open_rgb

log = logging.getLogger("stfan")
Root = str | Path | Iterable[str | Path]  # a folder, or two: blurry and sharp


@dataclass(frozen=True)
class Video:
    """A video with known truth.

    Attributes:
        name: of its folder.
        blurry, sharp: the files of its frames, in the order of the numbers in their names, paired by stem.
        phase: "train", "valid" or "test"; None where the layout has no phases.
    """

    name: str
    blurry: tuple[Path, ...]
    sharp: tuple[Path, ...]
    phase: str | None = None

    @property
    def runs(self) -> list[range]:
        """The frames that follow each other without a gap in their numbers."""
        return cut_at_gaps([path.stem for path in self.blurry])


@dataclass(frozen=True)
class PairedDataset:
    """The videos of a data set, as :func:`find_videos` returns them.

    Attributes:
        root: the folder or folders, in words.
        layout: in words.
        phases: the phases that it has, of "train", "valid", "test"; none where its layout does not tell them apart.
        videos: in the order of phases and of their names, with only those frames that have a partner.
        phase_problems: (phase, line) of what is wrong with it; a line names the file or folder.
    """

    root: str
    layout: str
    phases: tuple[str, ...]
    videos: tuple[Video, ...]
    phase_problems: tuple[tuple[str | None, str], ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with it, a line each, naming the file or folder."""
        return tuple(line for _, line in self.phase_problems)

    @property
    def clips(self) -> dict[str, tuple[tuple[Path, ...], tuple[Path, ...]]]:
        """{name: (blurry paths, sharp paths)}; the name is phase/name where there are several phases."""
        several = len({video.phase for video in self.videos}) > 1
        return {
            f"{video.phase}/{video.name}" if several else video.name: (video.blurry, video.sharp)
            for video in self.videos
        }

    @property
    def split(self) -> list[dict[str, Any]]:
        """The videos as :func:`stfan.data.splits.write_split` takes them."""
        return [
            {"name": video.name, "phase": video.phase, "sample": [path.stem for path in video.blurry]}
            for video in self.videos
        ]

    def only(self, phase: str) -> Self:
        """Return the videos and the problems of one phase.

        Raises:
            ValueError: it has no such phase.
        """
        if phase not in self.phases:
            raise ValueError(
                f"{self.root}: {self.layout} has no videos for {phase}; "
                + (
                    f"it has {', '.join(self.phases)}"
                    if self.phases
                    else "it does not tell phases apart: a JSON split could"
                )
            )
        videos = tuple(video for video in self.videos if video.phase == phase)
        problems = tuple(problem for problem in self.phase_problems if problem[0] == phase)
        return replace(self, phases=(phase,), videos=videos, phase_problems=problems)

    def raise_problems(self) -> Self:
        """Return the same, or raise ValueError if it has problems."""
        if self.problems:
            others = len(self.problems) - 1
            more = f" (and {others} such lines more)" if others else ""
            raise ValueError(self.problems[0] + more)
        return self


def find_videos(
    root: Root,
    phase: str | None = None,
    layout: str | Path = "auto",
    gopro_blur: str = "blur_gamma",
    strict: bool = True,
) -> PairedDataset:
    """Find the videos of a data set, and pair each blurry frame with its sharp one; no image is opened.

    To use several phases, take all of them with ``strict=False``, and of the result ``.only(phase).raise_problems()``.

    Args:
        root: the folder of a data set, or two folders, (blurry, sharp), with the frames of one video each or with
            a folder of frames for each video.
        phase: "train", "valid" or "test"; None for all that there is.
        layout: one of LAYOUTS. Or a JSON file in the form of the authors (see :func:`stfan.data.splits.read_split`),
            which says which frames of which videos belong to which phase, wherever they are in root. Or "auto": the
            layout that root has, and the split by the JSON file that lies in root, if there is one.
        gopro_blur: which of GoPro's two kinds of blurry frames: "blur_gamma", where the sharp ones were averaged
            after a gamma of 2.2 was undone, or "blur", where they were averaged as they are.
        strict: raise problems (frames without a partner, listed ones that do not exist, two of one name), instead of
            returning them.

    Raises:
        ValueError: no known layout fits, or two do; no videos of that phase; with `strict`, any problem.
        OSError: root does not exist.
    """
    if phase not in (None, *PHASES):
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, or None, got {phase!r}")
    folders = _roots(root)
    words, videos, missing = _look_up(folders, str(layout), gopro_blur)
    found, problems = [], list(missing)
    for each in videos:
        video, lines = _pair_frames(each)
        problems += [(each.phase, line) for line in lines]
        if video.blurry:
            found.append(video)
    phases = tuple(known for known in PHASES if any(each.phase == known for each in videos))
    dataset = PairedDataset(_describe(folders), words, phases, tuple(found), tuple(problems))
    if phase is not None:
        dataset = dataset.only(phase)
    return dataset.raise_problems() if strict else dataset


def cut_at_gaps(stems: Sequence[str]) -> list[range]:
    """Cut a list of frames' names where numbers are missing.

    Steps are those of the last number in two names that begin alike; one of twice the median or more is a gap.
    """
    parts = [re.split(r"(\d+)", stem) for stem in stems]
    steps = [int(b[-2]) - int(a[-2]) if len(a) > 1 and a[:-2] == b[:-2] else 0 for a, b in pairwise(parts)]
    usual = median_low([step for step in steps if step > 0] or [1])
    edges = [0, *(t + 1 for t, step in enumerate(steps) if step >= 2 * usual), len(stems)]
    return [range(*edge) for edge in pairwise(edges)]


def check_frames(
    dataset: PairedDataset, progress: Callable[[tuple[Video, ...]], Iterable[Video]] = iter
) -> tuple[str, ...]:
    """Decode every frame, and list what is wrong: the data set's problems, then all frames that cannot be used.

    Args:
        dataset: what :func:`find_videos` returned, strict or not.
        progress: wraps the videos, for a progress bar.

    Returns:
        Lines, each naming a file: not paired, not readable, or of another size than the first of its video.
    """
    problems = list(dataset.problems)
    for video in progress(dataset.videos):
        first = size = None
        for path in (*video.blurry, *video.sharp):
            try:
                height, width = open_rgb(path).shape[1:]
            except OSError as error:
                problems.append(str(error))
                continue
            if size is None:
                first, size = path, (width, height)
            elif (width, height) != size:
                problems.append(f"{path}: is {width}x{height}, but {first} is {size[0]}x{size[1]}")
    return tuple(problems)


def _look_up(
    roots: tuple[Path, Path], layout: str, gopro_blur: str
) -> tuple[str, list[VideoFolders], list[tuple[str | None, str]]]:
    """Return the layout in words, the folders of all videos, and the problems of a split."""
    if gopro_blur not in ("blur_gamma", "blur"):
        raise ValueError(f"gopro_blur must be blur_gamma or blur, got {gopro_blur!r}")
    split = Path(layout) if layout.endswith(".json") else None
    if split is None and layout != "auto" and layout not in LAYOUTS:
        raise ValueError(f"layout must be auto, one of {', '.join(LAYOUTS)}, or a JSON file, got {layout!r}")
    words, folders = recognise_layout(roots, "auto" if split else layout, gopro_blur)
    if split is None and layout == "auto" and roots[0] == roots[1]:
        split = find_split(roots[0])
    if split is None:
        return words, folders, []
    chosen, missing = _apply_split(split, folders, roots[0])
    if not chosen:
        raise ValueError(f"{split}: lists none of the videos in {_describe(roots)}")
    return f"{words}, split by {split.name}", chosen, missing


def _apply_split(
    split: Path, folders: list[VideoFolders], root: Path
) -> tuple[list[VideoFolders], list[tuple[str | None, str]]]:
    """Return the folders that a split lists, with phases and frames, and a line for each video that is not there."""
    chosen: list[VideoFolders] = []
    missing: list[tuple[str | None, str]] = []
    for entry in read_split(split):
        name, phase = entry["name"], entry["phase"]
        named = [folder for folder in folders if folder.name == name]
        named = [folder for folder in named if folder.phase == phase] or named
        if len(named) == 1:
            stems = tuple(entry["sample"])
            chosen.append(named[0]._replace(phase=phase, stems=stems, listed_by=str(split)))
        else:
            times = "more than once" if named else "not"
            missing.append((phase, f"{split}: lists {name}, which is {times} in {root}"))
    return chosen, missing


def _roots(root: Root) -> tuple[Path, Path]:
    """Return the folders of the blurry and of the sharp side; they are the same unless two are given."""
    single = isinstance(root, str | Path)
    roots = (Path(root),) * 2 if isinstance(root, str | Path) else tuple(map(Path, root))
    if len(roots) != 2:
        raise ValueError(f"root must be a folder, or two: blurry and sharp, got {len(roots)}")
    blurry, sharp = roots
    for folder in roots:
        if not folder.is_dir():
            if folder.exists():
                raise NotADirectoryError(f"{folder}: is no folder")
            raise FileNotFoundError(f"{folder}: no such folder")
    if not single and blurry.samefile(sharp):
        raise ValueError(f"{blurry}: is given both for the blurry and for the sharp frames")
    return blurry, sharp


def _describe(roots: tuple[Path, Path]) -> str:
    return " and ".join(map(str, dict.fromkeys(roots)))


def _pair_frames(folders: VideoFolders) -> tuple[Video, list[str]]:
    """Return the Video of two folders, with the frames that both have, and lines on what is wrong with the others."""
    blurry, problems = _frames_by_stem(folders.blurry)
    sharp, lines = _frames_by_stem(folders.sharp)
    problems += lines
    if folders.stems is not None:
        stems = list(folders.stems)
    else:
        stems = [path.stem for path in sorted((sharp | blurry).values(), key=natural_sort_key)]
    for frames, folder, other in (
        (blurry, folders.blurry, folders.sharp),
        (sharp, folders.sharp, folders.blurry),
    ):
        missing = [stem for stem in stems if stem not in frames]
        if missing:
            problems.append(
                f"{folder}: {'lacks' if folder.is_dir() else 'is not there and lacks'} {len(missing)} of "
                f"{len(stems)} frames, {first_names(missing)}, which {folders.listed_by or other} has"
            )
    runs = cut_at_gaps(stems)
    more = len(runs) - 2
    if more >= 0:
        log.warning(
            "%s: numbers are missing between %s and %s%s; training cuts the video there, a score does not",
            folders.listed_by or folders.blurry,
            stems[runs[0][-1]],
            stems[runs[1][0]],
            f" and in {more} more place{'s' * (more > 1)}" if more else "",
        )
    if not stems:
        problems.append(f"{folders.blurry}: holds no frames, nor does {folders.sharp}")
    both = [stem for stem in stems if stem in blurry and stem in sharp]
    video = Video(folders.name, tuple(blurry[s] for s in both), tuple(sharp[s] for s in both), folders.phase)
    return video, problems


def _frames_by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return {stem: file} of a folder's images, and a line for each further file of a stem."""
    frames: dict[str, Path] = {}
    problems = []
    for path in sorted(image_files(folder), key=natural_sort_key) if folder.is_dir() else ():
        if path.stem in frames:
            problems.append(f"{path}: {frames[path.stem].name} is there too; a frame must be one file")
        frames.setdefault(path.stem, path)
    return frames, problems
