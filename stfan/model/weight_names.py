"""Kinds of weight files: their names of the network's parameters, and how to convert them to ours."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

# The modules of our model, and their names elsewhere.
ARTICLE = {
    "features": "feat.net",
    "motion": "stfan.ext",
    "align": "stfan.align",
    "align_summary": "stfan.deblur1",
    "deblur": "stfan.deblur2",
    "fusion": "fusion",
    "reconstruction.0": "recon.up1",
    "reconstruction.1": "recon.res2",
    "reconstruction.2": "recon.res3",
    "reconstruction.3": "recon.up4",
    "reconstruction.4": "recon.res5",
    "reconstruction.5": "recon.res6",
    "reconstruction.6": "recon.conv7",
}
AUTHORS = {
    **{f"features.{i}": f"conv{i // 3 + 1}_{i % 3 + 1}" for i in range(9)},
    **{f"motion.{i}": f"kconv{i // 3 + 1}_{i % 3 + 1}" for i in range(9)},
    "align": "fac_warp",
    "align_summary": "kconv4",
    "deblur": "fac_deblur",
    "fusion": "fea",
    "reconstruction.0": "upconv2_u",
    "reconstruction.1": "upconv2_2",
    "reconstruction.2": "upconv2_1",
    "reconstruction.3": "upconv1_u",
    "reconstruction.4": "upconv1_2",
    "reconstruction.5": "upconv1_1",
    "reconstruction.6": "img_prd",
}


def _rename(name: str, modules: Mapping[str, str]) -> str:
    """Replace our name of the module in a parameter's name."""
    ours = next(ours for ours in modules if name.startswith(f"{ours}."))
    return modules[ours] + name.removeprefix(ours)


def _article_name(name: str) -> str:
    return _rename(name, ARTICLE)


def _authors_name(name: str) -> str:
    """Return the authors' name: a convolution is the first of two layers, a residual block has a "stem" of three."""
    name = _rename(name, AUTHORS)
    if ".conv1." in name or ".conv2." in name:
        return name.replace(".conv1.", ".stem.0.").replace(".conv2.", ".stem.2.")
    module, leaf = name.rsplit(".", 1)
    return f"{module}.0.{leaf}"


def _convert_authors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reorder the channels of the authors' weights.

    They feed BGR frames, in the order current, previous, previous output, and join the deblurred features to the
    aligned ones; we feed RGB frames in the opposite order, and join the aligned features to the deblurred ones.
    """
    reversed_axes = {
        "features.0.weight": 1,
        "motion.0.weight": 1,
        "reconstruction.6.weight": 0,
        "reconstruction.6.bias": 0,
    }
    swapped_axes = {"fusion.weight": 1, "reconstruction.0.weight": 0}
    return (
        dict(tensors)
        | {name: tensors[name].flip(axis) for name, axis in reversed_axes.items()}
        | {name: tensors[name].roll(128, axis) for name, axis in swapped_axes.items()}
    )


class Kind(NamedTuple):
    """A kind of weight file.

    Attributes:
        title: in words, for messages.
        preset: of all its files; None: any.
        name: maps a name of our parameters to the file's.
        convert: maps the file's tensors, by our names, to ours.
        unused: names of parameters without effect, which are left out.
    """

    title: str
    preset: str | None
    name: Callable[[str], str]
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    unused: tuple[str, ...] = ()


KINDS = (
    Kind("weights of STFAN", None, str),
    Kind(
        "weights of the article's Net",
        "article",
        _article_name,
        unused=("stfan.conv22.weight", "stfan.conv22.bias"),
    ),
    Kind("weights of the authors", "official", _authors_name, convert=_convert_authors),
)
