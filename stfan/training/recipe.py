"""Describe a training run in one dataclass, whose defaults are the article's; read and write it as TOML."""

import difflib
import json
import math
import tomllib
import types
import typing
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stfan.files import atomic_write
from stfan.synthesis.clip import SynthesisConfig


class Rule(typing.NamedTuple):
    """A rule for each number of a setting, in words and as a test."""

    words: str
    holds: typing.Callable[[Any], bool]


POSITIVE = Rule("positive", lambda value: value > 0)
NOT_NEGATIVE = Rule("not negative", lambda value: value >= 0)
BELOW_ONE = Rule("less than 1", lambda value: value < 1)
ODD = Rule("odd", lambda value: value % 2 == 1)
MULTIPLES_OF_4 = Rule("multiples of 4", lambda value: value % 4 == 0)


def setting(default: Any, *rules: Rule) -> Any:
    """Declare a setting of a recipe with the rules that its value must follow."""
    return field(default=default, metadata={"rules": rules})


@dataclass(frozen=True)
class Recipe:
    """All that a run's result depends on, and how often it reports and saves.

    The article states the loss, Kaiming's initialisation, Adam at 1e-4 times 0.1 every 400k iterations, 900k of them,
    sequences of 20 frames and their augmentation. It does not state batch, crop and window: these are as in the
    authors' code, which makes an optimiser step after each frame.

    Attributes:
        data: a data set that stfan.data knows; if synthetic, a folder of pictures.
        sharp: the folder with the sharp frames, if data is one with the blurry frames.
        layout: of data, "auto" or one that stfan.data.layouts knows, or the authors' JSON file.
        gopro_blur: which of GoPro's two kinds of blurry frames to use.
        synthetic: make clips of pictures during training (stfan.synthesis).
        synthesis: settings of these clips (stfan.synthesis.clip); in TOML a table.
        cutouts: a folder of RGBA pictures that move in front of synthetic backgrounds.
        hold_out: leave every sixth picture, by name, for the test clips of `stfan data synth`.
        target: of synthetic clips, the "middle" of each exposure, or the view from its "mean" pose, where the blurred
            frame lies.
        clips: number of synthetic clips, rendered once and stored as 8-bit files; 0 renders each sequence anew.
        clip_length, clip_size: frames, and height and width in pixels, of a stored clip.
        store: the folder of the stored clips.
        validation: a data set to validate on; if not given, the test part of data, or none if data is synthetic.
        sources: a JSON file that is copied into the card: where the data comes from, and under which licences.
        length: frames of a sequence.
        crop: height and width in pixels, multiples of 4.
        noise: standard deviation of the noise on the blurry frames of a data set, whose values are in [0, 1].
        brightness, contrast: range from which a factor is drawn for each sequence, of a data set.
        skip_corrupt: pass over sequences with a picture that cannot be read, instead of stopping; for data sets only.
        preset, kernel_size: of the network; weights, if given, must be of this preset.
        weights: a weight file to begin from instead of an initialisation.
        initialisation: "kaiming", or "identity", with which the network changes nothing at first.
        pixel_loss: loss of the pixels: "mse", "l1" or "psnr" (stfan.training.losses).
        border: pixels at each side of a crop that the loss leaves out: what a frame shows there has no past in it.
        perceptual_weight: weight of the perceptual loss beside it; 0 leaves it out.
        backbone, backbone_weights: of the perceptual loss; see stfan.training.losses.Perceptual.
        batch: sequences of an iteration, in each process.
        iterations: total number of optimiser steps.
        optimiser: "adam", or "muon": Adam but for the layers' weights, whose steps are orthogonal
            (stfan.training.muon).
        learning_rate: initial learning rate of the optimiser.
        betas: of Adam.
        schedule: "steps" multiplies the rate by decay every decay_every iterations, "cosine" lowers it to zero.
        warmup: iterations over which the rate rises to its first value.
        slow_lr_scale: learning-rate multiplier for the filter-predicting and recurrent-state layers, whose steps add
            up over k^2 taps a channel or over the frames.
        window: frames between optimiser steps, through which the gradient is propagated back (K of truncated
            back-propagation).
        gradient_checkpointing: store only each frame's state, and recompute activations in the backward pass.
        cuda_graph: record a step's launches once, forward, backward, optimiser and mean, and replay them: for steps
            that a GPU ends sooner than a program can ask for. Without effect on a CPU or with several processes.
        clip_norm: largest norm of the gradient; 0 is no limit.
        ema_decay: part that an exponential moving average of the weights keeps at each step, say 0.999; 0 is without.
            If it is not 0, that average is validated and exported.
        precision: "float32"; "bfloat16" in autocast; or "auto", bfloat16 where the processor computes it fast.
        seed: of all random draws.
        workers: processes that read the data, for each process that trains. The result does not depend on it.
        log_every, checkpoint_every, validate_every: iterations; 0 of the last is only at the end.
    """

    data: str = ""
    sharp: str | None = None
    layout: str = "auto"
    gopro_blur: Literal["blur_gamma", "blur"] = "blur_gamma"
    synthetic: bool = False
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    cutouts: str | None = None
    hold_out: bool = True
    target: Literal["middle", "mean"] = "middle"
    clips: int = setting(0, NOT_NEGATIVE)
    clip_length: int = setting(5, POSITIVE)
    clip_size: tuple[int, int] = setting((192, 192), POSITIVE)
    store: str | None = None
    validation: str | None = None
    sources: str | None = None
    length: int = setting(20, POSITIVE)
    crop: tuple[int, int] = setting((320, 448), POSITIVE, MULTIPLES_OF_4)
    noise: float = setting(0.01, NOT_NEGATIVE)
    brightness: tuple[float, float] = setting((0.8, 1.2), NOT_NEGATIVE)
    contrast: tuple[float, float] = setting((0.8, 1.2), NOT_NEGATIVE)
    skip_corrupt: bool = False
    preset: Literal["article", "official", "compact"] = "article"
    kernel_size: int = setting(5, POSITIVE, ODD)
    weights: str | None = None
    initialisation: Literal["kaiming", "identity"] = "kaiming"
    pixel_loss: Literal["mse", "l1", "psnr"] = "mse"
    border: int = setting(0, NOT_NEGATIVE)
    perceptual_weight: float = setting(0.01, NOT_NEGATIVE)
    backbone: Literal["vgg19", "hed-vgg16"] = "vgg19"
    backbone_weights: str | None = None
    batch: int = setting(1, POSITIVE)
    iterations: int = setting(900_000, POSITIVE)
    optimiser: Literal["adam", "muon"] = "adam"
    learning_rate: float = setting(1e-4, POSITIVE)
    betas: tuple[float, float] = setting((0.9, 0.999), NOT_NEGATIVE, BELOW_ONE)
    schedule: Literal["steps", "cosine"] = "steps"
    decay: float = setting(0.1, POSITIVE)
    decay_every: int = setting(400_000, NOT_NEGATIVE)
    warmup: int = setting(0, NOT_NEGATIVE)
    slow_lr_scale: float = setting(1.0, POSITIVE)
    window: int = setting(1, POSITIVE)
    gradient_checkpointing: bool = False
    cuda_graph: bool = False
    clip_norm: float = setting(0.0, NOT_NEGATIVE)
    ema_decay: float = setting(0.0, NOT_NEGATIVE, BELOW_ONE)
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    seed: int = setting(0, NOT_NEGATIVE)
    workers: int = setting(2, NOT_NEGATIVE)
    log_every: int = setting(100, POSITIVE)
    checkpoint_every: int = setting(5000, POSITIVE)
    validate_every: int = setting(20_000, NOT_NEGATIVE)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(Recipe)
        for key in fields(self):
            value = _typed(key.name, getattr(self, key.name), hints[key.name])
            object.__setattr__(self, key.name, value)
            for rule in key.metadata.get("rules", ()):
                if not all(rule.holds(part) for part in (value if isinstance(value, tuple) else (value,))):
                    raise ValueError(f"recipe: {key.name} must be {rule.words}, got {_toml(value)}")
        for name in ("brightness", "contrast"):
            least, greatest = getattr(self, name)
            if least > greatest:
                raise ValueError(
                    f"recipe: {name} must be the least and the greatest, got {_toml(getattr(self, name))}"
                )
        if self.synthetic and (self.skip_corrupt or self.sharp):
            raise ValueError("recipe: skip_corrupt and sharp are for data sets, and synthetic is true")
        if 2 * self.border >= min(self.crop):
            raise ValueError(
                f"recipe: border must leave something of crop={_toml(self.crop)}, got {self.border}"
            )
        if self.cuda_graph and self.gradient_checkpointing:
            raise ValueError(
                "recipe: cuda_graph and gradient_checkpointing exclude each other, and both are true"
            )
        if self.target == "mean" and not self.synthetic:
            raise ValueError("recipe: target is of synthetic clips, and synthetic is false")
        if bool(self.clips) != bool(self.store) or (self.clips and not self.synthetic):
            raise ValueError(
                f"recipe: clips and store go together, where synthetic is true; "
                f"got clips={self.clips}, store={_toml(self.store)}, synthetic={_toml(self.synthetic)}"
            )

    def rate(self, iteration: int) -> float:
        """Return the factor of the initial learning rate in an iteration, counted from 0."""
        rise = min(1.0, (iteration + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        return rise * (self.decay ** (iteration // self.decay_every) if self.decay_every else 1.0)

    def changed(self, settings: dict[str, Any] | list[str]) -> "Recipe":
        """Return the recipe with some settings changed.

        Args:
            settings: {name: value}, or texts name=value as on a command line; synthesis.NAME=VALUE is one of the
                table's.

        Raises:
            ValueError: there is no such name, or its value is of another kind; the message gives the nearest name.
        """
        if not isinstance(settings, dict):
            settings = dict(_split(text) for text in settings)
        table = {name.removeprefix("synthesis."): name for name in settings if name.startswith("synthesis.")}
        if table:
            changes = {inner: settings[name] for inner, name in table.items()}
            settings = {name: value for name, value in settings.items() if name not in table.values()}
            settings["synthesis"] = asdict(self.synthesis) | changes
        return replace(self, **_known(settings, Recipe, "recipe"))


def read(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file; settings that it does not name are the article's.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not TOML, or no recipe; the message names the file and the key.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file; a recipe must be a TOML file")
    try:
        settings = tomllib.loads(Path(path).read_text("utf-8"))
        return Recipe(**_known(settings, Recipe, "recipe"))
    except ValueError as error:  # also of TOML and of text that is no UTF-8
        raise ValueError(f"{path}: {error}") from error


def write(recipe: Recipe, path: str | Path) -> None:
    """Write a recipe with all its settings as TOML."""
    settings = {key: value for key, value in asdict(recipe).items() if value is not None}
    table = settings.pop("synthesis")
    lines = [f"{key} = {_toml(value)}" for key, value in settings.items()]
    lines += ["", "[synthesis]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    with atomic_write(path) as partial:
        partial.write_text("\n".join(lines) + "\n", "utf-8")


def _known(settings: dict[str, Any], kind: type, what: str) -> dict[str, Any]:
    """Return the settings; raise ValueError for a name that the dataclass does not have."""
    names = [key.name for key in fields(kind)]
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0)
            raise ValueError(f"{what}: there is no {name}; the nearest is {near[0]}")
    return settings


def _split(text: str) -> tuple[str, Any]:
    """Split name=value into (name, value); the value is TOML or else plain text."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"recipe: a setting must be NAME=VALUE, got {text}")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _typed(name: str, value: Any, hint: Any) -> Any:
    """Convert a value to the type of its field; raise ValueError if it is of another kind."""
    parts, origin = typing.get_args(hint), typing.get_origin(hint)
    if is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else _table(name, value, hint)
    if origin is types.UnionType:
        if value is None:
            return None
        hint = parts[0]
    elif origin is Literal:
        if value not in parts:
            raise ValueError(f"recipe: {name} must be {' or '.join(map(_toml, parts))}, got {_toml(value)}")
        return value
    elif origin is tuple:
        if isinstance(value, str):  # 64,64, as people write it on the command line
            with suppress(tomllib.TOMLDecodeError):
                value = tomllib.loads(f"value = [{value}]")["value"]
        pattern = ",".join("N" * len(parts))
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise ValueError(
                f"recipe: {name} must be {len(parts)} numbers ({pattern} on the command line, [{pattern}] in TOML), got {_toml(value)}"
            )
        return tuple(_typed(name, *pair) for pair in zip(value, parts, strict=True))
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        kind = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[hint]
        raise ValueError(f"recipe: {name} must be {kind}, got {_toml(value)}")
    return value


def _table(name: str, value: Any, kind: Any) -> Any:
    """Make a dataclass of a TOML table."""
    if not isinstance(value, dict):
        raise ValueError(f"recipe: {name} must be a table, got {_toml(value)}")
    hints = typing.get_type_hints(kind)
    known = _known(value, kind, f"recipe: {name}")
    settings = {key: _typed(f"{name}.{key}", held, hints[key]) for key, held in known.items()}
    try:
        return kind(**settings)
    except ValueError as error:
        raise ValueError(f"recipe: {name}.{error}") from error


def _toml(value: Any) -> str:
    """Write a plain value as TOML does."""
    return json.dumps(value, default=str, ensure_ascii=False)
