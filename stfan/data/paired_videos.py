"""Videos with known truth, in data sets as people download them: which frame belongs to which."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stfan.data.layouts import LAYOUTS, few, pictures, recognise
from stfan.data.splits import PHASES, read_split, split_beside
from stfan.images import in_order, read_image


@dataclass(frozen=True)
class Video:
    """A video with known truth.

    Attributes:
        name: of its folder.
        blurry, sharp: the files of its frames, in the order of the numbers in their names, paired by stem.
        phase: "train", "valid" or "test"; None where the layout has no such thing.
    """

    name: str
    blurry: tuple[Path, ...]
    sharp: tuple[Path, ...]
    phase: str | None = None


@dataclass(frozen=True)
class Found:
    """What :func:`find_videos` found.

    Attributes:
        layout: in words.
        videos: in the order of phases and of their names; only frames that have a partner.
        problems: a line each, naming the file or folder.
    """

    layout: str
    videos: tuple[Video, ...]
    problems: tuple[str, ...] = ()

    @property
    def clips(self):
        """{name: (blurry paths, sharp paths)}; the name is phase/name where there are several phases."""
        several = len({video.phase for video in self.videos}) > 1
        return {
            f"{video.phase}/{video.name}" if several else video.name: (video.blurry, video.sharp)
            for video in self.videos
        }

    @property
    def split(self):
        """The videos as :func:`write_split` takes them."""
        return [
            {"name": video.name, "phase": video.phase, "sample": [path.stem for path in video.blurry]}
            for video in self.videos
        ]


def find_videos(root, phase=None, layout="auto", gopro_blur="blur_gamma", strict=True):
    """The videos of a data set, with each blurry frame and its sharp partner; no picture is opened.

    Args:
        root: the folder of a data set, or two folders, (blurry, sharp), with the frames of one video each or with
            a folder of frames for each video.
        phase: "train", "valid" or "test"; None for all that there is.
        layout: one of LAYOUTS; or a JSON file in the form of the authors (see :func:`read_split`), which says
            which frames of which videos belong to which phase, wherever they are in root; or "auto": the one that
            root has, and the split by the JSON file that lies in root, if there is one.
        gopro_blur: which of GoPro's two kinds of blurry frames: "blur_gamma", where the sharp ones were averaged
            after a gamma of 2.2 was undone, or "blur", where they were averaged as they are.
        strict: whether problems (frames without a partner, listed ones that are not there, two of one name) are an
            error, or only in the result.

    Raises:
        ValueError: no layout that is known, or two; no videos of that phase; if strict, any problem.
        OSError: root is not there.
    """
    if phase not in (None, *PHASES):
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, or None, got {phase!r}")
    words, folders, missing = _look(root, layout, gopro_blur)
    there = _phases(folders)
    if phase is not None and phase not in there:
        raise ValueError(
            f"{_said(root)}: {words} has no videos for {phase}; "
            + (f"it has {', '.join(there)}" if there else "it does not tell phases apart: a JSON split could")
        )
    videos, problems = [], [line for of, line in missing if phase in (None, of)]
    for each in folders:
        if phase in (None, each.phase):
            video, lines = _pair(each)
            problems += lines
            if video.blurry:
                videos.append(video)
    if strict and problems:
        more = f" (and {len(problems) - 1} such lines more)" if problems[1:] else ""
        raise ValueError(problems[0] + more)
    return Found(words, tuple(videos), tuple(problems))


def phases(root, layout="auto", gopro_blur="blur_gamma"):
    """The phases that a data set has, of "train", "valid", "test"; none where its layout does not tell them apart.

    Raises:
        ValueError, OSError: as :func:`find_videos` does, but for problems of frames.
    """
    return _phases(_look(root, layout, gopro_blur)[1])


def check(found, progress=iter):
    """Open and decode every frame: the problems of found and, behind them, all frames that can not be used.

    Args:
        found: what :func:`find_videos` gave, strict or not.
        progress: wraps what the videos are taken from, for a bar.

    Returns:
        Lines, each naming a file: not paired, not readable, or of another size than the first of its video.
    """
    problems = list(found.problems)
    for video in progress(found.videos):
        first = size = None
        for path in (*video.blurry, *video.sharp):
            try:
                height, width = read_image(path).shape[1:]
            except OSError as error:
                problems.append(str(error))
                continue
            if first is None:
                first, size = path, (width, height)
            elif (width, height) != size:
                problems.append(f"{path}: is {width}x{height}, but {first} is {size[0]}x{size[1]}")
    return tuple(problems)


def _look(root, layout, gopro_blur):
    """The layout in words, the _Folders of all videos, and [(phase, line)] of those that are listed but not there."""
    if gopro_blur not in ("blur_gamma", "blur"):
        raise ValueError(f"gopro_blur must be blur_gamma or blur, got {gopro_blur!r}")
    roots = _roots(root)
    split = layout if str(layout).endswith(".json") else None
    if split is None and layout != "auto" and layout not in LAYOUTS:
        raise ValueError(
            f"layout must be auto, one of {', '.join(LAYOUTS)}, or a JSON file, got {str(layout)!r}"
        )
    words, folders = recognise(roots, "auto" if split else layout, gopro_blur)
    if split is None and layout == "auto" and roots[0] == roots[1]:
        split = split_beside(roots[0])
    if split is None:
        return words, folders, []
    chosen, missing = [], []
    for entry in read_split(split):
        named = [folder for folder in folders if folder.name == entry["name"]]
        named = [folder for folder in named if folder.phase == entry["phase"]] or named
        if len(named) == 1:
            listed = {"phase": entry["phase"], "stems": tuple(entry["sample"]), "listed_by": str(split)}
            chosen.append(named[0]._replace(**listed))
        else:
            times = "more than once" if named else "not"
            missing.append(
                (entry["phase"], f"{split}: lists {entry['name']}, which is {times} in {roots[0]}")
            )
    if not chosen:
        raise ValueError(f"{split}: lists none of the videos in {_said(root)}")
    return f"{words}, split by {Path(split).name}", chosen, missing


def _roots(root):
    """The folders with the blurry and with the sharp side; the same one, but where two are given."""
    pair = isinstance(root, Iterable) and not isinstance(root, str)
    roots = tuple(map(Path, root)) if pair else (Path(root),) * 2
    if len(roots) != 2:
        raise ValueError(f"root must be a folder, or two: blurry and sharp, got {len(roots)}")
    for folder in roots:
        if not folder.is_dir():
            if folder.exists():
                raise NotADirectoryError(f"{folder}: is no folder")
            raise FileNotFoundError(f"{folder}: no such folder")
    if pair and roots[0].samefile(roots[1]):
        raise ValueError(f"{roots[0]}: is given both for the blurry and for the sharp frames")
    return roots


def _said(root):
    return root if isinstance(root, str | Path) else " and ".join(map(str, root))


def _pair(folders):
    """The Video of two folders, of the frames that both have, and lines on what is wrong with the others."""
    sides, problems = [], []
    for folder in folders[2:4]:
        frames = {}
        for path in sorted(pictures(folder), key=in_order) if folder.is_dir() else ():
            if path.stem in frames:
                problems.append(f"{path}: {frames[path.stem].name} is there too; a frame must be one file")
            frames.setdefault(path.stem, path)
        sides.append(frames)
    wanted = folders.stems
    if wanted is None:
        wanted = [path.stem for path in sorted((sides[1] | sides[0]).values(), key=in_order)]
    for frames, folder, other in zip(sides, folders[2:4], folders[3:1:-1], strict=True):
        lacking = [stem for stem in wanted if stem not in frames]
        if lacking:
            problems.append(
                f"{folder}: {'lacks' if folder.is_dir() else 'is not there and lacks'} {len(lacking)} of "
                f"{len(wanted)} frames, {few(lacking)}, which {folders.listed_by or other} has"
            )
    if not wanted:
        problems.append(f"{folders.blurry}: holds no frames, nor does {folders.sharp}")
    both = [stem for stem in wanted if all(stem in frames for frames in sides)]
    return Video(folders.name, *(tuple(s[stem] for stem in both) for s in sides), folders.phase), problems


def _phases(folders):
    return tuple(phase for phase in PHASES if any(folder.phase == phase for folder in folders))
