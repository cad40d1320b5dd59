"""Fill missing pixels by a transformer block whose pixels attend to their neighbourhood.

    python examples/neighbourhood_attention.py --steps 400 --picture filled.png

na2d is NATTEN's neighbourhood attention: window scores (fac_correlation's kernel), softmax, and weighted sum (fac's).
It runs on a CPU, in any type, and is differentiable to any order. A minute on a CPU core.
"""

import argparse

import torch
from pictures import psnr, random_picture, save_strip
from torch import Tensor, nn

from fac_ext.compat import na2d


class NeighbourhoodAttention(nn.Module):
    """A transformer block of neighbourhood attention and an MLP on (N, H, W, C)."""

    def __init__(self, channels: int, heads: int, kernel_size: int) -> None:
        super().__init__()
        self.heads, self.kernel_size = heads, kernel_size
        self.norm, self.mlp_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm(x)).chunk(3, dim=3)
        query, key, value = (part.unflatten(3, (self.heads, -1)) for part in heads)
        x = x + self.project(na2d(query, key, value, self.kernel_size).flatten(3))
        return x + self.mlp(self.mlp_norm(x))


class Filling(nn.Module):
    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.embed, self.show = nn.Linear(4, channels), nn.Linear(channels, 3)
        self.blocks = nn.Sequential(*(NeighbourhoodAttention(channels, 2, 7) for _ in range(2)))

    def forward(self, picture: Tensor, known: Tensor) -> Tensor:
        """Fill `picture` (N, 3, H, W) where `known` (N, 1, H, W) is 0."""
        x = self.embed(torch.cat([picture * known, known], 1).permute(0, 2, 3, 1))
        filled = self.show(self.blocks(x)).permute(0, 3, 1, 2)
        return torch.where(known.bool(), picture, filled)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Train and fill; return the PSNR of the mean colour in the holes, and of what the network fills in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--missing", type=float, default=0.6, help="part of the pixels [%(default)s]")
    parser.add_argument("--picture", help="save what is known, what was filled, and the whole, side by side")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    network = Filling()
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    pictures = torch.stack([random_picture(32, seed) for seed in range(1, 65)])
    for step in range(options.steps):
        whole = pictures[torch.randint(len(pictures), (4,))]
        known = (torch.rand(4, 1, 32, 32) >= options.missing).float()
        loss = (network(whole, known) - whole).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0:
            print(f"step {step}: mean squared error {float(loss.detach()):.5f}")
    whole = random_picture(96, 0)
    known = (torch.rand(1, 96, 96) >= options.missing).float()
    mean = (whole * known).sum((1, 2), keepdim=True) / known.sum()
    with torch.no_grad():
        filled = network(whole[None], known[None])[0]
    before, after = psnr(torch.where(known.bool(), whole, mean), whole), psnr(filled, whole)
    print(f"PSNR of a new picture: {before:.1f} dB with the mean colour, {after:.1f} dB filled in")
    if options.picture:
        save_strip(options.picture, [whole * known, filled, whole], scale=3)
    return before, after


if __name__ == "__main__":
    main()
