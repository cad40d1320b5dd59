"""Recordings that people have: mirrored, cropped, grey, interlaced, encrypted, with streams few containers hold."""

import re
import struct
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
from av.sidedata.sidedata import Type  # noqa: E402
from av.stream import Disposition  # noqa: E402
from av.video.reformatter import ColorRange  # noqa: E402

from stfan.video.encoder import Encoding  # noqa: E402
from stfan.video.orientation import find_orientation  # noqa: E402
from stfan.video.partial_output import SEGMENT_FRAMES  # noqa: E402
from stfan.video.reader import VideoReader  # noqa: E402
from stfan.video.side_data import lost_side_data  # noqa: E402
from stfan.video.source import UnreadableVideoError, probe  # noqa: E402
from stfan.video.truncation import missing_bytes  # noqa: E402
from support.deblurring import deblur  # noqa: E402
from support.samples import MS, RATE, Trail, frames_of, make_video, pattern, sound_of  # noqa: E402

EXACT = Encoding(codec="libx264", crf=0)


def matrix(a, b, c, d):
    return struct.pack("=9i", *(round(65536 * v) for v in (a, b, 0, c, d)), 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((-1, 0, 0, 1), lambda p: p[:, :, ::-1]),  # mirrored
        ((1, 0, 0, -1), lambda p: p[:, ::-1]),  # upside down, as stored
        ((0, 1, 1, 0), lambda p: p.transpose(0, 2, 1)),
        ((0, -1, -1, 0), lambda p: p[:, ::-1, ::-1].transpose(0, 2, 1)),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1, (1, 2))),  # x goes down: clockwise
        ((-1, 0, 0, -1), lambda p: p[:, ::-1, ::-1]),
        ((0.9986, 0.0523, -0.0523, 0.9986), lambda p: p),  # by 3 degrees
    ],
)
def test_frames_are_shown_as_the_matrix_asks(tmp_path, caplog, numbers, wanted):
    plain = make_video(tmp_path / "plain.mp4", frames=2)
    data = bytearray(plain.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", *struct.unpack("=9i", matrix(*numbers)))
    (tmp_path / "in.mp4").write_bytes(data)
    out = deblur(tmp_path / "in.mp4", tmp_path / "out.mp4", EXACT).path
    pictures = [wanted(pixels) for _, pixels in frames_of(plain)]
    got = [pixels for _, pixels in frames_of(out)]
    assert got[0].shape == pictures[0].shape
    assert max(np.abs(a - b).mean() for a, b in zip(got, pictures, strict=True)) < 1.5
    assert caplog.text.count("a turn by 3 degrees is left out") == (numbers[1] == 0.0523)


def test_an_angle_beyond_45_degrees_is_a_quarter_turn():
    angle = np.radians(80)
    found = find_orientation(matrix(np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)))
    assert (found.mirror, found.turns) == (False, 3) and found.off == pytest.approx(10, abs=0.01)


def test_matroskas_crop_is_applied(tmp_path):
    source = make_video(
        tmp_path / "in.mkv", frames=2, tags={"colorspace": 1, "color_primaries": 1, "color_trc": 1}
    )
    data, before = bytearray(source.read_bytes()), frames_of(source)
    at = data.index(b"\x55\xb0")  # Colour, in whose place come PixelCropTop, PixelCropLeft and Void
    size = 3 + (data[at + 2] & 0x7F)
    crop = b"\x54\xbb\x81\x06\x54\xcc\x81\x0a"
    data[at : at + size] = crop + bytes([0xEC, 0x80 | size - 10]) + bytes(size - 10)
    source.write_bytes(data)
    out = deblur(source, tmp_path / "out.mkv", EXACT).path
    for (_, whole), (_, part) in zip(before, frames_of(out), strict=True):
        assert part.shape == (3, 48 - 6, 64 - 10)
        assert np.abs(part - whole[:, 6:, 10:]).mean() < 1.5


