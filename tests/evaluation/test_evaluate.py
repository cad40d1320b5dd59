"""The protocols against scikit-image and against their rules worked out by hand; clips in, a table out."""

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from stfan.cli import app
from stfan.data.paired_videos import find_videos
from stfan.evaluation.evaluate import check_clips, evaluate, write_csv, write_json
from stfan.evaluation.metrics import PROTOCOLS, psnr, sharpness
from stfan.images import open_rgb, to_8bit, write_clip
from stfan.model import weights
from stfan.model.deblurrer import Deblurrer
from support import oracle
from support.checkout import ROOT
from support.clips import read_clip

skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")


def pair(height=48, width=52):
    """A smooth picture and what noise made of it, (3, H, W) in about [0, 1]."""
    target = torch.rand(3, height // 4, width // 4)
    target = torch.nn.functional.interpolate(target[None], (height, width), mode="bicubic")[0].clamp(0, 1)
    return target + 0.05 * torch.randn(3, height, width), target


def stored(frame):
    return (frame.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def by_skimage(output, target, **options):
    """PSNR and SSIM of two (H, W, 3) or (H, W) arrays, with the window of Wang et al."""
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    options = {"data_range": 255, **options}
    channels = {"channel_axis": 2} if output.ndim == 3 else {}
    return (
        skimage.peak_signal_noise_ratio(target, output, data_range=options["data_range"]),
        skimage.structural_similarity(target, output, **window, **channels, **options),
    )


def close(value):
    """Both sum in float64: over all pixels, and over SSIM's windows of 121, whose variances are differences of squares.

    Those are of up to 255^2, beside SSIM's constant (0.03 * 255)^2.
    """
    return pytest.approx(value, rel=oracle.spread(torch.float64, 3 * 100 * 100 + 121, 1 / 0.03**2), abs=0)


def test_rgb8_is_what_scikit_image_says():
    output, target = pair()
    assert PROTOCOLS["rgb8"].score(output, target) == close(by_skimage(stored(output), stored(target)))


def test_stfan_does_not_round_but_clamps():
    output, target = pair()
    arrays = (frame.clamp(0, 1).permute(1, 2, 0).double().numpy() for frame in (output, target))
    assert PROTOCOLS["stfan"].score(output, target) == close(by_skimage(*arrays, data_range=1.0))
    step = torch.full_like(target, 100 / 255)
    assert PROTOCOLS["rgb8"].score(step + 0.4 / 255, step)[0] == math.inf
    decibel, _ = PROTOCOLS["stfan"].score(step + 0.4 / 255, step)
    # the frames are float32, and the step, of 100.4, is rounded once
    rounding = oracle.EPS[torch.float32][0] * 100.4 / 0.4
    assert decibel == pytest.approx(20 * math.log10(255 / 0.4), abs=20 * math.log10(1 + rounding))


def test_tsp_leaves_out_four_pixels_at_each_side():
    output, target = pair()
    arrays = (stored(frame)[4:-4, 4:-4] for frame in (output, target))
    assert PROTOCOLS["tsp"].score(output, target) == close(by_skimage(*arrays))
    for at, seen in ((3, False), (4, True), (-4, False), (-5, True)):
        for index in ((0, at, 20), (0, 20, at)):
            spotted = target.clone()
            spotted[index] = 1 - spotted[index].round()
            assert (PROTOCOLS["tsp"].score(spotted, target)[0] < math.inf) is seen, (at, index)


def fitted(output, target):
    """Koehler's way by trying all shifts: the luma of both on a scale of 255."""
    z, x = output.astype(float), target.astype(float)
    z = z * (x * z).sum() / (z * z).sum()
    grey_x, grey_z = x.mean(2), z.mean(2)
    height, width = grey_x.shape
    shifts = [(dy, dx) for dy in range(height) for dx in range(width)]
    dy, dx = max(shifts, key=lambda shift: (grey_x * np.roll(grey_z, shift, (0, 1))).sum())
    dy, dx = (by - n if by >= n // 2 else by for by, n in ((dy, height), (dx, width)))
    moved, mask = np.zeros_like(z), np.zeros_like(z)
    for row in range(height):
        for column in range(width):
            if 0 <= row - dy < height and 0 <= column - dx < width:
                moved[row, column] = z[row - dy, column - dx]
                mask[row, column] = 1
    luma = np.array([0.299, 0.587, 0.114])
    return (dy, dx), moved @ luma, (x * mask) @ luma


@pytest.mark.parametrize(("name", "crop"), [("koehler", 16), ("dvd30", 0)])
@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (-1, 4)])
def test_alignment_is_koehlers(name, crop, shift):
    side = 15 + 2 * crop
    target = torch.full((3, side, side + 1), 0.2)
    target[:, crop + 5 : crop + 10, crop + 5 : crop + 10] = torch.rand(3, 5, 5)
    output = 0.8 * target.roll([-by for by in shift], (1, 2)) + 0.01 * torch.randn_like(target)
    cropped = (stored(frame)[crop : 15 + crop, crop : 16 + crop] for frame in (output, target))
    found, x, y = fitted(*cropped)
    assert found == shift
    assert PROTOCOLS[name].score(output, target) == close(by_skimage(x, y))


def smooth(places_down, places_right):
    """A picture without detail at the pixel, read anywhere."""
    down, right = places_down[:, None] / 9, places_right[None, :] / 7
    return (
        torch.stack([(down * a + right * b + c).sin() for a, b, c in ((1, 2, 0), (2, -1, 1), (1, 1, 2))]) / 3
        + 0.5
    )


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.7), (-0.95, 0.1)])
def test_moved8_finds_the_part_of_a_pixel_by_which_a_frame_is_off(shift):
    rows, columns = torch.arange(40.0), torch.arange(50.0)
    target, output = smooth(rows, columns), smooth(rows - shift[0], columns - shift[1])
    moved = PROTOCOLS["moved8"].score(output, target)[0]
    # both sides are rounded to a level; two roundings of one level are 10 log10(255^2 * 6) dB apart
    assert moved > 10 * math.log10(255**2 * 6) - 1 or moved == math.inf
    if any(shift):
        assert PROTOCOLS["rgb8"].score(output, target)[0] < moved - 15


