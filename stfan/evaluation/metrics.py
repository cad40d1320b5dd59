"""Quality measures: PSNR and SSIM by the protocols of published figures, and sharpness, which needs no truth."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from stfan.images import to_8bit

WINDOW = 11  # side of SSIM's window in pixels
SIGMA = 1.5  # of its Gaussian
LUMA = (0.299, 0.587, 0.114)  # of R, G, B in ITU-R BT.601


def psnr(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Measure the peak signal-to-noise ratio in dB of each frame of (..., 3, H, W) in [0, 1], by protocol rgb8.

    10 log10(255^2 / MSE); inf where the frames are the same.
    """
    return _decibels(to_8bit(output).double(), to_8bit(target).double())


def sharpness(frame: torch.Tensor) -> float:
    """Measure the variance of the Laplacian of a frame (3, H, W) in [0, 1].

    The Laplacian is that of the luma on a scale of 255, without the outermost pixels.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. Noise raises it too.
    """
    grey = 255 * _luma(frame.double())
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var(unbiased=False)) if laplacian.numel() else 0.0


@dataclass(frozen=True)
class ScoringProtocol:
    """A rule for scoring a video. Scores of different protocols cannot be compared, so name it with every score.

    Attributes:
        name: what to print beside the scores.
        rule: what it does, in words.
        scored: maps a clip's number of frames to the indices of the frames that count.
        mean_over: "clips" (the mean of the clips' means) or "frames" (of all frames alike).
        crop: number of pixels at each side that do not count.
        rounded: whether frames are rounded to 8 bits, as they would be stored.
        aligned: whether brightness and position are fitted first and the luma is scored; see :func:`align`.
        moved: whether the frame is moved first by the part of a pixel that fits best; see :func:`move`.
        restart: the number of frames after which the network is reset; None for never.
    """

    name: str
    rule: str
    scored: Callable[[int], Sequence[int]] = range
    mean_over: str = "frames"
    crop: int = 0
    rounded: bool = True
    aligned: bool = False
    moved: bool = False
    restart: int | None = None

    @property
    def smallest(self) -> int:
        """The least height and width of a frame, in pixels."""
        return WINDOW + 2 * (self.crop + (REACH if self.moved else 0))

    def __str__(self) -> str:
        return f"Protocol {self.name}: {self.rule}."

    def score(self, output: torch.Tensor, target: torch.Tensor) -> tuple[float, float]:
        """Return (PSNR in dB, SSIM) of a frame (3, H, W) in [0, 1] against the true one.

        PSNR is 10 log10(255^2 / MSE), inf where both are the same. SSIM is the mean over the channels, with a
        Gaussian window of 11 x 11, sigma 1.5, wherever the whole window fits.

        Raises:
            ValueError: unequal sizes, or fewer pixels than :attr:`smallest`.
        """
        if output.shape != target.shape or output.dim() != 3 or min(output.shape[1:]) < self.smallest:
            raise ValueError(
                f"{self.name}: output and target must be (3, H, W) alike with H and W from {self.smallest} on, "
                f"got {tuple(output.shape)} and {tuple(target.shape)}"
            )
        height, width = output.shape[1:]
        inside = slice(self.crop, height - self.crop), slice(self.crop, width - self.crop)
        x, y = (
            (to_8bit(frame).double() if self.rounded else 255 * frame.double().clamp(0, 1))[:, *inside]
            for frame in (output, target)
        )
        if self.aligned:
            x, y = align(x, y)
        if self.moved:
            x, y = move(x, y)
        return float(_decibels(x, y)), float(_ssim(x, y))


