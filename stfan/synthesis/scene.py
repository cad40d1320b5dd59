"""What moving cameras see: a window of a picture as the background, cut-outs before it, both through homographies."""

import math

import torch
from torch.nn import functional as F

DETAIL = 2  # a plane has so many samples per pixel along each side, else bilinear sampling would soften what it shows
PLACES = 4  # of which the one with most contrast is looked at


def supersample(light, scale):
    """An image (C, H, W) to look at, scaled, and sampled more finely than it has detail.

    Returns:
        (C, DETAIL (h - 1) + 1, DETAIL (w - 1) + 1) in [0, 1] for an image of h x w pixels after scaling: sample
        DETAIL * i is pixel i.
    """
    height, width = (max(2, round(side * scale)) for side in light.shape[1:])
    light = light[None]
    if (height, width) != light.shape[2:]:
        light = F.interpolate(light, (height, width), mode="bilinear", antialias=True, align_corners=False)
    fine = tuple(DETAIL * (side - 1) + 1 for side in (height, width))
    return F.interpolate(light, fine, mode="bicubic", align_corners=True)[0].clamp(0, 1)


def warp(plane, homographies, size, box=None, outside="reflection"):
    """What is seen of a plane at each of S instants: (S, C, h, w).

    Args:
        plane: of :func:`supersample`.
        homographies: (S, 3, 3) from a frame's pixels, from its centre, to the plane's, from its top left one.
        size: (height, width) of a frame.
        box: (top, bottom, left, right) of the part of the frame that is wanted, all if None.
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
    across, down, far = (
        to_grid[:, row, 0] * x + (to_grid[:, row, 1] * y + to_grid[:, row, 2]) for row in range(3)
    )
    grid = torch.stack([across / far, down / far], -1)
    return F.grid_sample(plane.expand(len(grid), -1, -1, -1), grid, padding_mode=outside, align_corners=True)


def composite(views, layer, homographies):
    """Lay a layer over views (S, 3, h, w), in place.

    Args:
        layer: the plane of a premultiplied RGBA image (4, H, W).
        homographies: (S, 3, 3) as for :func:`warp`; without a tilt, their last row is 0, 0, 1.
    """
    size = tuple(views.shape[2:])
    bottom, right = ((side - 1) / DETAIL + 1 for side in layer.shape[1:])
    corners = _corners(-1, right, -1, bottom)
    from_frame, shift = homographies[:, :2, :2], homographies[:, :2, 2:]
    seen = torch.linalg.solve(from_frame, corners - shift)  # (S, 2, 4): x, y from the frame's centre
    low = (seen.amin((0, 2)).flip(0) + (torch.tensor(size) - 1) / 2).floor().long().tolist()
    high = (seen.amax((0, 2)).flip(0) + (torch.tensor(size) - 1) / 2).ceil().long().tolist()
    (top, left), (bottom, right) = (
        [min(max(at, 0), side) for at, side in zip(ends, size, strict=True)]
        for ends in (low, [end + 1 for end in high])
    )
    if top < bottom and left < right:
        over = warp(layer, homographies, size, (top, bottom, left, right), "zeros")
        views[:, :, top:bottom, left:right].mul_(1 - over[:, 3:]).add_(over[:, :3])


def backdrop(picture, homographies, size, scale, draw):
    """The part of a picture that a camera will pass over, and where it looks there.

    Of a few random places the one with most contrast is taken. As far as the camera goes beyond the picture, it will
    see the picture reflected.

    Args:
        picture: (3, H, W) uint8.
        homographies: (S, 3, 3), of the whole way, from a frame's pixels to pixels around some centre.
        size: (height, width) of a frame.
        scale: pixels to look at per pixel of the picture.
        draw: a :class:`stfan.synthesis.rng.Rng`.

    Returns:
        the part, (3, h, w) uint8, still unscaled, and the homographies to the pixels of its scaled :func:`supersample`.
    """
    y, x = ((side - 1) / 2 for side in size)
    ends = homographies @ torch.cat([_corners(-x, x, -y, y), torch.ones(1, 4, dtype=torch.float64)])
    ends = ends[:, :2] / ends[:, 2:]
    low, high = ends.amin((0, 2)), ends.amax((0, 2))  # x, y
    sides = [
        min(full, math.ceil((math.ceil(float(way)) + 3) / scale))
        for full, way in zip(picture.shape[1:], (high - low).flip(0), strict=True)
    ]

    def part():
        top, left = (
            draw.randint(0, full - side) for full, side in zip(picture.shape[1:], sides, strict=True)
        )
        return picture[:, top : top + sides[0], left : left + sides[1]]

    def contrast(part):
        return float(part[1].short().diff().abs().float().mean())

    middle = torch.tensor([(max(2, round(side * scale)) - 1) / 2 for side in reversed(sides)])
    return max((part() for _ in range(PLACES)), key=contrast), translated(
        homographies, middle - (low + high) / 2
    )


def translated(homographies, by):
    """The same, but to pixels that are shifted by (x, y)."""
    homographies = homographies.clone()
    homographies[:, :2] += by.double()[:, None] * homographies[:, 2:]
    return homographies


def _corners(left, right, top, bottom):
    """(2, 4): x and y."""
    return torch.tensor([[left, right, left, right], [top, top, bottom, bottom]], dtype=torch.float64)
