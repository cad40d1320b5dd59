"""What the past is worth to the network, and what a direction of blur would be: clean judging clips, rendered anew.

    python research/motion.py PICTURES CUTOUTS --json research/results/compact-motion.json

PICTURES are those of the judging clips, which nothing is trained on. Two tables:

- The past: the gain with the last frame replaced by this one, with the state forgotten in every frame, and with both;
  and with last frame, last output and state moved to where the true displacement says that they are now.
- Steering: after the network, a linear filter of 14 samples of the frame along a given direction, in units of a given
  length. Its weights depend on that length alone, are fitted by least squares on every second clip, and judged on the
  others. It is told the true blur, or the true blur with errors, or what the displacement between frames says of it.
  A filter that is told the length and takes no samples, but scales what the network added, stands beside it.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import stfan
from stfan.synthesis.dataset import SyntheticDataset
from stfan.synthesis.export import BUCKETS

CLIPS, FRAMES, SIZE, SEED = 12, 8, 192, 7  # as synthesize_judging_set has them
FITTED = (3, 6)  # frames of a clip in which filters are fitted and judged
LENGTHS = 14  # classes of length, a pixel each
# Samples along the blur, a * length + c: around its ends, where a deblurring filter has its peaks, and at twice that.
SAMPLES = [
    (side * a, side * c)
    for side in (1, -1)
    for a, c in ((0.5, -0.75), (0.5, 0), (0.5, 0.75), (1, 0), (1.5, -0.75), (1.5, 0.75), (0, 1))
]
# What is replaced: whether the last frame is kept, whether the state is, whether the past is moved.
PASTS = {
    "all": (True, True, False),
    "the last frame replaced by this one": (False, True, False),
    "the state forgotten in every frame": (True, False, False),
    "both: a single frame": (False, False, False),
    "last frame, last output and state moved by the true displacement": (True, True, True),
}


def render(pictures, cutouts):
    """Yield (drift, clips without noise), each a stfan.synthesis.clip.Clip."""
    for drift, settings in BUCKETS.items():
        made = SyntheticDataset(pictures, cutouts, length=FRAMES, crop=SIZE, seed=SEED, settings=settings)
        yield drift, [made.render(draw) for draw in range(CLIPS)]


def psnr(output, target):
    """PSNR of each of (..., 3, H, W) in [0, 1], rounded to 8 bits and cut off at 60 dB."""
    error = ((255 * output.clamp(0, 1)).round() / 255 - target).square().mean((-3, -2, -1))
    return (-10 * error.clamp_min(1e-6).log10()).clamp(max=60)


@torch.no_grad()
def unroll(model, blurry, has_last=True, has_state=True, motion=None):
    """Deblur (N, T, 3, H, W) side by side, with all of the past, a part of it, or moved by (N, T, 2, H / 4, W / 4)."""
    last = output = blurry[:, 0]
    state, outputs = None, []
    for number, frame in enumerate(blurry.unbind(1)):
        if not has_last:
            last = output = frame
        if motion is not None and state is not None:
            shift = -F.interpolate(motion[:, number], scale_factor=4, mode="bilinear", align_corners=False)
            last, output = read(torch.cat([last, output], 1), shift[:, 0], shift[:, 1]).split(3, 1)
            small = -motion[:, number] / 4
            state = read(state.float(), small[:, 0], small[:, 1]).to(state.dtype)
        with torch.autocast("cpu", torch.bfloat16):
            output, state = model(last, frame, output, state if has_state else None)
        output, last = output.float().clamp(0, 1), frame
        outputs.append(output)
    return torch.stack(outputs, 1)


def read(image: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Read (B, C, H, W) aside of each pixel, by (B, H, W) pixels to the right and down."""
    height, width = image.shape[2:]
    y, x = torch.arange(height)[:, None], torch.arange(width)
    grid = torch.stack([(2 * (x + right) + 1) / width - 1, (2 * (y + down) + 1) / height - 1], -1)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def told(way: str, clip, number: int) -> Tensor:
    """Return what the filter is told of the blur of a frame, (2, H / 4, W / 4)."""
    since, during = clip.motion[:, :2], clip.motion[:, 2:]
    if way == "displacement":
        return since[number] * clip.facts["exposure"]
    if way == "displacements on both sides":
        return (since[number] + since[number + 1]) / 2 * clip.facts["exposure"]
    rng = torch.Generator().manual_seed(number)
    error = float(way.removesuffix("%")) / 100
    longer, turn = (1 + error * torch.randn((), generator=rng)), 0.8 * error * torch.randn((), generator=rng)
    x, y = longer * during[number]
    return torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()])