def test_moved8_is_never_worse_than_the_frame_where_it_is():
    for seed in range(5):
        output, target = torch.rand(2, 3, 24, 26, generator=torch.Generator().manual_seed(seed))
        inner = (..., slice(3, -3), slice(3, -3))
        assert (
            PROTOCOLS["moved8"].score(output, target)[0]
            >= PROTOCOLS["rgb8"].score(output[inner], target[inner])[0]
        )


def test_moved8_goes_no_farther_than_a_pixel():
    rows, columns = torch.arange(40.0), torch.arange(50.0)
    target = smooth(rows, columns)
    near, far = (PROTOCOLS["moved8"].score(smooth(rows - by, columns), target)[0] for by in (1, 3))
    assert near > far + 15


def test_alignment_forgives_brightness():
    target = (torch.randint(0, 128, (3, 48, 48)) * 2) / 255
    assert PROTOCOLS["koehler"].score(target / 2, target)[0] == math.inf
    assert PROTOCOLS["rgb8"].score(target / 2, target)[0] < 15
    assert math.isfinite(PROTOCOLS["koehler"].score(torch.zeros_like(target), target)[0])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_same_frames_are_perfect(name):
    frame = pair()[1]
    assert PROTOCOLS[name].score(frame, frame) == (math.inf, close(1))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_frames_too_small_or_unequal_are_refused(name):
    least = {"koehler": 43, "tsp": 19, "moved8": 17}.get(name, 11)
    frame = torch.rand(3, least, least + 1)
    PROTOCOLS[name].score(frame, frame)
    for wrong in (torch.rand(3, least - 1, 60), torch.rand(1, 3, 60, 60)):
        with pytest.raises(ValueError, match=f"{name}: output and target must be .* from {least} on"):
            PROTOCOLS[name].score(wrong, wrong)
    with pytest.raises(ValueError, match=name):
        PROTOCOLS[name].score(frame, torch.rand(3, least + 1, least + 1))


