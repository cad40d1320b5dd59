"""Writing video files: frames become segments first, and all segments become one file at the end."""

import errno
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import torch

from stfan.files import check_parent
from stfan.video.encoder import Encoding, SegmentWriter
from stfan.video.errors import DamagedPartialError, IncompleteOutputError
from stfan.video.muxer import assemble
from stfan.video.partial_output import SEGMENT_FRAMES
from stfan.video.plan import FORMATS, make_plan
from stfan.video.reader import VideoReader

log = logging.getLogger("stfan")
# Of the disk, not of what is written.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.ENOENT}


def check_name(path: Path) -> None:
    """Check, before any work is done, that a video can be written to a file of this name."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: not the name of a video file; it should end in {', '.join(FORMATS)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder")
    check_parent(path)


class VideoWriter:
    """Writes a video file: segments first, one file at the end.

    Args:
        path: the file to make.
        reader: the video that the frames are from; its times, sound and subtitles are kept.
        encoding: how to encode.
        sound: whether to copy the sound.
        columns: how many frames stand side by side in one of the file.

    Raises:
        ValueError: a file of this name cannot hold what it should.
        OSError: its folder does not exist.
    """

    def __init__(
        self, path: Path, reader: VideoReader, encoding: Encoding, sound: bool = True, columns: int = 1
    ):
        check_name(path)
        self.name, self.reader = path.name, reader
        self.times: list[int] = []
        first = reader.first_frame()
        width, height = reader.source.shown_size
        self.encoding = encoding.resolve(path.suffix.lower(), columns * width, height, first)
        self.segments = SegmentWriter(self.encoding, reader, columns * width, height, first)
        self.plan = make_plan(path, reader.source, reader.container, self.segments, sound)
        for line in self.plan.warnings:
            log.warning("%s", line)

    @property
    def settings(self) -> dict[str, Any]:
        """What the result depends on, beside the input."""
        return vars(self.encoding) | {"PyAV": av.__version__}

    def begin(self, folder: Path, saved: Mapping[str, torch.Tensor] | None) -> None:
        """Begin in a folder, or go on there from `saved`, which :meth:`checkpoint` returned."""
        self.segments.begin(folder)
        if saved is not None:
            missing = {"times", "reorder", "open"} - saved.keys()
            if missing:
                raise DamagedPartialError(f"{folder}: its state lacks {', '.join(sorted(missing))}")
            self.segments.reorder = int(saved["reorder"])
            self.times = saved["times"].tolist()
            self.segments.reopen(len(self.times) // SEGMENT_FRAMES, int(saved["open"]))

    def quantise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Round a frame (3, H, W) in [0, 1] to the integers that are encoded, on its device."""
        return self.segments.quantise(pixels)

    def write(self, like: av.VideoFrame, samples: torch.Tensor) -> None:
        """Add a frame that :meth:`quantise` returned at the time of a decoded one."""
        assert like.pts is not None  # the reader sees to it
        self.segments.write(samples.numpy(), len(self.times) // SEGMENT_FRAMES)
        self.times.append(like.pts)

    def checkpoint(self, segment_ends: bool) -> dict[str, torch.Tensor]:
        """Return what :meth:`begin` goes on from; all that was written is on the disk."""
        if segment_ends:
            self.segments.close()
        self.segments.log.save()
        numbers = {"reorder": self.segments.reorder, "open": self.segments.log.saved}
        return {"times": torch.tensor(self.times), **{name: torch.tensor(n) for name, n in numbers.items()}}

    def finish(self, incomplete: bool) -> Path:
        """Make one file of all that was written, and return its path.

        Args:
            incomplete: whether that is less than all that the reader gives.

        Raises:
            IncompleteOutputError: the container takes the frames, but not the streams that are copied.
        """
        self.segments.close()
        path = self.segments.folder / self.name
        incomplete = incomplete or self.reader.end is not None or self.reader.max_frames is not None
        try:
            assemble(path, self.reader, self.plan, self.segments, self.times, incomplete)
        except (av.FFmpegError, ValueError) as error:
            if not self.plan.copies or getattr(error, "errno", None) in DISK:
                raise
            alone = replace(self.plan, copies=(), tee=False)
            assemble(path, self.reader, alone, self.segments, self.times, incomplete)
            names = [str(copy.track) for copy in self.plan.copies]
            reason = getattr(error, "strerror", None) or str(error)
            raise IncompleteOutputError(path, names, reason) from error
        return path

    def abandon(self) -> None:
        """Close what is open."""
        self.segments.abandon()