@pytest.mark.parametrize("named", [ColorRange.MPEG, ColorRange.JPEG, ColorRange.UNSPECIFIED])
@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le"])
def test_luma_of_grey_is_kept(tmp_path, named, pix_fmt):
    """To the bit, in the range that it names, or in full range."""
    low, high = (16, 235) if named == ColorRange.MPEG else (0, 255)
    bits = 10 if pix_fmt == "gray10le" else 8
    ramp = np.tile(np.linspace(low << bits - 8, high << bits - 8, 64).round(), (48, 1))
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", 10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.color_range = named
        for i in range(2):
            frame = av.VideoFrame.from_ndarray(ramp.astype(np.uint8 if bits == 8 else np.uint16), pix_fmt)
            frame.pts, frame.color_range = i, named
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    encoding = EXACT if bits == 8 else Encoding("ffv1", pix_fmt="yuv420p10le")
    out = deblur(tmp_path / "in.mkv", tmp_path / "out.mkv", encoding).path
    with av.open(str(out)) as container:
        frame = next(container.decode(video=0))
    assert np.array_equal(frame.to_ndarray()[:48], ramp)
    assert frame.color_range == (ColorRange.MPEG if named == ColorRange.MPEG else ColorRange.JPEG)


def test_a_length_that_was_never_known_is_no_truncation(tmp_path):
    source = make_video(tmp_path / "in.avi", codec="mjpeg", pix_fmt="yuvj420p")
    data = source.read_bytes()
    for length, missing in (
        (0xFFFFFFFF, 0),
        (0, 0),
        (len(data), 0),
        (len(data) - 8, 0),
        (len(data) + 992, 1000),
    ):
        source.write_bytes(data[:4] + length.to_bytes(4, "little") + data[8:])
        assert missing_bytes(source) == missing
    source.write_bytes(data[:4] + b"\xff" * 4 + data[8:])
    assert deblur(source, tmp_path / "out.mp4").frames == 12


INTERLACED = {"x264-params": "tff=1"}


def test_interlaced_frames_become_whole_ones(tmp_path, caplog):
    """One for each, at its time; and a resumed run makes the same."""
    times = [40 * t + t % 3 for t in range(SEGMENT_FRAMES + 6)]
    source = make_video(tmp_path / "in.mkv", frames=len(times), height=64, times=times, coding=INTERLACED)
    with VideoReader(source) as reader, VideoReader(source, deinterlace=False) as raw:
        frames, stored = list(reader.frames()), list(raw.frames())
    assert [frame.time for frame, _ in frames] == [frame.time for frame, _ in stored]
    assert all(
        not (a == b).all() and (a - b).abs().mean() < 0.05
        for (_, a), (_, b) in zip(frames, stored, strict=True)
    )
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"its frames are interlaced, and are {words}"
        for words in ("deinterlaced, by bwdif", "deblurred and written as if they were not")
    ]
    whole = deblur(source, tmp_path / "whole.mkv", model=Trail).path
    stop = iter([*[False] * (SEGMENT_FRAMES + 2), True])
    assert not deblur(source, tmp_path / "out.mkv", model=Trail, stop=lambda: next(stop)).complete
    assert deblur(source, tmp_path / "out.mkv", model=Trail, resume=True).resumed == SEGMENT_FRAMES + 3
    assert all(
        np.array_equal(a, b)
        for (_, a), (_, b) in zip(frames_of(whole), frames_of(tmp_path / "out.mkv"), strict=True)
    )


def test_progressive_frames_among_interlaced_ones_stay_as_they_are(tmp_path):
    """To the bit: a recording in which the programme follows the news."""
    parts = [
        make_video(tmp_path / f"{n}.ts", frames=6, height=64, coding=coding)
        for n, coding in enumerate(({}, INTERLACED, {}))
    ]
    (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoReader(tmp_path / "in.ts") as reader, VideoReader(tmp_path / "in.ts", deinterlace=False) as raw:
        same = [bool((a == b).all()) for (_, a), (_, b) in zip(reader.frames(), raw.frames(), strict=True)]
    assert same == [True] * 6 + [False] * 6 + [True] * 6


def test_a_video_without_a_decoder_is_named_by_its_tag(tmp_path, run_deblur_stub):
    source = make_video(tmp_path / "in.mp4", frames=2)
    data = source.read_bytes()
    at = data.index(b"avc1", data.index(b"stsd"))
    source.write_bytes(data[:at] + b"CRAW" + data[at + 4 :])
    code, said, err = run_deblur_stub(source, "-o", tmp_path / "out.mp4")
    assert (code, said) == (1, "") and len(err.splitlines()) == 1
    assert f"{source}: its video has the codec CRAW, which this FFmpeg cannot decode" in err


@pytest.mark.parametrize("to", ["mp4", "mkv"])
def test_subtitles_without_a_decoder_are_left_out(tmp_path, caplog, to):
    source = make_video(tmp_path / "in.mkv", sound="aac", texts=("subrip", [(0, 200, "Hello")]))
    data = source.read_bytes()
    source.write_bytes(data.replace(b"S_TEXT/UTF8", b"S_TEXT/XXXX"))
    out = deblur(source, tmp_path / f"out.{to}").path
    (line,) = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"stream 2 \(subtitles, .*eng\) is left out: this FFmpeg has no decoder for it", line)
    assert len(frames_of(out)) == 12 and len(sound_of(out)) == len(sound_of(source))


