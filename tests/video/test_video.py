"""Video in, video out: what goes in comes out, as it was."""

import re
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

av = pytest.importorskip("av", reason="PyAV is not installed")
from stfan.cli.hints import describe_error  # noqa: E402
from stfan.video import pipeline  # noqa: E402
from stfan.video.colour import FromTensor, to_tensor  # noqa: E402
from stfan.video.encoder import Encoding, SegmentWriter  # noqa: E402
from stfan.video.errors import KeptFramesError  # noqa: E402
from stfan.video.reader import VideoReader  # noqa: E402
from stfan.video.writer import VideoWriter  # noqa: E402
from support.samples import MS, RATE, Same, frames_of, make_video, pattern, sound_of, texts_of  # noqa: E402

EXACT = Encoding(codec="libx264", crf=0)  # which x264 takes as: no loss at all


def copy(source, out, encoding=EXACT, **part):
    """Through all but the network."""
    with VideoReader(source, **part) as opened:
        return pipeline.deblur_video(opened, VideoWriter(out, opened, encoding), out, Same()).frames


def luma_and_colour(path):
    """Of all frames, as they are stored: [(H, W)], [(H, W)]."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray().astype(int) for frame in container.decode(video=0)]
    return [frame[: len(frame) * 2 // 3] for frame in frames], [
        frame[len(frame) * 2 // 3 :] for frame in frames
    ]


def tags_of(path):
    """Matrix, range, primaries and transfer of the first frame."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc


@pytest.mark.parametrize(
    ("ending", "sound", "codec"),
    [
        ("mp4", "aac", None),
        ("mkv", "aac", None),
        ("mov", "aac", None),
        ("mp4", "libmp3lame", "libx265"),
        ("webm", "libopus", "libvpx-vp9"),
    ],
)
def test_frames_times_and_sound_are_kept(tmp_path, ending, sound, codec):
    source = make_video(tmp_path / f"in.{ending}", sound=sound, codec=codec or "libx264")
    out = tmp_path / f"out.{ending}"
    assert copy(source, out, Encoding(codec, crf=5)) == 12
    before, after = frames_of(source), frames_of(out)
    assert [time for time, _ in after] == [time for time, _ in before]
    assert max(np.abs(a - b).mean() for (_, a), (_, b) in zip(before, after, strict=True)) < 3
    assert sound_of(out) == sound_of(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"in.{ending}", f"out.{ending}"]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_uneven_times_are_kept(tmp_path, ending):
    times = [0, 40, 50, 200, 210, 215, 400, 1000, 1040, 1041, 1500, 1600]
    source = make_video(tmp_path / f"in.{ending}", times=times)
    copy(source, tmp_path / f"out.{ending}")
    assert [round(time * 1000) for time, _ in frames_of(tmp_path / f"out.{ending}")] == times


def test_times_across_segments(tmp_path, monkeypatch):
    """Where a segment ends the encoder forgets, but the order and the times of the packets go on."""
    monkeypatch.setattr("stfan.video.writer.SEGMENT_FRAMES", 5)
    monkeypatch.setattr("stfan.video.pipeline.SEGMENT_FRAMES", 5)
    times = list(np.cumsum([0, *np.random.default_rng(0).integers(1, 400, 22)]))
    source = make_video(tmp_path / "in.mkv", frames=23, times=list(map(int, times)))
    assert copy(source, tmp_path / "out.mp4") == 23
    before, after = frames_of(source), frames_of(tmp_path / "out.mp4")
    assert [round(time * 1000) for time, _ in after] == times
    assert max(np.abs(a - b).mean() for (_, a), (_, b) in zip(before, after, strict=True)) < 1
    with av.open(str(tmp_path / "out.mp4")) as container:
        packets = [(p.pts, p.dts) for p in container.demux(video=0) if p.pts is not None]
    assert all(dts <= pts for pts, dts in packets)
    assert all(a < b for (_, a), (_, b) in pairwise(packets))


def test_frames_without_times_follow_at_the_rate(tmp_path):
    """A bare H.264 stream has none."""
    source = make_video(tmp_path / "in.h264")
    copy(source, tmp_path / "out.mp4")
    assert [time for time, _ in frames_of(tmp_path / "out.mp4")] == [t / RATE for t in range(12)]


@pytest.mark.parametrize(("width", "height"), [(63, 47), (64, 47), (18, 16)])
def test_odd_sizes_are_kept(tmp_path, width, height):
    source = make_video(tmp_path / "in.mp4", width=width, height=height)
    copy(source, tmp_path / "out.mp4")
    before, after = frames_of(source)[3][1], frames_of(tmp_path / "out.mp4")[3][1]
    assert before.shape == after.shape == (3, height, width)
    assert np.abs(before - after).mean() < 1


