"""Show what the network does to the strongest blur of real videos, in tiles that a rule chooses.

    python research/real_blur.py VIDEO [VIDEO ...] --sheet tiles.png --json research/results/real-blur.json

Of all tiles of 64 x 64 pixels with texture, the BLURRIEST by their edge width are looked at, one a frame at most, and
GAP frames apart. For each:

- the energy of the differences along the motion and across it, after over before, beside an unsharp mask of the same
  total energy. The motion is that between the frame and the last one, as a whole-tile displacement. What takes away
  motion blur raises the energy along the motion; a mask raises both alike;
- a witness, where there is one: the same place in a sharper frame nearby, found by the displacement that fits best, to a
  part of a pixel; the PSNR of the tile before and after against it.

The sheet shows, at 4x, the tiles before and after, the mask, and the witness: the first four, the one that changed
least, and the one whose energy along the motion rose least beside that across it.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import stfan
from stfan.devices import fast_bfloat16
from stfan.evaluation.edge_width import edge_width
from stfan.evaluation.metrics import move, psnr
from stfan.images import to_8bit, write_image
from stfan.video.reader import VideoReader

TILE, STEP, ENLARGED = 64, 32, 4
BLURRIEST, GAP = 12, 4
NEAR, FAR = 6, 24  # frames within which a witness is looked for, and pixels
SHARPER = 0.75  # a witness's edge width, relative to the tile's, at most


def read(path: Path, frames: int) -> list[Tensor]:
    with VideoReader(path) as reader:
        return [pixels.float().cpu() for _, pixels in islice(reader.frames(), frames)]


def part(frame: Tensor, top: int, left: int) -> Tensor:
    return frame[:, top : top + TILE, left : left + TILE]


def blurriest(frames: list[Tensor]) -> list[tuple[float, int, int, int]]:
    """List (edge width, frame, top, left) of the tiles, the widest edges first."""
    found = []
    for number, frame in enumerate(frames[2:], 2):
        height, width = frame.shape[1:]
        best = (0.0, 0, 0, 0)
        for top in range(0, height - TILE + 1, STEP):
            for left in range(0, width - TILE + 1, STEP):
                edges = edge_width(part(frame, top, left))
                if edges is not None and edges > best[0]:
                    best = edges, number, top, left
        found.append(best)
    chosen: list[tuple[float, int, int, int]] = []
    for tile in sorted(found, reverse=True):
        if tile[0] and all(abs(tile[1] - other[1]) >= GAP for other in chosen):
            chosen.append(tile)
    return chosen[:BLURRIEST]


def displacement(frame: Tensor, tile: Tensor, top: int, left: int) -> tuple[int, int, float]:
    """Find where a tile lies in another frame: (down, right) in pixels, and the mean squared difference there."""
    height, width = frame.shape[1:]
    first = max(top - FAR, 0), max(left - FAR, 0)
    last = min(top + TILE + FAR, height), min(left + TILE + FAR, width)
    region = frame[:, first[0] : last[0], first[1] : last[1]].mean(0, keepdim=True)[None]
    template = tile.mean(0, keepdim=True)[None]
    products = F.conv2d(region - region.mean(), template - region.mean())
    squares = F.avg_pool2d((region - region.mean()).square(), TILE, 1) * TILE**2
    differences = (squares - 2 * products)[0, 0] + (template - region.mean()).square().sum()
    down, right = divmod(int(differences.argmin()), differences.shape[1])
    return first[0] + down - top, first[1] + right - left, float(differences.min()) / TILE**2


def witness(frames: list[Tensor], number: int, top: int, left: int, width: float) -> Tensor | None:
    """Find the sharpest tile nearby that shows the same, moved to where this one is; None if none is much sharper."""
    tile, best, sharpest = part(frames[number], top, left), None, SHARPER * width
    for other in range(max(number - NEAR, 0), min(number + NEAR + 1, len(frames))):
        down, right, error = displacement(frames[other], tile, top, left)
        place = top + down, left + right
        inside = all(0 <= at <= side - TILE for at, side in zip(place, frames[other].shape[1:], strict=True))
        if other == number or not inside or error > 4e-3:
            continue
        found = part(frames[other], *place)
        edges = edge_width(found)
        if edges is not None and edges < sharpest:
            best, sharpest = found, edges
    return best


def energies(tile: Tensor, direction: Tensor) -> tuple[float, float]:
    """Mean squares of the differences along a direction (down, right) and across it."""
    down, right = torch.gradient(tile.mean(0))
    along = down * direction[0] + right * direction[1]
    across = right * direction[0] - down * direction[1]
    return float(along.square().mean()), float(across.square().mean())


def unsharp(tile: Tensor, energy: float) -> Tensor:
    """Sharpen with a Gaussian unsharp mask, sigma 1.5, so strongly that the energy of the differences is that."""
    taps = torch.exp(-(torch.arange(-4, 5.0) ** 2) / (2 * 1.5**2))
    kernel = (taps[:, None] * taps / taps.sum() ** 2).expand(3, 1, 9, 9)
    soft = F.conv2d(F.pad(tile[None], (4, 4, 4, 4), mode="replicate"), kernel, groups=3)[0]
    low, high = 0.0, 8.0
    for _ in range(24):
        amount = (low + high) / 2
        sharpened = tile + amount * (tile - soft)
        if sum(energies(sharpened, torch.tensor([1.0, 0.0]))) < energy:
            low = amount
        else:
            high = amount
    return (tile + low * (tile - soft)).clamp(0, 1)


def judge(frames, outputs, tile) -> tuple[dict, list[Tensor]]:
    """Return what is measured of a tile, and its pictures."""
    width, number, top, left = tile
    before, after = (part(side[number], top, left) for side in (frames, outputs))
    down, right, _ = displacement(frames[number - 1], before, top, left)
    far = (down**2 + right**2) ** 0.5
    direction = torch.tensor([down, right]) / far if far else torch.tensor([1.0, 0.0])
    mask = unsharp(before, sum(energies(after, direction)))
    measured = {
        "frame": number,
        "place": [top, left],
        "edge_width": round(width, 2),
        "pixels_a_frame": round(far, 1),
        "change_of_255": round(255 * float((after - before).abs().mean()), 2),
    }
    old = energies(before, direction)
    for name, picture in (("network", after), ("mask", mask)):
        new = energies(picture, direction)
        measured[name] = {"along": round(new[0] / old[0], 3), "across": round(new[1] / old[1], 3)}
    seen = witness(frames, number, top, left, width)
    if seen is not None:
        pairs = {
            name: move(255 * picture.double(), 255 * seen.double())
            for name, picture in (("before", before), ("after", after), ("mask", mask))
        }
        measured["psnr_to_witness"] = {
            name: round(float(psnr(a / 255, b / 255)), 2) for name, (a, b) in pairs.items()
        }
    return measured, [before, after, mask, seen if seen is not None else torch.ones_like(before)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--weights", default="compact")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if fast_bfloat16("cpu") else torch.float32
    report, rows = {"weights": options.weights, "videos": {}}, []
    for path in options.videos:
        frames = read(path, options.frames)
        deblurrer = stfan.Deblurrer(stfan.load(options.weights, dtype=dtype), reset_on_cut=True)
        outputs = [deblurrer(frame) for frame in frames]
        judged = [judge(frames, outputs, tile) for tile in blurriest(frames)]
        report["videos"][path.name] = [measured for measured, _ in judged]
        for measured, _ in judged:
            print(path.name, measured, flush=True)
        least = min(judged, key=lambda pair: pair[0]["change_of_255"])
        worst = min(judged, key=lambda pair: pair[0]["network"]["along"] / pair[0]["network"]["across"])
        for _, pictures in [*judged[:4], least, worst]:
            rows.append(torch.cat(pictures, 2))
    if options.sheet:
        sheet = F.interpolate(torch.cat(rows, 1)[None], scale_factor=ENLARGED, mode="nearest")[0]
        write_image(options.sheet, to_8bit(sheet))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
