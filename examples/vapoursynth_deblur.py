"""Deblur a clip in a VapourSynth script.

    vspipe -c y4m examples/vapoursynth_deblur.py -a source=in.mkv - | ffmpeg -i - out.mp4

The network goes from frame to frame, so the script asks VapourSynth for one thread, and refuses frames out of order.
"""

import numpy as np
import torch
import vapoursynth as vs

import stfan
from stfan.devices import resolve_device


def deblur(clip, deblurrer):
    """Deblur an RGBS clip, whose frames are asked for in order; frame 0 begins anew."""
    next_frame = 0

    def step(n, f):
        nonlocal next_frame
        if n == 0:
            deblurrer.reset()
        elif n != next_frame:
            raise ValueError(f"frame {n} was asked for, {next_frame} comes next: take the frames in order")
        next_frame = n + 1
        before = np.stack([np.asarray(f[plane]) for plane in range(3)])
        after = deblurrer(torch.from_numpy(before)).numpy()
        out = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(out[plane]), after[plane])
        return out

    return vs.core.std.ModifyFrame(clip, clip, step)


def script(source, matrix="709"):
    """Read a video, deblur it and return it as 8-bit 4:2:0."""
    vs.core.num_threads = 1
    clip = vs.core.resize.Bicubic(vs.core.lsmas.LWLibavSource(source), format=vs.RGBS, matrix_in_s=matrix)
    clip = deblur(clip, stfan.Deblurrer(stfan.load(device=resolve_device("auto"))))
    return vs.core.resize.Bicubic(clip, format=vs.YUV420P8, matrix_s=matrix)


# vspipe runs the script with its -a arguments as global names.
if "source" in globals():
    script(globals()["source"]).set_output()