def test_which_frames_count():
    assert list(PROTOCOLS["rgb8"].scored(4)) == list(PROTOCOLS["stfan"].scored(4)) == [0, 1, 2, 3]
    assert list(PROTOCOLS["tsp"].scored(7)) == [2, 3, 4]
    assert list(PROTOCOLS["koehler"].scored(4)) == [1, 2, 3]
    matlab = np.floor(np.linspace(2, 97, 30)).astype(int) - 1  # which counts from 1
    assert list(PROTOCOLS["dvd30"].scored(100)) == list(PROTOCOLS["dvd30"].scored(97)) == matlab.tolist()
    assert not PROTOCOLS["dvd30"].scored(96)


def test_sharpness_by_its_definition():
    frame = torch.zeros(3, 5, 6)
    frame[:, 2, 3] = 1
    laplacian = np.zeros((3, 4))  # of a point: -4 there, 1 beside it
    laplacian[1, 2], laplacian[0, 2], laplacian[2, 2], laplacian[1, 1], laplacian[1, 3] = -4, 1, 1, 1, 1
    assert sharpness(frame) == pytest.approx(
        (255 * laplacian).var(), rel=oracle.spread(torch.float64, 3 * 12), abs=0
    )
    # a ramp of float32: each of the Laplacian's 8 values is rounded, and squared
    rounding = 8 * 255 * oracle.EPS[torch.float32][0]
    assert sharpness(torch.linspace(0, 1, 8).expand(3, 8, 8)) <= rounding**2


def test_the_docs_name_all_protocols_and_their_code_runs():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == list(PROTOCOLS)
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(block, "evaluation.md", "exec"), names)
    assert names["ssim"] > 0.99  # brightness is forgiven


class Halfway:
    """Stands in for a Deblurrer: mixes each frame with grey, and counts how often it began afresh."""

    def __init__(self):
        self.resets = 0

    def reset(self):
        self.resets += 1

    def __call__(self, frame):
        return (frame + 0.5) / 2


@pytest.fixture
def clips(tmp_path):
    """Two clips of 3 and of 6 frames, 44 x 48, the second one with a perfect input."""
    for name, frames in (("a", 3), ("b [red]", 6)):
        sharp = torch.randint(0, 256, (frames, 3, 44, 48), dtype=torch.uint8)
        blurry = sharp if name != "a" else (sharp.int() + 9).clamp(0, 255).to(torch.uint8)
        write_clip(tmp_path / "set" / "test" / name, blurry, sharp)
    return find_videos(tmp_path / "set").clips


def test_means_are_over_clips_or_over_frames(clips):
    seen = []
    for name, over in (("rgb8", "clips"), ("koehler", "frames")):
        seen.clear()
        result = evaluate(Halfway(), clips, PROTOCOLS[name], seen.append)
        assert [(judged.clip, judged.frame) for judged in seen] == [
            *(("a", f"{t:05d}") for t in range(3)),
            *(("b [red]", f"{t:05d}") for t in range(6)),
        ]
        frames = {clip: [j.output for j in seen if j.clip == clip and j.output] for clip in clips}
        assert [len(scores) for scores in frames.values()] == ([3, 6] if over == "clips" else [2, 5])
        for i, key in enumerate(("psnr", "ssim")):
            means = [sum(score[i] for score in scores) / len(scores) for scores in frames.values()]
            overall = sum(means) / 2 if over == "clips" else (2 * means[0] + 5 * means[1]) / 7
            assert [clip["output"][key] for clip in result["clips"].values()] == close(means)
            assert result["overall"]["output"][key] == close(overall)
        first = seen[1]
        assert first.output == PROTOCOLS[name].score((first.before + 0.5) / 2, first.target)
        assert first.input == PROTOCOLS[name].score(first.before, first.target)
        assert result["clips"]["a"]["per_frame"]["00001"]["input"]["psnr"] == first.input[0]
        assert result["overall"]["frames"] == sum(map(len, frames.values()))
        assert result["overall"]["seconds_per_frame"] == close(sum(j.seconds for j in seen) / 9)
        assert result["protocol"] == name