@pytest.mark.parametrize("colorspace", [1, 5, 9, 2])  # BT.709, BT.601, BT.2020, not named
@pytest.mark.parametrize("color_range", [1, 2])  # limited, full
def test_colours_and_their_tags_are_kept(tmp_path, colorspace, color_range):
    """Luma to the bit, colour but for its way to full resolution and back."""
    tags = {"colorspace": colorspace, "color_range": color_range, "color_primaries": 5, "color_trc": 6}
    source = make_video(tmp_path / "in.mp4", frames=3, tags=tags)
    copy(source, tmp_path / "out.mp4")
    tags = tags_of(source)
    assert tags_of(tmp_path / "out.mp4") == tags and tags[0] == colorspace and tags[2:] == (5, 6)
    (luma, colour), (new_luma, new_colour) = luma_and_colour(source), luma_and_colour(tmp_path / "out.mp4")
    inside = luma[1] - new_luma[1]
    assert (inside == 0).mean() > 0.95  # but where RGB ends
    difference = new_colour[1] - colour[1]
    assert np.abs(difference).mean() < 1 and abs(difference.mean()) < 0.1


def test_colour_stays_in_its_place(tmp_path):
    """VP9 does not say where its colour samples are: to the left, as H.264's. Half a pixel off costs 3 levels."""
    source = make_video(tmp_path / "in.webm", codec="libvpx-vp9")
    copy(source, tmp_path / "out.mp4")
    (_, colour), (_, new_colour) = luma_and_colour(source), luma_and_colour(tmp_path / "out.mp4")
    assert np.abs(new_colour[3] - colour[3]).mean() < 1


@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("bits", [8, 10])
def test_no_colour_is_shifted(color_range, bits):
    """Of smooth colours within RGB every luma comes back, and the mean of Cb and Cr to a tenth of a level."""
    y, x = np.mgrid[:48, :64]
    step = 1 << (bits - 8)
    low, high = (16 * step, 235 * step) if color_range == 1 else (0, 256 * step - 1)
    luma = low + (high - low) * (0.5 + 0.25 * np.sin(x / 9 + y / 13))
    red, blue = (128 * step + 25 * step * np.sin(plane[:24, :32] / 5) for plane in (x, y))
    data = np.concatenate([plane.round().reshape(-1, 64) for plane in (luma, blue, red)])
    frame = av.VideoFrame.from_ndarray(
        data.astype(np.uint8 if bits == 8 else np.uint16), "yuv420p" if bits == 8 else "yuv420p10le"
    )
    frame.color_range, frame.colorspace, frame.time_base = color_range, 1, Fraction(1, RATE)
    back = FromTensor(64, 48, frame.format.name, frame)(to_tensor(frame)).to_ndarray() - data
    assert np.array_equal(back[:48], np.zeros((48, 64)))
    assert abs(back[48:].mean()) < 0.1 * step and np.abs(back[48:]).max() <= 8 * step


def test_rgb_is_exact():
    """By the formulas of H.273 alone, without a scaler's: black, white and the primaries of BT.709 in 8 bits."""
    like = pattern(0).reformat(format="yuv444p")
    like.colorspace, like.color_range, like.time_base = 1, 1, Fraction(1, RATE)
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    frame = FromTensor(5, 1, "yuv444p", like)(colours.T[:, None])
    frame.colorspace, frame.color_range = 1, 1
    wanted = [[16, 235, 63, 173, 32], [128, 128, 102, 42, 240], [128, 128, 240, 26, 118]]
    assert frame.to_ndarray()[:, 0].tolist() == wanted
    assert (to_tensor(frame)[:, 0] - colours.T).abs().max() < 2 / 255


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
@pytest.mark.parametrize("tags", [{"color_range": 1}, {"color_range": 2, "colorspace": 1}, {}])
def test_a_range_alone_is_kept_in_mp4(tmp_path, codec, tags):
    """H.264 has no word for it, MPEG-4 none for any colours: the file says it. But it says nothing of its own."""
    source = make_video(tmp_path / "in.mkv", frames=3, tags=tags)
    copy(source, tmp_path / "out.mp4", Encoding(codec))
    limited = codec == "libx265" and not tags  # what nobody says it says, as x265 does
    assert tags_of(tmp_path / "out.mp4") == ((2, 1, 2, 2) if limited else tags_of(source))


