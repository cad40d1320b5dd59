"""Synthesis is reproducible, and blur, layers, highlights and noise follow their formulas."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch.nn import functional as F
from torch.utils.data import DataLoader

from stfan.data.paired_videos import find_videos
from stfan.evaluation.contact_sheet import contact_sheet
from stfan.evaluation.metrics import psnr
from stfan.images import open_rgba
from stfan.rng import Rng
from stfan.synthesis import camera, compression, scene, sensor
from stfan.synthesis.clip import SynthesisConfig, render_clip
from stfan.synthesis.dataset import SyntheticDataset, find_pictures, synthesize
from stfan.synthesis.export import synthesize_set
from stfan.synthesis.frame_averaging import from_video, measure_motion
from support import oracle
from support.clips import read_clip
from support.discs import discs

# A camera that stands still, and nothing else happens either.
STILL = SynthesisConfig(
    speed=(1e-6, 1e-6),
    scale=(1, 1),
    layers=(0, 0),
    highlights=(1, 1),
    gain=(0, 0),
    sharp_part=0,
    compressed_part=0,
    cut_part=0,
    gap_part=0,
)
PAN = replace(STILL, subframes=5, exposure=(1, 1))


@pytest.fixture
def pyav():
    """Skip without PyAV: default settings compress some clips with it."""
    return pytest.importorskip("av", reason="PyAV is not installed")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def linear(values):
    """Convert 8-bit values to linear light by IEC 61966-2-1."""
    srgb = np.asarray(values, np.float64) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def srgb(light):
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def flat(grey, height=120, width=160):
    return torch.full((3, height, width), grey, dtype=torch.uint8)


def columns(width=400, height=60):
    """Make a picture that varies along x only, and is nowhere the same."""
    return torch.randint(0, 256, (3, 1, width), generator=seeded(0), dtype=torch.uint8).expand(-1, height, -1)


def place(frame, picture):
    """Find where along x in the columns a frame is from."""
    row, long = frame[:, 0].float(), picture[:, 0].float()
    differences = [(long[:, x : x + 32] - row).abs().max() for x in range(long.shape[1] - 31)]
    assert min(differences) <= 1
    return int(np.argmin(differences))


@pytest.fixture
def pan(monkeypatch):
    """Move the camera to the right, one pixel with each sub-frame."""

    def path(frames, steps, speed, draw):
        path = torch.zeros(frames * steps, 6, dtype=torch.float64)
        path[:, 0] = torch.arange(frames * steps) - (frames * steps - 1) / 2
        return path

    monkeypatch.setattr("stfan.synthesis.clip.sample_camera_path", path)


def test_srgb_is_the_standards_curve():
    # IEC 61966-2-1, to six digits
    assert sensor.to_linear(torch.tensor(0.5)).item() == pytest.approx(0.214041, abs=5e-7)
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(sensor.linear_to_srgb8(sensor.srgb8_to_linear(levels)), levels)
    np.testing.assert_allclose(
        sensor.srgb8_to_linear(levels), linear(levels), rtol=oracle.spread(torch.float32, 4)
    )
    light = torch.linspace(-0.1, 1.1, 5000)
    assert np.abs(sensor.linear_to_srgb8(light).numpy() - srgb(light.double().numpy())).max() <= 0.5 + 1e-3


def test_a_seed_gives_the_same_bits_whatever_the_threads(pyav, pictures, cutouts):
    files = [sorted(folder.iterdir()) for folder in (pictures, cutouts)]
    threads, made = torch.get_num_threads(), []
    try:
        for seed, count in ((3, 1), (3, 2), (4, 1)):
            torch.set_num_threads(count)
            made.append(synthesize(*files, 4, (48, 64), seeded(seed)))
    finally:
        torch.set_num_threads(threads)
    for side in (0, 1):
        assert made[0][side].shape == (4, 3, 48, 64) and made[0][side].dtype == torch.uint8
        assert torch.equal(made[0][side], made[1][side])
        assert not torch.equal(made[0][side], made[2][side])


def test_a_draw_is_the_same_whatever_the_workers_and_the_order(pyav, pictures, cutouts):
    made = SyntheticDataset(pictures, cutouts, length=3, crop=32, seed=5)
    assert len(made) == 12
    alone = {draw: made[draw] for draw in (7, 2, 40)}
    for workers in (0, 2):
        for item in DataLoader(made, batch_size=None, sampler=[2, 40, 7], num_workers=workers):
            twin = alone[int(item["name"].split("-")[1])]
            assert item["name"] == twin["name"]
            assert torch.equal(item["blurry"], twin["blurry"]) and torch.equal(item["sharp"], twin["sharp"])
    assert alone[2]["blurry"].shape == (3, 3, 32, 32) and alone[2]["blurry"].dtype == torch.float32
    assert 0 <= alone[2]["blurry"].min() and 0.3 < alone[2]["blurry"].max() <= 1
    assert not torch.equal(alone[2]["sharp"], alone[7]["sharp"])


def test_another_seed_changes_more_than_the_picture(pictures):
    one = [sorted(pictures.iterdir())[0]]
    clips = [
        SyntheticDataset(one, length=2, crop=32, seed=seed, settings=STILL)[0]["sharp"] for seed in (0, 1, 0)
    ]
    assert torch.equal(clips[0], clips[2]) and not torch.equal(clips[0], clips[1])


def test_each_picture_is_first_once_in_a_round(pictures):
    made = SyntheticDataset(pictures, length=1, crop=16, settings=STILL)
    rounds = [[made.render(12 * turn + i).facts["pictures"][0] for i in range(12)] for turn in (0, 1)]
    assert sorted(rounds[0]) == sorted(rounds[1]) == [f"{i:02d}.png" for i in range(12)]
    assert rounds[0] != rounds[1]
    assert [item["name"] for item in made] == [f"{name[:2]}-{i}" for i, name in enumerate(rounds[0])]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_device_renders_the_same(pictures, cutouts, kind):
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    files = [sorted(folder.iterdir()) for folder in (pictures, cutouts)]
    settings = SynthesisConfig(layers=(2, 2), compressed_part=0)
    here, there = (synthesize(*files, 3, 48, seeded(1), settings, where) for where in ("cpu", kind))
    for a, b in zip(here, there, strict=True):
        assert b.device.type == "cpu"
        assert (a.float() - b.float()).abs().mean() < 0.01


def test_a_still_camera_blurs_nothing(pictures):
    blurry, sharp = synthesize(sorted(pictures.iterdir()), [], 3, 48, seeded(0), STILL)
    # a value on an edge may round
    assert psnr(blurry / 255, sharp / 255).min() > 70 and sharp.float().std() > 10
    assert psnr(sharp[0] / 255, sharp[2] / 255) > 70


def test_a_clip_with_a_short_exposure_is_sharp(pictures):
    settings = replace(STILL, speed=(9, 9), sharp_part=1)
    blurry, sharp = synthesize(sorted(pictures.iterdir()), [], 3, 48, seeded(0), settings)
    assert torch.equal(blurry, sharp) and not torch.equal(sharp[0], sharp[1])


@pytest.mark.parametrize(("grey", "least", "most"), [(128, 40, 45), (25, 36, 41), (8, 32, 37)])
def test_noise_is_that_of_a_good_camera(grey, least, most):
    """Measure the strongest noise, on a still picture; sensor.py says what it consists of."""
    noisy = replace(STILL, gain=(1, 1))
    blurry, sharp = synthesize([flat(grey)], [], 4, 64, seeded(0), noisy)
    assert (sharp == grey).all()
    assert least < psnr(blurry / 255, sharp / 255).mean() < most


def test_a_pan_is_the_mean_light_of_shifted_crops_and_its_target_the_middle_one(pan):
    """Sample exactly at pixels, so that numpy can compute the result."""
    picture = columns()
    blurry, sharp = synthesize([picture], [], 4, 32, seeded(0), PAN)
    places = [place(frame, picture) for frame in sharp]
    assert np.diff(places).tolist() == [5, 5, 5]
    light = linear(picture[:, 0])
    for frame, x in zip(blurry, places, strict=True):
        mean = sum(light[:, x + shift : x + shift + 32] for shift in (-2, -1, 0, 1, 2)) / 5
        assert np.abs(frame.numpy() - srgb(mean)[:, None]).max() <= 1


def test_the_exposure_is_a_part_of_the_frames_time(pan):
    picture = columns()
    settings = replace(PAN, subframes=15, exposure=(0.45, 0.45))
    blurry, sharp = synthesize([picture], [], 3, 32, seeded(0), settings)
    light, x = linear(picture[:, 0]), place(sharp[1], picture)
    mean = sum(light[:, x + shift : x + shift + 32] for shift in range(-3, 4)) / 7  # 7 / 15 = 0.47
    assert np.abs(blurry[1].numpy() - srgb(mean)[:, None]).max() <= 1


def test_the_mean_pose_is_where_the_blurred_frame_lies_and_the_motion_is_the_pictures(monkeypatch):
    """A camera that stands for three fifths of the exposure, and then goes on by 5 pixels and by 5 more."""

    def path(frames, steps, speed, rng):
        path = torch.zeros(frames * steps, 6, dtype=torch.float64)
        path[:, 0] = (10 * torch.arange(frames)[:, None] + torch.tensor([0, 0, 0, 5, 10])).flatten()
        path[:, 0] -= path[:, 0].mean()
        return path

    monkeypatch.setattr("stfan.synthesis.clip.sample_camera_path", path)
    picture = columns()
    clip = render_clip([picture], [], 0, 3, (32, 32), Rng(seeded(0)), PAN, "cpu")
    middle, mean = ([place(frame, picture) for frame in side] for side in (clip.middle, clip.mean))
    assert [b - a for a, b in zip(middle, mean, strict=True)] == [3, 3, 3]
    # What is seen moves to the left; the line that fits 0, 0, 0, 5, 10 best rises by 2.5 a sub-frame.
    wanted = torch.tensor([-10.0, 0, -10, 0])[:, None, None].expand(4, 8, 8)
    allowed = oracle.spread(torch.float64, 9 * 5, 200) + oracle.EPS[torch.float32][0] * 10
    oracle.assert_within(clip.motion[1], wanted, allowed)
    oracle.assert_within(clip.motion[0], wanted * torch.tensor([0, 0, 1, 1])[:, None, None], allowed)


def test_the_last_frame_moved_by_the_motion_is_this_one(pictures, cutouts):
    """Layers and a camera that turns and tilts; what comes into view is in no frame before."""
    settings = replace(STILL, speed=(5, 5), layers=(1, 2))
    files = [sorted(folder.iterdir()) for folder in (pictures, cutouts)]
    for seed in range(3):
        clip = render_clip(*files, 0, 4, (64, 64), Rng(seeded(seed)), settings, "cpu")
        since = F.interpolate(clip.motion[1:, :2], scale_factor=4, mode="bilinear").movedim(1, -1)
        places = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(64), indexing="xy"), -1)
        grid = (2 * (places - since) + 1) / 64 - 1
        last, now = clip.mean[:-1].float(), clip.mean[1:].float()
        moved = F.grid_sample(last, grid, align_corners=False)
        seen = grid.abs().amax(-1) < 1
        errors = [((side - now).abs().mean(1) * seen).sum() / seen.sum() for side in (last, moved)]
        assert errors[1] < errors[0] / 2


def test_the_target_is_the_one_that_is_asked_for(pictures):
    settings = replace(STILL, speed=(6, 6))
    sides = {
        target: SyntheticDataset(pictures, length=2, crop=32, settings=settings, target=target)
        for target in ("middle", "mean")
    }
    clip = sides["mean"].render(3)
    assert not torch.equal(clip.middle, clip.mean)
    for target, made in sides.items():
        assert torch.equal(made[3]["sharp"], getattr(clip, target).float() / 255)


def test_a_gap_leaves_frames_out(pan):
    picture = columns(2000)
    jumps = set()
    for seed in range(3):
        _, sharp = synthesize([picture], [], 12, 32, seeded(seed), replace(PAN, gap_part=1))
        jumps |= set(np.diff([place(frame, picture) for frame in sharp]).tolist())
    assert {5} < jumps <= {5, 10, 15, 20}


def test_a_cut_goes_to_another_shot_once():
    greys = {50, 150}
    changes = []
    for seed in range(8):
        _, sharp = synthesize([flat(g) for g in greys], [], 6, 16, seeded(seed), replace(STILL, cut_part=1))
        seen = sharp[:, 0, 0, 0].tolist()
        assert set(seen) <= greys and (sharp == sharp[:, :1, :1, :1]).all()
        changes.append(sum(a != b for a, b in pairwise(seen)))
    assert set(changes) == {0, 1}  # none where the same picture was drawn twice


def test_an_opaque_layer_hides_what_is_behind_it():
    red = torch.tensor([200, 30, 40, 255], dtype=torch.uint8)[:, None, None].expand(4, 90, 90)
    _, sharp = synthesize([flat(120)], [red], 1, 64, seeded(1), replace(STILL, layers=(1, 1)))
    pixels = sharp[0].flatten(1).T.tolist()
    inside, around = pixels.count([200, 30, 40]), pixels.count([120] * 3)
    edge = [pixel for pixel in pixels if pixel not in ([200, 30, 40], [120] * 3)]
    assert inside > 100 and around > 100
    assert len(edge) < 4 * 64  # mixed, and nothing but mixed: no dark or light fringe
    for red, green, blue in edge:
        assert 118 <= red <= 201 and 29 <= green <= 121 and 39 <= blue <= 121


def test_a_transparent_layer_leaves_the_picture():
    nothing = torch.full((4, 40, 40), 255, dtype=torch.uint8)
    nothing[3] = 0
    settings = replace(STILL, speed=(9, 9), layers=(2, 2))
    assert all((side == 120).all() for side in synthesize([flat(120)], [nothing], 3, 48, seeded(0), settings))


def test_layers_are_mixed_in_linear_light_where_they_are():
    half = torch.full((4, 11, 11), 0.5)  # premultiplied: white, half transparent
    views = torch.zeros(2, 3, 30, 40)
    way = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    way[:, 0, 2], way[:, 1, 2] = torch.tensor([5.5, -4.5]), 5.5  # the second is 10 pixels to the right
    scene.composite(views, scene.supersample(half, 1), way)
    expected = torch.zeros(2, 3, 30, 40)
    for view, left in zip(expected, (14, 24), strict=True):
        view[:, 9:20, left : left + 11] = 0.5
    allowed = oracle.spread(torch.float32, 4 * 4, 4 * 11)  # as of warp, below
    oracle.assert_within(views, expected, allowed)


def test_a_layer_far_away_is_not_seen():
    views = torch.full((1, 3, 8, 8), 0.25)
    way = torch.eye(3, dtype=torch.float64)[None].clone()
    way[:, 0, 2] = 1000.0
    scene.composite(views, scene.supersample(torch.ones(4, 5, 5), 1), way)
    assert (views == 0.25).all()


def test_highlights_leave_white_streaks(pan):
    """A white dot of 3 pixels, moved by 15, is a grey streak, or, if it was brighter than white, a white one."""
    picture = torch.zeros(3, 40, 300, dtype=torch.uint8)
    picture[..., ::30], picture[..., 1::30], picture[..., 2::30] = 255, 255, 255
    settings = replace(PAN, subframes=15)
    dim, white = (
        synthesize([picture], [], 2, 32, seeded(0), replace(settings, highlights=(factor, factor)))
        for factor in (1, 8)
    )
    assert torch.equal(dim[1], white[1])  # nothing brighter than white can be stored
    assert dim[0].max() == pytest.approx(srgb(3 / 15), abs=2)
    assert (white[0][0, 0] == 255).float().mean() > 0.3


def test_boosted_highlights_leave_what_is_not_bright():
    light = torch.tensor([0.1, 0.89, 1.0])[None, None].expand(3, 1, 3)
    wanted = torch.tensor([0.1, 0.89, 4.0])
    oracle.assert_within(
        sensor.boost_highlights(light, 4.0)[0, 0], wanted, oracle.spread(torch.float32, 2, 4)
    )


@pytest.mark.parametrize(("kind", "size"), [("jpeg", (48, 64)), ("h264", (48, 64)), ("h264", (33, 31))])
def test_compression_changes_a_little(pyav, kind, size):
    from support.samples import pattern

    frames = torch.stack([torch.from_numpy(pattern(t).to_ndarray()).permute(2, 0, 1) for t in range(4)])
    frames = frames[..., : size[0], : size[1]]
    good, bad = (getattr(compression, kind)(frames, q) for q in ((95, 30) if kind == "jpeg" else (15, 40)))
    assert good.shape == frames.shape and good.dtype == torch.uint8
    scores = [float(psnr(side / 255, frames / 255).mean()) for side in (good, bad)]
    assert 60 > scores[0] > max(32, scores[1] + 3)
    assert torch.equal(good, getattr(compression, kind)(frames, 95 if kind == "jpeg" else 15))


def test_compression_is_of_the_blurry_side_alone(pyav, pictures):
    files, plain = sorted(pictures.iterdir()), replace(STILL, speed=(3, 3))
    clips = [
        synthesize(files, [], 3, 48, seeded(0), replace(plain, compressed_part=part, h264_part=h264))
        for part, h264 in ((0, 0), (1, 0), (1, 1))
    ]
    assert all(torch.equal(clips[0][1], clip[1]) for clip in clips)
    assert all((a[0] != b[0]).any() for a, b in ((clips[0], clips[1]), (clips[0], clips[2]), clips[1:]))


def test_paths_have_the_speed_that_is_asked_for_and_forget_it():
    steps, frames = 15, 6000
    path = camera.sample_camera_path(frames, steps, 10.0, Rng(seeded(0)))
    assert path.shape == (frames * steps, 6)
    speed = steps * path[:, :2].diff(dim=0)
    assert speed.square().mean().sqrt() == pytest.approx(10, rel=0.1)
    later = [
        float((speed[: -n * steps] * speed[n * steps :]).mean() / speed.square().mean()) for n in (1, 25)
    ]
    assert 0.4 < later[0] < 0.95 and abs(later[1]) < 0.15
    assert path[:, 3:].abs().max() <= camera.BOUND
    reach = path.amax(0)[:3]  # of a sum of all steps, from whose ends their mean is taken
    oracle.assert_within(path.amin(0)[:3], -reach, oracle.spread(path.dtype, len(path), 2 * reach.max()))


def test_homographies_map_pixels_as_they_say():
    path = torch.tensor(
        [[3, 4, np.pi / 2, 0, 0, 0], [0, 0, 0, np.log(2), 0, 0], [0, 0, 0, 0, 0.1, 0]]
    ).double()
    ends = camera.homographies(path, (48, 64)) @ torch.tensor([32.0, 8, 1]).double()
    ends = ends[:, :2] / ends[:, 2:]
    expected = [[3 - 8, 4 + 32], [64, 16], [32 / 1.1, 8 / 1.1]]
    wanted = torch.tensor(expected, dtype=torch.float64)
    oracle.assert_within(ends, wanted, oracle.spread(torch.float64, 3 * 3, 64 * 48))


def test_a_view_through_a_homography_is_bilinear_between_pixels():
    image = torch.rand(1, 6, 7, generator=seeded(0))
    way = torch.eye(3, dtype=torch.float64)[None].repeat(2, 1, 1)
    way[:, 0, 2], way[:, 1, 2] = torch.tensor([3.0, 3.5]), 2.5
    views = scene.warp(scene.supersample(image, 1), way, (2, 3))
    # a grid of float32 from -1 to 1 puts a pixel, one of up to 4 x 7 of the enlarged image, so far aside
    allowed = oracle.spread(torch.float32, 4 * 4, 4 * 7)
    oracle.assert_within(views[0], image[:, 2:4, 2:5], allowed)
    between = (  # the cubic of Keys with a = -3/4, half way
        -0.09375 * (image[:, 2:4, 1:4] + image[:, 2:4, 4:7])
        + 0.59375 * (image[:, 2:4, 2:5] + image[:, 2:4, 3:6])
    )
    oracle.assert_within(views[1], between.clamp(0, 1), allowed)


def test_the_parts_share_no_picture(pictures):
    settings = replace(STILL, cut_part=1)
    seen = {}
    for part in ("train", "test"):
        made = SyntheticDataset(pictures, length=2, crop=16, part=part, settings=settings)
        seen[part] = {name for draw in range(30) for name in made.render(draw).facts["pictures"]}
    assert seen["test"] == {"05.png", "11.png"}
    assert seen["train"] == {f"{i:02d}.png" for i in range(12)} - seen["test"]


def test_a_set_on_disk_is_the_draws_and_says_how_they_came_about(pyav, pictures, cutouts, tmp_path):
    root = tmp_path / "set"
    synthesize_set(pictures, root, 3, 2, 4, (32, 48), seed=7, cutouts=cutouts)
    card = json.loads((root / "clips.json").read_text())
    assert card["seed"] == 7 and card["frames"] == 4 and card["size"] == [32, 48]
    assert SynthesisConfig(**card["settings"]) != STILL
    for part, count in (("train", 3), ("test", 2)):
        made, clips = (
            SyntheticDataset(pictures, cutouts, length=4, crop=(32, 48), seed=7, part=part),
            find_videos(root, part).clips,
        )
        assert list(clips) == [f"{i:05d}" for i in range(count)]
        for draw, paths in enumerate(clips.values()):
            item, facts = made[draw], card["clips"][f"{part}/{draw:05d}"]
            for side, frames in zip(("blurry", "sharp"), read_clip(paths), strict=True):
                assert torch.equal(item[side], frames)
            assert facts["draw"] == draw and item["name"].startswith(facts["pictures"][0][:2])
    with pytest.raises(FileExistsError, match="exists already"):
        synthesize_set(pictures, root, 1, 1, 2, 16)


def test_an_interrupted_set_leaves_nothing(pictures, tmp_path):
    def interrupted(jobs):
        yield from jobs[:2]
        assert len(list(tmp_path.glob("*/train/*"))) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize_set(pictures, tmp_path / "set", 3, 1, 2, 16, progress=interrupted)
    assert not any(tmp_path.glob("*set*")) and not any(tmp_path.glob(".*"))


def test_a_pictures_size_is_that_of_the_upright_picture(tmp_path):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=turned)
    assert find_pictures(tmp_path, (40, 20)) == [tmp_path / "a.jpg"]
    with pytest.raises(ValueError, match=r"a.jpg: is 20x40, smaller than the frames' 40x20"):
        find_pictures(tmp_path, (20, 40))


def test_folders_that_will_not_do_are_refused_before_anything_is_made(pictures, tmp_path):
    def refused(folder, words, error=ValueError, **options):
        with pytest.raises(error, match=words):
            synthesize_set(folder, tmp_path / "set", 2, 1, 2, options.pop("size", 16), **options)
        assert not (tmp_path / "set").exists()

    refused(tmp_path / "nowhere", "nowhere: no such folder", FileNotFoundError)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, r"empty: holds no pictures \(.png")
    refused(discs(tmp_path / "few", 5), "few: needs at least 6 pictures to split, has 5")
    refused(pictures, r"00.png: is 100x80, smaller than the frames' 100x96", size=(96, 100))
    refused(pictures, "00.png: a cut-out needs an alpha channel", cutouts=pictures)
    bad = discs(tmp_path / "bad", 6)
    (bad / "03.png").write_text("no picture")
    refused(bad, "03.png: cannot be read", OSError)


def test_a_picture_that_breaks_off_is_named(tmp_path):
    bad = discs(tmp_path / "bad", 1)
    file = bad / "00.png"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(OSError, match=r"00\.png: cannot be read"):
        SyntheticDataset(bad, length=2, crop=16)[0]


def test_other_errors_are_clear(pictures):
    with pytest.raises(ValueError, match="part must be train, test or None, got 'val'"):
        SyntheticDataset(pictures, crop=16, part="val")
    with pytest.raises(ValueError, match="pictures: needs at least one"):
        synthesize([], [], 2, 16, seeded(0))
    with pytest.raises(ValueError, match="a picture is 160x120, smaller than the frames' 200x100"):
        synthesize([flat(1)], [], 2, (100, 200), seeded(0))
    with pytest.raises(ValueError, match="the list: holds no pictures"):
        SyntheticDataset([], crop=16)
    with pytest.raises(ValueError, match=r"size of a frame must be \(height, width\)"):
        SyntheticDataset(pictures, crop=(16, 16, 3))
    with pytest.raises(IndexError, match="numbered from 0, got -1"):
        SyntheticDataset(pictures, crop=16)[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exposure", (0.5, 1.2)),
        ("speed", (5, 2)),
        ("speed", (0, 2)),
        ("highlights", (0.5, 2)),
        ("cut_part", 1.1),
        ("subframes", 0),
    ],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*, got"):
        SynthesisConfig(**{name: value})


def test_cutouts_come_without_their_margins(cutouts):
    alphas = [open_rgba(file)[3] for file in sorted(cutouts.iterdir())]
    for alpha in alphas:
        assert all(alpha.amax(dim)[end] == 255 for dim in (0, 1) for end in (0, -1))
        assert min(alpha.shape) < 40


def test_a_sharp_video_is_blurred_by_the_mean_light_of_its_frames(pyav, tmp_path):
    from support.samples import make_video, pattern

    path = make_video(tmp_path / "a.mkv", frames=22, codec="ffv1", pix_fmt="bgr0")
    light = np.stack([linear(pattern(t).to_ndarray()) for t in range(22)])
    clips = list(from_video(path, 3, (6, 8)))
    assert len(clips) == 1
    blurry, sharp = (side.permute(0, 2, 3, 1).numpy() for side in clips[0])
    for t in range(3):
        assert np.array_equal(sharp[t], pattern(7 * t + 3).to_ndarray())
        assert np.abs(blurry[t] - srgb(light[7 * t : 7 * t + 7].mean(0))).max() <= 0.51
    assert len(list(from_video(path, 1, (3, 3)))) == 7
    with pytest.raises(ValueError, match=r"a.mkv: its 22 frames, between cuts, are too few for 4 of 7 to 7"):
        list(from_video(path, 4, (7, 7)))
    with pytest.raises(ValueError, match=r"average must be .* odd number .*got \(4, 4\)"):
        list(from_video(path, 2, (4, 4)))


def test_a_clip_of_a_video_does_not_go_over_a_cut(pyav, tmp_path):
    path = tmp_path / "cut.mkv"
    rng = np.random.default_rng(0)
    scenes = [np.kron(rng.integers(low, low + 120, (12, 16, 3)), np.ones((4, 4, 1))) for low in (0, 130)]
    with pyav.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for image in [scenes[0]] * 8 + [scenes[1]] * 7:
            frame = pyav.VideoFrame.from_ndarray(image.astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clips = list(from_video(path, 2, (3, 3)))  # 6 frames of each shot; over the cut there were one more
    assert len(clips) == 2
    for (blurry, sharp), image in zip(clips, scenes, strict=True):
        assert torch.equal(blurry, sharp) and np.array_equal(sharp[0].permute(1, 2, 0), image)


def textured(down, right, height=96, width=128):
    """A picture with detail of 6 to 30 pixels along both axes, read with its corner there."""
    y, x = torch.arange(height)[:, None] + down, torch.arange(width)[None] + right
    waves = [(0.2, 0.1, 0), (-0.15, 0.25, 1), (0.3, -0.2, 2), (0.9, 0.35, 3)]
    return (sum((a * y + b * x + c).sin() for a, b, c in waves) / 10 + 0.5).expand(3, -1, -1)


@pytest.mark.parametrize("move", [(0.0, 0.0), (0.5, 0.0), (-0.6, 0.8), (0.0, 2.0), (4.0, -3.0)])
def test_motion_is_measured_to_a_quarter(move):
    measured = measure_motion(textured(0, 0), textured(*move))
    assert measured == pytest.approx(np.hypot(*move), rel=0.25, abs=0.02)


def test_what_has_no_texture_or_no_room_does_not_move():
    grey, stripes = torch.full((3, 64, 64), 0.5), textured(0, 0)[:, :1].expand(-1, 64, -1)
    assert measure_motion(grey, grey + 0.1) == 0 and measure_motion(grey[:, :20], grey[:, :20]) == 0
    assert measure_motion(stripes, stripes.roll(3, 2)) == 0  # along the stripes it may move as it likes


def test_what_is_too_fast_is_left_out(pyav, tmp_path):
    path, places = tmp_path / "a.mkv", [0, 0.5, 1, 1.5, 2, 2.5, 8, 14, 20, 20.5, 21, 21.5]
    with pyav.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "bgr0"
        for place in places:
            image = (255 * textured(0, place)).round().byte().permute(1, 2, 0).numpy()
            container.mux(stream.encode(pyav.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))
        container.mux(stream.encode(None))
    middles = [sharp for _, sharp in from_video(path, 1, (3, 3), fastest=1.0)]
    wanted = [(255 * textured(0, places[i])).round().byte() for i in (1, 4, 9)]
    assert len(middles) == 3 and all(torch.equal(a[0], b) for a, b in zip(middles, wanted, strict=True))
    assert len(list(from_video(path, 1, (3, 3)))) == 4
    with pytest.raises(
        ValueError, match="between cuts and what is too fast, are too few for 3 of 3 to 3 each"
    ):
        list(from_video(path, 3, (3, 3), fastest=1.0))


def test_a_contact_sheet_shows_every_clip(tmp_path):
    white, black = torch.ones(7, 3, 20, 30), torch.zeros(7, 3, 20, 30, dtype=torch.uint8)
    items = [
        {"name": "first", "blurry": white, "sharp": white - 0.2},
        {"name": "second", "blurry": black, "sharp": black},
    ]
    contact_sheet(items, tmp_path / "sheet.png", columns=3, side=15)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG" and image.size == (4 + 3 * (15 + 4), 2 * (18 + 2 * (10 + 4)))
        sheet = np.array(image)
    assert (sheet[18:28, 4:19] == 255).all() and (sheet[32:42, 23:38] == 204).all()
    assert (sheet[46 + 18 : 46 + 28, 42:57] == 0).all()
    assert (sheet[:18] < 128).any() and (sheet[46 : 46 + 18] < 128).any()  # labels
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_an_impossible_contact_sheet_is_refused(tmp_path):
    frames = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="there are no clips to show"):
        contact_sheet([], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match=r"must be a file that ends in \.png"):
        contact_sheet([{"name": "a", "blurry": frames, "sharp": frames}], tmp_path / "sheet.jpg")
    with pytest.raises(ValueError, match=r"a: blurry and sharp must be \(T, 3, h, w\) alike"):
        contact_sheet([{"name": "a", "blurry": frames, "sharp": frames[:1]}], tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []
