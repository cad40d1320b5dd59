"""Inputs as cameras and broadcasts make them: late, interlaced, bare, damaged, HDR."""

import json
import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.video import hdr  # noqa: E402
from stfan.video.decode_errors import decode  # noqa: E402
from stfan.video.encoder import Encoding  # noqa: E402
from stfan.video.pyav import side_data  # noqa: E402
from stfan.video.reader import VideoReader  # noqa: E402
from support.deblurring import deblur  # noqa: E402
from support.samples import frames_of, make_video, names  # noqa: E402


def seconds(path):
    """The length that a file states."""
    with av.open(str(path)) as container:
        return container.duration / av.time_base


@pytest.mark.parametrize(("ending", "to"), [("ts", "mp4"), ("ts", "mkv"), ("mkv", "mp4")])
def test_a_late_start_is_left_out(tmp_path, ending, to):
    """All streams are earlier by the same: what begins first begins at 0."""
    late = make_video(tmp_path / f"late.{ending}", sound="aac", late=40000)
    out = deblur(late, tmp_path / f"out.{to}").path
    before, after = frames_of(late), frames_of(out)
    with av.open(str(late)) as old, av.open(str(out)) as new:
        begin = min(float(s.start_time * s.time_base) for s in old.streams)
        sounds = [float(c.streams.audio[0].start_time * c.streams.audio[0].time_base) for c in (old, new)]
    assert begin > 39999 and seconds(out) < 1
    unit = 1e-3 if to == "mkv" else 1e-5
    # Where the sound of an MP4 begins before 0, a Matroska file is later by as much.
    assert [t for t, _ in after] == pytest.approx([t - begin for t, _ in before], abs=unit)
    assert sounds[1] == pytest.approx(sounds[0] - begin, abs=unit)


INTERLACED = {"libx264": {"x264-params": "tff=1"}, "mpeg2video": {"flags": "+ildct+ilme"}}


@pytest.mark.parametrize("codec", INTERLACED)
def test_interlaced_frames_are_warned_of(tmp_path, caplog, codec):
    """Once, and before any frame is computed."""
    source = make_video(tmp_path / "in.ts", frames=4, height=64, codec=codec, coding=INTERLACED[codec])
    seen = []
    deblur(source, tmp_path / "out.mp4", on_start=lambda resumed: seen.append(caplog.text))
    assert seen == [caplog.text] and len(caplog.records) == 1
    assert "its frames are interlaced, and are deinterlaced, by bwdif" in caplog.text


@pytest.mark.parametrize(("ending", "codec"), [("h264", "libx264"), ("hevc", "libx265")])
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(50)])
def test_bare_streams_have_the_rate_of_their_headers(tmp_path, caplog, ending, codec, rate):
    """FFmpeg puts 25 for the file."""
    quiet = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    source = make_video(tmp_path / f"in.{ending}", frames=6, codec=codec, rate=rate, coding=quiet)
    with VideoReader(source) as opened:
        assert opened.rate == rate and opened.video.average_rate == 25
    out = deblur(source, tmp_path / "out.mp4").path
    assert [time for time, _ in frames_of(out)] == pytest.approx([t / rate for t in range(6)], abs=1e-6)
    assert caplog.text == ""


def test_interlaced_bare_streams_have_the_rate_of_frames(tmp_path):
    source = make_video(
        tmp_path / "in.h264", frames=4, height=64, rate=Fraction(30000, 1001), coding=INTERLACED["libx264"]
    )
    with VideoReader(source) as opened:
        assert opened.rate == Fraction(30000, 1001)


