"""Blurred and sharp clips of a sharp video: means of successive frames."""

import torch

from stfan.images import to_8bit
from stfan.scene_cuts import find_cuts
from stfan.synthesis.rng import Rng
from stfan.synthesis.sensor import linear_to_srgb8, to_linear


def from_video(path, length=10, average=(7, 13), seed=0, start=0.0, end=None):
    """Clips from a sharp video of a high frame rate: each frame the mean of successive ones, the middle its target.

    The mean is of linear light. An odd number is drawn for each clip, and a clip has as many times fewer frames a
    second than the video. Nothing is interpolated: in a video of less than about 120 frames a second, moving things
    become a row of ghosts. No clip goes over a scene cut; what is left before a cut or at the end is dropped.

    Source: Nah et al., "Deep multi-scale convolutional neural network for dynamic scene deblurring", CVPR 2017.

    Args:
        path: the video; needs PyAV.
        length: frames of a clip, T.
        average: the least and the greatest number of frames that become one.
        seed: of what is drawn.
        start, end: seconds, of the part of the video to use.

    Yields:
        blurry and sharp, (T, 3, H, W) uint8 each.

    Raises:
        ValueError: there is no odd number in `average`, no video in the file, or it is too short for one clip.
        OSError: it can not be read.
    """
    from stfan.video.reader import VideoReader

    odd = [count for count in range(average[0], average[1] + 1) if count % 2 and count > 0]
    if not odd or length < 1:
        raise ValueError(
            f"average must be (least, greatest) with an odd number from 1 between them, got {average}, "
            f"and length 1 or more, got {length}"
        )
    draw = Rng(torch.Generator().manual_seed(seed))
    made = frames = 0
    with VideoReader(path, start, end) as source:
        last = None
        for _, pixels in source.frames():
            frames += 1
            if last is None or find_cuts(last[None], pixels[None])[0]:
                count, seen, light, blurry, sharp = odd[draw.randint(0, len(odd) - 1)], 0, 0, [], []
            last = pixels
            light = light + to_linear(pixels)
            if seen == count // 2:
                sharp.append(to_8bit(pixels))
            seen += 1
            if seen == count:
                blurry.append(linear_to_srgb8(light / count))
                seen, light = 0, 0
            if len(blurry) == length:
                yield torch.stack(blurry), torch.stack(sharp)
                made, last = made + 1, None
    if not made:
        raise ValueError(
            f"{path}: its {frames} frames, between cuts, are too few for {length} of {odd[0]} to {odd[-1]} each"
        )
