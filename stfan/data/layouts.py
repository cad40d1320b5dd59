"""Layouts of data sets as people download them, and recognition of the one that a folder has.

A layout is a list of pairs of templates: the folder with a video's blurry frames, and the one with its sharp frames.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from stfan.data.splits import DVD_TEST, GOPRO_TEST, PHASES
from stfan.files import first_names, visible_files
from stfan.images import image_files, natural_sort_key

Pair = tuple[str, str]
Roots = tuple[Path, Path]

LAYOUTS: dict[str, tuple[Pair, ...]] = {
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
TWO_FOLDERS: tuple[Pair, ...] = (("{video}", "{video}"), ("", ""))
_SPELLINGS = (("train", "train"), ("valid", "valid"), ("valid", "val"), ("test", "test"))


class VideoFolders(NamedTuple):
    """The two folders of a video, and the frames that a split lists.

    Attributes:
        phase: "train", "valid" or "test"; None where the layout has no phases.
        name: of the video.
        blurry, sharp: its folders; one of them may be missing.
        stems: the frames that a split lists, without suffix; None for all.
        listed_by: the file of that split.
    """

    phase: str | None
    name: str
    blurry: Path
    sharp: Path
    stems: tuple[str, ...] | None = None
    listed_by: str | None = None


def recognise_layout(roots: Roots, layout: str, gopro_blur: str) -> tuple[str, list[VideoFolders]]:
    """Return the name of the one layout that fits, and the folders of all videos.

    Raises:
        ValueError: no layout fits, or several do.
    """
    if roots[0] != roots[1]:
        fits = {"two folders": _expand(roots, TWO_FOLDERS, gopro_blur)}
    else:
        names = LAYOUTS if layout == "auto" else [layout]
        fits = {name: _expand(roots, LAYOUTS[name], gopro_blur) for name in names}
    fits = {name: videos for name, videos in fits.items() if videos}
    if not fits:
        raise ValueError(_explain_unknown(roots, layout, gopro_blur))
    if len(fits) > 1:
        raise ValueError(f"{roots[0]}: could be {' or '.join(fits)}: give one of them as layout")
    ((name, videos),) = fits.items()
    unphased = {video.name for video in videos if video.phase is None}
    is_dvd = roots[0].name == "quantitative_datasets" or unphased >= DVD_TEST
    if name == "clips" and unphased and is_dvd:
        name = "DVD"
    if name in ("DVD", "KAIR"):
        videos = _split_by_name(videos)
    return f"GoPro ({gopro_blur})" if name == "GoPro" else name, videos


def _split_by_name(videos: list[VideoFolders]) -> list[VideoFolders]:
    """Give their phase to videos of DVD and GoPro that lie with videos of other phases in one folder."""
    phased = {}
    mixed = [v for v in videos if v.phase is None or v.blurry.parent.name.endswith("_with_val")]
    for video in mixed:
        phase = "test" if video.name in DVD_TEST | GOPRO_TEST else "train"
        phased[phase, video.name] = video._replace(phase=phase)
    for video in videos:
        if video not in mixed and video.phase is not None:  # KAIR's test_GT has the test videos once more
            phased[video.phase, video.name] = video
    return sorted(phased.values(), key=lambda video: PHASES.index(video.phase or ""))


def _expand(roots: Roots, templates: Sequence[Pair], gopro_blur: str) -> list[VideoFolders]:
    """List the folders of all videos that the templates lead to; none, if no video has both sides."""
    for spellings in (_SPELLINGS, ((None, ""),)):
        found: list[VideoFolders] = []
        for phase, spelling in spellings:
            options = []
            for pair in templates:
                if ("{phase}" in pair[0]) == (phase is not None):
                    blurry, sharp = (
                        side.replace("{phase}", spelling).replace("{blur}", gopro_blur) for side in pair
                    )
                    options.append(_fill(roots, phase, (blurry, sharp)))
            found += _best(options)
        if _holds_pairs(found):
            return found
    return []


def _best(options: list[list[VideoFolders]]) -> list[VideoFolders]:
    """Return the first option that holds pairs, else the first that holds anything."""
    for option in options:
        if _holds_pairs(option):
            return option
    return next(filter(None, options), [])


def _fill(roots: Roots, phase: str | None, templates: Pair) -> list[VideoFolders]:
    """List the videos of a pair of templates for which one of the two folders exists at least."""
    if "{video}" in templates[0]:
        names = set()
        for root, side in zip(roots, templates, strict=True):
            above = root / side.split("{video}")[0]
            if above.is_dir():
                names |= {path.name for path in visible_files(above) if path.is_dir()}
        names -= {spelling for _, spelling in _SPELLINGS}
        ordered = sorted(names, key=lambda name: natural_sort_key(Path(name)))
    else:
        ordered = [""]
    found = []
    for name in ordered:
        blurry, sharp = (
            root / side.replace("{video}", name) for root, side in zip(roots, templates, strict=True)
        )
        if blurry.is_dir() or sharp.is_dir():
            found.append(VideoFolders(phase, name or roots[0].resolve().name, blurry, sharp))
    return found


def _holds_pairs(videos: Iterable[VideoFolders]) -> bool:
    """Say whether a video has both folders, with images in one of them at least."""
    return any(
        video.blurry.is_dir()
        and video.sharp.is_dir()
        and any(image_files(side) for side in (video.blurry, video.sharp))
        for video in videos
    )


def _explain_unknown(roots: Roots, layout: str, gopro_blur: str) -> str:
    """Say why nothing was found, what was looked for and, if it shows, what to give instead."""
    if roots[0] != roots[1]:
        return f"{roots[0]} and {roots[1]}: hold no images in both, nor in sub-folders of one name"
    root, names = roots[0], list(LAYOUTS) if layout == "auto" else [layout]
    hint = _hint(root, names, gopro_blur)
    if hint is None:
        forms = {name: " or ".join(map(" + ".join, LAYOUTS[name])) for name in names}
        looked_for = "; ".join(f"{name} ({form})" for name, form in forms.items())
        looked_for = looked_for.replace("{", "<").replace("}", ">").replace("<blur>", gopro_blur)
        hint = f"looked for {looked_for}"
    content = sorted(path.name + "/" * path.is_dir() for path in visible_files(root))
    return f"{root}: no videos with blurry and sharp frames; it holds {first_names(content) or 'nothing'}; {hint}"


def _hint(root: Path, names: Sequence[str], gopro_blur: str) -> str | None:
    """Look for GoPro with the other kind of blur, and for data sets one folder further down."""
    other = "blur" if gopro_blur == "blur_gamma" else "blur_gamma"
    if "GoPro" in names and _expand((root, root), LAYOUTS["GoPro"], other):
        return f"it is GoPro with {other} and no {gopro_blur}: choose that"
    for inner in sorted(path for path in visible_files(root) if path.is_dir())[:20]:
        for name in names:
            if _expand((inner, inner), LAYOUTS[name], gopro_blur):
                return f"{inner} is {name}: give that"
    return None