def flip(source, path, numbers):
    """Copy a file with some bytes of the packets of these numbers changed, behind their headers."""
    with av.open(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(source.read_bytes())
    for pos, size in (places[number] for number in numbers):
        for at in (pos + size * 3 // 4, pos + size * 7 // 8):
            data[at] ^= 0x5A
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("ending", "codec", "coding"),
    [
        ("mp4", "libx264", {"x264-params": "keyint=1"}),
        ("mp4", "mpeg4", {"qscale": "2"}),
        ("mkv", "ffv1", {"slicecrc": "1", "level": "3"}),
    ],
)
def test_frames_decoded_with_errors_are_counted(tmp_path, run_deblur_stub, ending, codec, coding):
    """In the last line and in --json; FFmpeg conceals them."""
    source = make_video(tmp_path / f"in.{ending}", width=160, height=128, codec=codec, coding=coding)
    bad = flip(source, tmp_path / f"bad.{ending}", (3, 7))
    out = tmp_path / "out.mkv"
    for path, count in ((source, 0), (bad, 2)):
        code, said, err = run_deblur_stub(path, "-o", out, "--json", "--overwrite")
        assert code == 0 and json.loads(said)["damaged"] == count and json.loads(said)["frames"] == 12, err
        code, said, err = run_deblur_stub(path, "-o", out, "--overwrite")
        ending = "; 2 frames were decoded with errors" if count else ""
        assert (
            code == 0
            and re.fullmatch(rf"{out}: 12 frames, [\d.]+ frames/s{ending}; changed by .*\n", said)
            and not err
        )


def test_frames_that_a_foreign_decoder_marks_are_counted():
    """Its log is not heard."""
    packets = [
        SimpleNamespace(
            size=1, decode=lambda marks=marks: [SimpleNamespace(is_corrupt=mark) for mark in marks]
        )
        for marks in ([False], [False, True], [])
    ]
    codec = SimpleNamespace(codec=SimpleNamespace(name="libdav1d"))
    stream = SimpleNamespace(container=SimpleNamespace(demux=lambda stream: packets), codec_context=codec)
    assert [damaged for _, damaged in decode(stream)] == [False, True, False]


def test_counting_leaves_the_log_as_it_was(tmp_path, capfd):
    source = make_video(tmp_path / "in.mp4", width=160, height=128, codec="mpeg4", coding={"qscale": "2"})
    bad = flip(source, tmp_path / "bad.mp4", (3,))
    for level in (None, av.logging.ERROR):
        av.logging.set_level(level)
        try:
            with VideoReader(bad) as opened:
                assert sum(1 for _ in opened.frames()) == 12 and opened.damaged == 1
            assert av.logging.get_level() == level
        finally:
            av.logging.set_level(None)
        assert level or capfd.readouterr() == ("", "")


MASTER = (
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
)


def hdr_of(path):
    """{type: bytes} of the first frame's HDR10 metadata."""
    kinds = {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"}
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return {kind.name: data for kind, data in side_data(frame).items() if kind.name in kinds}


def test_hdr10_metadata_is_kept_or_warned_of(tmp_path, caplog):
    coding = {"x265-params": f"log-level=error:{MASTER}"}
    source = make_video(
        tmp_path / "in.mkv",
        frames=2,
        width=64,
        height=64,
        codec="libx265",
        pix_fmt="yuv420p10le",
        coding=coding,
    )
    wanted = hdr_of(source)
    assert len(wanted) == 2
    for codec, pix_fmt in (
        ("libx265", "yuv420p10le"),
        ("libx264", "yuv420p10le"),
        ("libsvtav1", "yuv420p10le"),
    ):
        out = deblur(source, tmp_path / f"{codec}.mp4", Encoding(codec, pix_fmt=pix_fmt)).path
        got = hdr_of(out)
        assert got["CONTENT_LIGHT_LEVEL"] == wanted["CONTENT_LIGHT_LEVEL"], codec
        numbers = [np.frombuffer(data["MASTERING_DISPLAY_METADATA"], np.int32)[:20] for data in (got, wanted)]
        got, want = (pairs[::2] / pairs[1::2] for pairs in numbers)
        # AV1 stores the least light in steps of 2 ** -14, and colours in finer ones than H.265.
        assert got == pytest.approx(want, rel=0, abs=2**-15), codec
    assert "HDR10" not in caplog.text
    deblur(source, tmp_path / "out.webm", Encoding())
    assert "its HDR10 metadata (mastering display, content light level) is left out" in caplog.text


@pytest.mark.parametrize(
    ("least", "primaries", "luminance"),
    [((1, 2), False, True), ((1, 2), True, False), ((1, 0), True, True)],
    ids=("no primaries", "no luminance", "a division by zero"),
)
def test_a_mastering_display_known_in_part_is_warned_of(least, primaries, luminance, caplog):
    class Data:
        type = hdr.Type.MASTERING_DISPLAY_METADATA

        def __bytes__(self):
            return hdr.DISPLAY.pack(*(1, 2) * 9, *least, primaries, luminance)

    assert hdr.hdr_options(SimpleNamespace(side_data=[Data()]), "libx265") == {}
    assert "its mastering display is left out: only a part of it is known" in caplog.text


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "encoding", "words"),
    [
        ("ffv1", "yuv444p", Encoding(), "4:4:4 input .* (4:2:0); pix_fmt yuv444p keeps it"),
        ("ffv1", "yuv422p", Encoding(), "4:2:2 input .* (4:2:0); pix_fmt yuv422p keeps it"),
        (
            "ffv1",
            "yuv422p10le",
            Encoding(),
            "4:2:2 input .* (4:2:0); codec libx265 with pix_fmt yuv422p10le keeps 10",
        ),
        ("ffv1", "bgr0", Encoding(), "RGB input .* (4:2:0); lossless keeps it"),
        ("ffv1", "yuva420p", Encoding(), "its transparency, if it has any, is left out"),
        ("prores_ks", "yuva444p10le", Encoding(pix_fmt="yuv444p10le"), "its transparency, if it has any"),
        ("ffv1", "yuv420p", Encoding(), None),
        ("ffv1", "gray", Encoding(), None),
        ("ffv1", "yuv444p", Encoding(lossless=True), None),
    ],
)
def test_what_a_pixel_format_loses_is_warned_of(tmp_path, caplog, codec, pix_fmt, encoding, words):
    source = make_video(tmp_path / "in.mkv", frames=2, codec=codec, pix_fmt=pix_fmt)
    deblur(source, tmp_path / "out.mkv", encoding)
    if words is None:
        assert caplog.text == ""
    else:
        pattern = re.escape(words).replace(r"\ \.\*\ ", " .* ").replace(r"\.\*", ".*")
        assert re.search(pattern, caplog.text), caplog.text


