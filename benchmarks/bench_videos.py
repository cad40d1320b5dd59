"""Deblur real videos, whole, by the weights that are bundled, and follow what changes from the first frame to the last.

    python benchmarks/bench_videos.py cup.mp4 bikes.mp4 --json benchmarks/results

There is no truth to compare with. For each frame: its sharpness before and after (stfan.evaluation.metrics), and the
mean change of a value, of 255. For each frame that begins a shot: how far it is from what a network without a past
makes of it, the mean over the 16 x 16 pixels where that is most, of 255; a ghost of the shot before would be seen
there.
"""

import argparse
import json
from pathlib import Path

from harness import environment, json_path

BLOCK = 16  # pixels


def follow(path, model):
    """Deblur a video; return its figures."""
    from torch.nn import functional as F

    from stfan.evaluation.metrics import sharpness
    from stfan.model.deblurrer import Deblurrer
    from stfan.scene_cuts import find_cuts
    from stfan.video.reader import VideoReader

    deblurrer, fresh, before = Deblurrer(model), Deblurrer(model), None
    curve, cuts = {"before": [], "after": [], "change": []}, {}
    with VideoReader(path) as reader:
        for number, (_, pixels) in enumerate(reader.frames()):
            after = deblurrer(pixels)
            curve["before"].append(round(sharpness(pixels), 2))
            curve["after"].append(round(sharpness(after), 2))
            curve["change"].append(round(255 * float((after - pixels).abs().mean()), 3))
            if before is not None and find_cuts(before[None], pixels[None])[0]:
                fresh.reset()
                ghost = (fresh(pixels) - after).abs().mean(0, keepdim=True)
                cuts[number] = round(255 * float(F.avg_pool2d(ghost[None], BLOCK).max()), 2)
            before = pixels
    return {"size": [pixels.shape[2], pixels.shape[1]], "frames": number + 1, **curve, "cuts": cuts}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, nargs="+", help="video files")
    parser.add_argument("--weights", default="compact", help="a name or a file [compact]")
    parser.add_argument(
        "--json",
        type=Path,
        help="also write the figures to this file, or to DEVICE-videos.json in this folder",
    )
    parser.add_argument("--threads", type=int, help="CPU threads [torch's own choice]")
    parser.set_defaults(device="cpu", commit=None)
    options = parser.parse_args()
    import torch

    from stfan.model import weights

    if options.threads:
        torch.set_num_threads(options.threads)
    model, videos = weights.load(options.weights), {}
    for path in options.videos:
        videos[path.name] = figures = follow(path, model)
        sharper = sum(figures["after"]) / sum(figures["before"])
        print(
            f"{path.name}: {figures['frames']} frames, sharpness x {sharper:.2f}; at cuts {figures['cuts']}",
            flush=True,
        )
    if options.json:
        facts = environment(options)
        path = json_path(options.json, facts, "-videos")
        path.write_text(
            json.dumps({"environment": facts, "weights": options.weights, "videos": videos}) + "\n"
        )
        print(path)


if __name__ == "__main__":
    main()
