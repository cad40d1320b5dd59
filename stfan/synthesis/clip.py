"""One clip: a shot or two of pictures with cut-outs before them, through the open shutter of a moving camera."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch

from stfan.images import open_rgb, open_rgba
from stfan.synthesis import compression, scene, sensor
from stfan.synthesis.camera import UNTILTED, homographies, sample_camera_path
from stfan.synthesis.crispness import crisp_scale

MARGIN = 1.3  # a picture is not scaled below so many times the frame
LAYER = (0.25, 0.8)  # longer side of a cut-out, of the frame's shorter one


@dataclass(frozen=True)
class SynthesisConfig:
    """What clips are like. Pairs are ranges (low, high) that are drawn from for each clip.

    Attributes:
        subframes: per frame, at least: a fast camera gets more, so that one moves by about a pixel.
        speed: of the camera's drift along either axis, standard deviation in pixels per frame; log-uniform.
        exposure: how long the shutter is open, of the time of a frame.
        sharp_part: part of the clips whose exposure is a single sub-frame: nothing to deblur.
        crisp: pictures are first reduced until the correlation of neighbouring differences is at most this
            (:mod:`stfan.synthesis.crispness`), so that they are crisp at the pixel; 1 leaves them as they are.
        scale: pixels of the scaled picture per pixel of the picture, unless too few would be left; at most 1.
        layers: number of moving cut-outs.
        layer_speed: of a cut-out across the frame, relative to the camera's; log-uniform.
        highlights: how many times as bright as white the brightest places are; log-uniform.
        gain: of the sensor: 1 for the strongest noise (:mod:`stfan.synthesis.sensor`), 0 for none.
        compressed_part: part of the clips that are compressed and decoded again.
        h264_part: part of these that become H.264 (which needs PyAV), the others JPEG.
        crf: constant rate factor of H.264, less is better.
        quality: of JPEG.
        cut_part: part of the clips that another shot begins in.
        gap_part: part of the clips that lack frames: before every fifth one to three are missing.

    Raises:
        ValueError: a range that is none, or out of bounds.
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

    def __post_init__(self):
        bounds = {"exposure": (0, 1), "scale": (0.01, 1), "gain": (0, 1), "crf": (0, 51), "quality": (1, 95)}
        bounds |= {
            "layers": (0, 100),
            "highlights": (1, 1000),
            "speed": (1e-6, 1e4),
            "layer_speed": (1e-6, 1e4),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in bounds:
                low, high = bounds[field.name]
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
    """How a clip is taken."""

    speed: float  # pixels per frame
    steps: int  # sub-frames per frame
    opened: int  # of these, while the shutter is open
    highlights: float
    gain: float


def render_clip(pictures, cutouts, first, frames, size, draw, settings, device):
    """Blurry, sharp, and what was drawn, pictures and cutouts by number."""
    speed = draw.log_uniform(*settings.speed)
    steps = max(settings.subframes, round(speed)) // 2 * 2 + 1
    exposure = draw.uniform(*settings.exposure)
    opened = 1 if draw.chance(settings.sharp_part) else round((exposure * steps - 1) / 2) * 2 + 1
    take = ClipParameters(
        speed, steps, opened, draw.log_uniform(*settings.highlights), draw.uniform(*settings.gain)
    )
    gaps = draw.chance(settings.gap_part)
    times = np.cumsum([1 + (draw.randint(1, 3) if gaps and draw.chance(0.2) else 0) for _ in range(frames)])
    cut = draw.randint(1, frames - 1) if frames > 1 and draw.chance(settings.cut_part) else frames
    facts = {"pictures": [], "cutouts": [], "speed": round(speed, 2), "exposure": round(opened / steps, 3)}
    blurry, sharp = [], []
    for shot in filter(len, (times[:cut], times[cut:])):
        picture = first if not facts["pictures"] else draw.randint(0, len(pictures) - 1)
        layers = [
            draw.randint(0, len(cutouts) - 1)
            for _ in range(draw.randint(*settings.layers) if len(cutouts) else 0)
        ]
        facts["pictures"].append(picture)
        facts["cutouts"] += layers
        seen = [cutouts[layer] for layer in layers]
        when = (shot - shot[0]).tolist()
        for views in _shot(pictures[picture], seen, when, size, take, draw, settings, device):
            blurry.append(sensor.add_sensor_noise(views.mean(0), take.gain, draw).cpu())
            sharp.append(sensor.linear_to_srgb8(views[len(views) // 2]).cpu())
    blurry, sharp = torch.stack(blurry), torch.stack(sharp)
    facts |= {"highlights": round(take.highlights, 2), "gain": round(take.gain, 3), "compression": None}
    if draw.chance(settings.compressed_part):
        if draw.chance(settings.h264_part):
            crf = draw.randint(*settings.crf)
            blurry, facts["compression"] = compression.h264(blurry, crf), f"H.264, crf {crf}"
        else:
            quality = draw.randint(*settings.quality)
            blurry, facts["compression"] = compression.jpeg(blurry, quality), f"JPEG, quality {quality}"
    return blurry, sharp, facts


def _shot(picture, cutouts, times, size, take, draw, settings, device):
    """For each frame, by its time in frames: (open sub-frames, 3, height, width) in linear light."""
    file, picture = picture, picture if isinstance(picture, torch.Tensor) else open_rgb(picture)
    height, width = picture.shape[1:]
    if height < size[0] or width < size[1]:
        raise ValueError(f"a picture is {width}x{height}, smaller than the frames' {size[1]}x{size[0]}")
    least = MARGIN * max(size[0] / height, size[1] / width)
    reduced = _reduction(file, picture, settings.crisp, least)
    scale = min(1, max(reduced * draw.uniform(*settings.scale), least))
    way = homographies(sample_camera_path(times[-1] + 1, take.steps, take.speed, draw), size)
    part, way = scene.backdrop(picture, way, size, scale, draw)
    background = sensor.boost_highlights(
        scene.supersample(sensor.srgb8_to_linear(part.to(device)), scale), take.highlights
    )
    layers = [_layer(cutout, times, size, take, draw, settings, device) for cutout in cutouts]
    for time in times:
        start = time * take.steps + (take.steps - take.opened) // 2
        instants = slice(start, start + take.opened)
        views = scene.warp(background, way[instants], size)
        for layer, its_way in layers:
            scene.composite(views, layer, its_way[instants])
        yield views


REDUCTIONS = {}  # of files that were measured


def _reduction(file, picture, limit, least):
    """The scale at which a picture is crisp."""
    if limit == 1:
        return 1.0
    if isinstance(file, torch.Tensor):
        return crisp_scale(picture, limit, least)
    key = str(file), limit, least
    if key not in REDUCTIONS:
        REDUCTIONS[key] = crisp_scale(picture, limit, least)
    return REDUCTIONS[key]


def _layer(cutout, times, size, take, draw, settings, device):
    """The plane of a cut-out, and its way through the frame; at the time of some frame its centre is in it."""
    cutout = cutout if isinstance(cutout, torch.Tensor) else open_rgba(cutout)
    speed = take.speed * draw.log_uniform(*settings.layer_speed)
    side = draw.uniform(*LAYER) * min(size)
    cutout = cutout.flip(2) if draw.chance(0.5) else cutout
    light = torch.cat([sensor.srgb8_to_linear(cutout[:3]), cutout[3:] / 255])
    light[:3] *= light[3:]
    plane = scene.supersample(light.to(device), min(1, side / max(cutout.shape[1:])))
    way = homographies(sample_camera_path(times[-1] + 1, take.steps, speed, draw) * UNTILTED, size)
    there = way[times[draw.randint(0, len(times) - 1)] * take.steps + take.steps // 2]
    place = torch.tensor([draw.uniform(-0.5, 0.5) * size[1], draw.uniform(-0.5, 0.5) * size[0], 1])
    centre = torch.tensor([(side - 1) / 2 / scene.DETAIL for side in reversed(plane.shape[1:])])
    return plane, scene.translated(way, centre - (there @ place.double())[:2])
