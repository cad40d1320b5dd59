"""The smallest honest trainer: one clip at a time, one optimiser step per short window of frames.

The state is cut between windows (truncated back-propagation). A window must hold two frames at least: the
layer that makes the next state gets its gradient from the next frame alone.
"""

import json
import math
import time
from datetime import date
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from stfan import weights
from stfan.clips import augment, find_clips, read_clip
from stfan.metrics import psnr
from stfan.model import STFAN, ResBlock
from stfan.stream import Deblurrer

WINDOW = 2  # frames per optimiser step
CLIP_NORM = 0.5
# Learning rate of the layers whose steps add up, over k^2 * 128 channels or over time, relative to the others:
# at the full rate the recurrence learns to grow before it learns anything else, and training blows up.
SLOW = 0.1


def initialise(model):
    """Kaiming, and a network that starts as the identity.

    Both filters start as a single centre tap, so that FAC passes features and state through; residual branches,
    the old state's part in the new one and the output start small, so that nothing grows over a long video.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ResBlock):
                module.conv2.weight *= 0.1
        for head in (model.align[-1], model.deblur[-1]):
            head.weight *= 0.02
            head.bias.view(-1, model.kernel_size**2)[:, model.kernel_size**2 // 2] = 1
        model.fusion.weight[:, :128] *= 0.25
        model.reconstruction[-1].weight *= 0.01
    return model


def evaluate(model, clips, device="cpu"):
    """PSNR (rgb8) of input and output, the mean of each clip's frames: {clip: {"input": dB, "output": dB}}."""
    scores = {}
    for name, paths in clips.items():
        blurry, sharp = (clip.to(device) for clip in read_clip(paths))
        output = torch.stack([*map(Deblurrer(model), blurry)])
        scores[name] = {
            "input": round(float(psnr(blurry, sharp).mean()), 3),
            "output": round(float(psnr(output, sharp).mean()), 3),
        }
    return scores


def train(root, out, minutes=55.0, crop=96, lr=2.5e-4, seed=0, device="cpu", report=print):
    """Train the default preset on root/train for a time, judge it on root/test, write out and its card.

    Args:
        root: a folder in the layout of :mod:`stfan.clips`.
        out: the weight file, *.safetensors; its card goes beside it as *.json.
        minutes: of training; the learning rate falls from lr to zero over them, as a cosine.
        crop: pixels, a multiple of 4.
        report: called with a line of progress now and then.
    """
    train_clips, test_clips = list(find_clips(root, "train").values()), find_clips(root, "test")
    out = Path(out)
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise ValueError(f"{out}: must be a file *.safetensors in a folder that exists")
    origin = Path(root, "clips.json")  # of synthesised clips
    data = json.loads(origin.read_text()) if origin.exists() else {"clips": {}}
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = initialise(STFAN()).to(device)
    slow = [*model.align[-1:], *model.deblur[-1:], model.align_summary, model.fusion]
    slow = [parameter for layer in slow for parameter in layer.parameters()]
    fast = [parameter for parameter in model.parameters() if all(parameter is not other for other in slow)]
    optimiser = torch.optim.Adam(
        [{"params": fast, "scale": 1.0}, {"params": slow, "scale": SLOW}], betas=(0.9, 0.99)
    )
    started = reported = time.monotonic()
    steps, curve, losses, gains = 0, [], [], []

    def progress():
        return (time.monotonic() - started) / (60 * minutes)

    while progress() < 1:
        paths = train_clips[int(torch.randint(len(train_clips), (), generator=generator))]
        clip = augment(*read_clip(paths), crop, generator)
        blurry, sharp = (torch.cat([frames, frames.flip(0)]).to(device) for frames in clip)  # there and back
        previous = output = blurry[:1]
        state = None
        for current, target in zip(blurry.split(WINDOW), sharp.split(WINDOW), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = (
                    group["scale"]
                    * lr
                    * 0.5
                    * (1 + math.cos(math.pi * min(progress(), 1)))
                    * min(1, (steps + 1) / 200)
                )
            loss = 0
            with torch.autocast(blurry.device.type, torch.bfloat16):
                state = model.initial_state(previous) if state is None else state
                for frame, truth in zip(current.split(1), target.split(1), strict=True):
                    output, state = model(previous, frame, output, state)
                    loss = loss + F.l1_loss(output, truth) / len(current)
                    output, previous = output.clamp(0, 1), frame
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"step {steps}: the loss is {float(loss.detach())} on {paths[0][0].parent.parent}"
                )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimiser.step()
            output, state = output.detach().float(), state.detach()
            losses.append(float(loss.detach()))
            gains.append(float((psnr(output, truth) - psnr(frame, truth)).clamp(-20, 20)))
            steps += 1
        if time.monotonic() - reported > 30 or progress() >= 1:
            reported = time.monotonic()
            curve.append(
                {"step": steps, "loss": sum(losses) / len(losses), "gain_db": sum(gains) / len(gains)}
            )
            losses, gains = [], []
            report(
                f"{progress():4.0%}  step {steps}  L1 {curve[-1]['loss']:.5f}  gain {curve[-1]['gain_db']:+.2f} dB"
            )
            weights.save(model, out)

    weights.save(model, out)
    model = weights.load(out, device)  # as it will be used: rounded to half precision
    scores = evaluate(model, test_clips, device)
    mean = {
        side: round(sum(score[side] for score in scores.values()) / len(scores), 3)
        for side in ("input", "output")
    }
    card = {
        "preset": "article",
        "parameters": weights.count(model),
        "recipe": {
            "loss": "L1",
            "minutes": minutes,
            "crop": crop,
            "lr": lr,
            "seed": seed,
            "window": WINDOW,
            "steps": steps,
        },
        "data": data,
        "date": date.today().isoformat(),
        "device": device,
        "threads": torch.get_num_threads(),
        "protocol": "rgb8",
        "psnr": {"mean": mean, "clips": scores},
        "curve": curve,
    }
    out.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    report(f"test PSNR (rgb8): input {mean['input']:.2f} dB, output {mean['output']:.2f} dB")
    return card
