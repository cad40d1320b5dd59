"""Training sequences: each random change by itself, by its definition; and the same bits however a run is cut up."""

import logging
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from stfan.data.paired_videos import Video
from stfan.data.sequences import SequenceDataset, sequence_indices
from support import oracle

STILL = {"noise": 0, "brightness": (1, 1), "contrast": (1, 1), "flips": False, "reversal": False}


def save(folder, frames):
    """(T, H, W, 3) uint8 as files, 000.png on."""
    folder.mkdir(parents=True)
    paths = [folder / f"{t:03d}.png" for t in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    return tuple(paths)


def video(folder, frames, size=(24, 28), name="a", seed=0):
    """Noise, other on each side, in frames of (height, width) = size."""
    pixels = np.random.default_rng(seed).integers(0, 256, (2, frames, *size, 3), dtype=np.uint8)
    return Video(name, *(save(folder / name / side, x) for side, x in zip(("b", "s"), pixels, strict=True)))


def read(paths):
    frames = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths])
    return frames.permute(0, 3, 1, 2).float() / 255


def twin(video):
    """Blurry and sharp are the same."""
    return Video(video.name, video.blurry, video.blurry)


def same(a, b):
    return a["name"] == b["name"] and all(torch.equal(a[side], b[side]) for side in ("blurry", "sharp"))


def test_every_frame_is_used():
    assert sequence_indices(40, 20) == [[*range(20)], [*range(20, 40)]]
    assert sequence_indices(41, 20) == [[*range(20)], [*range(20, 40)], [*range(21, 41)]]
    assert sequence_indices(20, 20) == [[*range(20)]]
    assert sequence_indices(3, 7) == [[0, 1, 2, 1, 0, 1, 2]]
    assert sequence_indices(2, 5) == [[0, 1, 0, 1, 0]]
    assert sequence_indices(1, 3) == [[0, 0, 0]]
    assert sequence_indices(0, 3) == []
    for frames in range(1, 60):
        for length in (1, 5, 20):
            cut = sequence_indices(frames, length)
            assert {t for run in cut for t in run} == set(range(frames))
            assert {len(run) for run in cut} == {length} and len(cut) == math.ceil(frames / length)