def features(frame: Tensor, output: Tensor, blur: Tensor, with_samples: bool) -> tuple[Tensor, Tensor]:
    """Return what is weighted, (F, 3, H, W), and the class of length of each pixel, (H, W)."""
    blur = F.interpolate(blur[None], scale_factor=4, mode="bilinear", align_corners=False)
    length = (blur.square().sum(1) + 1e-2).sqrt()
    x, y = blur[:, 0] / length, blur[:, 1] / length
    parts = [output - frame]
    if with_samples:
        parts += [
            read(frame[None], (a * length + c) * x, (a * length + c) * y)[0] - frame for a, c in SAMPLES
        ]
    return torch.stack(parts), length[0].long().clamp(max=LENGTHS - 1)


def steer(buckets, outputs, way, with_samples, target="middle"):
    """Fit filters on the clips of even and of odd number, judge each on the others: {drift: gains of the clips}."""
    count = 1 + len(SAMPLES) * with_samples
    normal = torch.zeros(2, LENGTHS, count, count, dtype=torch.float64)
    right = torch.zeros(2, LENGTHS, count, dtype=torch.float64)

    def sides(drift, i, t):
        clip = buckets[drift][i]
        frame, true = clip.blurry[t].float() / 255, getattr(clip, target)[t].float() / 255
        return clip, frame, outputs[drift][i, t], true

    for drift, clips in buckets.items():
        for i in range(len(clips)):
            for t in FITTED:
                clip, frame, output, true = sides(drift, i, t)
                parts, classes = features(frame, output, told(way, clip, t), with_samples)
                for k in classes.unique().tolist():
                    chosen = parts[:, :, classes == k].flatten(1).double()
                    normal[i % 2, k] += chosen @ chosen.T
                    right[i % 2, k] += chosen @ (true - output)[:, classes == k].flatten().double()
    ridge = 2e-3 * normal.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-6
    weights = torch.linalg.solve(normal + ridge[..., None, None] * torch.eye(count), right).float()
    gains = {}
    for drift, clips in buckets.items():
        for i in range(len(clips)):
            scores = []
            for t in FITTED:
                clip, frame, output, true = sides(drift, i, t)
                parts, classes = features(frame, output, told(way, clip, t), with_samples)
                change = (weights[1 - i % 2][classes].permute(2, 0, 1)[:, None] * parts).sum(0)
                scores.append(float(psnr(output + change, true) - psnr(frame, true)))
            gains.setdefault(drift, []).append(sum(scores) / len(scores))
    return gains


# What the filter is told, what that is (see told), whether it takes samples, and the target.
WAYS = (
    ("the length of the true blur alone: it scales what the network added", "0%", False, "middle"),
    ("the true blur", "0%", True, "middle"),
    ("the true blur with an error of 15 % in length and 7 degrees", "15%", True, "middle"),
    ("the true blur with an error of 30 % and 14 degrees", "30%", True, "middle"),
    ("the exposure and the true displacement since the last frame", "displacement", True, "middle"),
    (
        "the exposure and the mean of the displacements before and after",
        "displacements on both sides",
        True,
        "middle",
    ),
    ("against the mean pose: the length alone", "0%", False, "mean"),
    ("against the mean pose: the true blur", "0%", True, "mean"),
)


def rounded(gains):
    return {str(drift): [round(gain, 3) for gain in values] for drift, values in gains.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path)
    parser.add_argument("cutouts", type=Path)
    parser.add_argument("--weights", default="compact")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = stfan.load(options.weights).to(memory_format=torch.channels_last)
    buckets = dict(render(options.pictures, options.cutouts))
    past, outputs = {name: {} for name in PASTS}, {}
    for drift, clips in buckets.items():
        blurry, middle = (
            torch.stack([getattr(clip, side) for clip in clips]).float() / 255
            for side in ("blurry", "middle")
        )
        motion = torch.stack([clip.motion[:, :2] for clip in clips])
        for name, (has_last, has_state, is_moved) in PASTS.items():
            output = unroll(model, blurry, has_last, has_state, motion if is_moved else None)
            outputs.setdefault(drift, output)  # with all of the past
            past[name][drift] = (psnr(output, middle) - psnr(blurry, middle)).mean(1).tolist()
        print(drift, {name: round(sum(gains[drift]) / CLIPS, 2) for name, gains in past.items()}, flush=True)
    alone = {
        drift: [
            sum(
                float(psnr(outputs[drift][i, t], true) - psnr(clip.blurry[t].float() / 255, true))
                for t in FITTED
                for true in [clip.middle[t].float() / 255]
            )
            / len(FITTED)
            for i, clip in enumerate(clips)
        ]
        for drift, clips in buckets.items()
    }
    steering = [{"what": "nothing: the network alone", "gains": rounded(alone)}]
    for words, way, with_samples, target in WAYS:
        gains = steer(buckets, outputs, way, with_samples, target)
        steering.append({"what": words, "gains": rounded(gains)})
        print(words, {drift: round(sum(values) / CLIPS, 2) for drift, values in gains.items()}, flush=True)
    if options.json:
        report = {
            "weights": options.weights,
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "past": {name: rounded(gains) for name, gains in past.items()},
            "steering": steering,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
