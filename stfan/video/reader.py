"""Video files in: the frames of one, or of a part of one, decoded with PyAV one after the other."""

from fractions import Fraction
from pathlib import Path

import av
from av.stream import Disposition

from stfan.video.colour import sited, to_tensor
from stfan.video.truncation import missing_bytes

CARRIED = ("audio", "subtitle", "attachment")  # kinds of streams that go along with the deblurred one
ROUNDING = 1e-6  # seconds


class Source:
    """The video stream of a file, and what goes along with it.

    Args:
        path: the file.
        start, end: seconds from the first frame; frames from start on and before end are read.
        max_frames: at most so many.

    Raises ValueError or OSError (PyAV's errors are of these kinds) for a file that is missing, no video, or
    shorter than it says.
    """

    def __init__(self, path, start=0.0, end=None, max_frames=None):
        self.path, self.start, self.end, self.max_frames = Path(path), start, end, max_frames
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: {'is a folder' if self.path.is_dir() else 'no such file'}")
        missing = missing_bytes(self.path)
        if missing:
            raise ValueError(f"{path}: truncated, {missing} bytes are missing")
        self.container = self.open()
        pictures = self.container.format.name.endswith("_pipe") or self.container.format.name == "image2"
        moving = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
        if pictures or not moving:
            self.container.close()
            raise ValueError(f"{path}: holds no video stream")
        self.video = moving[0]
        self.carried = [s for s in self.container.streams if s.type in CARRIED]
        self.left = [s for s in self.container.streams if s not in (self.video, *self.carried)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.container.close()

    def open(self):
        """The file from its beginning, once more."""
        try:
            return av.open(
                f"file:{self.path}", metadata_errors="replace"
            )  # file: or FFmpeg takes a name with a colon for an address
        except av.FFmpegError as error:
            raise ValueError(f"{self.path}: not a video, or truncated: {error.strerror}") from error

    @property
    def rate(self):
        """Frames per second, a Fraction."""
        return Fraction(self.video.average_rate or self.video.guessed_rate or 25)

    @property
    def expected_frames(self):
        """How many frames there should be, or None where the file does not say: for progress bars."""
        frames = self.video.frames
        if not frames and self.container.duration:
            frames = round(self.container.duration / av.time_base * self.rate)
        if self.start or self.end is not None:
            last = frames or None if self.end is None else round(self.end * self.rate)
            frames = last and max(min(last, frames or last) - round(self.start * self.rate), 1)
        return min(filter(None, (frames, self.max_frames)), default=None)

    def identity(self):
        """What tells this input from another, for a run that is to go on."""
        state = self.path.stat()
        return {
            "input": f"{state.st_size} bytes of {state.st_mtime_ns}",
            "start": self.start,
            "end": self.end,
            "max-frames": self.max_frames,
        }

    def frames(self, skip=0):
        """(decoded frame, its tensor (3, H, W) in [0, 1]) of all frames but the first `skip`.

        Raises:
            ValueError: the file cannot be decoded from here on, or its frames change their size.
        """
        size = None
        for index, frame in enumerate(self._part()):
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                raise ValueError(
                    f"{self.path}: frame {index} is {frame.width}x{frame.height}, those before it "
                    f"{size[0]}x{size[1]}"
                )
            if index >= skip:
                yield frame, to_tensor(frame)

    def first(self):
        """The first frame, decoded."""
        frame = next(self._part(), None)
        if frame is None:
            part = " there, from --start to --end" if self.start or self.end is not None else ""
            raise ValueError(f"{self.path}: holds no frames{part}")
        return frame

    def _part(self):
        """The frames from start to end; once their times fail, the rate says when they are shown."""
        regular, origin, last, taken = True, None, None, 0
        for index, frame in enumerate(self._decoded()):
            regular = regular and frame.time is not None and (last is None or frame.time > last)
            origin, last = frame.time if index == 0 else origin, frame.time
            at = frame.time - origin if regular else float(index / self.rate)
            if self.end is not None and at > self.end - ROUNDING:
                return
            if at > self.start - ROUNDING:
                yield frame
                taken += 1
                if taken == self.max_frames:
                    return

    def _decoded(self):
        end = 0
        with self.open() as container:
            stream = container.streams[self.video.index]
            stream.thread_type = "AUTO"
            try:
                for frame in sited(container.decode(stream), stream.codec_context.name):
                    end = max(end, frame.time or 0)
                    yield frame
            except av.FFmpegError as error:
                raise ValueError(
                    f"{self.path}: broken or truncated after {end:.2f} s: {error.strerror}"
                ) from error
