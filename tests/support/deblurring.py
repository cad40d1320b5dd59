"""A video deblurred by a stand-in for the network."""

from stfan.video import pipeline
from stfan.video.encoder import Encoding
from stfan.video.reader import VideoReader
from stfan.video.writer import VideoWriter
from support.samples import Same


def deblur(source, out, encoding=Encoding(), model=Same, part=(), **options):  # noqa: B008
    with VideoReader(source, *part) as opened:
        return pipeline.deblur_video(opened, VideoWriter(out, opened, encoding), out, model(), **options)
