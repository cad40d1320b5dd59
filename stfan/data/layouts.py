"""Data sets as people download them: the layouts, and which of them one has.

A layout is a pair of templates, of the folder with a video's blurry frames and of the one with its sharp ones.
"""

from pathlib import Path
from typing import NamedTuple

from stfan.data.splits import DVD_TEST, GOPRO_TEST, PHASES
from stfan.images import SUFFIXES, in_order

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


class _Folders(NamedTuple):
    """Where a video should be; stems are those that a split lists, by the name of its file."""

    phase: str | None
    name: str
    blurry: Path
    sharp: Path
    stems: tuple[str, ...] | None = None
    listed_by: str | None = None


def recognise(roots, layout, gopro_blur):
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


def pictures(folder):
    return (path for path in _shown(folder) if path.suffix.lower() in SUFFIXES)


def _holds_pairs(folders):
    return any(
        each.blurry.is_dir() and each.sharp.is_dir() and any(map(any, map(pictures, each[2:4])))
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
    return f"{root}: no videos with blurry and sharp frames; it holds {few(names) or 'nothing'}; " + (
        hints[0] if hints else f"looked for {looked_for}"
    )


def few(names):
    """A few of them."""
    names = list(names)
    return ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)
