"""Render what moving cameras see: a part of a picture as the background, cut-outs in front, through homographies.

A plane is an image with DETAIL samples per pixel along each side; see :func:`supersample`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from stfan.rng import Rng

DETAIL = 2  # samples per pixel along each side of a plane: with one, bilinear sampling would soften the image
CANDIDATES = 4  # number of random places in a picture, of which the one with the highest contrast is used


def supersample(light: Tensor, scale: float) -> Tensor:
    """Scale an image (C, H, W), and sample it more finely than it has detail.

    Returns:
        (C, DETAIL (h - 1) + 1, DETAIL (w - 1) + 1) in [0, 1] for an image of h x w pixels after scaling: sample
        DETAIL * i is pixel i.
    """
    height, width = (max(2, round(side * scale)) for side in light.shape[1:])
    light = light[None]
    if (height, width) != light.shape[2:]:
        light = F.interpolate(light, (height, width), mode="bilinear", antialias=True, align_corners=False)
    fine = (DETAIL * (height - 1) + 1, DETAIL * (width - 1) + 1)
    return F.interpolate(light, fine, mode="bicubic", align_corners=True)[0].clamp(0, 1)


def warp(
    plane: Tensor,
    homographies: Tensor,
    size: tuple[int, int],
    box: tuple[int, int, int, int] | None = None,
    outside: str = "reflection",
) -> Tensor:
    """Render the view of a plane at each of S instants: (S, C, h, w).

    Args:
        plane: from :func:`supersample`.
        homographies: (S, 3, 3) from a frame's pixels, counted from its centre, to the plane's, from its top left one.
        size: (height, width) of a frame.
        box: (top, bottom, left, right) of the part of the frame to render, all of it if None.
        outside: what lies around the plane, "reflection" or "zeros".
    """
    top, bottom, left, right = box or (0, size[0], 0, size[1])
    to_grid = homographies.clone()
    for axis, side in enumerate((plane.shape[2], plane.shape[1])):
        to_grid[:, axis] *= 2 * DETAIL / (side - 1)
        to_grid[:, axis] -= homographies[:, 2]
    to_grid = to_grid.to(plane)[..., None, None]
    y = torch.arange(top, bottom, device=plane.device)[:, None] - (size[0] - 1) / 2
    x = torch.arange(left, right, device=plane.device) - (size[1] - 1) / 2
    across, down, depth = (
        to_grid[:, row, 0] * x + (to_grid[:, row, 1] * y + to_grid[:, row, 2]) for row in range(3)
    )
    grid = torch.stack([across / depth, down / depth], -1)
    return F.grid_sample(plane.expand(len(grid), -1, -1, -1), grid, padding_mode=outside, align_corners=True)


def composite(views: Tensor, layer: Tensor, homographies: Tensor) -> None:
    """Lay a layer over views (S, 3, h, w), in place.

    Args:
        views: the views that the layer covers.
        layer: the plane of a premultiplied RGBA image (4, H, W).
        homographies: (S, 3, 3) as for :func:`warp`, without a tilt: their last row is 0, 0, 1.
    """
    height, width = views.shape[2:]
    bottom, right = ((side - 1) / DETAIL + 1 for side in layer.shape[1:])
    corners = _corners(-1, right, -1, bottom)
    from_frame, shift = homographies[:, :2, :2], homographies[:, :2, 2:]
    in_frame = torch.linalg.solve(from_frame, corners - shift)  # (S, 2, 4): x, y from the frame's centre
    centre = (torch.tensor((height, width)) - 1) / 2
    first = (in_frame.amin((0, 2)).flip(0) + centre).floor().long().tolist()
    last = (in_frame.amax((0, 2)).flip(0) + centre).ceil().long().tolist()
    box_top, box_bottom = (min(max(row, 0), height) for row in (first[0], last[0] + 1))
    box_left, box_right = (min(max(column, 0), width) for column in (first[1], last[1] + 1))
    if box_top < box_bottom and box_left < box_right:
        box = (box_top, box_bottom, box_left, box_right)
        over = warp(layer, homographies, (height, width), box, "zeros")
        views[:, :, box_top:box_bottom, box_left:box_right].mul_(1 - over[:, 3:]).add_(over[:, :3])


def motion(last: Tensor, now: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute how what a frame shows has moved, from its homographies, (S, 3, 3), and those of the frame before.

    Args:
        last, now: of the open instants of the two frames, equal where there is none before.
        size: (height, width) of a frame.

    Returns:
        (4, height / 4, width / 4) float32, in pixels along x and y: from the last frame's mean pose to this one's, and
        during the exposure, by the straight line that fits the path best.
    """
    y, x = ((torch.arange(0, side - 3, 4, dtype=torch.float64) + 1.5 - (side - 1) / 2) for side in size)
    grid = torch.stack(
        [*torch.meshgrid(x, y, indexing="xy"), torch.ones(len(y), len(x), dtype=torch.float64)]
    )
    points = now.mean(0) @ grid.flatten(1)

    def seen(homographies: Tensor) -> Tensor:
        places = torch.linalg.solve(homographies, points)
        return (places[..., :2, :] / places[..., 2:, :]).unflatten(-1, grid.shape[1:])

    since = grid[:2] - seen(last.mean(0))
    time = torch.arange(len(now), dtype=torch.float64) - (len(now) - 1) / 2
    if len(now) == 1:
        return torch.cat([since, torch.zeros_like(since)]).float()
    slope = torch.tensordot(time, seen(now), 1) / time.square().sum()
    return torch.cat([since, slope * (len(now) - 1)]).float()


