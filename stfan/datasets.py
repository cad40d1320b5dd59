"""Videos with known truth, in data sets as people download them: the layout, and which frame belongs to which.

A layout is a pair of templates, of the folder with a video's blurry frames and of the one with its sharp ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stfan.clips import in_order, read_image
from stfan.pictures import SUFFIXES
from stfan.splits import DVD_TEST, GOPRO_TEST, PHASES, read_split, split_beside
from stfan.splits import write_split as write_split

LAYOUTS = {
    "DVD": (("quantitative_datasets/{video}/input", "quantitative_datasets/{video}/GT"),),
    "clips": (
        ("{phase}/{video}/input", "{phase}/{video}/GT"),
        ("{video}/input", "{video}/GT"),
        ("input", "GT"),
    ),
    "KAIR": (
        ("{phase}_GT_blurred_with_val/{video}", "{phase}_GT_with_val/{video}"),
        ("{phase}_GT_blurred/{video}", "{phase}_GT/{video}"),
    ),
    "TSP": (("{phase}/blur/{video}", "{phase}/gt/{video}"),),
    "GoPro": (("{phase}/{video}/{blur}", "{phase}/{video}/sharp"), ("{video}/{blur}", "{video}/sharp")),
    "BSD": (
        ("{phase}/{video}/Blur/RGB", "{phase}/{video}/Sharp/RGB"),
        ("{video}/Blur/RGB", "{video}/Sharp/RGB"),
    ),
    "REDS": (
        ("{phase}/{phase}_blur/{video}", "{phase}/{phase}_sharp/{video}"),
        ("{phase}_blur/{video}", "{phase}_sharp/{video}"),
    ),
    "folders": (
        ("{phase}/blurry/{video}", "{phase}/sharp/{video}"),
        ("{phase}/blurry", "{phase}/sharp"),
        ("blurry/{video}", "sharp/{video}"),
        ("blurry", "sharp"),
    ),
}
_SPELLINGS = (("train", "train"), ("valid", "valid"), ("valid", "val"), ("test", "test"))
_NAMED = 5  # frames that one line names


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


class _Folders(NamedTuple):
    """Where a video should be; stems are those that a split lists, by the name of its file."""

    phase: str | None
    name: str
    blurry: Path
    sharp: Path
    stems: tuple[str, ...] | None = None
    listed_by: str | None = None


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
    words, folders = _recognise(roots, "auto" if split else layout, gopro_blur)
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


def _recognise(roots, layout, gopro_blur):
    """(words, [_Folders, ...]) of the one layout that fits."""
    if roots[0] != roots[1]:
        fits = {"two folders": _expand(roots, (("{video}", "{video}"), ("", "")), gopro_blur)}
    else:
        tried = LAYOUTS if layout == "auto" else [layout]
        fits = {name: _expand(roots, LAYOUTS[name], gopro_blur) for name in tried}
    fits = {name: folders for name, folders in fits.items() if folders}
    if not fits:
        raise ValueError(_unknown(roots, layout, gopro_blur))
    if len(fits) > 1:
        raise ValueError(f"{roots[0]}: could be {' or '.join(fits)}: give one of them as layout")
    ((name, folders),) = fits.items()
    names = {folder.name for folder in folders if folder.phase is None}
    if name == "clips" and names and (roots[0].name == "quantitative_datasets" or DVD_TEST <= names):
        name = "DVD"
    if name in ("DVD", "KAIR"):
        mixed = [f for f in folders if f.phase is None or f.blurry.parent.name.endswith("_with_val")]
        split = [f._replace(phase="test" if f.name in DVD_TEST | GOPRO_TEST else "train") for f in mixed]
        apart = [folder for folder in folders if folder not in mixed]  # KAIR's test_GT has them once more
        folders = [*{(folder.phase, folder.name): folder for folder in (*split, *apart)}.values()]
        folders.sort(key=lambda folder: PHASES.index(folder.phase))
    return f"GoPro ({gopro_blur})" if name == "GoPro" else name, folders


def _expand(roots, templates, gopro_blur):
    """The _Folders of all videos that templates lead to; none if not one of them has pictures on both sides."""
    for spellings in (_SPELLINGS, ((None, ""),)):
        found = []
        for phase, spelled in spellings:
            options = [
                _fill(
                    roots, phase, [t.replace("{phase}", spelled).replace("{blur}", gopro_blur) for t in pair]
                )
                for pair in templates
                if ("{phase}" in pair[0]) == (phase is not None)
            ]
            found += next(filter(_holds_pairs, options), next(filter(None, options), []))
        if _holds_pairs(found):
            return found
    return []


def _fill(roots, phase, templates):
    """The _Folders that a pair of templates leads to, where there is one of the two at least."""
    if "{video}" not in templates[0]:
        names = [""]
    else:
        above = [root / side.split("{video}")[0] for root, side in zip(roots, templates, strict=True)]
        names = {path.name for folder in above if folder.is_dir() for path in _shown(folder) if path.is_dir()}
        names = sorted(names - {spelled for _, spelled in _SPELLINGS}, key=lambda name: in_order(Path(name)))
    found = []
    for name in names:
        sides = [root / side.replace("{video}", name) for root, side in zip(roots, templates, strict=True)]
        if any(side.is_dir() for side in sides):
            found.append(_Folders(phase, name or roots[0].resolve().name, *sides))
    return found


def _shown(folder):
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _pictures(folder):
    return (path for path in _shown(folder) if path.suffix.lower() in SUFFIXES)


def _holds_pairs(folders):
    return any(
        each.blurry.is_dir() and each.sharp.is_dir() and any(map(any, map(_pictures, each[2:4])))
        for each in folders
    )


def _unknown(roots, layout, gopro_blur):
    """Why nothing was found, for an error."""
    if roots[0] != roots[1]:
        return f"{roots[0]} and {roots[1]}: hold no pictures in both, nor in sub-folders of one name"
    root, tried = roots[0], LAYOUTS if layout == "auto" else [layout]
    looked_for = "; ".join(
        f"{name} ({' or '.join(map(' + '.join, LAYOUTS[name]))})".translate(str.maketrans("{}", "<>"))
        for name in tried
    ).replace("<blur>", gopro_blur)
    names = sorted(path.name + "/" * path.is_dir() for path in _shown(root))
    hints = []
    other = "blur" if gopro_blur == "blur_gamma" else "blur_gamma"
    if "GoPro" in tried and _expand(roots, LAYOUTS["GoPro"], other):
        hints.append(f"it is GoPro with {other} and no {gopro_blur}: choose that")
    for inner in sorted(path for path in _shown(root) if path.is_dir())[:20]:
        hints += [
            f"{inner} is {name}: give that"
            for name in tried
            if _expand((inner, inner), LAYOUTS[name], gopro_blur)
        ]
    return f"{root}: no videos with blurry and sharp frames; it holds {_list(names) or 'nothing'}; " + (
        hints[0] if hints else f"looked for {looked_for}"
    )


def _pair(folders):
    """The Video of two folders, of the frames that both have, and lines on what is wrong with the others."""
    sides, problems = [], []
    for folder in folders[2:4]:
        frames = {}
        for path in sorted(_pictures(folder), key=in_order) if folder.is_dir() else ():
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
                f"{len(wanted)} frames, {_list(lacking)}, which {folders.listed_by or other} has"
            )
    if not wanted:
        problems.append(f"{folders.blurry}: holds no frames, nor does {folders.sharp}")
    both = [stem for stem in wanted if all(stem in frames for frames in sides)]
    return Video(folders.name, *(tuple(s[stem] for stem in both) for s in sides), folders.phase), problems


def _phases(folders):
    return tuple(phase for phase in PHASES if any(folder.phase == phase for folder in folders))


def _list(names):
    """A few of them."""
    names = list(names)
    return ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)
