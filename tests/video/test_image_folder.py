"""stfan deblur on folders of pictures: the same names and kinds go out as came in."""

import json
from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("typer", reason="typer is not installed")
from stfan.cli import deblur
from stfan.video.image_folder import ImageFolderReader
from stfan.video.partial_output import SEGMENT_FRAMES
from support.samples import Interrupt, frames_of, make_video, names


def make_pictures(folder, frames, names="frame{}.png"):
    folder.mkdir()
    video = make_video(folder / "v.mkv", frames=frames, codec="ffv1", pix_fmt="bgr0")
    for t, (_, pixels) in enumerate(frames_of(video)):
        Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0)).save(folder / names.format(t))
    return video.rename(folder.with_suffix(".mkv"))


def test_pictures_in_and_out(tmp_path, run_deblur_stub):
    """The same as the video that they are the frames of, in the order of their numbers."""
    video = make_pictures(tmp_path / "in", 12)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    code, out, err = run_deblur_stub(tmp_path / "in")
    assert code == 0 and out.startswith(f"{tmp_path}/in_deblurred: 12 frames")
    assert err == f"stfan: {tmp_path}/in: 1 left out, no images: notes.txt\n"
    assert run_deblur_stub(video, "-o", tmp_path / "video.mkv", "--lossless")[0] == 0
    assert names(tmp_path / "in_deblurred") == sorted(f"frame{t}.png" for t in range(12))
    for t, (_, pixels) in enumerate(frames_of(tmp_path / "video.mkv")):
        with Image.open(tmp_path / "in_deblurred" / f"frame{t}.png") as picture:
            assert np.array_equal(np.array(picture).transpose(2, 0, 1), pixels)
    code, out, _ = run_deblur_stub(
        tmp_path / "in", "-o", tmp_path / "part", "--start", "2", "--end", "5", "--json"
    )
    assert names(tmp_path / "part") == ["frame2.png", "frame3.png", "frame4.png"]
    assert json.loads(out)["frames"] == 3


def test_pictures_are_resumed(tmp_path, run_deblur_stub, monkeypatch):
    make_pictures(tmp_path / "in", SEGMENT_FRAMES + 20, "{:03d}.bmp")
    assert run_deblur_stub(tmp_path / "in", "-o", tmp_path / "whole")[0] == 0
    interrupt = Interrupt(SEGMENT_FRAMES + 9)
    with monkeypatch.context() as patch:
        patch.setattr(deblur, "graceful_interrupt", interrupt)
        code, _, err = run_deblur_stub(tmp_path / "in", "-o", tmp_path / "out")
    place = tmp_path / "out.partial" / "images"
    assert code == 130 and f"after {SEGMENT_FRAMES + 9} frames; the frames so far: {place}" in err
    assert len(names(place)) == SEGMENT_FRAMES + 9 and not (tmp_path / "out").exists()
    code, out, _ = run_deblur_stub(tmp_path / "in", "-o", tmp_path / "out", "--resume", "--json")
    assert code == 0 and json.loads(out)["resumed"] == SEGMENT_FRAMES + 9
    files = names(tmp_path / "whole")
    assert names(tmp_path / "out") == files and len(files) == SEGMENT_FRAMES + 20
    assert all((tmp_path / "out" / f).read_bytes() == (tmp_path / "whole" / f).read_bytes() for f in files)
    assert not (tmp_path / "out.partial").exists()


def test_pictures_keep_their_kind(tmp_path, run_deblur_stub):
    """Transparency, grey, the camera's words, and the way up."""
    folder = tmp_path / "in"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 4), np.uint8)
    Image.fromarray(noise).save(folder / "1.png", dpi=(300, 300))
    Image.fromarray(noise[..., 0]).save(folder / "2.png")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"  # turned by 90 degrees clockwise
    Image.fromarray(noise.transpose(1, 0, 2)[..., :3].copy()).save(folder / "3.jpg", exif=exif, quality=100)
    assert run_deblur_stub(folder, "-o", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / "1.png") as picture:
        assert np.array_equal(np.array(picture), noise) and round(picture.info["dpi"][0]) == 300
    with Image.open(tmp_path / "out" / "2.png") as picture:
        assert picture.mode == "L"
    with Image.open(tmp_path / "out" / "3.jpg") as picture:
        assert picture.size == (32, 24)
        assert picture.getexif()[0x010F] == "Maker" and picture.getexif().get(0x0112, 1) == 1


def test_transparency_is_kept_beside_each_other_too(tmp_path, run_deblur_stub):
    folder = tmp_path / "in"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 4), np.uint8)
    Image.fromarray(noise).save(folder / "1.png")
    assert run_deblur_stub(folder, "-o", tmp_path / "out", "--compare", "side")[0] == 0
    with Image.open(tmp_path / "out" / "1.png") as picture:
        assert np.array_equal(np.array(picture)[..., 3], np.tile(noise[..., 3], 2))


