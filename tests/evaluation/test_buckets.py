"""Clips are scored by how strongly they are blurred: exact means, and no mixture."""

import io
import math

import pytest
from rich.console import Console

from stfan.cli.score_tables import bucket_table
from stfan.evaluation.buckets import bucket_scores


def clip(*frames):
    """Scores as evaluate() gives them, of frames (PSNR before, after)."""
    return {
        "per_frame": {
            f"{t:05d}": {"input": {"psnr": before}, "output": {"psnr": after}}
            for t, (before, after) in enumerate(frames)
        }
    }


RESULT = {
    "clips": {
        "drift-4-clean-00": clip((30, 31), (32, 35)),
        "drift-4-clean-01": clip((20, 19)),
        "drift-4-noisy-00": clip((25, 30)),
        "drift-8-clean-00": clip((30, 30)),
        "drift-0-clean-00": clip((math.inf, 50), (40, 44)),
        "another clip": clip((1, 99)),
    }
}


def test_scores():
    scores = bucket_scores(RESULT)
    assert list(scores) == ["clean", "noisy"] and list(scores["clean"]) == ["0", "4", "8"]
    four = scores["clean"]["4"]
    assert four["clips"] == 2 and four["input"] == pytest.approx((31 + 20) / 2)
    assert four["gain"] == pytest.approx((2 - 1) / 2) and four["worse"] == 0.5
    assert four["worst"] == pytest.approx(-1)
    assert scores["clean"]["8"]["worse"] == 0  # as good as before is not worse
    assert scores["noisy"] == {"4": {"clips": 1, "input": 25, "gain": 5, "worse": 0, "worst": 5}}
    # equal frames count as 60 dB
    assert scores["clean"]["0"]["gain"] == pytest.approx((50 - 60 + 44 - 40) / 2)


def test_other_clips_have_no_buckets():
    assert bucket_scores({"clips": {"GOPR0372_07_00": clip((1, 2))}}) == {}


def test_the_table_has_a_line_for_each_bucket():
    file = io.StringIO()
    Console(file=file, width=120).print(bucket_table(bucket_scores(RESULT)))
    lines = [line.replace("\u2502", " ").split() for line in file.getvalue().splitlines()]
    assert ["no", "4", "2", "25.50", "+0.50", "-1.00", "50%"] in lines
    assert ["yes", "4", "1", "25.00", "+5.00", "+5.00", "0%"] in lines
