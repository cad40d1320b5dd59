"""Make blurred and sharp clips of a sharp video: means of successive frames."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from stfan.images import to_8bit
from stfan.rng import Rng
from stfan.scene_cuts import find_cuts
from stfan.synthesis.sensor import linear_to_srgb8, to_linear


def from_video(
    path: str | Path,
    length: int = 10,
    average: tuple[int, int] = (7, 13),
    seed: int = 0,
    start: float = 0.0,
    end: float | None = None,
    fastest: float | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Make clips from a sharp fast video: each frame is the mean of successive ones, the middle one its target.

    The mean is of linear light. An odd number is drawn for each clip, and the clip has as many times fewer frames a
    second than the video. Nothing is interpolated: where something moves by more than about a pixel from frame to
    frame, it becomes a row of ghosts. A hand-held camera takes about 120 frames a second for that, one that hardly
    moves takes fewer, and more frames that become one then give as much blur. No clip goes over a scene cut, or over
    a frame that moves more than `fastest`; frames that are left before one or at the end are dropped.

    Source: Nah et al., "Deep multi-scale convolutional neural network for dynamic scene deblurring", CVPR 2017.

    Args:
        path: the video; needs PyAV.
        length: number of frames of a clip, T.
        average: the least and the greatest number of frames that become one.
        seed: of the random numbers.
        start, end: seconds, of the part of the video to use.
        fastest: pixels that what is seen may move from frame to frame (:func:`measure_motion`); None for any number.

    Yields:
        blurry and sharp, (T, 3, H, W) uint8 each.

    Raises:
        ValueError: there is no odd number in `average`, no video in the file, or it is too short for one clip.
        OSError: it cannot be read.
    """
    from stfan.video.reader import VideoReader

    odd = _odd_counts(average, length)
    rng = Rng(torch.Generator().manual_seed(seed))
    clips = frames = 0
    with VideoReader(path, start, end) as reader:
        last: Tensor | None = None
        for _, pixels in reader.frames():
            frames += 1
            if last is None or _is_break(last, pixels, fastest):  # begin a clip
                count = odd[rng.randint(0, len(odd) - 1)]
                summed, light = 0, torch.zeros_like(pixels)
                blurry: list[Tensor] = []
                sharp: list[Tensor] = []
            last = pixels
            light = light + to_linear(pixels)
            if summed == count // 2:
                sharp.append(to_8bit(pixels))
            summed += 1
            if summed == count:
                blurry.append(linear_to_srgb8(light / count))
                summed, light = 0, torch.zeros_like(pixels)
            if len(blurry) == length:
                yield torch.stack(blurry), torch.stack(sharp)
                clips, last = clips + 1, None
    if not clips:
        raise ValueError(
            f"{path}: its {frames} frames, between cuts{'' if fastest is None else ' and what is too fast'}, are too few "
            f"for {length} of {odd[0]} to {odd[-1]} each"
        )


def _is_break(last: Tensor, pixels: Tensor, fastest: float | None) -> bool:
    """Say whether no clip can go from one frame to the next."""
    if find_cuts(last[None], pixels[None])[0]:
        return True
    return fastest is not None and measure_motion(last, pixels) > fastest


CELL = 4  # pixels a side, whose mean is taken first: a move of a few pixels is then a part of a cell
SIGHT = 7  # cells a side in which one displacement is looked for
STEPS = 6  # of the search, each from the displacement before


def measure_motion(last: Tensor, now: Tensor) -> float:
    """Measure how far what is seen has moved between two frames (3, H, W) in [0, 1], in pixels.

    Of all places with texture in two directions, the displacement below which nine tenths of them lie, by Lucas and
    Kanade's method: good to a quarter up to 6 pixels; beyond, it only says that it is more. 0 if no place has texture.

    Source: Lucas and Kanade, "An iterative image registration technique with an application to stereo vision", 1981.
    """
    size = [side // CELL for side in now.shape[1:]]
    if min(size) < SIGHT:
        return 0.0
    # Smoothed, so that a difference of neighbours is a slope: a cell has as much detail as a pixel had.
    before, after = (
        _smooth(_smooth(functional.avg_pool2d(frame.float().mean(0)[None, None], CELL)))
        for frame in (last, now)
    )
    y, x = (2 * (torch.arange(side) + 0.5) / side - 1 for side in size)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    shift = torch.zeros(2, *size)

    def windows(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, SIGHT, 1, SIGHT // 2, count_include_pad=False)

    for _ in range(STEPS):
        to_grid = 2 * shift.movedim(0, -1)[None] / torch.tensor(size[::-1])
        moved = functional.grid_sample(before, places - to_grid, padding_mode="border", align_corners=False)
        slopes = torch.stack(torch.gradient((moved + after)[0, 0] / 2, dim=(1, 0)))
        change = (after - moved)[0]
        xx, xy, yy = windows(torch.stack([slopes[0] ** 2, slopes[0] * slopes[1], slopes[1] ** 2])[None])[0]
        xt, yt = windows((slopes * change)[None])[0]
        least = (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2).sqrt()
        seen = least > TEXTURE + 0.05 * (xx + yy)
        determinant = (xx * yy - xy * xy).clamp_min(1e-12)
        step = torch.stack([xy * yt - yy * xt, xy * xt - xx * yt]) / determinant
        shift = windows((shift + step.clamp(-1, 1) * seen)[None])[0]
    inner = (..., slice(SIGHT // 2, -(SIGHT // 2)), slice(SIGHT // 2, -(SIGHT // 2)))
    lengths = CELL * shift.norm(dim=0)[inner][seen[inner]]
    return float(lengths.quantile(0.9)) if len(lengths) else 0.0


def _smooth(grey: Tensor) -> Tensor:
    return functional.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)


TEXTURE = 2e-5  # mean square of the slope, per cell, in the direction in which it is least: slopes of about one level


def _odd_counts(average: tuple[int, int], length: int) -> list[int]:
    """List the odd numbers from least to greatest; raise ValueError if there is none, or `length` is too small."""
    odd = [count for count in range(average[0], average[1] + 1) if count % 2 and count > 0]
    if not odd or length < 1:
        raise ValueError(
            f"average must be (least, greatest) with an odd number from 1 between them, got {average}, "
            f"and length 1 or more, got {length}"
        )
    return odd