def with_sound(path, codec, rate=48000, samples="s16"):
    """A short video with sound of some codec."""
    with av.open(str(path), "w", format={"m2ts": "mpegts", "wmv": "asf"}.get(path.suffix[1:])) as container:
        mpeg = path.suffix == ".m2ts"
        video = container.add_stream("mpeg2video" if mpeg else "mjpeg", RATE)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p" if mpeg else "yuvj420p"
        sound = container.add_stream(codec, rate)
        sound.layout = "stereo"
        if codec == "wmav2":
            sound.bit_rate = 64000
        count = 0
        for t in range(10):
            container.mux(video.encode(pattern(t)))
            while count < rate * (t + 1) // RATE:
                size = sound.codec_context.frame_size or 256
                wave = np.sin(np.arange(count, count + size) / 20) * 0.3
                block = np.repeat((wave * 32767).astype(np.int16), 2)[None]
                if samples == "fltp":
                    block = np.tile(wave.astype(np.float32), (2, 1))
                frame = av.AudioFrame.from_ndarray(block, samples, "stereo")
                frame.sample_rate, frame.pts = rate, count
                container.mux(sound.encode(frame))
                count += size
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def samples_of(path):
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])


@pytest.mark.parametrize(
    ("name", "codec", "rate", "samples"),
    [("in.avi", "pcm_alaw", 8000, "s16"), ("in.wmv", "wmav2", 44100, "fltp")],
)
def test_sound_that_matroska_takes_if_asked_is_kept(tmp_path, caplog, name, codec, rate, samples):
    """In folders whose names mean something to FFmpeg, too."""
    source = with_sound(tmp_path / name, codec, rate, samples)
    folder = tmp_path / "a|b [c] 'd' \\e:f"
    folder.mkdir()
    out = deblur(source, folder / "out.mkv").path
    assert [data for _, data in sound_of(out)] == [data for _, data in sound_of(source)] and caplog.text == ""
    assert len(frames_of(out)) == 10
    deblur(source, tmp_path / "out.mp4")
    assert f"({'sound'}, {codec}) is left out: .mp4 does not take it, .mkv would" in caplog.text


@pytest.mark.parametrize("to", ["mp4", "mov", "mkv"])
def test_sound_of_discs_is_converted_without_loss(tmp_path, caplog, to):
    source = with_sound(tmp_path / "in.m2ts", "pcm_bluray")
    out = deblur(source, tmp_path / f"out.{to}").path
    assert f"(sound, pcm_bluray) is converted: to pcm_s16le, which .{to} takes" in caplog.text
    assert np.array_equal(samples_of(source), samples_of(out)) and len(samples_of(out)) > 2 * 19000


def test_sound_that_nothing_takes_advises_nothing(tmp_path, caplog):
    source = with_sound(tmp_path / "in.m2ts", "pcm_bluray")
    deblur(source, tmp_path / "out.webm", Encoding())
    assert "(sound, pcm_bluray) is left out: .webm does not take it, .mkv would" in caplog.text