def test_ten_bits(tmp_path, caplog):
    source = make_video(tmp_path / "in.mkv", codec="ffv1", pix_fmt="yuv420p10le", tags={"color_range": 1})
    copy(source, tmp_path / "8.mkv")
    assert "10-bit input is written with 8 bits" in caplog.text
    copy(source, tmp_path / "10.mkv", Encoding(codec="ffv1", pix_fmt="yuv420p10le"))
    luma, kept = (luma_and_colour(path)[0][5] for path in (source, tmp_path / "10.mkv"))
    assert (luma % 4).any() and (luma == kept).mean() > 0.95  # but where RGB ends
    rounded = luma_and_colour(tmp_path / "8.mkv")[0][5]
    assert np.abs(rounded - luma / 4).max() < 3


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_what_is_advised_for_more_bits_keeps_them(tmp_path, caplog, bits):
    source = make_video(tmp_path / "in.mkv", frames=2, codec="ffv1", pix_fmt=f"yuv420p{bits}le")
    copy(source, tmp_path / "8.mkv")
    advice = re.search(r"-bit input .*; codec (\S+) with pix_fmt (\S+) keeps (\d+)$", caplog.text.strip())
    assert advice and advice[3] == str(min(bits, 12))
    copy(source, tmp_path / "more.mkv", Encoding(advice[1], pix_fmt=advice[2]))
    with av.open(str(tmp_path / "more.mkv")) as container:
        assert container.streams.video[0].format.components[0].bits == min(bits, 12)


def test_lossless_is_to_the_bit(tmp_path):
    source = make_video(tmp_path / "in.mp4", width=63, height=47)
    copy(source, tmp_path / "out.mkv", Encoding(lossless=True))
    for (_, before), (_, after) in zip(frames_of(source), frames_of(tmp_path / "out.mkv"), strict=True):
        assert np.array_equal(np.rint(before), after)


