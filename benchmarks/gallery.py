"""Write docs/gallery.md: what the bundled weights make of the blurriest detail of each of some clips.

    python benchmarks/gallery.py cup.mp4 bikes.mp4 CLIPS/test/drift-8-clean-00 --json benchmarks/results

A clip is a video, or a folder with input/ and GT/, of which the latter is the truth. Its frames are deblurred in order,
and every tenth is cut into tiles of 96 x 96. Shown is the tile with the widest edges (stfan.evaluation.edge_width) of
those with at least the clip's median contrast; nobody chooses. The order of the page is that of how much narrower the
edges became, so the worst is the last. Without --json nothing is written.
"""

import argparse
import itertools
import json
from pathlib import Path
from statistics import median

from harness import environment, json_path
from training_report import ROOT, table

DOCS = ROOT / "docs"
TILE, ENLARGED = 96, 3
# every STEP-th frame is looked at, from the one on before which the network has a past
PAST, STEP = 3, 10


def read(path):
    """Yield the frames of a clip, each with its true one or None, (3, H, W) in [0, 1]."""
    from stfan.images import image_files, natural_sort_key, open_rgb
    from stfan.video.reader import VideoReader

    if path.is_dir():
        sides = (sorted(image_files(path / side), key=natural_sort_key) for side in ("input", "GT"))
        for files in zip(*sides, strict=True):
            yield tuple(open_rgb(file).float() / 255 for file in files)
    else:
        with VideoReader(path) as reader:
            for _, pixels in reader.frames():
                yield pixels, None


def choose(path):
    """Return the number of the frame with the blurriest tile of a clip, and where in it that tile is."""
    from stfan.evaluation.edge_width import edge_width
    from stfan.evaluation.metrics import LUMA

    found = []
    for number, (frame, _) in enumerate(read(path)):
        if number < PAST or (number - PAST) % STEP:
            continue
        luma = sum(weight * channel for weight, channel in zip(LUMA, frame, strict=True))
        for top in range(0, frame.shape[1] - TILE + 1, TILE):
            for left in range(0, frame.shape[2] - TILE + 1, TILE):
                tile = slice(top, top + TILE), slice(left, left + TILE)
                found.append((float(luma[tile].std()), edge_width(frame[:, *tile]) or 0.0, number, tile))
    if not found:
        raise SystemExit(f"{path}: needs more than {PAST} frames of {TILE} x {TILE} pixels at least")
    least = median(contrast for contrast, *_ in found)
    _, _, number, tile = max((each for each in found if each[0] >= least), key=lambda each: each[1])
    return number, tile


def show(path, model):
    """Deblur a clip up to its blurriest tile; return the tile's facts, and it before, after and, if known, sharp."""
    import torch

    from stfan.evaluation.edge_width import edge_width
    from stfan.model.deblurrer import Deblurrer

    deblurrer, (last, tile) = Deblurrer(model), choose(path)
    for before, truth in itertools.islice(read(path), last + 1):
        images = before, deblurrer(before), truth
    views = [image[:, *tile] for image in images if image is not None]
    widths = [edge_width(view) or 0.0 for view in views[:2]]
    facts = {"frame": last, "before": widths[0], "after": widths[1]}
    facts["change"] = 255 * float((views[1] - views[0]).abs().mean())
    if len(views) == 3:
        errors = torch.stack([(view.clamp(0, 1) - views[2]).square().mean() for view in views[:2]])
        facts["gain"] = float(10 * (errors[0] / errors[1]).log10())
    return facts, views


def page(report):
    """Write docs/gallery.md from the report."""
    rows = []
    for name, facts in report["clips"].items():
        gain = f"{facts['gain']:+.2f}" if "gain" in facts else "no truth"
        widths = [f"{facts[side]:.1f}" for side in ("before", "after")]
        rows.append([name, facts["frame"], *widths, gain, f"{facts['change']:.1f}"])
    where = report["environment"]
    heading = ["clip", "frame", "edges before, px", "after, px", "gain, dB", "change, of 255"]
    return f"""# Gallery

The blurriest detail of each clip by a rule (the tile of {TILE} x {TILE} pixels with the widest edges, of those with at least
the clip's median contrast), before, after and, where it is known, sharp, at {ENLARGED}x. The order is that of the table: by how
much narrower the edges became, so the worst is the last. Clips named drift are synthetic: pictures that moved by that
many pixels a frame, none of them trained on. The others are recordings; there the rule also finds what is out of focus,
which the weights leave as it is.

![Blurriest details, before, after and sharp](gallery.png)

{table(heading, rows)}

Weights `{report["weights"]}`, {where["device"]}, {where["date"]}. Renew it with `python benchmarks/gallery.py CLIP ... --json
benchmarks/results`.
"""


def picture(rows):
    """Draw the tiles, a row for each clip; a missing truth stays white."""
    import torch
    from torch.nn import functional as F

    from stfan.images import to_8bit

    lines = []
    for views in rows:
        views = [*views, torch.ones(3, TILE, TILE)][:3]
        enlarged = [
            F.interpolate(view[None].clamp(0, 1), scale_factor=ENLARGED, mode="nearest")[0] for view in views
        ]
        lines.append(torch.cat([F.pad(view, (0, 6, 0, 6), value=1.0) for view in enlarged], 2))
    return to_8bit(torch.cat(lines, 1))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, nargs="+", help="videos, or folders with input/ and GT/")
    parser.add_argument("--weights", default="compact", help="a name or a file [compact]")
    parser.add_argument("--json", type=Path, help="write the figures here or into this folder, and the page")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of the page [docs]")
    parser.add_argument("--threads", type=int, help="CPU threads [torch's own choice]")
    parser.set_defaults(device="cpu", commit=None)
    options = parser.parse_args()
    import torch

    from stfan.images import write_image
    from stfan.model import weights

    if options.threads:
        torch.set_num_threads(options.threads)
    model, found = weights.load(options.weights), {}
    for path in options.clips:
        found[path.name] = facts, _ = show(path, model)
        print(
            f"{path.name}: frame {facts['frame']}, edges {facts['before']:.1f} -> {facts['after']:.1f} px",
            flush=True,
        )
    order = sorted(found, key=lambda name: found[name][0]["after"] / max(found[name][0]["before"], 1e-6))
    if options.json:
        facts = environment(options)
        report = {
            "environment": facts,
            "weights": options.weights,
            "clips": {name: found[name][0] for name in order},
        }
        path = json_path(options.json, facts, "-gallery")
        path.write_text(json.dumps(report, indent=1) + "\n")
        write_image(options.docs / "gallery.png", picture(found[name][1] for name in order))
        (options.docs / "gallery.md").write_text(page(report))
        print(path)


if __name__ == "__main__":
    main()