def copy_with(source, path, change, options=None):
    """Copy a file's streams; `change(out, streams)` may add to it, and returns packets to write first."""
    with av.open(str(source)) as old, av.open(str(path), "w", container_options=options or {}) as new:
        streams = {s.index: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        more = change(new, streams) or []
        for packet in old.demux():
            if packet.dts is None:
                continue
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
        for packet in more:
            new.mux(packet)
    return path


def test_the_largest_video_counts_and_never_a_cover(tmp_path, caplog):
    small, large = (make_video(tmp_path / f"{n}.mkv", frames=3, width=n) for n in (32, 64))
    with av.open(str(small)) as a, av.open(str(large)) as b, av.open(str(tmp_path / "in.mkv"), "w") as out:
        new = [out.add_stream_from_template(container.streams.video[0], opaque=True) for container in (a, b)]
        for container, stream in zip((a, b), new, strict=True):
            stream.disposition = Disposition(0)
            for packet in container.demux(video=0):
                if packet.pts is not None:
                    packet.stream = stream
                    out.mux(packet)
    found = probe(tmp_path / "in.mkv")
    assert (found.index, found.width) == (1, 64)
    deblur(tmp_path / "in.mkv", tmp_path / "out.mkv")
    assert "stream 0 (further video, h264) is left out: one video is written" in caplog.text


def test_cover_chapters_and_timecode_are_kept_and_called_so(tmp_path, caplog):
    plain = make_video(tmp_path / "plain.mp4", sound="aac")
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width = encoder.height = 32
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, RATE)
    (picture,) = [*encoder.encode(pattern(0, 32, 32).reformat(format="yuvj420p")), *encoder.encode(None)]

    def change(out, streams):
        out.metadata["timecode"] = "01:02:03:04"
        chapter = {"id": 1, "start": 0, "end": 240, "time_base": MS, "metadata": {"title": "one"}}
        out.set_chapters([chapter])
        cover = out.add_stream("mjpeg")
        cover.width = cover.height = 32
        cover.pix_fmt, cover.disposition = "yuvj420p", Disposition.attached_pic
        packet = av.Packet(bytes(picture))
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, RATE), cover, True
        return [packet]

    source = copy_with(plain, tmp_path / "in.mp4", change)
    for to in ("mp4", "mkv"):
        out = deblur(source, tmp_path / f"out.{to}").path
        assert caplog.text == ""
        with av.open(str(out)) as container:
            (cover,) = (s for s in container.streams.video if s.disposition & Disposition.attached_pic)
            assert cover.codec_context.name == "mjpeg"
            assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["one"]
            named = {
                k.lower(): v for k, v in (container.streams.video[0].metadata | container.metadata).items()
            }
            assert named["timecode"] == "01:02:03:04"
        assert len(frames_of(out)) == 12


@pytest.mark.parametrize("to", ["mp4", "mov"])
def test_place_date_maker_and_model_are_kept(tmp_path, to):
    keys = {
        "com.apple.quicktime.location.ISO6709": "+60.1699+024.9384+010/",
        "com.apple.quicktime.creationdate": "2026-06-24T12:00:00+0300",
        "com.apple.quicktime.make": "Maker",
        "com.apple.quicktime.model": "Model 3",
        "title": "Kesä",
    }
    plain = make_video(tmp_path / "plain.mov", frames=3)
    source = copy_with(
        plain,
        tmp_path / "in.mov",
        lambda out, _: out.metadata.update(keys),
        {"movflags": "use_metadata_tags"},
    )
    out = deblur(source, tmp_path / f"out.{to}").path
    with av.open(str(source)) as old, av.open(str(out)) as new:
        assert {k: new.metadata.get(k) for k in keys} == {k: old.metadata.get(k) for k in keys} == keys


def test_closed_captions_are_warned_of(tmp_path, caplog):
    """In a SEI unit before the first slice of each frame."""
    source = make_video(tmp_path / "plain.h264", frames=3, coding={"x264-params": "bframes=0:slices=1"})
    data = bytes([0xB5, 0, 0x31]) + b"GA94\x03\xc1\xff\xfc\x94\x20\xff"
    unit = b"\x00\x00\x01\x06\x04" + bytes([len(data)]) + data + b"\x80"
    coded = re.sub(rb"(?=\x00\x00\x01[\x65\x41])", lambda _: unit, source.read_bytes())
    (tmp_path / "in.h264").write_bytes(coded)
    deblur(tmp_path / "in.h264", tmp_path / "out.mp4")
    assert "closed captions in its frames are left out" in caplog.text


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("SPHERICAL", b"", "its projection"),
        ("STEREO3D", b"", "its arrangement in two views"),
        ("ICC_PROFILE", b"", "its colour profile"),
        ("PANSCAN", struct.pack("=3i", 1, 16 * 32, 16 * 48), "its pan-and-scan window"),
        ("PANSCAN", struct.pack("=3i", 1, 16 * 64, 16 * 48), None),
        ("AFD", bytes([10]), "its active format description"),
        ("AFD", bytes([8]), None),
        ("GOP_TIMECODE", bytes([1, 16, 0, 0, 0, 0, 0, 0]), "the timecode in its frames"),
        ("GOP_TIMECODE", bytes([0, 16, 0, 0, 0, 0, 0, 0]), None),
        ("S12M_TIMECODE", b"", "the timecode in its frames"),
        ("AMBIENT_VIEWING_ENVIRONMENT", b"", "its ambient viewing environment"),
        ("DYNAMIC_HDR_VIVID", b"", "its dynamic HDR metadata (HDR Vivid)"),
    ],
)
def test_side_data_that_is_lost_is_named_unless_it_says_nothing(kind, data, words):
    lost = lost_side_data(av.VideoFrame(64, 48, "yuv420p"), {Type[kind]: data})
    assert [name for name, _ in lost] == ([] if words is None else [words])


