"""NVIDIA's encoders, as far as they go without such a GPU: their options, and what a machine without one says."""

import io
from fractions import Fraction

import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.video.encoder import Encoding  # noqa: E402
from support.samples import make_video, names  # noqa: E402

CODECS = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")


@pytest.mark.parametrize("codec", CODECS)
def test_crf_is_their_constant_quality(codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    private = {option.name for option in av.CodecContext.create(codec, "w").supported_options.private}
    assert {"cq", "rc"} <= private and "crf" not in private
    with av.open(io.BytesIO(), "w", format="matroska") as container:
        stream = Encoding(codec, 30, "p5", "yuv420p").add_stream(container, Fraction(25), 64, 64, {}, {})
        assert stream.options == {"cq": "30", "preset": "p5", "rc": "vbr", "b": "0"}


@pytest.mark.parametrize("codec", CODECS)
def test_a_machine_without_them_says_so(tmp_path, run_deblur_stub, codec):
    source = make_video(tmp_path / "in.mp4", frames=2)
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    code, out, err = run_deblur_stub(source, "--codec", codec, "--crf", "20")
    if code == 0:
        pytest.skip("this machine has one")
    assert code == 1 and out == "" and len(err.splitlines()) == 1
    assert err.startswith(
        f"stfan: codec {codec}: this machine's GPU and driver offer no such encoder; try libx264 ("
    )
    assert names(tmp_path) == ["in.mp4"]
    code, _, err = run_deblur_stub(source, "--codec", codec, "--crf", "64")
    assert code == 1 and "crf must be from 0 to" in err
