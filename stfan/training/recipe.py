"""What a training run does: one dataclass. Its defaults are the article's; as a file it is TOML."""

import difflib
import json
import math
import tomllib
import types
import typing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from stfan.files import atomic_write

NOT_NEGATIVE = (
    *(
        "noise",
        "perceptual",
        "decay_every",
        "warmup",
        "clip_norm",
        "ema",
        "seed",
        "workers",
        "validate_every",
    ),
    *("brightness", "contrast", "betas"),
)
POSITIVE = (
    *("length", "crop", "kernel_size", "batch", "iterations", "learning_rate", "decay", "slow", "window"),
    *("log_every", "checkpoint_every"),
)


@dataclass(frozen=True)
class Recipe:
    """All that a run's result depends on, and how often it says and saves something.

    The article states the loss, Kaiming's initialisation, Adam at 1e-4 times 0.1 every 400k iterations, 900k of them,
    sequences of 20 frames and their augmentation. It does not state batch, crop and window: those are the authors'
    code's, which makes an optimiser step after each frame.

    Attributes:
        data: a data set as stfan.data knows them; where it is synthetic, a folder of pictures.
        sharp: the folder with the sharp frames, where data is one with the blurry ones.
        layout: of data, "auto" or one that stfan.data knows, or the authors' JSON file.
        gopro_blur: which of GoPro's two kinds of blurry frames.
        synthetic: whether clips are made of pictures while training goes on (stfan.synthesis).
        cutouts: a folder of RGBA pictures that move before synthetic ones.
        validation: a data set to judge on, data's own test part if not given, or none where data is synthetic.
        sources: a JSON file that goes into the card: where the data comes from, and under which licences.
        length: frames of a sequence.
        crop: height and width in pixels, multiples of 4.
        noise: standard deviation of what is added to the blurry frames, whose values are in [0, 1].
        brightness, contrast: the range that a sequence's factor is drawn from.
        skip_corrupt: pass over sequences with a picture that can not be read, instead of stopping; of a data set only.
        preset, kernel_size: of the network, if weights is not given.
        weights: a weight file to begin from instead of an initialisation.
        initialisation: "kaiming", or "identity", from which the network begins as one that changes nothing.
        pixel: what is taken of the difference of output and truth: "mse" or "l1".
        perceptual: weight of the perceptual loss beside it; 0 does without.
        backbone, backbone_weights: of the perceptual loss, as stfan.training.losses.Perceptual takes them.
        batch: sequences of an iteration, in each process.
        iterations: optimiser steps in all.
        learning_rate: of Adam at first.
        betas: of Adam.
        schedule: "steps" multiplies the rate by decay every decay_every iterations, "cosine" takes it down to zero.
        warmup: iterations over which the rate rises to its first value.
        slow: times this is the rate of those layers whose steps add up, over k^2 taps a channel or over the frames.
        window: frames between optimiser steps, through which is propagated back (K of truncated back-propagation).
        recompute: keep a frame's state alone for the way back, and compute the rest again: less memory, more time.
        clip_norm: the most that the gradient's norm may be; 0 is no limit.
        ema: the part that a mean of the weights over time keeps at each step, say 0.999; 0 is without. Where it is
            not 0, that mean is what is judged and exported.
        precision: "float32", or "bfloat16" in autocast.
        seed: of all random draws.
        workers: processes that read the data, for each process that trains. The result does not depend on it.
        log_every, checkpoint_every, validate_every: iterations; 0 of the last is never but at the end.
    """

    data: str = ""
    sharp: str | None = None
    layout: str = "auto"
    gopro_blur: Literal["blur_gamma", "blur"] = "blur_gamma"
    synthetic: bool = False
    cutouts: str | None = None
    validation: str | None = None
    sources: str | None = None
    length: int = 20
    crop: tuple[int, int] = (320, 448)
    noise: float = 0.01
    brightness: tuple[float, float] = (0.8, 1.2)
    contrast: tuple[float, float] = (0.8, 1.2)
    skip_corrupt: bool = False
    preset: Literal["article", "official"] = "article"
    kernel_size: int = 5
    weights: str | None = None
    initialisation: Literal["kaiming", "identity"] = "kaiming"
    pixel: Literal["mse", "l1"] = "mse"
    perceptual: float = 0.01
    backbone: Literal["vgg19", "hed-vgg16"] = "vgg19"
    backbone_weights: str | None = None
    batch: int = 1
    iterations: int = 900_000
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["steps", "cosine"] = "steps"
    decay: float = 0.1
    decay_every: int = 400_000
    warmup: int = 0
    slow: float = 1.0
    window: int = 1
    recompute: bool = False
    clip_norm: float = 0.0
    ema: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    workers: int = 2
    log_every: int = 100
    checkpoint_every: int = 5000
    validate_every: int = 20_000

    def __post_init__(self):
        hints = typing.get_type_hints(Recipe)
        for field in fields(self):
            object.__setattr__(
                self, field.name, _typed(field.name, getattr(self, field.name), hints[field.name])
            )
        for names, rule, holds in (
            (POSITIVE, "positive", lambda value: value > 0),
            (NOT_NEGATIVE, "not negative", lambda value: value >= 0),
            (("crop",), "multiples of 4", lambda value: value % 4 == 0),
            (("kernel_size",), "odd", lambda value: value % 2 == 1),
            (("ema", "betas"), "less than 1", lambda value: value < 1),
        ):
            for name in names:
                value = getattr(self, name)
                if not all(holds(part) for part in (value if isinstance(value, tuple) else (value,))):
                    raise ValueError(f"recipe: {name} must be {rule}, got {_toml(value)}")
        for name in ("brightness", "contrast"):
            if getattr(self, name)[0] > getattr(self, name)[1]:
                raise ValueError(
                    f"recipe: {name} must be the least and the greatest, got {_toml(getattr(self, name))}"
                )
        if self.synthetic and (self.skip_corrupt or self.sharp):
            raise ValueError("recipe: skip_corrupt and sharp are for data sets, and synthetic is true")

    def rate(self, iteration):
        """What the first learning rate is multiplied with in an iteration, counted from 0."""
        rise = min(1.0, (iteration + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        return rise * (self.decay ** (iteration // self.decay_every) if self.decay_every else 1.0)

    def changed(self, settings):
        """The same with other values: {name: value}, or of texts name=value as on a command line.

        Raises:
            ValueError: there is no such name, or its value is of another kind; names the nearest there is.
        """
        if not isinstance(settings, dict):
            settings = dict(_split(text) for text in settings)
        return replace(self, **_known(settings, "recipe"))


def read(path):
    """The recipe in a TOML file; what it does not name is the article's.

    Raises:
        OSError: it can not be read.
        ValueError: it is not TOML, or no recipe; names the file and the key.
    """
    try:
        settings = tomllib.loads(Path(path).read_text("utf-8"))
        return Recipe(**_known(settings, "recipe"))
    except ValueError as error:  # of TOML and of text that is none too
        raise ValueError(f"{path}: {error}") from error


def write(recipe, path):
    """All of a recipe as TOML."""
    lines = [f"{key} = {_toml(value)}" for key, value in asdict(recipe).items() if value is not None]
    with atomic_write(path) as partial:
        partial.write_text("\n".join(lines) + "\n", "utf-8")


def _known(settings, what):
    names = [field.name for field in fields(Recipe)]
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0)
            raise ValueError(f"{what}: there is no {name}; the nearest is {near[0]}")
    return settings


def _split(text):
    """(name, value) of name=value, where the value is TOML or else a plain text."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"recipe: a setting must be NAME=VALUE, got {text}")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _typed(name, value, hint):
    """A value as its field has it, or an error in words."""
    parts, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is types.UnionType:
        if value is None:
            return None
        hint = parts[0]
    elif origin is Literal:
        if value not in parts:
            raise ValueError(f"recipe: {name} must be {' or '.join(map(_toml, parts))}, got {_toml(value)}")
        return value
    elif origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise ValueError(f"recipe: {name} must be {len(parts)} numbers, got {_toml(value)}")
        return tuple(_typed(name, *pair) for pair in zip(value, parts, strict=True))
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        kind = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[hint]
        raise ValueError(f"recipe: {name} must be {kind}, got {_toml(value)}")
    return value


def _toml(value):
    """A plain value as TOML writes it."""
    return json.dumps(value, default=str, ensure_ascii=False)