def test_transparency_that_matroska_alone_names_is_warned_of(tmp_path, caplog):
    plain = make_video(tmp_path / "plain.webm", frames=3, codec="libvpx-vp9")
    source = copy_with(
        plain, tmp_path / "in.webm", lambda _, streams: streams[0].metadata.update(alpha_mode="1")
    )
    deblur(source, tmp_path / "out.webm", Encoding())
    assert caplog.text.count("its transparency is left out") == 1


def test_an_encrypted_file_is_called_so(tmp_path):
    plain = make_video(tmp_path / "plain.mp4", frames=3)
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    source = copy_with(plain, tmp_path / "in.mp4", lambda *_: None, options)
    with pytest.raises(UnreadableVideoError, match=r"is encrypted \(Common Encryption\)"):
        probe(source)


def test_an_encrypted_matroska_file_is_called_so(tmp_path):
    plain = make_video(tmp_path / "plain.mp4", frames=3)
    data = copy_with(plain, tmp_path / "in.mkv", lambda *_: None, {"live": "1"}).read_bytes()

    def element(name, content):
        return bytes.fromhex(name) + (len(content) | 1 << 56).to_bytes(8, "big") + content

    encryption = element("5035", element("47e1", b"\5") + element("47e2", b"\x11" * 16))
    added = element("6d80", element("6240", element("5033", b"\1") + encryption))
    tracks = data.rindex(bytes.fromhex("1654ae6b")) + 4  # the first one is in the list of what is where
    entry = data.index(b"\xae\1", tracks) + 1

    def lengthened(at, size):
        return (int.from_bytes(data[at : at + size], "big") + len(added)).to_bytes(size, "big")

    whole = [data[:tracks], lengthened(tracks, 2), data[tracks + 2 : entry], lengthened(entry, 8), added]
    (tmp_path / "in.mkv").write_bytes(b"".join([*whole, data[entry + 8 :]]))
    with pytest.raises(UnreadableVideoError, match=r"in\.mkv: is encrypted \(Matroska\)"):
        probe(tmp_path / "in.mkv")


def test_an_animated_webp_is_called_so(tmp_path):
    """Whatever this FFmpeg can do with it."""
    from PIL import Image

    pictures = [Image.fromarray(np.full((48, 64, 3), 40 * i, np.uint8)) for i in range(3)]
    pictures[0].save(tmp_path / "in.webp", save_all=True, append_images=pictures[1:])
    with pytest.raises(UnreadableVideoError, match="is an animated WebP, which is not decoded; make a GIF"):
        probe(tmp_path / "in.webp")
    pictures[0].save(tmp_path / "one.webp")
    with pytest.raises(UnreadableVideoError, match="is one picture"):
        probe(tmp_path / "one.webp")


@pytest.mark.parametrize(("to", "most"), [("mkv", 2048), ("mp4", 0)])
def test_sound_that_an_edit_list_hides_is_not_heard(tmp_path, to, most):
    """But for a part of one packet and the one before, which a decoder needs and .mkv cannot hide."""
    source = make_video(tmp_path / "in.mp4", frames=25, sound="aac")
    data = bytearray(source.read_bytes())
    at = data.index(b"elst", data.index(b"elst") + 4)
    struct.pack_into(">i", data, at + 16, 19200 + 1024)  # 0.4 s after its start
    source.write_bytes(data)
    out = deblur(source, tmp_path / f"out.{to}").path
    with av.open(str(out)) as container:
        picture = container.streams.video[0]
        begin = float(next(container.decode(picture)).time)
        container.seek(0)
        heard = [p for p in container.demux(audio=0) if p.size and not p.is_discard]
    # in samples, 48 are a tick of .mkv; where no time may be negative, the picture begins late instead
    assert (begin - float(heard[0].pts * heard[0].time_base)) * 48000 <= max(most, 1024) + 48
    hidden = sum(p.is_discard for p in av.open(str(source)).demux(audio=0))
    assert hidden >= 19 and len(heard) <= len(sound_of(source)) - hidden + (most > 0)


