"""Deblur a video from file to file, one step after the other and overlapped, and tell how busy the network is.

    python benchmarks/bench_pipeline.py --device cuda --json benchmarks/results

The video is made of noise that moves, and is encoded by --codec. For both ways: frames a second, from the first frame
to the finished file, and the share of that time in which the network runs. On CUDA its time is that between two
events around each frame's launches, in which it may wait for nothing but its own kernels; on a CPU the time of the
call.
"""

import argparse
import json
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from harness import environment, json_path


class Timed:
    """A Deblurrer that notes how long the network takes for each frame."""

    def __init__(self, deblurrer):
        import torch

        self._deblurrer, self._cuda, self._torch = deblurrer, deblurrer.device.type == "cuda", torch
        self._spans = []

    def __getattr__(self, name):
        return getattr(self._deblurrer, name)

    def _now(self):
        if not self._cuda:
            return time.perf_counter()
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def launch(self, frame):
        """Deblur the next frame, as Deblurrer.launch does."""
        begin = self._now()
        result = self._deblurrer.launch(frame)
        self._spans.append((begin, self._now()))
        return result

    def seconds(self):
        """Return the time of all frames so far."""
        if not self._cuda:
            return sum(end - begin for begin, end in self._spans)
        self._torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in self._spans) / 1000


def make_video(path, frames, width, height):
    """Write a video of smooth noise that moves by 3 pixels a frame."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (height // 8 + 2, (width + 3 * frames) // 8 + 2, 3), np.uint8)
    noise = np.kron(small, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.options = width, height, {"crf": "18", "preset": "veryfast"}
        for t in range(frames):
            picture = np.ascontiguousarray(noise[:height, 3 * t : 3 * t + width])
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def measure(source, out, model, codec, overlap):
    """Deblur a video; return its frames a second and the share of the time in which the network runs."""
    from stfan.model.deblurrer import Deblurrer
    from stfan.video.encoder import Encoding
    from stfan.video.pipeline import deblur_video
    from stfan.video.reader import VideoReader
    from stfan.video.writer import VideoWriter

    timed = Timed(Deblurrer(model))
    with VideoReader(source) as reader:
        writer = VideoWriter(out, reader, Encoding(codec))
        result = deblur_video(reader, writer, out, timed, overlap=overlap, overwrite=True)
    return {
        "frames_per_second": round(result.frames / result.seconds, 2),
        "network_share": round(timed.seconds() / result.seconds, 3),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda [cpu]")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--weights", default="compact", help="a name or a file [compact]")
    parser.add_argument("--codec", default="libx264", help="of the output [libx264]")
    parser.add_argument(
        "--json", type=Path, help="also write to this file, or to DEVICE-pipeline.json in this folder"
    )
    parser.add_argument("--threads", type=int, help="CPU threads [torch's own choice]")
    parser.add_argument("--commit", help="of the code, where there is no git")
    options = parser.parse_args()
    import torch

    from stfan.model import weights
    from stfan.video.pipeline import OVERLAPPED, SERIAL

    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = torch.float16 if options.device.startswith("cuda") else torch.float32
    model, figures = weights.load(options.weights, options.device, dtype), {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.mp4"
        make_video(source, options.frames, *options.size)
        # The first run pays for memory and kernels that are set up once.
        for name, overlap in (("warm-up", SERIAL), ("serial", SERIAL), ("overlapped", OVERLAPPED)):
            figures[name] = measure(source, Path(folder) / "out.mp4", model, options.codec, overlap)
            print(name, figures[name], flush=True)
    if options.json:
        facts = environment(options)
        path = json_path(options.json, facts, "-pipeline")
        choices = {"size": list(options.size), "frames": options.frames, "codec": options.codec}
        choices |= {"weights": options.weights, "dtype": str(dtype)}
        path.write_text(json.dumps({"environment": facts, **choices, "runs": figures}, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