def test_wrong_inputs_are_told_what_to_do(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mp4", frames=2)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "mine.safetensors").touch()
    for args, words in (
        (("https://example.com/a.mp4",), "https:/example.com/a.mp4: is an address; download the video"),
        ((weights,), "weights: holds weights; give a file of them as the weights, and a video as the input"),
        ((source, "--weights", weights), "weights: is a folder, not a weight file; give one in it"),
        ((source, "--crf", "52"), "crf must be from 0 to 51 for libx264, got 52; change or leave out --crf"),
        (
            (source, "--crf", "64", "--codec", "libvpx-vp9"),
            "crf must be from 0 to 63 for libvpx-vp9, got 64; change or leave out --crf",
        ),
    ):
        code, said, err = run_deblur_stub(*args, "-o", tmp_path / "out.mkv")
        assert code == 1 and said == "" and words in err and len(err.splitlines()) == 1, err
    assert names(tmp_path) == ["in.mp4", "weights"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile secret.mp4\n"),
        ("video.mp4", "ffconcat version 1.0\nfile secret.mp4\n"),
        ("list.mpd", '<?xml version="1.0"?>\n<MPD><Period><BaseURL>secret.mp4</BaseURL></Period></MPD>\n'),
    ],
)
def test_a_playlist_opens_no_other_file(tmp_path, run_deblur_stub, name, text):
    make_video(tmp_path / "secret.mp4", frames=3)
    (tmp_path / name).write_text(text)
    code, _, err = run_deblur_stub(tmp_path / name, "-o", tmp_path / "out.mp4")
    assert code == 1 and f"{name}: is a playlist; give a video of it" in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "secret.mp4"])


def test_other_xml_is_no_playlist(tmp_path, run_deblur_stub):
    (tmp_path / "feed.mp4").write_text('<?xml version="1.0"?>\n<rss version="2.0"></rss>\n' * 20)
    code, _, err = run_deblur_stub(tmp_path / "feed.mp4", "-o", tmp_path / "out.mp4")
    assert code == 1 and "feed.mp4: not a video, or truncated: " in err and "is a playlist" not in err