def test_empty_packets_repeat_the_frame_before(tmp_path):
    """As Theora has them; a decoder refuses them, and they are no frames."""
    source = tmp_path / "in.nut"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mpeg4", RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for t in range(6):
            for packet in stream.encode(pattern(t)):
                again = av.Packet(b"" if t in (2, 5) else bytes(packet))
                again.pts = again.dts = t
                again.duration, again.time_base, again.stream = 1, Fraction(1, RATE), stream
                again.is_keyframe = t == 0
                container.mux(again)
    result = deblur(source, tmp_path / "out.mkv")
    assert [round(RATE * time) for time, _ in frames_of(result.path)] == [0, 1, 3, 4] and result.frames == 4
    with av.open(str(result.path)) as container:
        ends = [(p.pts + p.duration) * p.time_base for p in container.demux(video=0) if p.size]
    assert max(ends) == pytest.approx(6 / RATE)


def test_reordered_frames_of_avi_have_their_own_times(tmp_path, caplog):
    """FFmpeg knows when MPEG-4's are shown, and takes H.264's to be shown as they are decoded."""
    for codec in ("mpeg4", "libx264"):
        source = make_video(tmp_path / f"{codec}.avi", frames=15, codec=codec, coding={"bf": "2"})
        times = [time for time, _ in frames_of(deblur(source, tmp_path / f"{codec}.mp4").path)]
        assert np.diff(times) == pytest.approx(np.full(14, 1 / RATE), abs=1e-3)
    assert caplog.text == ""


@pytest.mark.parametrize(("matrix", "known"), [("bt2020c", True), ("YCgCo", False)])
def test_colours_by_a_matrix_that_the_scaler_refuses(tmp_path, caplog, matrix, known):
    """Luma is kept to the bit, by a matrix that is not known to one level, where colours are cut off."""
    coding = {"crf": "10", "x264-params": f"colormatrix={matrix}"}
    source = make_video(tmp_path / "in.mp4", frames=3, coding=coding)
    out = deblur(source, tmp_path / "out.mp4", EXACT).path
    with av.open(str(source)) as old, av.open(str(out)) as new:
        for a, b in zip(old.decode(video=0), new.decode(video=0), strict=True):
            lumas = [np.frombuffer(f.planes[0], np.uint8).reshape(48, -1)[:, :64] for f in (a, b)]
            assert a.colorspace == b.colorspace
            assert np.abs(np.diff(np.int16(lumas), axis=0)).max() <= (0 if known else 1)
    assert ("of H.273) is not known" in caplog.text) is not known


@pytest.mark.parametrize("to", ["mp4", "mkv"])
def test_a_damaged_packet_of_sound_is_left_out(tmp_path, caplog, to):
    """A container looks into what it is given."""
    source = make_video(tmp_path / "in.ts", frames=12, sound="aac")
    data = bytearray(source.read_bytes())
    at = [found.start() for found in re.finditer(rb"\xff\xf1[\x40-\x5f]", data)]
    data[at[4] : at[4] + 2] = b"\x93\xde"
    source.write_bytes(data)
    out = deblur(source, tmp_path / f"out.{to}")
    assert out.complete and len(frames_of(out.path)) == 12
    assert f"1 damaged packet of sound or subtitles left out: .{to}" in caplog.text
    assert len(sound_of(out.path)) >= len(sound_of(source)) - 2


def test_info_prints_the_plan(tmp_path, run_cli_inprocess):
    source = with_sound(tmp_path / "in.avi", "pcm_alaw", 8000)
    done = run_cli_inprocess("info", source)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{source} to {tmp_path}/in_deblurred.mp4, codec libx264, crf 16")
    assert lines[1:] == [
        "  stream 0 (video, mjpeg): 10 frames, 64x48, 0.36 s is kept",
        "  stream 1 (sound, pcm_alaw) is left out: .mp4 does not take it, .mkv would",
    ]
    done = run_cli_inprocess("info", source, "-o", "any.mkv")
    assert done.stdout.splitlines()[2] == "  stream 1 (sound, pcm_alaw) is kept"
    assert [path.name for path in tmp_path.iterdir()] == ["in.avi"]
