"""Video files out: segments first, and all of it in one file when they are there."""

import av
import torch

from stfan.video.encoder import Segments
from stfan.video.muxer import FORMATS, assemble, plan
from stfan.video.partial_output import SEGMENT

NO_TIME = torch.iinfo(torch.int64).min


def check_name(path):
    """Refuse, before any work is done, a file name that no video can be written to."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: not the name of a video file; it should end in {', '.join(FORMATS)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")


class VideoTarget:
    """A video file in the making: segments first, and all of it in one file when they are there.

    Args:
        path: the file to come.
        source: a Source.
        encoding: how to encode.
        sound: whether sound goes along.
        wide: how many frames stand side by side in one of the file.

    Raises:
        ValueError: a file of this name cannot hold what it should.
        OSError: there is no such folder.
    """

    def __init__(self, path, source, encoding, sound=True, wide=1):
        check_name(path)
        self.name, self.source, self.times = path.name, source, []
        first = source.first()
        width, height = (first.width, first.height)[:: -1 if first.rotation % 180 else 1]
        self.encoding = encoding.settle(path.suffix.lower(), wide * width, height, first)
        self.segments = Segments(self.encoding, source, wide * width, height, first)
        self.streams = plan(path, source, self.segments, sound)

    @property
    def job(self):
        """What the result depends on, beside the input."""
        return vars(self.encoding) | {"PyAV": av.__version__}

    def begin(self, folder, saved):
        """Go on in a folder from what :meth:`checkpoint` returned, or begin if that is None."""
        self.segments.folder = folder
        if saved is not None:
            self.segments.reorder = int(saved["reorder"])
            self.times = [None if time == NO_TIME else time for time in saved["times"].tolist()]

    def write(self, frame, pixels):
        """Add a frame (3, H, W) in [0, 1] at the time of a decoded one."""
        self.segments.write(pixels, len(self.times) // SEGMENT)
        self.times.append(frame.pts)

    def checkpoint(self):
        """What to go on from, as tensors; all that was written is on the disk."""
        self.segments.close()
        times = [NO_TIME if time is None else time for time in self.times]
        return {"times": torch.tensor(times), "reorder": torch.tensor(self.segments.reorder)}

    def finish(self, part):
        """The path of the file with all that was written; part: whether that is less than the whole source."""
        self.segments.close()
        path = self.segments.folder / self.name
        part = part or self.source.end is not None or self.source.max_frames is not None
        assemble(path, self.source, self.streams, self.segments, self.times, part)
        return path

    def abandon(self):
        """Let go of what is open."""
        self.segments.abandon()
