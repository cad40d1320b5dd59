"""Quality measures: PSNR and SSIM by the protocols that published figures follow, and sharpness without a truth."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from stfan.images import to_8bit

WINDOW = 11  # side of SSIM's window in pixels
SIGMA = 1.5  # of its Gaussian
LUMA = (0.299, 0.587, 0.114)  # of R, G, B in ITU-R BT.601


def psnr(output, target):
    """Peak signal-to-noise ratio in dB, each frame of (..., 3, H, W) in [0, 1] alone, by protocol rgb8.

    10 log10(255^2 / MSE); inf where the frames are the same.
    """
    return _decibels(to_8bit(output).double(), to_8bit(target).double())


def sharpness(frame):
    """The variance of the Laplacian of a frame (3, H, W) in [0, 1]: of its luma on a scale of 255, edges left out.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. Noise raises it too.
    """
    grey = 255 * _luma(frame.double())
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var(unbiased=False)) if laplacian.numel() else 0.0


@dataclass(frozen=True)
class Protocol:
    """A way to judge a video. Figures of different protocols can not be compared, so name it with every figure.

    Attributes:
        name: what to print beside the figures.
        rule: what it does, in words.
        scored: maps a clip's number of frames to the indices of those that count.
        mean_over: "clips" (the mean of the clips' means) or "frames" (of all of them alike).
        crop: so many pixels at each side do not count.
        rounded: frames are taken as they would be stored, in 8 bits.
        aligned: brightness and position are fitted first, and the luma is what is judged; see :func:`fit`.
        restart: the network begins afresh after so many frames, never if None.
    """

    name: str
    rule: str
    scored: Callable[[int], range | list[int]] = range
    mean_over: str = "frames"
    crop: int = 0
    rounded: bool = True
    aligned: bool = False
    restart: int | None = None

    @property
    def smallest(self):
        """The fewest pixels of height and of width that can be judged."""
        return WINDOW + 2 * self.crop

    def __str__(self):
        return f"Protocol {self.name}: {self.rule}."

    def score(self, output, target):
        """(PSNR in dB, SSIM) of a frame (3, H, W) in [0, 1] against the true one.

        PSNR is 10 log10(255^2 / MSE), inf where both are the same. SSIM is the mean over the channels, with a
        Gaussian window of 11 x 11, sigma 1.5, wherever all of it fits.

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
            x, y = fit(x, y)
        return float(_decibels(x, y)), float(_ssim(x, y))


def fit(output, target):
    """Fit a frame's brightness and position to the true one's, and take the luma of both, (1, H, W) each.

    The output (3, H, W) is multiplied by <target, output> / <output, output>, then shifted by the whole pixels
    where the circular cross-correlation of the two grey images (means of the channels) is highest. Where
    nothing is shifted in both are zero, and these pixels count.

    Source: Koehler et al., "Recording and playback of camera shake", ECCV 2012, their evaluation code, with
    MeTriX MuX's luma.
    """
    output = output * (target * output).sum() / output.square().sum().clamp_min(1)
    spectrum = torch.fft.fft2(target.mean(0)) * torch.fft.fft2(output.mean(0)).conj()
    peak = int(torch.fft.ifft2(spectrum).real.argmax())
    rows, columns = (
        at - n if at >= n // 2 else at
        for at, n in zip(divmod(peak, output.shape[2]), output.shape[1:], strict=True)
    )
    shifted, seen = (
        _shift(_shift(frame, rows, -2), columns, -1) for frame in (output, torch.ones_like(output))
    )
    return _luma(shifted)[None], _luma(target * seen)[None]


def _shift(x, steps, dim):
    """Moved towards higher indices, with zeros behind."""
    n = x.shape[dim] - abs(steps)
    moved = torch.zeros_like(x)
    moved.narrow(dim, max(steps, 0), n).copy_(x.narrow(dim, max(-steps, 0), n))
    return moved


def _luma(frame):
    """(3, H, W) -> (H, W)"""
    return sum(weight * channel for weight, channel in zip(LUMA, frame, strict=True))


def _decibels(x, y):
    """PSNR of (..., C, H, W) on a scale of 255, over the last three dimensions."""
    return 10 * torch.log10(255**2 / (x - y).square().mean((-3, -2, -1)))


def _ssim(x, y):
    """Structural similarity of (C, H, W) on a scale of 255.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights = (weights / weights.sum()).tolist()

    def local(z):
        """The weighted mean around each pixel, (C, H - 10, W - 10)."""
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
        Protocol(
            "rgb8",
            "all frames, rounded to 8 bits, RGB, no crop; the mean of the clips' means (VRT, RVRT, BSSTNet)",
            mean_over="clips",
        ),
        Protocol(
            "stfan",
            "all frames, not rounded, RGB, no crop, the network begins afresh every 20 frames; the mean of all "
            "frames (the authors' test, whose code has no SSIM: that of the other protocols is given)",
            rounded=False,
            restart=20,
        ),
        Protocol(
            "tsp",
            "without the first and last 2 frames of a clip and 4 pixels at each side, rounded to 8 bits, RGB; "
            "the mean of all frames (CDVD-TSP)",
            scored=lambda frames: range(2, frames - 2),
            crop=4,
        ),
        Protocol(
            "koehler",
            "without the first frame of a clip and 16 pixels at each side, rounded to 8 bits, brightness and "
            "whole-pixel position fitted, luma; the mean of all frames (PVDNet, after Koehler)",
            scored=lambda frames: range(1, frames),
            crop=16,
            aligned=True,
        ),
        Protocol(
            "dvd30",
            "30 frames from the 2nd to the 97th, rounded to 8 bits, no crop, brightness and whole-pixel position "
            "fitted, luma; the mean of all frames (Su et al., who give a multi-scale SSIM: this one is of one)",
            scored=lambda frames: DVD30 if frames > DVD30[-1] else [],
            aligned=True,
        ),
    )
}
