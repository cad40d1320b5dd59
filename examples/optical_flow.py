"""Estimate the optical flow between two frames by a cost volume, and draw it as arrows. Nothing is trained.

    python examples/optical_flow.py --picture flow.png

fac_correlation compares the features of each pixel with those of the next frame, 15 x 15 displacements around it. A
soft-argmax of the costs, averaged over a neighbourhood, is the displacement. Seconds on a CPU core.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from pictures import in_bytes, random_picture
from PIL import Image, ImageDraw
from torch import Tensor

from fac_ext import fac_correlation

RADIUS = 7  # pixels, the largest displacement on each axis


def features(frame: Tensor) -> Tensor:
    """Return each pixel's 5 x 5 patch less its mean, of length 1: (1, 75, H, W)."""
    size = frame.shape[1:]
    patches = F.unfold(F.pad(frame[None], (2, 2, 2, 2), "replicate"), 5).view(1, 3, 25, *size)
    patches = (patches - patches.mean(2, keepdim=True)).flatten(1, 2)
    return F.normalize(patches, dim=1)


def estimate(frame: Tensor, following: Tensor) -> Tensor:
    """Return the flow (2, H, W) from frame to following, in pixels: x, then y."""
    side = 2 * RADIUS + 1
    costs = fac_correlation(features(following), features(frame), side, groups=1)
    costs = F.avg_pool2d(costs, 9, 1, 4, count_include_pad=False)
    weights = (100 * costs).softmax(1).view(side, side, *frame.shape[1:])
    steps = torch.arange(-RADIUS, RADIUS + 1.0)
    return torch.stack(
        [torch.einsum("ijyx,j->yx", weights, steps), torch.einsum("ijyx,i->yx", weights, steps)]
    )


def turned(frame: Tensor, degrees: float, shift: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Turn a frame about its centre and shift it; return it and the flow that leads there."""
    _, h, w = frame.shape
    y, x = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    flow = torch.stack([cos * x - sin * y + shift[0] - x, sin * x + cos * y + shift[1] - y])
    # the next frame looks back: a pixel of it comes from the inverse of the motion
    dx, dy = x - shift[0], y - shift[1]
    back = torch.stack([(cos * dx + sin * dy) / ((w - 1) / 2), (cos * dy - sin * dx) / ((h - 1) / 2)], 2)
    return F.grid_sample(frame[None], back[None].float(), align_corners=True, padding_mode="reflection")[
        0
    ], flow


def drawn(frame: Tensor, flow: Tensor, scale: int = 4, apart: int = 12) -> Image.Image:
    """Draw arrows of the flow, at the frame's scale, over the frame."""
    picture = in_bytes(0.5 + 0.5 * frame)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for y in range(apart // 2, frame.shape[1], apart):
        for x in range(apart // 2, frame.shape[2], apart):
            dx, dy = (scale * float(v) for v in flow[:, y, x])
            x0, y0 = scale * (x + 0.5), scale * (y + 0.5)
            pen.line([(x0, y0), (x0 + dx, y0 + dy)], fill=(200, 0, 0), width=2)
            angle, head = math.atan2(dy, dx), min(8.0, math.hypot(dx, dy))
            tip = [(x0 + dx, y0 + dy)]
            for side in (-0.5, 0.5):
                turn = angle + math.pi + side
                tip.append((x0 + dx + head * math.cos(turn), y0 + dy + head * math.sin(turn)))
            pen.polygon(tip, fill=(200, 0, 0))
    return picture


def main(arguments: list[str] | None = None) -> float:
    """Return the mean end-point error in pixels, away from the border."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--picture", help="save the first frame with the flow as arrows")
    options = parser.parse_args(arguments)
    # fine texture everywhere: where nothing changes from pixel to pixel, nothing shows how it moves
    texture = torch.randn(3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    frame = 0.7 * random_picture(options.size, 3) + 0.15 + 0.3 * F.avg_pool2d(texture[None], 3, 1, 1)[0]
    following, flow = turned(frame, 3.0, (2.0, -1.5))
    found = estimate(frame, following)
    inner = slice(12, -12)
    error = float((found - flow)[:, inner, inner].norm(dim=0).mean())
    print(f"mean motion {float(flow.norm(dim=0).mean()):.2f} px, mean end-point error {error:.2f} px")
    if options.picture:
        drawn(frame, found).save(options.picture)
    return error


if __name__ == "__main__":
    main()
