"""Every layout that people download, made small; what is wrong with one is named."""

import json

import numpy as np
import pytest
from PIL import Image

from stfan.data.layouts import LAYOUTS
from stfan.data.paired_videos import check_frames, find_videos
from stfan.data.splits import DVD_TEST, GOPRO_TEST, read_split, write_split
from stfan.images import open_rgb
from support.checkout import SHARED

STEMS = ("00000", "00001", "00002")


def write(folder, stems=STEMS, ending=".png", size=(8, 6)):
    """Black pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.new("RGB", size).save(folder / f"{stem}{ending}")


def pairs(blurry, sharp, **how):
    write(blurry, **how)
    write(sharp, **how)


def phases(root):
    return find_videos(root, strict=False).phases


def listing(found, root):
    """{(phase, name): (first blurry file, first sharp file, how many)}"""
    assert all(len(video.blurry) == len(video.sharp) for video in found.videos)
    return {
        (video.phase, video.name): (
            video.blurry[0].relative_to(root).as_posix(),
            video.sharp[0].relative_to(root).as_posix(),
            len(video.blurry),
        )
        for video in found.videos
    }


CASES = {
    "authors": (
        "clips",
        {
            ("train", "a"): ("train/a/input/00000.jpg", "train/a/GT/00000.jpg"),
            ("train", "b"): ("train/b/input/00000.jpg", "train/b/GT/00000.jpg"),
            ("test", "a"): ("test/a/input/00000.jpg", "test/a/GT/00000.jpg"),
        },
    ),
    "flat": ("clips", {(None, "a"): ("a/input/00000.png", "a/GT/00000.png")}),
    "one": ("clips", {(None, "one"): ("input/00000.png", "GT/00000.png")}),
    "TSP": (
        "TSP",
        {
            ("train", "IMG_0001"): ("train/blur/IMG_0001/00000.jpg", "train/gt/IMG_0001/00000.jpg"),
            ("test", "IMG_0003"): ("test/blur/IMG_0003/00000.jpg", "test/gt/IMG_0003/00000.jpg"),
        },
    ),
    "GOPRO_Large": (
        "GoPro (blur_gamma)",
        {
            ("train", "GOPR0372_07_00"): (
                "train/GOPR0372_07_00/blur_gamma/00000.png",
                "train/GOPR0372_07_00/sharp/00000.png",
            ),
            ("test", "GOPR0384_11_00"): (
                "test/GOPR0384_11_00/blur_gamma/00000.png",
                "test/GOPR0384_11_00/sharp/00000.png",
            ),
        },
    ),
    "BSD_1ms8ms": (
        "BSD",
        {
            (phase, "000"): (f"{phase}/000/Blur/RGB/00000.png", f"{phase}/000/Sharp/RGB/00000.png")
            for phase in ("train", "valid", "test")
        },
    ),
    "REDS": (
        "REDS",
        {
            ("train", "000"): ("train/train_blur/000/00000.png", "train/train_sharp/000/00000.png"),
            ("train", "001"): ("train/train_blur/001/00000.png", "train/train_sharp/001/00000.png"),
            ("valid", "000"): ("val/val_blur/000/00000.png", "val/val_sharp/000/00000.png"),
        },
    ),
    "REDS/train": ("REDS", {("train", "000"): ("train_blur/000/00000.png", "train_sharp/000/00000.png")}),
    "plain": ("folders", {(None, "plain"): ("blurry/00000.webp", "sharp/00000.webp")}),
    "videos": ("folders", {(None, "x"): ("blurry/x/00000.png", "sharp/x/00000.png")}),
    "phases": (
        "folders",
        {
            ("train", "x"): ("train/blurry/x/00000.png", "train/sharp/x/00000.png"),
            ("test", "phases"): ("test/blurry/00000.png", "test/sharp/00000.png"),
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_layouts_are_recognised(tmp_path, case):
    words, files = CASES[case]
    root = tmp_path / case
    for sides in files.values():
        pairs(*(root / side.rpartition("/")[0] for side in sides), ending=sides[0][-5:].lstrip("0"))
    (root / ".DS_Store").write_bytes(b"\0")
    (root / ".hidden" / "input").mkdir(parents=True)
    (root / "readme.txt").write_text("not a frame")
    found = find_videos(root)
    assert found.layout == words and found.problems == ()
    expected = {key: (*sides, len(STEMS)) for key, sides in files.items()}
    assert listing(found, root) == expected and list(listing(found, root)) == list(expected)
    there = [phase for phase in ("train", "valid", "test") if any(phase == key[0] for key in files)]
    assert list(phases(root)) == there
    for phase in there:
        of_phase = {k: v for k, v in expected.items() if k[0] == phase}
        assert listing(find_videos(root, phase), root) == listing(found.only(phase), root) == of_phase
        assert found.only(phase).phases == (phase,)
    assert find_videos(root, layout=words.split()[0]) == found
    names = [f"{phase}/{name}" if len(there) > 1 else name for phase, name in files]
    assert list(found.clips) == names
    assert found.clips[names[-1]] == (found.videos[-1].blurry, found.videos[-1].sharp)


@pytest.mark.parametrize("inner", ["", "quantitative_datasets"])
def test_dvd_as_downloaded_has_its_split(tmp_path, inner):
    for name in (*DVD_TEST, "IMG_0001", "720p_240fps_10", "720p_240fps_9"):
        video = tmp_path / "quantitative_datasets" / name
        pairs(video / "input", video / "GT", stems=("00030", "00031"), ending=".jpg")
        (video / "input" / "._00030.jpg").write_bytes(b"\0")
    root = tmp_path / inner
    assert find_videos(root).layout == "DVD" and phases(root) == ("train", "test")
    train = find_videos(root, "train")
    assert [video.name for video in train.videos] == ["720p_240fps_9", "720p_240fps_10", "IMG_0001"]
    assert {video.phase for video in train.videos} == {"train"}
    assert {video.name for video in find_videos(root, "test").videos} == DVD_TEST and len(DVD_TEST) == 10
    assert [path.name for path in train.videos[0].blurry] == ["00030.jpg", "00031.jpg"]
    renamed = tmp_path / "quantitative_datasets"
    renamed.rename(tmp_path / "DVD")
    assert phases(tmp_path / "DVD") == ("train", "test")
    (tmp_path / "DVD" / "IMG_0003").rename(tmp_path / "elsewhere")
    assert phases(tmp_path / "DVD") == ()  # some folder with clips


def test_what_kair_calls_train_holds_the_test_videos(tmp_path):
    for name in ("IMG_0001", "IMG_0003", "GOPR0372_07_00", "GOPR0384_11_00"):
        pairs(
            tmp_path / "train_GT_blurred_with_val" / name,
            tmp_path / "train_GT_with_val" / name,
        )
    found = find_videos(tmp_path)
    assert found.layout == "KAIR" and len(GOPRO_TEST) == 11
    assert [(video.phase, video.name) for video in found.videos] == [
        ("train", "GOPR0372_07_00"),
        ("train", "IMG_0001"),
        ("test", "GOPR0384_11_00"),
        ("test", "IMG_0003"),
    ]
    pairs(tmp_path / "test_GT_blurred" / "IMG_0003", tmp_path / "test_GT" / "IMG_0003")
    again = find_videos(tmp_path)
    assert [(video.phase, video.name) for video in again.videos] == [
        (video.phase, video.name) for video in found.videos
    ]
    assert again.clips["test/IMG_0003"][0][0] == tmp_path / "test_GT_blurred" / "IMG_0003" / "00000.png"


def test_the_kinds_of_blur_of_gopro(tmp_path):
    video = tmp_path / "train" / "GOPR0372_07_00"
    for name in ("blur", "blur_gamma", "sharp"):
        write(video / name, ("000047", "000048"))
    assert find_videos(tmp_path).videos[0].blurry[0] == video / "blur_gamma" / "000047.png"
    found = find_videos(tmp_path, gopro_blur="blur")
    assert found.layout == "GoPro (blur)" and found.videos[0].blurry[1] == video / "blur" / "000048.png"
    for path in (video / "blur_gamma").iterdir():
        path.unlink()
    (video / "blur_gamma").rmdir()
    with pytest.raises(ValueError, match="is GoPro with blur and no blur_gamma"):
        find_videos(tmp_path)
    with pytest.raises(ValueError, match="gopro_blur must be blur_gamma or blur, got 'sharp'"):
        find_videos(tmp_path, gopro_blur="sharp")


def test_two_folders(tmp_path):
    pairs(tmp_path / "shaken" / "x", tmp_path / "still" / "x")
    pairs(tmp_path / "one", tmp_path / "two")
    (tmp_path / "empty").mkdir()
    found = find_videos((tmp_path / "shaken", tmp_path / "still"))
    assert found.layout == "two folders" and listing(found, tmp_path) == {
        (None, "x"): ("shaken/x/00000.png", "still/x/00000.png", 3)
    }
    found = find_videos([str(tmp_path / "one"), str(tmp_path / "two")])
    assert listing(found, tmp_path) == {(None, "one"): ("one/00000.png", "two/00000.png", 3)}
    with pytest.raises(ValueError, match="one: is given both for the blurry and for the sharp frames"):
        find_videos((tmp_path / "one", tmp_path / "one"))
    with pytest.raises(ValueError, match=r"shaken and .*empty: hold no images in both"):
        find_videos((tmp_path / "shaken", tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"still: lacks 3 of 3 frames, .* which .*one has"):
        find_videos((tmp_path / "one", tmp_path / "still"))
    with pytest.raises(ValueError, match="root must be a folder, or two: blurry and sharp, got 3"):
        find_videos([tmp_path] * 3)


def test_frames_go_in_the_order_of_their_numbers(tmp_path):
    stems = [str(t) for t in range(12)]
    pairs(tmp_path / "a" / "input", tmp_path / "a" / "GT", stems=stems)
    (video,) = find_videos(tmp_path).videos
    assert [path.stem for path in video.blurry] == [path.stem for path in video.sharp] == stems


def test_a_number_that_is_missing_on_both_sides(tmp_path, caplog):
    numbers = (3, 4, 5, 8, 9, 12)
    for name, stems in {
        "a": [f"v2_{t:03d}" for t in numbers],
        "b": [f"{t:05d}" for t in range(0, 90, 10)],
        "c": ["0033", "0066", "0100", "0133"],
        "d": ["x", "y7", "z12", "z13"],
    }.items():
        pairs(tmp_path / name / "input", tmp_path / name / "GT", stems=stems)
    videos = find_videos(tmp_path).videos
    assert [[len(run) for run in video.runs] for video in videos] == [[3, 2, 1], [9], [4], [4]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'a' / 'input'}: numbers are missing between v2_005 and v2_008 and in 1 more place; "
        "training cuts the video there, a score does not"
    ]


def test_a_root_that_is_none_of_them(tmp_path):
    (tmp_path / "photos").mkdir()
    write(tmp_path, ("p",))
    with pytest.raises(ValueError, match=r"it holds p\.png, photos/; looked for DVD \(quantitative") as error:
        find_videos(tmp_path)
    for words in (*LAYOUTS, "<phase>/<video>/input + <phase>/<video>/GT", "blurry + sharp"):
        assert words in str(error.value)
    pairs(tmp_path / "photos" / "test" / "blur" / "x", tmp_path / "photos" / "test" / "gt" / "x")
    with pytest.raises(ValueError, match=r"it holds p\.png, photos/; .*photos is TSP: give that"):
        find_videos(tmp_path)
    with pytest.raises(ValueError, match="looked for GoPro"):
        find_videos(tmp_path / "photos", layout="GoPro")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        find_videos(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"p\.png: is no folder"):
        find_videos(tmp_path / "p.png")
    with pytest.raises(ValueError, match=r"layout must be auto, one of DVD, .*, or a JSON file, got 'dvd'"):
        find_videos(tmp_path, layout="dvd")
    with pytest.raises(ValueError, match="phase must be one of train, valid, test, or None, got 'val'"):
        find_videos(tmp_path / "photos", "val")
    with pytest.raises(ValueError, match="photos: TSP has no videos for train; it has test"):
        find_videos(tmp_path / "photos", "train")


def test_a_root_that_could_be_two(tmp_path):
    pairs(tmp_path / "a" / "input", tmp_path / "a" / "GT")
    pairs(tmp_path / "blurry", tmp_path / "sharp")
    with pytest.raises(ValueError, match="could be clips or folders: give one of them as layout"):
        find_videos(tmp_path)
    assert [video.name for video in find_videos(tmp_path, layout="clips").videos] == ["a"]
    with pytest.raises(ValueError, match="clips has no videos for train; it does not tell phases apart"):
        find_videos(tmp_path, "train", layout="clips")


def test_frames_without_partner_are_named(tmp_path):
    video = tmp_path / "train" / "a"
    pairs(video / "input", video / "GT", stems=[f"{t:05d}" for t in range(8)])
    pairs(tmp_path / "test" / "b" / "input", tmp_path / "test" / "b" / "GT")
    for t in range(6):
        (video / "GT" / f"{t:05d}.png").unlink()
    (video / "input" / "00007.png").unlink()
    write(video / "input", ("00006",), ".jpg")
    (tmp_path / "train" / "c" / "input").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"such lines more\)"):
        find_videos(tmp_path, "train")
    found = find_videos(tmp_path, "train", strict=False)
    assert [line.removeprefix(str(tmp_path)) for line in found.problems] == [
        "/train/a/input/00006.png: 00006.jpg is there too; a frame must be one file",
        f"/train/a/input: lacks 1 of 8 frames, 00007, which {video / 'GT'} has",
        f"/train/a/GT: lacks 6 of 8 frames, 00000, 00001, 00002 and 3 more, which {video / 'input'} has",
        f"/train/c/input: holds no frames, nor does {tmp_path / 'train' / 'c' / 'GT'}",
    ]
    ((kept, sharp),) = found.clips.values()
    assert [path.name for path in kept] == ["00006.jpg"] and [path.stem for path in sharp] == ["00006"]
    assert find_videos(tmp_path, "test").problems == ()  # the others' are not its own
    for path in (tmp_path / "test" / "b" / "GT").iterdir():
        path.unlink()
    (tmp_path / "test" / "b" / "GT").rmdir()
    with pytest.raises(ValueError, match="b/GT: is not there and lacks 3 of 3 frames, 00000, 00001, 00002"):
        find_videos(tmp_path, "test")


def test_every_frame_is_opened_by_check(tmp_path):
    pairs(tmp_path / "a" / "input", tmp_path / "a" / "GT")
    pairs(tmp_path / "b" / "input", tmp_path / "b" / "GT", size=(6, 8))
    assert check_frames(find_videos(tmp_path)) == ()
    (tmp_path / "a" / "input" / "00000.png").write_bytes(b"no picture")
    whole = (tmp_path / "a" / "input" / "00001.png").read_bytes()
    broken = bytearray(whole)
    broken[whole.index(b"IDAT") + 8] ^= 0xFF  # the header is whole
    (tmp_path / "a" / "GT" / "00001.png").write_bytes(broken)
    write(tmp_path / "a" / "GT", ("00002",), size=(8, 7))
    Image.new("I;16", (6, 8)).save(tmp_path / "b" / "GT" / "00001.png")
    (tmp_path / "b" / "GT" / "00002.png").unlink()
    seen = []
    found = find_videos(tmp_path, strict=False)
    lines = check_frames(found, lambda videos: seen.append(len(videos)) or videos)
    assert seen == [2] and lines[0] == found.problems[0] and "b/GT: lacks 1 of 3 frames" in lines[0]
    assert [line.partition(": ")[0].removeprefix(f"{tmp_path}/") for line in lines[1:]] == [
        "a/input/00000.png",
        "a/GT/00001.png",
        "a/GT/00002.png",
        "b/GT/00001.png",
    ]
    assert lines[3].endswith(f"is 8x7, but {tmp_path / 'a' / 'input' / '00001.png'} is 8x6")
    assert all("cannot be read" in lines[i] for i in (1, 2, 4)) and "8 bits per channel" in lines[4]


def test_what_pillow_calls_a_syntax_error_is_a_file_that_can_not_be_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    broken = bytearray((tmp_path / "a.png").read_bytes())
    broken[broken.rindex(b"IDAT")] ^= 0xFF  # the name of its second part
    (tmp_path / "a.png").write_bytes(broken)
    with pytest.raises(SyntaxError), Image.open(tmp_path / "a.png") as image:
        image.load()
    with pytest.raises(OSError, match=r"a\.png: cannot be read: broken PNG"):
        open_rgb(tmp_path / "a.png")


def test_a_folder_of_a_phase_is_no_video(tmp_path):
    """Frames of all videos in one folder of each phase, as those who deblur single pictures have GoPro."""
    for phase in ("train", "test"):
        pairs(tmp_path / phase / "blur", tmp_path / phase / "sharp")
    with pytest.raises(ValueError, match="no videos with blurry and sharp frames"):
        find_videos(tmp_path, gopro_blur="blur")


def entries(*listed):
    return [{"name": name, "phase": phase, "sample": list(sample)} for name, phase, sample in listed]


def test_a_split_says_what_is_for_what(tmp_path):
    for name in "abc":
        pairs(tmp_path / name / "input", tmp_path / name / "GT")
    (tmp_path / "clips.json").write_text('{"no": "split"}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("[")
    assert phases(tmp_path) == ()
    write_split(tmp_path / "s.json", entries(("b", "train", STEMS[:2]), ("a", "test", STEMS)))
    found = find_videos(tmp_path)
    assert found.layout == "clips, split by s.json"
    assert [(v.phase, v.name, len(v.blurry)) for v in found.videos] == [("train", "b", 2), ("test", "a", 3)]
    assert found.split == read_split(tmp_path / "s.json")
    (other,) = find_videos(tmp_path, "train").videos
    assert [path.name for path in other.sharp] == ["00000.png", "00001.png"]
    (tmp_path / "a" / "GT" / "00002.png").unlink()
    (tmp_path / "b" / "GT" / "00002.png").unlink()  # not listed
    with pytest.raises(ValueError, match=r"a/GT: lacks 1 of 3 frames, 00002, which .*s\.json has"):
        find_videos(tmp_path)
    assert find_videos(tmp_path, "train").problems == ()

    elsewhere = tmp_path / "c" / "t.json"
    write_split(elsewhere, entries(("c", "valid", STEMS), ("d", "test", STEMS)))
    found = find_videos(tmp_path, layout=str(elsewhere), strict=False)
    assert [(video.phase, video.name) for video in found.videos] == [("valid", "c")]
    assert found.problems == (f"{elsewhere}: lists d, which is not in {tmp_path}",)
    assert find_videos(tmp_path, "valid", layout=elsewhere).problems == ()
    write_split(elsewhere, entries(("d", "test", STEMS)))
    with pytest.raises(ValueError, match=r"t\.json: lists none of the videos in"):
        find_videos(tmp_path, layout=elsewhere)
    write_split(tmp_path / "t.json", entries(("c", "valid", STEMS)))
    with pytest.raises(ValueError, match=r"holds several splits, s\.json, t\.json: give one"):
        find_videos(tmp_path)


def test_a_split_goes_before_the_folders_names(tmp_path):
    for phase, name in (("train", "a"), ("train", "b"), ("test", "b")):
        pairs(tmp_path / phase / name / "input", tmp_path / phase / name / "GT")
    write_split(tmp_path / "s.json", entries(("a", "valid", STEMS), ("b", "test", STEMS)))
    found = find_videos(tmp_path)
    assert listing(found, tmp_path) == {
        ("valid", "a"): ("train/a/input/00000.png", "train/a/GT/00000.png", 3),
        ("test", "b"): ("test/b/input/00000.png", "test/b/GT/00000.png", 3),
    }
    write_split(tmp_path / "s.json", entries(("a", "valid", STEMS), ("b", "valid", STEMS)))
    with pytest.raises(ValueError, match=r"s\.json: lists b, which is more than once in"):
        find_videos(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is not JSON"),
        ("{}", "must be a list of"),
        ("[]", "must be a list of .* one at least"),
        ('[{"name": "a", "phase": "test"}]', "must be a list of"),
        ('[{"name": 1, "phase": "test", "sample": ["0"]}]', "the name of a video must be a string, got 1"),
        ('[{"name": "a", "phase": "x", "sample": ["0"]}]', "video a: phase must be one of .*, got 'x'"),
        ('[{"name": "a", "phase": "test", "sample": [0]}]', "video a: sample must be a list of"),
        ('[{"name": "a", "phase": "test", "sample": []}]', "video a: sample must be a list of"),
        ('[{"name": "a", "phase": "test", "sample": ["0", "0"]}]', "lists frame 0 of test/a twice"),
    ],
)
def test_what_is_no_split(tmp_path, text, words):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ValueError, match=rf"s\.json: {words}"):
        read_split(tmp_path / "s.json")


def test_a_split_that_is_not_written_whole_is_not_there(tmp_path):
    write_split(tmp_path / "s.json", entries(("a", "train", STEMS)))
    before = (tmp_path / "s.json").read_text()
    with pytest.raises(ValueError, match="lists train/a twice"):
        write_split(tmp_path / "s.json", entries(("a", "train", STEMS), ("a", "train", STEMS)))
    assert (tmp_path / "s.json").read_text() == before and len(list(tmp_path.iterdir())) == 1
    pairs(tmp_path / "a" / "input", tmp_path / "a" / "GT")
    with pytest.raises(ValueError, match="video a: phase must be one of train, valid, test, got None"):
        write_split(tmp_path / "t.json", find_videos(tmp_path, layout="clips").split)


def test_the_authors_own_split_comes_back(tmp_path):
    path = SHARED / "VideoDeblur.json"
    if not path.exists():
        pytest.skip("VideoDeblur.json is not on this machine")
    split = read_split(path)
    counts = {
        phase: [len(entry["sample"]) for entry in split if entry["phase"] == phase]
        for phase in ("train", "test")
    }
    assert len(split) == 71 and {phase: (len(n), sum(n)) for phase, n in counts.items()} == {
        "train": (61, 5708),
        "test": (10, 1000),
    }
    assert {entry["name"] for entry in split if entry["phase"] == "test"} == DVD_TEST
    write_split(tmp_path / "s.json", split)
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads(path.read_text())


def test_the_names_of_gopros_test_videos():
    path = SHARED / "GoproDeblur.json"
    if not path.exists():
        pytest.skip("GoproDeblur.json is not on this machine")
    assert {entry["name"] for entry in read_split(path) if entry["phase"] == "test"} == GOPRO_TEST