def test_an_epoch_has_every_run_once_in_its_own_order(tmp_path):
    videos = [video(tmp_path, 41, name="a"), video(tmp_path, 3, name="b")]
    sequences = SequenceDataset(videos, length=10, crop=(4, 4))
    assert len(sequences) == 6
    epochs = [[sequences[draw]["name"] for draw in range(6 * e, 6 * e + 6)] for e in range(4)]
    expected = {"a 000..009", "a 010..019", "a 020..029", "a 030..039", "a 031..040", "b 000..002"}
    assert all(set(epoch) == expected for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    other = SequenceDataset(videos, length=10, crop=(4, 4), seed=1)
    assert [other[draw]["name"] for draw in range(24)] != [name for epoch in epochs for name in epoch]


def test_no_run_goes_over_a_gap(tmp_path):
    source = video(tmp_path, 9)
    with_gap = Video("a", *(side[:5] + side[6:] for side in (source.blurry, source.sharp)))
    sequences = SequenceDataset([with_gap], length=3, crop=(4, 4))
    assert {sequences[draw]["name"] for draw in range(3)} == {"a 000..002", "a 002..004", "a 006..008"}
    assert len(sequences) == 3


def test_nothing_is_changed_where_nothing_is_asked_for(tmp_path):
    source = video(tmp_path, 5)
    item = SequenceDataset([source], length=5, crop=(24, 28), **STILL)[7]
    assert torch.equal(item["blurry"], read(source.blurry)) and torch.equal(item["sharp"], read(source.sharp))
    assert item["name"] == "a 000..004" and item["blurry"].is_contiguous()
    short = SequenceDataset([source], length=8, crop=(24, 28), **STILL)[0]
    assert torch.equal(short["blurry"], read(source.blurry)[[0, 1, 2, 3, 4, 3, 2, 1]])


def test_one_crop_for_all_frames_and_all_places_alike(tmp_path):
    source = video(tmp_path, 4)
    sequences = SequenceDataset([source], length=4, crop=(12, 16), **STILL)
    sides = read(source.blurry), read(source.sharp)
    places = Counter()
    for draw in range(200):
        item = sequences[draw]
        places.update(
            (top, left)
            for top in range(13)
            for left in range(13)
            if all(
                torch.equal(item[side], whole[..., top : top + 12, left : left + 16])
                for side, whole in zip(("blurry", "sharp"), sides, strict=True)
            )
        )
    assert sum(places.values()) == 200  # each has its place
    assert {top for top, _ in places} == {left for _, left in places} == set(range(13))
    assert len(places) > 100  # of 169, drawn together


def test_mirrors_and_reversal(tmp_path):
    """Each is there half of the time, independently, for both sides and all frames."""
    source = video(tmp_path, 4)
    ways = {}
    for axes in ((), (0,), (2,), (3,), (0, 2), (0, 3), (2, 3), (0, 2, 3)):
        ways[axes] = read(source.blurry).flip(axes), read(source.sharp).flip(axes)
    both = STILL | {"flips": True, "reversal": True}

    def drawn(count, **how):
        sequences = SequenceDataset([source], length=4, crop=(24, 28), **(both | how))
        for draw in range(count):
            item = sequences[draw]
            (axes,) = (
                axes
                for axes, (blurry, sharp) in ways.items()
                if torch.equal(item["blurry"], blurry) and torch.equal(item["sharp"], sharp)
            )
            yield axes

    counts = Counter(drawn(400))
    assert set(counts) == set(ways) and max(abs(count - 50) for count in counts.values()) < 5 * 6.6
    assert {axis for axes in drawn(40, flips=False) for axis in axes} == {0}
    assert {axis for axes in drawn(40, reversal=False) for axis in axes} == {2, 3}


def factors(item, source):
    """The gain and the offset that all pixels of a twin's item went through, of those that were not clamped."""
    x, y = source.double().flatten(), item["blurry"].double().flatten()
    inside = (y > 0) & (y < 1)
    (gain, offset), *_ = torch.linalg.lstsq(torch.stack([x, torch.ones_like(x)], 1)[inside], y[inside])
    # the frames are float32, and went through a product, a mean of all pixels and two sums, of values up to 1.2
    oracle.assert_within((gain * x + offset).clamp(0, 1), y, oracle.spread(torch.float32, 9, 1.2))
    return float(gain), float(offset)


def test_brightness_and_contrast(tmp_path):
    """gain = b c and offset = (1 - c) b m with m the mean grey value, one pair for all frames of both sides."""
    source = twin(video(tmp_path, 3))
    pixels = read(source.blurry)
    grey = float(pixels.double().mean((0, 2, 3)) @ torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64))
    seen = []
    for only in ("brightness", "contrast", "both"):
        how = STILL | {name: (0.8, 1.2) for name in ("brightness", "contrast") if only in (name, "both")}
        sequences = SequenceDataset([source], length=3, crop=(24, 28), **how)
        for draw in range(60):
            item = sequences[draw]
            assert torch.equal(item["blurry"], item["sharp"])
            gain, offset = factors(item, pixels)
            b = gain + offset / grey
            seen.append((only, b, gain / b))
    for name, index in (("brightness", 1), ("contrast", 2)):
        values = [each[index] for each in seen if each[0] in (name, "both")]
        assert all(0.8 - 1e-4 < value < 1.2 + 1e-4 for value in values)
        assert min(values) < 0.83 and max(values) > 1.17 and abs(sum(values) / 120 - 1) < 5 * 0.0106
        others = [each[index] for each in seen if each[0] not in (name, "both")]
        assert others == pytest.approx([1] * 60, abs=1e-4)
    drawn = torch.tensor([each[1:] for each in seen if each[0] == "both"])
    assert abs(float(torch.corrcoef(drawn.T)[0, 1])) < 0.5  # two draws


def test_the_grey_value_is_of_the_blurry_side(tmp_path):
    source = video(tmp_path, 2)
    how = STILL | {"contrast": (0, 0)}
    item = SequenceDataset([source], length=2, crop=(24, 28), **how)[0]
    grey = float(read(source.blurry).mean((0, 2, 3)) @ torch.tensor([0.2989, 0.587, 0.114]))
    for side in ("blurry", "sharp"):
        wanted = torch.full_like(item[side], grey)
        oracle.assert_within(item[side], wanted, oracle.spread(torch.float32, item[side].numel()))


def test_noise_is_new_on_every_frame_of_the_blurry_side_alone(tmp_path):
    grey = np.full((6, 64, 64, 3), 128, np.uint8)
    source = Video("a", save(tmp_path / "b", grey), save(tmp_path / "s", grey))
    noisy = SequenceDataset([source], length=6, crop=(64, 64), **(STILL | {"noise": 0.01}))
    item = noisy[0]
    assert torch.equal(item["sharp"], torch.full((6, 3, 64, 64), 128 / 255))
    noise = (item["blurry"] - item["sharp"]).double()
    n = noise.numel()
    assert abs(float(noise.mean())) < 5 * 0.01 / math.sqrt(n)
    assert abs(float(noise.std()) / 0.01 - 1) < 5 / math.sqrt(2 * n)
    parts = noise.flatten(2).flatten(0, 1)  # each channel of each frame is unlike any other
    assert float((torch.corrcoef(parts) - torch.eye(18)).abs().max()) < 5 / 64
    assert not torch.equal(noisy[1]["blurry"], item["blurry"])
    dark = np.zeros((6, 64, 64, 3), np.uint8)
    black = Video("a", save(tmp_path / "d", dark), save(tmp_path / "e", dark))
    clamped = SequenceDataset([black], length=6, crop=(64, 64), **(STILL | {"noise": 0.01}))[0]["blurry"]
    assert float(clamped.min()) == 0 and 0.45 < float((clamped == 0).double().mean()) < 0.55