@pytest.mark.parametrize("ending", ["tif", "webp", "png"])
def test_several_pictures_in_one_file_are_named(tmp_path, run_deblur_stub, ending):
    folder = tmp_path / "in"
    folder.mkdir()
    pages = [Image.new("RGB", (16, 16), (t, 100, 0)) for t in (0, 100, 200)]
    pages[0].save(folder / f"0.{ending}")
    pages[1].save(folder / f"1.{ending}", save_all=True, append_images=pages[2:])
    code, _, err = run_deblur_stub(folder, "-o", tmp_path / "out")
    assert code == 1 and len(err.splitlines()) == 1
    assert f"in/1.{ending}: cannot be read: it holds 2 images, and a frame is one" in err
    assert names(tmp_path) == ["in"]


def test_a_cameras_preview_is_no_second_picture(tmp_path, run_deblur_stub):
    folder = tmp_path / "in"
    folder.mkdir()
    pages = [Image.new("RGB", size, (0, 100, 0)) for size in ((32, 24), (16, 12))]
    pages[0].save(folder / "0.jpg", "MPO", save_all=True, append_images=pages[1:])
    assert run_deblur_stub(folder, "-o", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / "0.jpg") as picture:
        assert picture.size == (32, 24)


def test_overwriting_a_folder_keeps_its_other_files(tmp_path, run_deblur_stub):
    make_pictures(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    assert run_deblur_stub(tmp_path / "in", "-o", tmp_path / "out")[0] == 0  # an empty one is no obstacle
    (tmp_path / "out" / "other.txt").write_text("keep me")
    assert run_deblur_stub(tmp_path / "in", "-o", tmp_path / "out")[0] == 1
    assert run_deblur_stub(tmp_path / "in", "-o", tmp_path / "out", "--overwrite")[0] == 0
    assert names(tmp_path / "out") == ["frame0.png", "frame1.png", "other.txt"]
    code, _, err = run_deblur_stub(tmp_path / "in", "-o", tmp_path / "in", "--overwrite")
    assert code == 1 and "would replace its own input" in err


def test_pictures_of_two_sizes_and_of_16_bits_are_named(tmp_path, run_deblur_stub):
    make_pictures(tmp_path / "in", 2)
    Image.new("RGB", (20, 20)).save(tmp_path / "in" / "frame2.png")
    code, _, err = run_deblur_stub(tmp_path / "in")
    assert code == 1 and "frame2.png: is 20x20, but frame0.png is 64x48" in err
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(tmp_path / "in" / "frame2.png")
    code, _, err = run_deblur_stub(tmp_path / "in")
    assert code == 1 and "frame2.png: cannot be read: more than 8 bits" in err
    assert names(tmp_path) == ["in", "in.mkv"]


def test_what_a_folder_holds_besides_is_named(tmp_path, run_deblur_stub):
    make_pictures(tmp_path / "in", 2).rename(tmp_path / "in" / "clip.mkv")
    (tmp_path / "in" / "raw").mkdir()
    for name in (".hidden", "a9.txt", "a10.txt"):
        (tmp_path / "in" / name).touch()
    code, out, _ = run_deblur_stub(tmp_path / "in", "-o", tmp_path / "out", "--json")
    assert code == 0 and json.loads(out)["frames"] == 2
    assert json.loads(out)["warnings"] == [
        f"{tmp_path}/in: 4 left out, no images: a9.txt, a10.txt, clip.mkv and 1 more"
    ]
    assert names(tmp_path / "out") == ["frame0.png", "frame1.png"]


def test_many_images_are_not_compared_with_each_other(tmp_path, monkeypatch):
    """A folder of 4,000 took 40 s to open, while each name was looked for in the list of all."""
    for number in range(100):
        (tmp_path / f"{number}.png").touch()
    compared, equal = [], PurePath.__eq__
    monkeypatch.setattr(PurePath, "__eq__", lambda *pair: compared.append(1) or equal(*pair))
    assert ImageFolderReader(tmp_path).expected_frames == 100
    assert len(compared) < 2 * 100


@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_folder_of_videos_is_no_folder_of_images(tmp_path, run_cli_inprocess, images):
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(2):
        make_video(folder / f"{number}.MP4", frames=2)
    for number in range(images):
        Image.new("RGB", (16, 16)).save(folder / f"cover{number}.jpg")
    words = rf"films: a folder must hold the images of one video, got 2 video files .* and {images} images"
    with pytest.raises(ValueError, match=words):
        ImageFolderReader(folder)
    done = run_cli_inprocess("try", folder)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert names(tmp_path) == ["films"]


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.PNG"])
def test_the_output_of_a_folder_has_not_the_name_of_a_file(tmp_path, run_deblur_stub, name):
    make_pictures(tmp_path / "in", 2)
    code, out, err = run_deblur_stub(tmp_path / "in", "-o", tmp_path / name)
    assert code == 1 and out == "" and len(err.splitlines()) == 1
    assert (
        f"{name}: the output must be the name of a folder if the input is one, got that of a .{name[4:]} file"
        in err
    )
    assert names(tmp_path) == ["in", "in.mkv"]
    (tmp_path / name).mkdir()  # somebody made it and means it
    assert run_deblur_stub(tmp_path / "in", "-o", tmp_path / name)[0] == 0
