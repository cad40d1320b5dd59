"""Score clips by how strongly they are blurred, with and without sensor noise: a mean over all would hide the blur."""

import re
from typing import Any

NAME = re.compile(r"drift-(\d+)-(clean|noisy)-\d+")
HIGHEST = 60.0  # dB, at which a PSNR is cut off: an error of a quarter of a level, in one pixel of sixteen


def bucket_scores(result: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Give the gain of each bucket of the clips that :func:`stfan.synthesis.export.synthesize_judging_set` makes.

    Args:
        result: of :func:`stfan.evaluation.evaluate.evaluate`, with the scores of each frame.

    Returns:
        {"clean" and "noisy": {drift in pixels a frame: {"clips": how many, "input": their mean PSNR in dB, "gain": the
        mean gain in dB, "worse": the share of clips that got worse, "worst": the least gain}}}; empty where no clip is
        one of a bucket. A clip's gain is the mean over its frames, with PSNRs cut off at 60 dB.
    """
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for name, clip in result["clips"].items():
        if (match := NAME.fullmatch(name)) is None:
            continue
        frames = [
            tuple(min(sides[side]["psnr"], HIGHEST) for side in ("input", "output"))
            for sides in clip["per_frame"].values()
        ]
        before, after = (sum(side) / len(frames) for side in zip(*frames, strict=True))
        found.setdefault((match[2], int(match[1])), []).append((before, after - before))
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for (kind, drift), clips in sorted(found.items()):
        gains = [gain for _, gain in clips]
        scores.setdefault(kind, {})[str(drift)] = {
            "clips": len(clips),
            "input": sum(before for before, _ in clips) / len(clips),
            "gain": sum(gains) / len(gains),
            "worse": sum(gain < 0 for gain in gains) / len(gains),
            "worst": min(gains),
        }
    return scores
