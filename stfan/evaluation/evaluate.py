"""Evaluation of a network: clips with known truth, deblurred frame by frame and scored by a named protocol."""

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from stfan.evaluation.metrics import ScoringProtocol
from stfan.files import atomic_write, to_json
from stfan.images import image_size, open_rgb

COLUMNS = ("protocol", "clip", "frames", "input_psnr", "output_psnr", "input_ssim", "output_ssim")
SIDES, MEASURES = ("input", "output"), ("psnr", "ssim")
Paths = tuple[Sequence[Path], Sequence[Path]]  # of a clip: blurry and sharp
Result = dict[str, Any]


class ClipDeblurrer(Protocol):
    """Maps a frame (3, H, W) in [0, 1] to the like; a Deblurrer, for example."""

    def __call__(self, frame: torch.Tensor) -> torch.Tensor:
        """Deblur the next frame."""

    def reset(self) -> None:
        """Begin a new clip."""


@dataclass
class FrameScore:
    """A frame of a clip, deblurred and scored.

    Attributes:
        clip, frame: their names.
        before, after, target: the blurry frame, the deblurred and the true one, (3, H, W) in [0, 1].
        input, output: (PSNR in dB, SSIM) of before and of after, None where the protocol leaves the frame out.
        seconds: time that the network took.
    """

    clip: str
    frame: str
    before: torch.Tensor
    after: torch.Tensor
    target: torch.Tensor
    input: tuple[float, float] | None
    output: tuple[float, float] | None
    seconds: float


class _Frame(NamedTuple):
    """What is kept of a frame: the scores of both sides, none where the protocol leaves it out."""

    name: str
    scores: dict[str, dict[str, float]]
    seconds: float


def check_clips(clips: Mapping[str, Paths], protocol: ScoringProtocol) -> None:
    """Check, before any work is done, that a protocol can score the clips; only the files' headers are read.

    Raises:
        ValueError: frames of unequal sizes, or a clip that is too short or too small; names it.
    """
    for name, (blurry, sharp) in clips.items():
        first = image_size(blurry[0])
        for path in (*blurry, *sharp):
            if image_size(path) != first:
                raise ValueError(
                    f"{path}: is {'x'.join(map(str, image_size(path)))} and {blurry[0]} {'x'.join(map(str, first))}; "
                    f"all frames of a clip must have one size"
                )
        if min(first) < protocol.smallest:
            raise ValueError(
                f"clip {name}: protocol {protocol.name} needs {protocol.smallest} pixels each way, "
                f"its frames are {'x'.join(map(str, first))}"
            )
        if not len(protocol.scored(len(blurry))):
            raise ValueError(f"clip {name}: protocol {protocol.name} scores none of its {len(blurry)} frames")


def evaluate(
    deblurrer: ClipDeblurrer,
    clips: Mapping[str, Paths],
    protocol: ScoringProtocol,
    on_frame: Callable[[FrameScore], object] = lambda score: None,
) -> Result:
    """Deblur clips and score them; one frame at a time is in memory.

    Args:
        deblurrer: maps a frame (3, H, W) in [0, 1] to the like; reset() is called before each clip.
        clips: {name: (input paths, GT paths)}, as :class:`stfan.data.paired_videos.PairedDataset` has them.
        protocol: a :class:`stfan.evaluation.metrics.ScoringProtocol`.
        on_frame: called with every frame as a :class:`FrameScore`, in order.

    Returns:
        {"protocol": its name, "rule": in words, "overall": scores, "clips": {name: scores}}. The scores are
        {"frames": how many were scored, "input" and "output": {"psnr": dB, "ssim"}, "seconds_per_frame"}; each clip's
        have also "per_frame": {frame: {"input" and "output": {"psnr", "ssim"}}}.
    """
    check_clips(clips, protocol)
    scores: dict[str, dict[str, Any]] = {}
    seconds: list[float] = []
    for name, paths in clips.items():
        frames = list(_score_clip(deblurrer, name, paths, protocol, on_frame))
        times = [frame.seconds for frame in frames]
        seconds.extend(times)
        scores[name] = _mean([frame.scores for frame in frames if frame.scores])
        scores[name]["seconds_per_frame"] = sum(times) / len(times)
        scores[name]["per_frame"] = {frame.name: frame.scores for frame in frames if frame.scores}
    if protocol.mean_over == "clips":
        parts = list(scores.values())
    else:
        parts = [frame for clip in scores.values() for frame in clip["per_frame"].values()]
    overall = _mean(parts)
    overall["frames"] = sum(clip["frames"] for clip in scores.values())
    overall["seconds_per_frame"] = sum(seconds) / len(seconds)
    return {"protocol": protocol.name, "rule": str(protocol), "overall": overall, "clips": scores}


def _score_clip(
    deblurrer: ClipDeblurrer,
    clip: str,
    paths: Paths,
    protocol: ScoringProtocol,
    on_frame: Callable[[FrameScore], object],
) -> Iterator[_Frame]:
    count = len(paths[0])
    scored = set(protocol.scored(count))
    for t, (blurry, sharp) in enumerate(zip(*paths, strict=True)):
        before, target = (open_rgb(path).float() / 255 for path in (blurry, sharp))
        if t % (protocol.restart or count) == 0:
            deblurrer.reset()
        started = time.perf_counter()
        after = deblurrer(before)  # it comes back to where before is, so on a GPU too it is done
        seconds = time.perf_counter() - started
        score_in, score_out = (
            protocol.score(frame, target) if t in scored else None for frame in (before, after)
        )
        on_frame(FrameScore(clip, blurry.stem, before, after, target, score_in, score_out, seconds))
        scores = {
            side: dict(zip(MEASURES, pair, strict=True))
            for side, pair in zip(SIDES, (score_in, score_out), strict=True)
            if pair is not None
        }
        yield _Frame(blurry.stem, scores, seconds)


def _mean(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average scores, each {"input" and "output": {"psnr", "ssim"}}, and count them."""
    means = {
        side: {key: sum(part[side][key] for part in parts) / len(parts) for key in MEASURES} for side in SIDES
    }
    return {"frames": len(parts), **means}


def rows(result: Result) -> Iterator[tuple[Any, ...]]:
    """Yield the clips' scores and the overall ones, in the order of COLUMNS, with the seconds per frame at the end."""
    for name, score in (*result["clips"].items(), ("overall", result["overall"])):
        values = (score[side][key] for key in MEASURES for side in SIDES)
        yield result["protocol"], name, score["frames"], *values, score["seconds_per_frame"]


def write_csv(path: Path, result: Result) -> None:
    """Write a line for each clip and one for all; every line names the protocol."""
    with atomic_write(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, "seconds_per_frame"))
        writer.writerows(rows(result))


def write_json(path: Path, result: Result) -> None:
    """Write all that :func:`evaluate` returned; an infinite PSNR becomes the string inf."""
    with atomic_write(path) as partial:
        partial.write_text(to_json(result, indent=1) + "\n")