def backdrop(
    picture: Tensor, homographies: Tensor, size: tuple[int, int], scale: float, rng: Rng
) -> tuple[Tensor, Tensor]:
    """Choose the part of a picture that a camera passes over, and direct the camera there.

    Of a few random places the one with the highest contrast is chosen. Where the camera goes beyond the picture, it
    will show the picture reflected.

    Args:
        picture: (3, H, W) uint8.
        homographies: (S, 3, 3), of the whole path, from a frame's pixels to pixels around some centre.
        size: (height, width) of a frame.
        scale: pixels of the plane per pixel of the picture, before supersampling.
        rng: source of the random numbers.

    Returns:
        the part, (3, h, w) uint8, not yet scaled, and the homographies to the pixels of its scaled :func:`supersample`.
    """
    y, x = ((side - 1) / 2 for side in size)
    ends = homographies @ torch.cat([_corners(-x, x, -y, y), torch.ones(1, 4, dtype=torch.float64)])
    ends = ends[:, :2] / ends[:, 2:]
    low, high = ends.amin((0, 2)), ends.amax((0, 2))  # x, y
    sides = [
        min(full, math.ceil((math.ceil(float(extent)) + 3) / scale))
        for full, extent in zip(picture.shape[1:], (high - low).flip(0), strict=True)
    ]

    def random_part() -> Tensor:
        top, left = (rng.randint(0, full - side) for full, side in zip(picture.shape[1:], sides, strict=True))
        return picture[:, top : top + sides[0], left : left + sides[1]]

    def contrast(part: Tensor) -> float:
        return float(part[1].short().diff().abs().float().mean())

    middle = torch.tensor([(max(2, round(side * scale)) - 1) / 2 for side in reversed(sides)])
    part = max((random_part() for _ in range(CANDIDATES)), key=contrast)
    return part, translated(homographies, middle - (low + high) / 2)


def translated(homographies: Tensor, by: Tensor) -> Tensor:
    """Return the homographies to pixels that are shifted by (x, y)."""
    homographies = homographies.clone()
    homographies[:, :2] += by.double()[:, None] * homographies[:, 2:]
    return homographies


def _corners(left: float, right: float, top: float, bottom: float) -> Tensor:
    """Return the corners of a rectangle, (2, 4): x and y."""
    return torch.tensor([[left, right, left, right], [top, top, bottom, bottom]], dtype=torch.float64)