def test_rgb_video_becomes_yuv_that_says_so(tmp_path):
    source = make_video(tmp_path / "in.mov", codec="libx264rgb", pix_fmt="rgb24")
    copy(source, tmp_path / "out.mp4")
    assert tags_of(tmp_path / "out.mp4")[0] == 1
    (_, before), (_, after) = frames_of(source)[3], frames_of(tmp_path / "out.mp4")[3]
    assert np.abs(after - before).mean() < 6  # colours at half the resolution


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_turned_video_comes_out_upright(tmp_path, rotation):
    flat = make_video(tmp_path / "flat.mp4", frames=3)
    turned = make_video(
        tmp_path / "in.mp4", frames=3, rotation=rotation, tags={"sample_aspect_ratio": Fraction(4, 3)}
    )
    copy(turned, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        video = container.streams.video[0]
        assert next(container.decode(video)).rotation == 0
        assert video.sample_aspect_ratio == (Fraction(4, 3) if rotation == 180 else Fraction(3, 4))
    wanted = np.rot90(frames_of(flat)[1][1], rotation // 90, (1, 2))
    assert np.abs(frames_of(tmp_path / "out.mp4")[1][1] - wanted).mean() < 1


def test_shape_of_pixels_is_kept(tmp_path, caplog):
    source = make_video(tmp_path / "in.mp4", frames=2, tags={"sample_aspect_ratio": Fraction(128, 117)})
    for name, codec in (("1.mp4", "libx264"), ("2.mkv", "libx265"), ("3.mp4", "libvpx-vp9")):
        copy(source, tmp_path / name, Encoding(codec))
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].sample_aspect_ratio == Fraction(128, 117)
    assert caplog.text == ""
    copy(source, tmp_path / "4.mkv", Encoding(lossless=True))
    assert "the shape of its pixels, 128/117, is left out: ffv1 does not write it" in caplog.text


def test_an_encoders_own_times_of_decoding_do_not_matter():
    """x265's, of a stream of two frames, are of memory never written."""
    segments, seen = SegmentWriter.__new__(SegmentWriter), []
    segments.reorder = segments._packets = 0
    container = SimpleNamespace(mux=lambda packet: seen.append((packet.pts, packet.dts)))
    packets = [av.Packet(b"frame") for _ in range(3)]
    for packet, pts, dts in zip(
        packets, (0, 2, 1), (6655295901103053917, 6655295901103053918, -8), strict=True
    ):
        packet.pts, packet.dts = pts, dts
    segments._mux(container, packets)
    assert [pts for pts, _ in seen] == [0, 2, 1] and segments.reorder == 1
    assert all(dts <= pts for pts, dts in seen)
    assert all(before < after for (_, before), (_, after) in pairwise(seen))


TEXTS = [(40, 200, "Hello\nthere"), (280, 400, "and <i>again</i>")]


@pytest.mark.parametrize(
    ("ending", "codec", "to"),
    [
        ("mkv", "subrip", "mkv"),
        ("mkv", "subrip", "mp4"),
        ("mkv", "subrip", "mov"),
        ("mp4", "mov_text", "mp4"),
        ("mp4", "mov_text", "mkv"),
        ("mkv", "subrip", "webm"),
    ],
)
def test_subtitles_are_kept(tmp_path, ending, codec, to):
    """In another form where the container asks for it."""
    texts = TEXTS if codec == "subrip" else [(a, b, re.sub("<.*?>", "", words)) for a, b, words in TEXTS]
    source = make_video(tmp_path / f"in.{ending}", sound="aac", texts=(codec, texts))
    copy(source, tmp_path / f"out.{to}", Encoding())
    (language, texts), (_, original) = texts_of(tmp_path / f"out.{to}"), texts_of(source)
    assert language == "eng"
    begin, was = (round(1000 * frames_of(path)[0][0]) for path in (tmp_path / f"out.{to}", source))
    assert [(a - begin, b - begin) for a, b, _ in texts] == [(a - was, b - was) for a, b, _ in original]
    assert len(texts) == 2
    words = [re.sub(r"{.*?}", "", text.replace("\\N", "\n")) for *_, text in texts]
    assert words == ["Hello\nthere", "and again"]
    assert ("{\\i1}again" in texts[1][2]) == (codec == "subrip")


def test_what_does_not_fit_is_named(tmp_path, caplog):
    """Before any work is done; all else goes along."""
    source = make_video(tmp_path / "in.mkv", sound="pcm_s16le", texts=("subrip", TEXTS))
    assert copy(source, tmp_path / "out.mkv") == 12
    assert caplog.text == "" and sound_of(tmp_path / "out.mkv") == sound_of(source)
    assert copy(source, tmp_path / "out.webm", Encoding()) == 12
    assert "stream 1 (sound, pcm_s16le) is left out: .webm does not take it" in caplog.text
    with av.open(str(tmp_path / "out.webm")) as container:
        assert [stream.type for stream in container.streams] == ["video", "subtitle"]


def test_a_part_begins_at_zero_with_its_sound(tmp_path):
    source = make_video(tmp_path / "in.mkv", frames=50, sound="aac", texts=("subrip", [(800, 1100, "mid")]))
    assert copy(source, tmp_path / "out.mkv", start=1.0, end=1.6) == 15
    whole, part = frames_of(source), frames_of(tmp_path / "out.mkv")
    assert [time for time, _ in part] == pytest.approx([t / RATE for t in range(15)], abs=1e-9)
    for (_, before), (_, after) in zip(whole[25:40], part, strict=True):
        assert np.abs(before - after).mean() < 3
    shifted = [(pts - 1000, data) for pts, data in sound_of(source) if 1000 <= pts < 1600]
    assert sound_of(tmp_path / "out.mkv") == shifted
    assert texts_of(tmp_path / "out.mkv")[1] == [(0, 100, "mid")]  # what was being shown


def test_first_frames_alone(tmp_path):
    source = make_video(tmp_path / "in.mp4", sound="aac")
    assert copy(source, tmp_path / "out.mp4", max_frames=5) == 5
    assert len(frames_of(tmp_path / "out.mp4")) == 5
    last = sound_of(tmp_path / "out.mp4")[-1][0] / 48000
    assert 5 / RATE - 1024 / 48000 <= last < 5 / RATE
    assert copy(source, tmp_path / "all.mp4", max_frames=12) == 12
    assert sound_of(tmp_path / "all.mp4") == sound_of(source)
    with VideoReader(source, max_frames=5) as five, VideoReader(source, 0.2, 0.4) as some:
        assert (five.expected_frames, some.expected_frames) == (5, 5)


@pytest.mark.parametrize("late", [0, 5000])
def test_title_language_and_chapters_are_kept(tmp_path, late):
    source = make_video(tmp_path / "plain.mkv", sound="aac", late=late // 1000)
    with av.open(str(source)) as plain, av.open(str(tmp_path / "in.mkv"), "w") as named:
        streams = {}
        for stream in plain.streams:
            streams[stream.index] = named.add_stream_from_template(stream, opaque=True)
            streams[stream.index].metadata["language"] = "fin"
        named.metadata["title"] = "Kesä"
        chapter = {"id": 1, "start": late, "end": late + 240, "time_base": MS, "metadata": {"title": "one"}}
        named.set_chapters([chapter])
        for packet in plain.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                named.mux(packet)
    copy(tmp_path / "in.mkv", tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.metadata["title"] == "Kesä"
        assert [stream.language for stream in container.streams] == ["fin", "fin"]
        assert [(c["start"], c["end"], c["metadata"]["title"]) for c in container.chapters()] == [
            (0, 240 * 10**6, "one")
            if container.chapters()[0]["time_base"] == Fraction(1, 10**9)
            else (0, 240, "one")
        ]


def test_a_long_last_frame_is_no_truncation(tmp_path):
    source = make_video(tmp_path / "in.mkv", frames=3, times=[0, 40, 4000])
    assert copy(source, tmp_path / "out.mkv") == 3


def test_one_frame(tmp_path):
    assert copy(make_video(tmp_path / "in.mp4", frames=1), tmp_path / "out.mp4") == 1
    assert len(frames_of(tmp_path / "out.mp4")) == 1


def test_names_say_nothing_but_the_container(tmp_path):
    """A name with a colon is no address, and one with the wrong ending is a video all the same."""
    source = make_video(tmp_path / "in.mp4").rename(tmp_path / "12:30.avi")
    assert copy(source, tmp_path / "at 12:30.MP4") == 12


@pytest.mark.parametrize(
    ("name", "encoding", "words"),
    [
        ("out.mp4", Encoding(codec="nonsense"), "codec nonsense: no video encoder"),
        ("out.mp4", Encoding(codec="aac"), "codec aac: no video encoder"),
        ("out.mov", Encoding("libvpx-vp9"), "out.mov: cannot be written by codec libvpx-vp9, crf 20"),
        ("out.webm", Encoding(codec="libx264"), "out.webm: cannot be written by codec libx264"),
        ("out.mkv", Encoding(codec="ffv1", crf=3), "crf: ffv1 has no such option"),
        ("out.mp4", Encoding(preset="rapid"), "^preset must be one of libx264's, ultra.*; got 'rapid'$"),
        (
            "out.mp4",
            Encoding("libsvtav1", preset="99"),
            "by codec libsvtav1, .*: 99 is no preset of the codec",
        ),
        ("out.mp4", Encoding(pix_fmt="rgb48le"), "pix_fmt rgb48le: libx264 takes yuv420p, "),
        ("out.mkv", Encoding(codec="libx264", lossless=True), "no other codec or pix_fmt"),
        ("out.avi", Encoding(), "should end in .mp4, .m4v, .mov, .mkv, .webm"),
    ],
)
def test_encodings_that_can_not_be_are_refused_at_once(tmp_path, capfd, name, encoding, words):
    source = make_video(tmp_path / "in.mp4", frames=3)
    with VideoReader(source) as opened, pytest.raises(ValueError, match=words):
        VideoWriter(tmp_path / name, opened, encoding)
    assert capfd.readouterr().err == ""  # what an encoder writes itself


def test_no_frames(tmp_path):
    make_video(tmp_path / "in.mkv", frames=0, texts=("subrip", [(0, 1000, "alone")]))
    for path, part, words in (
        (tmp_path / "in.mkv", {}, "in.mkv: holds no frames"),
        (
            make_video(tmp_path / "late.mp4", frames=3),
            {"start": 9.0},
            "holds no frames there, from start to end",
        ),
    ):
        with pytest.raises(ValueError, match=words), VideoReader(path, **part) as opened:
            VideoWriter(tmp_path / "out.mp4", opened, Encoding())


def test_frames_that_change_their_size_are_named(tmp_path):
    small, large = (make_video(tmp_path / f"{side}.h264", frames=3, width=side) for side in (64, 80))
    (tmp_path / "in.h264").write_bytes(small.read_bytes() + large.read_bytes())
    with (
        VideoReader(tmp_path / "in.h264") as opened,
        pytest.raises(ValueError, match=r"frame 3 is 80x48, .* 64x48, until 0.12 s"),
    ):
        list(opened.frames())


def test_what_was_before_another_size_is_kept(tmp_path):
    """As a file that plays; and the advised --end gives all of it."""
    small, large = (make_video(tmp_path / f"{side}.h264", frames=3, width=side) for side in (64, 80))
    (tmp_path / "in.h264").write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(KeptFramesError, match=r"until 0\.12 s") as error:
        copy(tmp_path / "in.h264", tmp_path / "out.mp4")
    kept = tmp_path / "out.mp4.partial" / "out.mp4"
    assert (error.value.frames, error.value.path, error.value.playable) == (3, kept, True)
    assert "until 0.12 s; --end 0.12 ends before it (the 3 frames before it" in describe_error(error.value)
    assert len(frames_of(kept)) == 3 and not (tmp_path / "out.mp4").exists()
    assert copy(tmp_path / "in.h264", tmp_path / "part.mp4", end=0.12) == 3
