"""Render one clip: a shot or two of pictures with cut-outs in front, through the open shutter of a moving camera."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stfan.images import open_rgb, open_rgba
from stfan.rng import Rng
from stfan.synthesis import compression, scene, sensor
from stfan.synthesis.camera import UNTILTED, homographies, sample_camera_path
from stfan.synthesis.crispness import crisp_scale

MARGIN = 1.3  # least size of a scaled picture, relative to the frame
LAYER = (0.25, 0.8)  # longer side of a cut-out, relative to the frame's shorter one
BOUNDS = {  # of both ends of a range
    "exposure": (0, 1),
    "scale": (0.01, 1),
    "gain": (0, 1),
    "crf": (0, 51),
    "quality": (1, 95),
    "layers": (0, 100),
    "highlights": (1, 1000),
    "speed": (1e-6, 1e4),
    "layer_speed": (1e-6, 1e4),
}

Picture = str | Path | Tensor  # a file, or (3, H, W) uint8; a cut-out is (4, H, W)


@dataclass(frozen=True)
class SynthesisConfig:
    """Settings of synthetic clips. Pairs are ranges (low, high), from which a value is drawn for each clip.

    Attributes:
        subframes: least number per frame; a fast camera gets more, so that one moves by about a pixel.
        speed: standard deviation of the camera's drift along either axis, in pixels per frame; log-uniform.
        exposure: part of the time of a frame in which the shutter is open.
        sharp_part: part of the clips whose exposure is a single sub-frame: nothing to deblur.
        crisp: largest correlation of neighbouring differences in a picture (:mod:`stfan.synthesis.crispness`). Pictures
            are first reduced until theirs is no larger, so that they are crisp at the pixel; 1 leaves them as they are.
        scale: pixels of the scaled picture per pixel of the picture, unless too few would be left; at most 1.
        layers: number of moving cut-outs.
        layer_speed: speed of a cut-out across the frame, relative to the camera's; log-uniform.
        highlights: brightness of the brightest places, relative to white; log-uniform.
        gain: of the sensor: 1 for the strongest noise (:mod:`stfan.synthesis.sensor`), 0 for none.
        compressed_part: part of the clips that are compressed and decoded again.
        h264_part: part of these that become H.264 (which needs PyAV); the others become JPEG.
        crf: constant rate factor of H.264; lower gives better quality.
        quality: of JPEG.
        cut_part: part of the clips in which another shot begins.
        gap_part: part of the clips that lack frames: one to three are missing before every fifth one.

    Raises:
        ValueError: a range is none, or out of bounds.
    """

    subframes: int = 15
    speed: tuple[float, float] = (2.5, 25.0)
    exposure: tuple[float, float] = (0.4, 0.95)
    sharp_part: float = 0.15
    crisp: float = 1.0
    scale: tuple[float, float] = (0.4, 0.9)
    layers: tuple[int, int] = (0, 3)
    layer_speed: tuple[float, float] = (0.5, 2.0)
    highlights: tuple[float, float] = (1.0, 4.0)
    gain: tuple[float, float] = (0.1, 1.0)
    compressed_part: float = 0.5
    h264_part: float = 0.5
    crf: tuple[int, int] = (17, 28)
    quality: tuple[int, int] = (70, 95)
    cut_part: float = 0.05
    gap_part: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in BOUNDS:
                low, high = BOUNDS[field.name]
                if not (len(value) == 2 and low <= value[0] <= value[1] <= high):
                    raise ValueError(
                        f"{field.name} must be (low, high) from {low:g} to {high:g}, got {value}"
                    )
            elif field.name.endswith("_part") and not 0 <= value <= 1:
                raise ValueError(f"{field.name} must be from 0 to 1, got {value}")
        if not -1 <= self.crisp <= 1:
            raise ValueError(f"crisp must be from -1 to 1, got {self.crisp}")
        if self.subframes < 1:
            raise ValueError(f"subframes must be 1 or more, got {self.subframes}")


class ClipParameters(NamedTuple):
    """Camera and sensor of one clip.

    Attributes:
        speed: of the camera, in pixels per frame.
        steps: number of sub-frames per frame.
        open_steps: number of these while the shutter is open.
        highlights: brightness of the brightest places, relative to white.
        gain: of the sensor.
    """

    speed: float
    steps: int
    open_steps: int
    highlights: float
    gain: float

    @classmethod
    def sample(cls, settings: SynthesisConfig, rng: Rng) -> "ClipParameters":
        """Draw the parameters of a clip."""
        speed = rng.log_uniform(*settings.speed)
        steps = max(settings.subframes, round(speed)) // 2 * 2 + 1
        exposure = rng.uniform(*settings.exposure)
        open_steps = 1 if rng.chance(settings.sharp_part) else round((exposure * steps - 1) / 2) * 2 + 1
        return cls(
            speed, steps, open_steps, rng.log_uniform(*settings.highlights), rng.uniform(*settings.gain)
        )


class Clip(NamedTuple):
    """A clip, and what is known about it; tensors on the CPU.

    Attributes:
        blurry: (T, 3, height, width) uint8.
        middle, mean: the two targets, of the same kind: the sub-frame in the middle of each exposure, and the view from
            the mean pose of the exposure, which is where the blurred frame lies.
        motion: (T, 4, height / 4, width / 4) float32, of the middle of each 4 x 4 pixels in the mean pose: how far, in
            pixels along x and y, what is seen there has come since the last frame's mean pose (0 in a shot's first
            frame), and how far it goes during the exposure (of the straight line that fits its path best).
        facts: what was drawn, by name; pictures and cut-outs by number.
    """

    blurry: Tensor
    middle: Tensor
    mean: Tensor
    motion: Tensor
    facts: dict[str, Any]


class _Frame(NamedTuple):
    """One frame of a shot, in linear light: its sub-frames (S, 3, h, w), its view from the mean pose, its motion."""

    views: Tensor
    mean: Tensor
    motion: Tensor


def render_clip(
    pictures: Sequence[Picture],
    cutouts: Sequence[Picture],
    first: int,
    frames: int,
    size: tuple[int, int],
    rng: Rng,
    settings: SynthesisConfig,
    device: str | torch.device,
) -> Clip:
    """Render a clip.

    Args:
        pictures, cutouts: what shots and layers are drawn from.
        first: number of the picture of the first shot.
        frames: number of frames, T.
        size: (height, width) of a frame.
        rng: source of all random numbers.
        settings: of the clip.
        device: what renders.
    """
    parameters = ClipParameters.sample(settings, rng)
    facts: dict[str, Any] = {
        "pictures": [],
        "cutouts": [],
        "speed": round(parameters.speed, 2),
        "exposure": round(parameters.open_steps / parameters.steps, 3),
    }
    blurry, middle, mean, motion = [], [], [], []
    for times in _sample_shots(frames, settings, rng):
        picture = first if not facts["pictures"] else rng.randint(0, len(pictures) - 1)
        count = rng.randint(*settings.layers) if len(cutouts) else 0
        layers = [rng.randint(0, len(cutouts) - 1) for _ in range(count)]
        facts["pictures"].append(picture)
        facts["cutouts"] += layers
        shot = _render_shot(
            pictures[picture], [cutouts[i] for i in layers], times, size, parameters, rng, settings, device
        )
        for frame in shot:
            views = frame.views
            blurry.append(sensor.add_sensor_noise(views.mean(0), parameters.gain, rng).cpu())
            middle.append(sensor.linear_to_srgb8(views[len(views) // 2]).cpu())
            mean.append(sensor.linear_to_srgb8(frame.mean).cpu())
            motion.append(frame.motion)
    facts |= {"highlights": round(parameters.highlights, 2), "gain": round(parameters.gain, 3)}
    compressed, facts["compression"] = _compress(torch.stack(blurry), settings, rng)
    return Clip(compressed, torch.stack(middle), torch.stack(mean), torch.stack(motion), facts)


def _sample_shots(frames: int, settings: SynthesisConfig, rng: Rng) -> list[list[int]]:
    """Draw gaps and a cut.

    Returns:
        for each shot the times of its frames, counted in frames from its first one.
    """
    has_gaps = rng.chance(settings.gap_part)
    steps = [1 + (rng.randint(1, 3) if has_gaps and rng.chance(0.2) else 0) for _ in range(frames)]
    times = np.cumsum(steps)
    cut = rng.randint(1, frames - 1) if frames > 1 and rng.chance(settings.cut_part) else frames
    return [(shot - shot[0]).tolist() for shot in (times[:cut], times[cut:]) if len(shot)]


def _compress(frames: Tensor, settings: SynthesisConfig, rng: Rng) -> tuple[Tensor, str | None]:
    """Draw whether and how a clip is compressed; return the result, and the kind of compression in words."""
    if not rng.chance(settings.compressed_part):
        return frames, None
    if rng.chance(settings.h264_part):
        crf = rng.randint(*settings.crf)
        return compression.h264(frames, crf), f"H.264, crf {crf}"
    quality = rng.randint(*settings.quality)
    return compression.jpeg(frames, quality), f"JPEG, quality {quality}"


def _render_shot(
    file: Picture,
    cutouts: Sequence[Picture],
    times: list[int],
    size: tuple[int, int],
    parameters: ClipParameters,
    rng: Rng,
    settings: SynthesisConfig,
    device: str | torch.device,
) -> Iterator[_Frame]:
    """Yield the frames of a shot."""
    picture = file if isinstance(file, Tensor) else open_rgb(file)
    height, width = picture.shape[1:]
    if height < size[0] or width < size[1]:
        raise ValueError(f"a picture is {width}x{height}, smaller than the frames' {size[1]}x{size[0]}")
    least = MARGIN * max(size[0] / height, size[1] / width)
    crisp = _crisp_scale(file, picture, settings.crisp, least)
    scale = min(1, max(crisp * rng.uniform(*settings.scale), least))
    steps, open_steps = parameters.steps, parameters.open_steps
    path = homographies(sample_camera_path(times[-1] + 1, steps, parameters.speed, rng), size)
    part, path = scene.backdrop(picture, path, size, scale, rng)
    plane = scene.supersample(sensor.srgb8_to_linear(part.to(device)), scale)
    background = sensor.boost_highlights(plane, parameters.highlights)
    layers = [_render_layer(cutout, times, size, parameters, rng, settings, device) for cutout in cutouts]
    starts = [time * steps + (steps - open_steps) // 2 for time in times]
    for start, last_start in zip(starts, [starts[0], *starts], strict=False):
        instants, last = (slice(first, first + open_steps) for first in (start, last_start))
        views = scene.warp(background, path[instants], size)
        pose = path[instants].mean(0, keepdim=True)
        mean = scene.warp(background, pose, size)
        motion = scene.motion(path[last], path[instants], size)
        for layer, layer_path in layers:
            scene.composite(views, layer, layer_path[instants])
            pose = layer_path[instants].mean(0, keepdim=True)
            scene.composite(mean, layer, pose)
            covered = scene.warp(layer[3:], pose, size, outside="zeros")[0, 0, 2::4, 2::4].cpu() > 0.5
            moved = scene.motion(layer_path[last], layer_path[instants], size)
            motion = torch.where(covered, moved, motion)
        yield _Frame(views, mean[0], motion)


_measured_scales: dict[tuple[str, float, float], float] = {}


def _crisp_scale(file: Picture, picture: Tensor, limit: float, least: float) -> float:
    """Return the scale at which a picture is crisp; each file is measured once."""
    if limit == 1:
        return 1.0
    if isinstance(file, Tensor):
        return crisp_scale(picture, limit, least)
    key = str(file), limit, least
    if key not in _measured_scales:
        _measured_scales[key] = crisp_scale(picture, limit, least)
    return _measured_scales[key]


def _render_layer(
    file: Picture,
    times: list[int],
    size: tuple[int, int],
    parameters: ClipParameters,
    rng: Rng,
    settings: SynthesisConfig,
    device: str | torch.device,
) -> tuple[Tensor, Tensor]:
    """Return the plane of a cut-out, and its path: at the time of a random frame its centre is in that frame."""
    cutout = file if isinstance(file, Tensor) else open_rgba(file)
    speed = parameters.speed * rng.log_uniform(*settings.layer_speed)
    side = rng.uniform(*LAYER) * min(size)
    cutout = cutout.flip(2) if rng.chance(0.5) else cutout
    light = torch.cat([sensor.srgb8_to_linear(cutout[:3]), cutout[3:] / 255])
    light[:3] *= light[3:]
    plane = scene.supersample(light.to(device), min(1, side / max(cutout.shape[1:])))
    steps = parameters.steps
    path = homographies(sample_camera_path(times[-1] + 1, steps, speed, rng) * UNTILTED, size)
    in_frame = path[times[rng.randint(0, len(times) - 1)] * steps + steps // 2]
    position = torch.tensor([rng.uniform(-0.5, 0.5) * size[1], rng.uniform(-0.5, 0.5) * size[0], 1])
    centre = torch.tensor([(side - 1) / 2 / scene.DETAIL for side in reversed(plane.shape[1:])])
    return plane, scene.translated(path, centre - (in_frame @ position.double())[:2])
