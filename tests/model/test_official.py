"""The preset "official" agrees with the authors' network, rewritten in plain functions with its names, in BGR."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import stfan
from stfan import STFAN, Deblurrer
from support import oracle
from support.authors import shapes


def draw():
    """Draw parameters with which values neither explode nor vanish over a few frames."""
    weights = {}
    for name, shape in shapes().items():
        inputs = shape[0] * 4 if len(shape) == 4 and shape[-1] == 4 else np.prod(shape[1:])
        spread = (0.4 if "stem" in name else 1.2) / inputs**0.5 if len(shape) == 4 else 0.1
        if name.startswith(("fac_warp.3", "fac_deblur.3", "img_prd")):
            spread *= 0.4
        weights[name] = torch.randn(shape, dtype=torch.float64) * spread
    return weights


class Authors:
    """One step of the authors' network on BGR frames (B, 3, H, W). Its hidden state is the fused 256 channels."""

    def __init__(self, weights):
        self.weights = weights

    def parameters(self, name):
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def conv(self, name, x, stride=1):
        weight, bias = self.parameters(f"{name}.0")
        return F.leaky_relu(F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2), 0.1)

    def up(self, name, x):
        return F.leaky_relu(F.conv_transpose2d(x, *self.parameters(f"{name}.0"), 2, 1), 0.1)

    def residual(self, name, x):
        inner = F.leaky_relu(F.conv2d(x, *self.parameters(f"{name}.stem.0"), 1, 1), 0.1)
        return F.conv2d(inner, *self.parameters(f"{name}.stem.2"), 1, 1) + x

    def encoder(self, prefix, x):
        for level, stride in ((1, 1), (2, 2), (3, 2)):
            x = self.conv(f"{prefix}{level}_1", x, stride)
            x = self.residual(f"{prefix}{level}_3", self.residual(f"{prefix}{level}_2", x))
        return x

    def head(self, name, x):
        x = self.residual(f"{name}.2", self.residual(f"{name}.1", self.conv(f"{name}.0", x)))
        return self.conv(f"{name}.3", x)

    @staticmethod
    def filter(x, filters):
        """Filter every pixel of every channel with its own 5 x 5 filter c*25 + i*5 + j; the border is repeated."""
        b, c, h, w = x.shape
        patches = F.unfold(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5).view(b, c, 25, h, w)
        return (patches * filters.view(b, c, 25, h, w)).sum(2)

    def __call__(self, image, last_image, last_output, last_fused):
        motion = self.encoder("kconv", torch.cat([image, last_image, last_output], 1))
        warp = self.head("fac_warp", motion)
        deblur = self.head("fac_deblur", torch.cat([motion, self.conv("kconv4", warp)], 1))
        features = self.encoder("conv", image)
        if last_fused is None:
            last_fused = torch.cat([features, features], 1)
        aligned = self.filter(self.conv("fea", last_fused), warp)
        fused = torch.cat([self.filter(features, deblur), aligned], 1)
        x = self.residual("upconv2_1", self.residual("upconv2_2", self.up("upconv2_u", fused)))
        x = self.residual("upconv1_1", self.residual("upconv1_2", self.up("upconv1_u", x)))
        return self.conv("img_prd", x) + image, fused


def checkpoint(path, weights, **options):
    """Write a file as the authors' trainer does: of a DataParallel model, with NumPy's numbers beside the weights."""
    content = {
        "epoch_idx": 7,
        "Best_Img_PSNR": np.float64(31.2),
        "Best_Epoch": np.int64(7),
        "deblurnet_state_dict": {f"module.{name}": tensor for name, tensor in weights.items()},
    }
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("zip_format", [True, False])  # False: as PyTorch before 1.6 wrote them
def test_it_is_the_authors_network(tmp_path, zip_format):
    weights = draw()
    path = checkpoint(tmp_path / "best-ckpt.pth.tar", weights, _use_new_zipfile_serialization=zip_format)
    authors, ours = Authors(weights), stfan.load(path, dtype=torch.float64)
    assert ours.preset == "official"
    deblurrer = Deblurrer(ours)
    video = torch.rand(4, 2, 3, 20, 28, dtype=torch.float64)  # RGB
    bgr = video.flip(2)
    previous_output, fused, previous = bgr[0], None, bgr[0]
    state, our_output, our_previous = ours.initial_state(video[0]), video[0], video[0]
    for frame, theirs in zip(video, bgr, strict=True):
        raw, fused = authors(theirs, previous, previous_output, fused)
        previous, previous_output = theirs, raw.clamp(0, 1)
        with torch.no_grad():
            our_raw, state = ours(our_previous, frame, our_output, state)
        our_previous, our_output = frame, our_raw.clamp(0, 1)
        allowed = oracle.network(ours, torch.float64, frames=4, size=max(1, raw.abs().max()))
        oracle.assert_within(our_raw, raw.flip(1), allowed)
        oracle.assert_within(deblurrer(frame), previous_output.flip(1), allowed)
    assert (raw - bgr[-1]).abs().mean() > 0.05  # it does something,
    without_memory, _ = authors(bgr[-1], bgr[-2], bgr[-2], None)
    assert (without_memory - raw).abs().mean() > 0.01  # and what was handed on took part


def test_its_size():
    assert sum(int(np.prod(shape)) for shape in shapes().values()) == 5_372_547
    assert sum(p.numel() for p in STFAN("official").parameters()) == 5_372_547
