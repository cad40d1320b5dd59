"""A video deblurred by a stand-in for the network."""

from stfan.video import pipeline
from stfan.video.encoder import Encoding
from stfan.video.reader import Source
from stfan.video.writer import VideoTarget
from support.samples import Same


def deblur(source, out, encoding=Encoding(), model=Same, part=(), **options):  # noqa: B008
    with Source(source, *part) as opened:
        return pipeline.deblur(opened, VideoTarget(out, opened, encoding), out, model(), **options)
