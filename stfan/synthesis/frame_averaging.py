"""Make blurred and sharp clips of a sharp video: means of successive frames."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

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
) -> Iterator[tuple[Tensor, Tensor]]:
    """Make clips from a sharp video of a high frame rate: each frame the mean of successive ones, the middle its target.

    The mean is of linear light. An odd number is drawn for each clip, and the clip has as many times fewer frames a
    second than the video. Nothing is interpolated: in a video of less than about 120 frames a second, moving things
    become a row of ghosts. No clip goes over a scene cut; frames that are left before a cut or at the end are dropped.

    Source: Nah et al., "Deep multi-scale convolutional neural network for dynamic scene deblurring", CVPR 2017.

    Args:
        path: the video; needs PyAV.
        length: number of frames of a clip, T.
        average: the least and the greatest number of frames that become one.
        seed: of the random numbers.
        start, end: seconds, of the part of the video to use.

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
            if last is None or find_cuts(last[None], pixels[None])[0]:  # begin a clip
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
            f"{path}: its {frames} frames, between cuts, are too few for {length} of {odd[0]} to {odd[-1]} each"
        )


def _odd_counts(average: tuple[int, int], length: int) -> list[int]:
    """List the odd numbers from least to greatest; raise ValueError if there is none, or `length` is too small."""
    odd = [count for count in range(average[0], average[1] + 1) if count % 2 and count > 0]
    if not odd or length < 1:
        raise ValueError(
            f"average must be (least, greatest) with an odd number from 1 between them, got {average}, "
            f"and length 1 or more, got {length}"
        )
    return odd
