"""How good are the weights? Clips with known truth, deblurred frame by frame and judged by a named protocol."""

import csv
import time
from dataclasses import dataclass

import torch
from rich.table import Table
from rich.text import Text

from stfan.files import to_json, whole
from stfan.images import image_size, read_image

COLUMNS = ("protocol", "clip", "frames", "input_psnr", "output_psnr", "input_ssim", "output_ssim")


@dataclass
class Judged:
    """A frame of a clip, deblurred.

    Attributes:
        clip, frame: their names.
        before, after, target: the blurry frame, the deblurred and the true one, (3, H, W) in [0, 1].
        input, output: (PSNR in dB, SSIM) of before and of after, None where the protocol leaves the frame out.
        seconds: that the network took.
    """

    clip: str
    frame: str
    before: torch.Tensor
    after: torch.Tensor
    target: torch.Tensor
    input: tuple[float, float] | None
    output: tuple[float, float] | None
    seconds: float


def check_clips(clips, protocol):
    """Refuse, before any work is done, clips that a protocol can not judge; only the files' headers are read.

    Raises:
        ValueError: unequal sizes, or a clip that is too short or too small; names it.
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
            raise ValueError(f"clip {name}: protocol {protocol.name} judges none of its {len(blurry)} frames")


def evaluate(deblurrer, clips, protocol, on_frame=lambda judged: None):
    """Deblur clips and judge them; one frame at a time is in memory.

    Args:
        deblurrer: maps a frame (3, H, W) in [0, 1] to the like; reset() before each clip.
        clips: {name: (input paths, GT paths)}, as :class:`stfan.data.paired_videos.Found` has them.
        protocol: a :class:`stfan.evaluation.metrics.Protocol`.
        on_frame: called with every frame as a :class:`Judged`, in order.

    Returns:
        {"protocol": its name, "rule": in words, "overall": scores, "clips": {name: scores}}, where scores are {"frames": how many
        were judged, "input" and "output": {"psnr": dB, "ssim"}, "seconds_per_frame"}, each clip's also with
        "per_frame": {frame: {"input" and "output": {"psnr", "ssim"}}}.
    """
    check_clips(clips, protocol)
    scores, taken = {}, []
    for name, paths in clips.items():
        frames = list(_judge(deblurrer, name, paths, protocol, on_frame))
        scores[name] = _mean([sides for _, sides, _ in frames if sides])
        scores[name]["seconds_per_frame"] = sum(seconds for *_, seconds in frames) / len(frames)
        taken.extend(seconds for *_, seconds in frames)
        scores[name]["per_frame"] = {frame: sides for frame, sides, _ in frames if sides}
    if protocol.mean_over == "clips":
        parts = list(scores.values())
    else:
        parts = [sides for clip in scores.values() for sides in clip["per_frame"].values()]
    overall = _mean(parts)
    overall["frames"] = sum(clip["frames"] for clip in scores.values())
    overall["seconds_per_frame"] = sum(taken) / len(taken)
    return {"protocol": protocol.name, "rule": str(protocol), "overall": overall, "clips": scores}


def _judge(deblurrer, name, paths, protocol, on_frame):
    """(frame, {"input": ..., "output": ...} or None, seconds) of each frame of a clip."""
    scored = set(protocol.scored(len(paths[0])))
    for t, pair in enumerate(zip(*paths, strict=True)):
        before, target = (read_image(path).float() / 255 for path in pair)
        if t % (protocol.restart or len(paths[0])) == 0:
            deblurrer.reset()
        started = time.perf_counter()
        after = deblurrer(before)  # back where before is, so on a GPU too it is done
        seconds = time.perf_counter() - started
        sides = [protocol.score(frame, target) if t in scored else None for frame in (before, after)]
        on_frame(Judged(name, pair[0].stem, before, after, target, *sides, seconds))
        named = {
            side: dict(zip(("psnr", "ssim"), values, strict=True))
            for side, values in zip(("input", "output"), sides, strict=True)
            if values
        }
        yield pair[0].stem, named, seconds


def _mean(parts):
    """The mean of scores, each {"input" and "output": {"psnr", "ssim"}}, and how many they were."""
    return {"frames": len(parts)} | {
        side: {key: sum(part[side][key] for part in parts) / len(parts) for key in ("psnr", "ssim")}
        for side in ("input", "output")
    }


def rows(result):
    """The clips' scores and the overall ones, in the order of COLUMNS, with the seconds per frame behind."""
    for name, score in (*result["clips"].items(), ("overall", result["overall"])):
        sides = (score[side][key] for key in ("psnr", "ssim") for side in ("input", "output"))
        yield result["protocol"], name, score["frames"], *sides, score["seconds_per_frame"]


def write_csv(path, result):
    """A line for each clip and one for all; every line names the protocol."""
    with whole(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, "seconds_per_frame"))
        writer.writerows(rows(result))


def write_json(path, result):
    """All that :func:`evaluate` gave; an infinite PSNR is the string inf."""
    with whole(path) as partial:
        partial.write_text(to_json(result, indent=1) + "\n")


def table(result):
    """The clips' scores and the overall ones, for the screen; every heading names the protocol."""
    by = f"\n({result['protocol']})"
    shown = Table(caption=result["rule"], caption_justify="left")
    shown.add_column("clip", overflow="fold")
    for heading in (
        "frames",
        f"PSNR in{by}",
        f"PSNR out{by}",
        f"gain{by}",
        f"SSIM in{by}",
        f"SSIM out{by}",
        "s/frame",
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    for _, clip, frames, blurry, deblurred, *similarity, seconds in rows(result):
        shown.add_row(
            Text(clip),
            str(frames),
            *(f"{value:.2f}" for value in (blurry, deblurred)),
            f"{deblurred - blurry:+.2f}",
            *(f"{value:.4f}" for value in similarity),
            f"{seconds:.3f}",
            end_section=len(result["clips"]) == shown.row_count + 1,
        )
    return shown
