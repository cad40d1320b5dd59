"""The network on a device against the CPU in float32, in every type, whole and in tiles; time and memory of a frame.

python network.py [--device cuda] [--json FILE] [--sizes 360p 720p 1080p]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.nn import functional

from stfan.model import weights
from stfan.model.deblurrer import Deblurrer
from stfan.model.network import STFAN, initialise

SIZES = {"tiny": (32, 48), "360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920)}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LEAST = {
    "float32": 90,
    "tf32": 45,
    "float16": 45,
    "bfloat16": 45,
}  # dB between a device's frames and the CPU's
PRESETS = ("compact", "article")
NARROW = ((12, 24), (36, 24), (36, 12))  # input and output channels, at half the frame's size
SLEEP = 2_000_000  # clocks, about 1 ms, in which a program queues 50 layers


def load(preset: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> STFAN:
    """Return a preset's network: with the bundled weights, or with random ones where there are none."""
    if preset in weights.BUNDLED:
        return weights.load(preset, device, dtype)
    return initialise(STFAN(preset), "kaiming", 0).to(device, dtype).eval()


def video(height: int, width: int, frames: int) -> list[torch.Tensor]:
    """Return frames of a moving smooth picture with noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    picture = functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)
    noise = 0.02 * torch.randn(frames, 3, height, width, generator=generator)
    return [(picture.roll((t, 2 * t), (1, 2)) + noise[t]).clamp(0, 1) for t in range(frames)]


def worst_psnr(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Return the PSNR in dB of the frames that differ most."""
    errors = [(a.cpu() - b).square().mean() for a, b in zip(one, other, strict=True)]
    return float(-10 * torch.stack(errors).max().clamp(min=1e-20).log10())


def compare(device: str, size: tuple[int, int]) -> list[dict]:
    """Return a case for each preset, type and tile: the PSNR in dB between its frames and the CPU's."""
    frames, found = video(*size, 5), []
    for preset in PRESETS:
        right = [*map(Deblurrer(load(preset)), frames)]
        for name in LEAST:
            fast = name != "float32"
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = fast
            model = load(preset, device, DTYPES["float32" if name == "tf32" else name])
            for tile in (0, 96):
                deblurrer = Deblurrer(model, tile=tile)
                got = [deblurrer(frame.to(device)) for frame in frames]
                psnr = worst_psnr(got, right)
                found.append(
                    {"preset": preset, "dtype": name, "tile": tile, "psnr": psnr, "least": LEAST[name]}
                )
    return found


def time_frames(device: str, sizes: list[str]) -> list[dict]:
    """Return seconds and peak memory of a frame of each size, preset and type."""
    cuda, found = device.startswith("cuda"), []
    for preset in PRESETS:
        for name in sizes:
            for dtype in DTYPES:
                deblurrer = Deblurrer(load(preset, device, DTYPES[dtype]))
                frame = torch.rand(3, *SIZES[name], device=device)
                deblurrer(frame)
                if cuda:
                    torch.cuda.reset_peak_memory_stats()
                times = []
                for _ in range(7 if cuda else 1):
                    started = time.perf_counter()
                    deblurrer(frame)
                    if cuda:
                        torch.cuda.synchronize()
                    times.append(time.perf_counter() - started)
                peak = torch.cuda.max_memory_allocated() / 1e6 if cuda else None
                case = {"preset": preset, "size": name, "dtype": dtype, "peak_mb": peak}
                found.append(
                    case | {"seconds": statistics.median(times), "launches": launches(deblurrer, frame)}
                )
    return found


def launches(deblurrer: Deblurrer, frame: torch.Tensor) -> int:
    """Count the kernels of a frame, or on a CPU the operators."""
    from torch.profiler import ProfilerActivity, profile

    kind = ProfilerActivity.CUDA if frame.is_cuda else ProfilerActivity.CPU
    with profile(activities=[kind]) as trace:
        deblurrer(frame)
    events = trace.events() or []
    device = torch.autograd.DeviceType.CUDA if frame.is_cuda else torch.autograd.DeviceType.CPU
    return sum(event.device_type == device for event in events)


def time_narrow(device: str, size: tuple[int, int]) -> list[dict]:
    """Return the seconds of compact's layers whose channels are no multiples of 8, as they are and padded to one."""
    cuda, found = device.startswith("cuda"), []
    for channels in NARROW:
        padded = tuple(-(-count // 8) * 8 for count in channels)
        for name, (inputs, outputs) in (("as they are", channels), ("padded", padded)):
            for dtype in ("float16", "bfloat16"):
                layer = torch.nn.Conv2d(inputs, outputs, 3, 1, 1).to(device, DTYPES[dtype])
                layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                image = torch.rand(1, inputs, *(side // 2 for side in size), device=device).to(DTYPES[dtype])
                image = image.contiguous(memory_format=torch.channels_last)
                case = {"inputs": channels[0], "outputs": channels[1], "width": name, "dtype": dtype}
                found.append(case | {"seconds": seconds_of(layer, image, 50 if cuda else 1)})
    return found


@torch.no_grad()
def seconds_of(layer: torch.nn.Module, image: torch.Tensor, times: int) -> float:
    """Return the seconds of one of so many calls, which a GPU finds queued."""
    layer(image)
    if not image.is_cuda:
        started = time.perf_counter()
        layer(image)
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(SLEEP)
    begin.record()
    for _ in range(times):
        layer(image)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / times


def main() -> None:
    """Compare, then measure; write after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda")
    add("--json", type=Path)
    add("--compare", default="180x320", help="height and width of the frames that are compared [%(default)s]")
    add("--sizes", nargs="*", default=["360p", "720p", "1080p"], choices=SIZES)
    options = parser.parse_args()
    height, width = map(int, options.compare.split("x"))
    report = {"compared": compare(options.device, (height, width))}
    bad = [case for case in report["compared"] if not case["psnr"] >= case["least"]]
    for case in report["compared"]:
        print(*(f"{key}={value}" for key, value in case.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report))
    report["timed"] = time_frames(options.device, options.sizes)
    for case in report["timed"]:
        print(*(f"{key}={value}" for key, value in case.items()), flush=True)
    report["narrow"] = time_narrow(options.device, SIZES[options.sizes[-1]])
    for case in report["narrow"]:
        print(*(f"{key}={value}" for key, value in case.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report))
    worst = min(case["psnr"] - case["least"] for case in report["compared"])
    print(
        f"{len(report['compared'])} compared, {len(bad)} wrong, the worst {worst:+.1f} dB from what is allowed"
    )
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