def test_the_network_begins_afresh_where_the_protocol_says(tmp_path):
    frames = torch.zeros(41, 3, 11, 11, dtype=torch.uint8)
    write_clip(tmp_path / "a", frames, frames)
    write_clip(tmp_path / "b", frames[:20], frames[:20])
    for name, times in (("rgb8", 2), ("stfan", 3 + 1)):
        deblurrer = Halfway()
        evaluate(deblurrer, find_videos(tmp_path).clips, PROTOCOLS[name])
        assert deblurrer.resets == times


def test_files_name_the_protocol_and_keep_infinity(clips, tmp_path):
    result = evaluate(Halfway(), clips, PROTOCOLS["rgb8"])
    write_csv(tmp_path / "r.csv", result)
    write_json(tmp_path / "r.json", result)
    with open(tmp_path / "r.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["clip"] for line in lines] == ["a", "b [red]", "overall"]
    assert {line["protocol"] for line in lines} == {"rgb8"}
    for line, score in zip(lines, (*result["clips"].values(), result["overall"]), strict=True):
        assert int(line["frames"]) == score["frames"]
        assert float(line["seconds_per_frame"]) == score["seconds_per_frame"]
        for side in ("input", "output"):
            assert [float(line[f"{side}_{key}"]) for key in ("psnr", "ssim")] == list(score[side].values())

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    back = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert back["clips"]["b [red]"]["input"]["psnr"] == back["overall"]["input"]["psnr"] == "inf"
    assert back["clips"]["a"] == result["clips"]["a"] and back["protocol"] == "rgb8"


def test_a_file_that_fails_half_way_is_not_there(clips, tmp_path):
    result = evaluate(Halfway(), clips, PROTOCOLS["rgb8"])
    (tmp_path / "r.csv").write_text("old")
    result["clips"]["a"]["input"] = None
    with pytest.raises(TypeError):
        write_csv(tmp_path / "r.csv", result)
    assert (tmp_path / "r.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv", "set"]


def clip_of(folder, *sizes):
    """A clip of black frames with these (height, width); the GT of the last one is 8 x 8 larger where it ends."""
    for t, (height, width) in enumerate(sizes):
        frame = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        write_clip(folder / f"part{t}", frame, frame)
        for name in ("input", "GT"):
            (folder / name).mkdir(exist_ok=True)
            (folder / f"part{t}" / name / "00000.png").rename(folder / name / f"{t:05d}.png")
            (folder / f"part{t}" / name).rmdir()
        (folder / f"part{t}").rmdir()


def test_clips_that_can_not_be_judged_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no videos with blurry and sharp frames"):
        find_videos(tmp_path / "empty")

    clip_of(tmp_path / "alone" / "c", *[(20, 24)] * 8)
    for t in range(6):
        (tmp_path / "alone" / "c" / "GT" / f"{t:05d}.png").unlink()
    with pytest.raises(ValueError, match=r"c/GT: lacks 6 of 8 frames, 00000, 00001, 00002 and 3 more"):
        find_videos(tmp_path / "alone")

    clip_of(tmp_path / "uneven" / "c", (20, 24), (20, 24), (28, 24))
    with pytest.raises(ValueError, match=r"input/00002.png: is 24x28 and .*input/00000.png 24x20"):
        check_clips(find_videos(tmp_path / "uneven").clips, PROTOCOLS["rgb8"])

    clip_of(tmp_path / "truth" / "c", (20, 24))
    clip_of(tmp_path / "other" / "c", (20, 32))
    (tmp_path / "other" / "c" / "GT" / "00000.png").replace(tmp_path / "truth" / "c" / "GT" / "00000.png")
    with pytest.raises(ValueError, match=r"GT/00000.png: is 32x20 and .*input/00000.png 24x20"):
        check_clips(find_videos(tmp_path / "truth").clips, PROTOCOLS["rgb8"])

    clip_of(tmp_path / "short" / "c", *[(20, 24)] * 4)
    short = find_videos(tmp_path / "short").clips
    check_clips(short, PROTOCOLS["rgb8"])
    with pytest.raises(ValueError, match="clip c: protocol tsp scores none of its 4 frames"):
        check_clips(short, PROTOCOLS["tsp"])
    with pytest.raises(ValueError, match="clip c: protocol dvd30 scores none of its 4 frames"):
        check_clips(short, PROTOCOLS["dvd30"])
    with pytest.raises(ValueError, match=r"clip c: protocol koehler needs 43 pixels each way, .* are 24x20"):
        check_clips(short, PROTOCOLS["koehler"])


def test_the_command(clips, tmp_path, run_cli_inprocess):
    root = tmp_path / "set"
    write_clip(root / "train" / "c", *torch.zeros(2, 3, 3, 44, 48, dtype=torch.uint8))  # not for judging
    files = ("--csv", tmp_path / "r.csv", "--json", tmp_path / "r.json")
    done = run_cli_inprocess("eval", "--data", root, *files)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert set(result["clips"]) == set(clips) and result["layout"] == "clips"
    for name, paths in clips.items():
        blurry, sharp = read_clip(paths)
        deblurred = torch.stack([*map(Deblurrer(weights.load()), blurry)])
        for side, frames in (("input", blurry), ("output", deblurred)):
            told = float(result["clips"][name][side]["psnr"])
            assert told == pytest.approx(float(psnr(frames, sharp).mean()), abs=1e-6)
            assert (f"{told:.2f}" if told < math.inf else "inf") in done.stdout
    assert result["parameters"] == weights.count(weights.load())
    assert f"{result['parameters']:,} parameters" in done.stdout and "s per frame on cpu" in done.stdout
    assert done.stdout.count("(rgb8)") == 5 and "Protocol rgb8: all frames" in done.stdout
    assert "b [red]" in done.stdout
    assert (tmp_path / "r.csv").read_text().splitlines()[1].startswith("rgb8,a,3,")

    (root / "test" / "a" / "GT" / "00001.png").write_bytes(b"no picture")
    done = run_cli_inprocess("eval", "--data", root, *files, "--overwrite")
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("stfan: ") and "GT/00001.png" in line


def test_files_that_can_not_be_written_are_refused_before_the_work(clips, tmp_path):
    (tmp_path / "r.json").write_text("old")
    (tmp_path / "r.csv").mkdir()
    for option, name, error, words in (
        ("json", "r.json", FileExistsError, "r.json: exists already"),
        ("csv", "r.txt", ValueError, "r.txt: --csv must be the name of a file that ends in .csv"),
        ("csv", "r.csv", IsADirectoryError, "r.csv: is a folder"),
        ("report", "no/r.html", FileNotFoundError, "no: no such folder"),
    ):
        with pytest.raises(error, match=words):
            app.evaluate(tmp_path / "set", **{option: tmp_path / name})
    assert (tmp_path / "r.json").read_text() == "old"
    with pytest.raises(SystemExit) as exit:
        app.app(["eval", "--data", str(tmp_path), "--protocol", "y"])
    assert exit.value.code == 2


def test_the_deblurrer_is_judged_as_it_is(clips):
    """One frame after the other, each as the network left it."""
    model = weights.load()
    deblurrer, frames = Deblurrer(model), []
    evaluate(Deblurrer(model), {"a": clips["a"]}, PROTOCOLS["rgb8"], frames.append)
    for judged in frames:
        assert torch.equal(judged.after, deblurrer(judged.before))
        assert torch.equal(to_8bit(judged.target).float() / 255, judged.target)


def test_more_than_8_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(OSError, match=r"deep\.png: cannot be read: more than 8 bits per channel"):
        open_rgb(tmp_path / "deep.png")