def align(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit a frame's brightness and position to the true one's, and return the luma of both, (1, H, W) each.

    The output (3, H, W) is multiplied by <target, output> / <output, output>. Then it is shifted by the whole pixels
    where the circular cross-correlation of the two grey images (means of the channels) is highest. Pixels that the
    shift leaves empty are zero in both, and they count.

    Source: Koehler et al., "Recording and playback of camera shake", ECCV 2012, their evaluation code, with
    MeTriX MuX's luma.
    """
    output = output * (target * output).sum() / output.square().sum().clamp_min(1)
    spectrum = torch.fft.fft2(target.mean(0)) * torch.fft.fft2(output.mean(0)).conj()
    peak = int(torch.fft.ifft2(spectrum).real.argmax())
    rows, columns = (
        offset - n if offset >= n // 2 else offset
        for offset, n in zip(divmod(peak, output.shape[2]), output.shape[1:], strict=True)
    )
    shifted, mask = (
        _shift(_shift(frame, rows, -2), columns, -1) for frame in (output, torch.ones_like(output))
    )
    return _luma(shifted)[None], _luma(target * mask)[None]


REACH = 3  # pixels at each side that a frame loses when it is moved
FARTHEST = 1.0  # pixels that it is moved by at most, along each axis
ROUNDS = 5  # of the search, which comes to within a thousandth of a pixel


def move(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move a frame (C, H, W) by the part of a pixel that brings it nearest to the true one.

    A blurred frame lies at the mean pose of its exposure, which is seldom its middle. The shift is searched by
    Gauss-Newton from none, and the best one on the way is taken: the result is never worse than the frame itself.

    Returns:
        both without their outermost 3 pixels, between which the output was interpolated by Keys' cubic.
    """
    inner = (..., slice(REACH, -REACH), slice(REACH, -REACH))
    true, shift = target[inner], torch.zeros(2, dtype=torch.float64)
    best, error = output[inner], (output[inner] - true).square().mean()
    for _ in range(ROUNDS):
        here, step = _interpolate(output, shift)[inner], torch.eye(2, dtype=torch.float64) / 2
        slopes = torch.stack(
            [
                (_interpolate(output, shift + half) - _interpolate(output, shift - half))[inner].flatten()
                for half in step
            ]
        )
        normal = slopes @ slopes.T + 1e-9 * torch.eye(2, dtype=torch.float64)
        shift = shift - torch.linalg.solve(normal, slopes @ (here - true).flatten())
        shift = shift.clamp(-FARTHEST, FARTHEST)
        moved = _interpolate(output, shift)[inner]
        if (now := (moved - true).square().mean()) < error:
            best, error = moved, now
    return best, true


def _interpolate(frame: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Read a frame (C, H, W) down and to the right of each pixel, by less than 2 pixels; its border is none of it."""
    for dim, distance in zip((-2, -1), shift.tolist(), strict=True):
        whole = math.floor(distance)
        t = distance - whole
        taps = (  # Keys, a = -1/2
            (((2 - t) * t - 1) * t) / 2,
            (3 * t - 5) * t * t / 2 + 1,
            (((4 - 3 * t) * t + 1) * t) / 2,
            (t - 1) * t * t / 2,
        )
        rolled = (frame.roll(1 - whole - i, dim) for i in range(4))
        frame = sum((tap * part for tap, part in zip(taps, rolled, strict=True)), torch.zeros_like(frame))
    return frame


def _shift(x: torch.Tensor, steps: int, dim: int) -> torch.Tensor:
    """Move values towards higher indices, and put zeros where they were."""
    n = x.shape[dim] - abs(steps)
    moved = torch.zeros_like(x)
    moved.narrow(dim, max(steps, 0), n).copy_(x.narrow(dim, max(-steps, 0), n))
    return moved


def _luma(frame: torch.Tensor) -> torch.Tensor:
    """Weight the channels: (3, H, W) -> (H, W)."""
    red, green, blue = (weight * channel for weight, channel in zip(LUMA, frame, strict=True))
    return red + green + blue


def _decibels(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Measure the PSNR of (..., C, H, W) on a scale of 255, over the last three dimensions."""
    return 10 * torch.log10(255**2 / (x - y).square().mean((-3, -2, -1)))


def _ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Measure the structural similarity of (C, H, W) on a scale of 255.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    gaussian = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights: list[float] = (gaussian / gaussian.sum()).tolist()

    def local(z: torch.Tensor) -> torch.Tensor:
        """Average around each pixel, (C, H - 10, W - 10)."""
        for dim in (-2, -1):
            n = z.shape[dim] - WINDOW + 1
            total = z.narrow(dim, 0, n) * weights[0]
            for i in range(1, WINDOW):  # in place: ten times as fast as conv2d in float64
                total.add_(z.narrow(dim, i, n), alpha=weights[i])
            z = total
        return z

    mean_x, mean_y = local(x), local(y)
    variance_x, variance_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean()


# floor(linspace(2, 97, 30)), counted from 1: the authors in the issues 2 and 3 of shuochsu/DeepVideoDeblurring.
DVD30 = [1 + 95 * i // 29 for i in range(30)]
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        ScoringProtocol(
            "rgb8",
            "all frames, rounded to 8 bits, RGB, no crop; the mean of the clips' means (VRT, RVRT, BSSTNet)",
            mean_over="clips",
        ),
        ScoringProtocol(
            "moved8",
            "all frames, rounded to 8 bits, RGB, each moved by the part of a pixel that fits best, without 3 pixels at "
            "each side; the mean of the clips' means (what a blurred frame does not tell is left out)",
            mean_over="clips",
            moved=True,
        ),
        ScoringProtocol(
            "stfan",
            "all frames, not rounded, RGB, no crop, the network begins afresh every 20 frames; the mean of all "
            "frames (the authors' test, whose code has no SSIM: that of the other protocols is given)",
            rounded=False,
            restart=20,
        ),
        ScoringProtocol(
            "tsp",
            "without the first and last 2 frames of a clip and 4 pixels at each side, rounded to 8 bits, RGB; "
            "the mean of all frames (CDVD-TSP)",
            scored=lambda frames: range(2, frames - 2),
            crop=4,
        ),
        ScoringProtocol(
            "koehler",
            "without the first frame of a clip and 16 pixels at each side, rounded to 8 bits, brightness and "
            "whole-pixel position fitted, luma; the mean of all frames (PVDNet, after Koehler)",
            scored=lambda frames: range(1, frames),
            crop=16,
            aligned=True,
        ),
        ScoringProtocol(
            "dvd30",
            "30 frames from the 2nd to the 97th, rounded to 8 bits, no crop, brightness and whole-pixel position "
            "fitted, luma; the mean of all frames (Su et al., who give a multi-scale SSIM: this one is of one)",
            scored=lambda frames: DVD30 if frames > DVD30[-1] else [],
            aligned=True,
        ),
    )
}
