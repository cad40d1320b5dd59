"""Denoise a picture by a filter for each pixel that a small network predicts (a kernel prediction network).

    python examples/kernel_prediction.py --steps 600 --picture denoised.png

The filters are normalised by a softmax over their 7 x 7 taps, and PredictedFAC never stores them. A minute on a CPU
core.
"""

import argparse

import torch
from pictures import psnr, random_picture, save_strip
from torch import Tensor, nn

from fac_ext import PredictedFAC


class KernelPrediction(nn.Module):
    """Predict one filter for each pixel, and apply it to the three colours."""

    def __init__(self, channels: int = 32, kernel_size: int = 7) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
        )
        self.filter = PredictedFAC(channels, 1, kernel_size, padding_mode="reflect", activation="softmax")

    def forward(self, noisy: Tensor) -> Tensor:
        return self.filter(noisy, self.features(noisy))


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Train and denoise; return the PSNR before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--noise", type=float, default=0.1, help="its standard deviation [%(default)s]")
    parser.add_argument("--picture", help="save noisy, denoised and clean, side by side")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    network = KernelPrediction()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    pictures = torch.stack([random_picture(64, seed) for seed in range(1, 33)])
    for step in range(options.steps):
        clean = pictures[torch.randint(len(pictures), (4,))]
        loss = (network(clean + options.noise * torch.randn_like(clean)) - clean).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0:
            print(f"step {step}: mean squared error {float(loss.detach()):.5f}")
    clean = random_picture(128, 0)
    noisy = clean + options.noise * torch.randn_like(clean)
    with torch.no_grad():
        denoised = network(noisy[None])[0]
    before, after = psnr(noisy, clean), psnr(denoised, clean)
    print(f"PSNR of a new picture: {before:.1f} dB noisy, {after:.1f} dB denoised")
    if options.picture:
        save_strip(options.picture, [noisy, denoised, clean], scale=2)
    return before, after


if __name__ == "__main__":
    main()
