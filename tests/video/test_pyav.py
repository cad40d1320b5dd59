"""What PyAV's releases do differently gives the same results."""

import re
import sys
from fractions import Fraction
from types import SimpleNamespace

import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
from stfan.video import pyav  # noqa: E402
from stfan.video.encoder import Encoding  # noqa: E402
from stfan.video.reader import VideoReader  # noqa: E402
from support.checkout import ROOT, run  # noqa: E402
from support.deblurring import deblur  # noqa: E402
from support.samples import MS, make_video  # noqa: E402


def test_tags_that_are_no_utf8(tmp_path):
    """Of the file, of its streams and of its chapters; Latin-1, as older programs write it."""
    plain, titled = make_video(tmp_path / "plain.mkv", frames=2, width=16, height=16), tmp_path / "titled.mkv"
    with av.open(str(plain)) as source, av.open(str(titled), "w") as copy:
        video = copy.add_stream_from_template(source.streams.video[0], opaque=True)
        copy.metadata["title"] = video.metadata["title"] = "cafeX"
        chapter = {"id": 1, "start": 0, "end": 40, "time_base": MS, "metadata": {"title": "cafeX"}}
        copy.set_chapters([chapter])
        for packet in source.demux():
            if packet.size:
                packet.stream = video
                copy.mux(packet)
    content = titled.read_bytes()
    assert content.count(b"cafeX") == 3
    titled.write_bytes(content.replace(b"cafeX", b"caf\xe9X"))
    out = deblur(titled, tmp_path / "out.mkv", Encoding()).path
    assert out.read_bytes().count("caf\ufffdX".encode()) == 3
    with VideoReader(titled) as reader:
        assert pyav.tags(reader.video.metadata)["title"] == "caf\ufffdX"


@pytest.mark.parametrize("version", ["17.1.0", "20.0.0"])
def test_other_releases_are_refused(version):
    with pytest.raises(
        ImportError, match=f"PyAV {version} is installed, tested are 18 to 19; run: pip install"
    ):
        pyav.check_release(version)


def test_the_package_asks_for_the_releases():
    (low, above), *more = re.findall(r'"av>=(\d+),<(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert not more and tuple(range(int(low), int(above))) == pyav.RELEASES


def test_side_data_by_kind():
    class Data:
        type = pyav.Type.CONTENT_LIGHT_LEVEL

        def __bytes__(self):
            return b"12345678"

    for releases_way in ([Data()], {Data.type: Data()}):
        assert pyav.side_data(SimpleNamespace(side_data=releases_way)) == {Data.type: b"12345678"}


def test_a_rational_that_is_not_set_is_none():
    assert pyav.rational(None) is pyav.rational(Fraction(0)) is None
    made = pyav.rational(SimpleNamespace(numerator=30000, denominator=1001))
    assert made == Fraction(30000, 1001) and type(made) is Fraction


def test_a_forked_process_converts_frames_too():
    """After its parent has, as a DataLoader's worker does; it is killed where it waits for threads that it lacks."""
    code = """
import os, signal, av, torch
from stfan.video.colour import to_tensor
frame = av.VideoFrame(64, 64, "yuv420p")
frame.reformat(format="rgb24")
to_tensor(frame)
child = os.fork()
if not child:
    signal.alarm(60)
    to_tensor(frame)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(sys.executable, "-W", "ignore", "-c", code).strip() == "7"