def test_noise_changes_nothing_else_of_a_draw(tmp_path):
    source = video(tmp_path, 4)
    with_noise, without = (SequenceDataset([source], length=4, crop=(12, 16), noise=n) for n in (0.01, 0))
    for draw in range(10):
        a, b = with_noise[draw], without[draw]
        assert torch.equal(a["sharp"], b["sharp"])
        assert 0 < float((a["blurry"] - b["blurry"]).abs().max()) < 0.06


def test_the_same_bits_with_any_number_of_workers_and_after_any_pause(tmp_path):
    videos = [video(tmp_path, 11, name="a"), video(tmp_path, 4, name="b", seed=1)]

    def made(draws, workers=0):
        sequences = SequenceDataset(videos, length=5, crop=(16, 20), seed=3)
        loader = DataLoader(sequences, sampler=draws, num_workers=workers, batch_size=2)
        return [
            {"name": name, "blurry": blurry, "sharp": sharp}
            for batch in loader
            for name, blurry, sharp in zip(batch["name"], batch["blurry"], batch["sharp"], strict=True)
        ]

    through = made(range(14))  # three epochs and a half
    torch.manual_seed(99)  # the draws do not look at it
    assert len(through) == 14 and all(map(same, through, made(range(14), workers=2)))
    assert all(map(same, through[5:], made(range(5, 14), workers=1)))
    again = SequenceDataset(videos, length=5, crop=(16, 20), seed=3)
    assert all(same(through[draw], again[draw]) for draw in (13, 0, 7, 6))
    assert len({float(item["blurry"].sum()) for item in through}) == 14
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 if threads != 3 else 2)
        assert all(map(same, through, made(range(14))))
    finally:
        torch.set_num_threads(threads)


def test_a_corrupt_file_is_named(tmp_path):
    source = video(tmp_path, 9)
    source.sharp[4].write_bytes(source.sharp[4].read_bytes()[:-60])
    sequences = SequenceDataset([source], length=3, crop=(12, 16))
    said = []
    for draw in range(3):
        try:
            sequences[draw]
        except OSError as error:
            said.append(str(error))
    assert len(said) == 1 and said[0].startswith(f"{source.sharp[4]}: cannot be read: ")
    Image.new("RGB", (28, 20)).save(source.sharp[4])
    with pytest.raises(OSError, match=r"004\.png: cannot be read: is 28x20, not 28x24"):
        [sequences[draw] for draw in range(3)]
    source.blurry[0].write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"b/000\.png: cannot be read"):
        SequenceDataset([source], length=3, crop=(12, 16))


def test_the_next_draw_takes_the_place_of_a_corrupt_one(tmp_path, caplog):
    source = video(tmp_path, 9)
    whole = [SequenceDataset([source], length=3, crop=(12, 16))[draw] for draw in range(20)]
    source.blurry[0].write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING, "stfan"):
        sequences = SequenceDataset([source], length=3, crop=(12, 16), skip_corrupt=True)
        assert len(sequences) == 3
        items = [sequences[draw] for draw in range(18)]
    good = [draw for draw in range(20) if whole[draw]["name"] != "a 000..002"]
    assert [draw for draw in range(18) if not same(items[draw], whole[draw])] == [
        draw for draw in range(18) if draw not in good
    ]
    for draw, item in enumerate(items):
        assert same(item, whole[min(other for other in good if other >= draw)])
    (line,) = caplog.messages
    assert line.startswith(f"{source.blurry[0]}: cannot be read: ")
    for path in source.blurry:
        path.write_bytes(b"no picture")
    with pytest.raises(OSError, match="no sequence of draws 5 to 7 can be read"):
        sequences[5]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"crop": (12, 18)}, r"crop must be \(height, width\), multiples of 4, got \(12, 18\)"),
        ({"crop": (0, 16)}, r"multiples of 4, got \(0, 16\)"),
        ({"crop": (28, 24)}, r"000\.png: is 28x24, smaller than the crop of 24x28"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"noise": -0.1}, "noise must be finite, not negative"),
        ({"contrast": (1.2, 0.8)}, r"contrast must be .* a range in order, got \(1\.2, 0\.8\)"),
        ({"brightness": (0.8, math.nan)}, r"brightness must be .*nan"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_bad_arguments_are_named(tmp_path, how, words):
    with pytest.raises(ValueError, match=words):
        SequenceDataset([video(tmp_path, 3)], **({"length": 3, "crop": (12, 16)} | how))


def test_no_videos_and_no_draw(tmp_path):
    with pytest.raises(ValueError, match="videos must hold one video at least"):
        SequenceDataset([])
    with pytest.raises(IndexError, match="draw must not be negative, got -1"):
        SequenceDataset([video(tmp_path, 3)], length=3, crop=(12, 16))[-1]
