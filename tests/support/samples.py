"""Small videos made for the tests, what is in a video, and stand-ins for the network."""

from fractions import Fraction

import av
import numpy as np
import torch

from stfan.video.reader import VideoReader

RATE = 25
MS = Fraction(1, 1000)


def make_video(
    path,
    frames=12,
    width=64,
    height=48,
    times=None,
    sound=None,
    codec="libx264",
    pix_fmt=None,
    tags=None,
    texts=None,
    rotation=0,
    rate=RATE,
    coding=None,
    late=0,
):
    """A moving pattern with a tone.

    times: of the frames, in 1/1000 s, where they are not evenly spaced; texts: (codec, [(start, stop, words)]) of
    subtitles, in the same; rotation: in degrees, counter-clockwise, that a player is asked for; coding: options of the
    encoder; late: seconds from 0 to the first frame, as of ffmpeg -output_ts_offset.
    """
    with av.open(str(path), "w", options={"output_ts_offset": str(late)}) as container:
        video = container.add_stream(codec, rate)
        video.width, video.height = width, height
        video.pix_fmt = pix_fmt or ("yuv420p" if width % 2 == height % 2 == 0 else "yuv444p")
        video.options = ({"crf": "10"} if codec == "libx264" else {}) | (coding or {})
        if times is not None:
            video.codec_context.time_base = MS
        for key, value in (tags or {}).items():
            setattr(video.codec_context, key, value)
        if rotation:
            video.set_display_rotation(rotation)
        tone = container.add_stream(sound, 48000) if sound else None
        subtitles = container.add_mux_stream(texts[0], time_base=MS) if texts else None
        if texts:
            subtitles.metadata["language"] = "eng"
            container.start_encoding()
            for start, stop, words in texts[1]:
                container.mux(text_packet(texts[0], words, start, stop, subtitles))
        for t in range(frames):
            frame = pattern(t, width, height)
            frame.pts, frame.time_base = (t, 1 / Fraction(rate)) if times is None else (times[t], MS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound:
            samples = np.sin(np.arange(48000 * frames // RATE) / 20)[None].astype(np.float32)
            for start in range(0, samples.shape[1], 1024):
                part = np.ascontiguousarray(samples[:, start : start + 1024])
                audio = av.AudioFrame.from_ndarray(part, "fltp", "mono")
                if sound == "pcm_s16le":
                    audio = av.AudioFrame.from_ndarray((part * 32767).astype(np.int16), "s16", "mono")
                audio.sample_rate, audio.pts = 48000, start
                container.mux(tone.encode(audio))
            container.mux(tone.encode(None))
    return path


def pattern(t, width=64, height=48):
    """Frame t of the pattern, an av.VideoFrame in RGB."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x * (c + 1) + y * 2 + 9 * t) / 12) for c in range(3)]
    return av.VideoFrame.from_ndarray((127 + 100 * np.stack(waves, -1)).astype(np.uint8), "rgb24")


def text_packet(codec, words, start, stop, stream):
    data = words.encode()
    if codec == "mov_text":
        data = len(data).to_bytes(2, "big") + data
    packet = av.Packet(data)
    packet.pts = packet.dts = start
    packet.duration, packet.time_base, packet.stream = stop - start, MS, stream
    return packet


def frames_of(path):
    """[(time, (3, H, W) on a scale of 255)]"""
    with VideoReader(path) as source:
        return [(frame.time, pixels.mul(255).numpy()) for frame, pixels in source.frames()]


def same_frames(a, b):
    """Whether two videos have the same frames, to the bit, at the same times."""
    a, b = frames_of(a), frames_of(b)
    return [time for time, _ in a] == [time for time, _ in b] and all(
        np.array_equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True)
    )


def sound_of(path):
    """[(time stamp, bytes)]"""
    with av.open(str(path)) as container:
        return [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.dts is not None]


def texts_of(path):
    """(language, [(start, stop, words)]), times in 1/1000 s"""
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        said = []
        for packet in container.demux(stream):
            for subtitle in stream.decode(packet) if packet.size else ():
                start = round(packet.pts * packet.time_base * 1000)
                stop = start + round(packet.duration * packet.time_base * 1000)
                said.append((start, stop, subtitle.dialogue.decode()))
        return stream.language, said


class Same:
    """A Deblurrer's stand-in that hands on the frames as they are."""

    device = torch.device("cpu")

    def launch(self, frame):
        return self(frame), torch.tensor(True)

    def check_finite(self, finite):
        assert finite

    def __call__(self, frame):
        return frame

    def reset(self):
        pass

    def state(self):
        return {}

    def restore(self, state):
        assert state == {}


class Trail(Same):
    """Each frame with a third of all before it: what comes out depends on the whole past."""

    def reset(self):
        self.past = None

    def state(self):
        return {"past": self.past}

    def restore(self, state):
        self.past = state["past"]

    def __call__(self, frame):
        self.past = frame if self.past is None else torch.lerp(self.past, frame, 2 / 3)
        return self.past


class Interrupt:
    """As if Ctrl+C were pressed at the n-th frame."""

    def __init__(self, n):
        self.left = n

    def __call__(self, console):
        return self

    def __enter__(self):
        return self.stop

    def __exit__(self, *_):
        pass

    def stop(self):
        self.left -= 1
        return self.left == 0


def names(folder):
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())
