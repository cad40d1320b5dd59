"""An HTML report: the frames that changed most, curves over time, and the filters that the network predicted."""

import base64
import html
import io
import re
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stfan.evaluation.evaluate import FrameScore
from stfan.evaluation.metrics import sharpness
from stfan.files import atomic_write, to_json
from stfan.images import to_8bit, to_pillow

FRAMES = 4  # frames that the page shows; no more are kept in memory
GRID = 16  # candidate pixels along each side of a frame; the page shows one in each quarter
CHANNELS = 4  # channels whose filters the page shows, for each kind of filter
LOSSLESS = 1280 * 720  # pixels; larger frames go into the page as JPEG, so that it can still be mailed
SHARPNESS = {
    "name": "sharpness",
    "rule": "Sharpness is the variance of the Laplacian of the luma on a scale of 255; noise raises it too.",
}


class Report:
    """Collects the frames that a model deblurs, and writes one HTML page that needs no other file.

    Memory stays flat: a few frames are kept, and of all others three numbers.

    Args:
        model: an STFAN; from now until :meth:`write` its filters are sampled at a few pixels.
        title: the page's heading.
        facts: {name: value} for its head.
        measure: {"name", "rule"} of the curve.

    Attributes:
        first: the number of the first frame; set it where a run goes on from another.
        summary: a sentence below the heading.
        plan: lines on what became of each part of the input.
    """

    def __init__(
        self, model: Any, title: str, facts: Mapping[str, Any], measure: Mapping[str, str] = SHARPNESS
    ):
        self.title, self.facts, self.measure = title, dict(facts), measure
        self.kernel_size, self.first, self.summary = model.kernel_size, 0, ""
        self.plan: list[str] = []
        self._probes = {"align": _Probe(model.align), "deblur": _Probe(model.deblur)}
        self._best: list[dict[str, Any]] = []
        self._names: list[list[str]] = []
        self._seconds: list[float] = []
        self._curves: dict[str, list[float | None]] = {"input": [], "output": []}
        self._last = time.perf_counter()

    def add_frame(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """Add the next frame of a video, (3, H, W) in [0, 1] both; its time is that since the last one."""
        now = time.perf_counter()
        scores = sharpness(before), sharpness(after)
        self._add(before, after, None, scores, now - self._last)
        self._last = time.perf_counter()

    def add_score(self, score: FrameScore) -> None:
        """Add the next frame of an evaluation."""
        values = [side and side[0] for side in (score.input, score.output)]
        self._names.append([score.clip, score.frame])
        self._add(score.before, score.after, score.target, values, score.seconds)

    def _add(
        self,
        before: torch.Tensor,
        after: torch.Tensor,
        target: torch.Tensor | None,
        scores: Sequence[float | None],
        seconds: float,
    ) -> None:
        index = len(self._seconds)
        self._seconds.append(round(seconds, 4))
        for side, score in zip(self._curves, scores, strict=True):
            self._curves[side].append(score and round(score, 4))
        change = (after - before).abs().mean(0)
        size = [before.shape[2], before.shape[1]]
        frame: dict[str, Any] = {"index": index, "change": float(change.mean()), "size": size}
        self._best = _spread([*self._best, frame], index + 1)
        if any(best is frame for best in self._best):
            images = {"before": before, "after": after, "target": target}
            frame["images"] = {key: to_8bit(image) for key, image in images.items() if image is not None}
            frame |= self._filters(change)

    def _filters(self, change: torch.Tensor) -> dict[str, Any]:
        """Return the filters at the pixels that changed most, one in each quarter of the frame.

        Args:
            change: (H, W), of each pixel.

        Returns:
            {"pixels": [(x, y)], "filters": {kind: {"channels", "taps"}}}, taps as [pixel][channel][k * k] with the
            mean over all channels first; no pixels if the network did not see the frame as a whole.
        """
        grid = [-(-side // 4) for side in change.shape]
        if any(probe.grid != grid for probe in self._probes.values()):
            return {"pixels": [], "filters": {}}
        rows, columns = _candidates(grid)
        near = F.avg_pool2d(change[None].float(), 17, 1, 8, count_include_pad=False)[0]
        near = near[4 * rows][:, 4 * columns]
        places = []
        for top, bottom in _halves(len(rows)):
            for left, right in _halves(len(columns)):
                quarter = near[top:bottom, left:right]
                y, x = divmod(int(quarter.argmax()), quarter.shape[1])
                places.append((top + y, left + x))
        filters = {}
        for kind, probe in self._probes.items():
            taps = torch.stack([probe.taps[:, y, x] for y, x in places])  # (pixels, channels * k^2)
            taps = taps.unflatten(1, (-1, self.kernel_size**2))
            aside = taps.abs().sum(2) - taps[:, :, self.kernel_size**2 // 2].abs()
            channels = aside.mean(0).topk(min(CHANNELS, taps.shape[1])).indices.sort().values
            selection = torch.cat([taps.mean(1, keepdim=True), taps[:, channels]], 1)
            filters[kind] = {"channels": channels.tolist(), "taps": selection.tolist()}
        return {"pixels": [(4 * int(columns[x]), 4 * int(rows[y])) for y, x in places], "filters": filters}

    def write(self, path: Path, result: Mapping[str, Any] | None = None) -> None:
        """Write the page atomically, and stop sampling the model's filters.

        Args:
            path: the file.
            result: what :func:`stfan.evaluation.evaluate.evaluate` returned, for a table of the clips.

        Raises:
            ValueError: no frame was added.
        """
        for probe in self._probes.values():
            probe.handle.remove()
        if not self._seconds:
            raise ValueError(f"{path}: no frame was added, so there is nothing to report")
        data = {
            "title": self.title,
            "summary": self.summary,
            "facts": self.facts,
            "plan": self.plan,
            "measure": self.measure,
            "kernel_size": self.kernel_size,
            "first": self.first,
            "names": self._names,
            "seconds": self._seconds,
            **self._curves,
            "frames": [frame | {"images": _encode(frame["images"])} for frame in self._best],
            "result": result,
        }
        page = files("stfan.evaluation").joinpath("report.html").read_text("utf-8")
        # A "<" in the data would be the end of its script.
        parts = {"title": html.escape(self.title), "data": to_json(data).replace("<", "\\u003c")}
        page = re.sub(r"\{\{(title|data)\}\}", lambda match: parts[match[1]], page)
        with atomic_write(path) as partial:
            # a name may hold bytes that are no UTF-8
            partial.write_text(page, "utf-8", errors="replace")


class _Probe:
    """Keeps the filters that a filter head predicted last, at a few pixels.

    The network never has all of them, so the probe makes them of what the head's last layer reads.

    Attributes:
        grid: [height, width] of the head's output.
        taps: (taps, rows, columns) at the candidate pixels.
    """

    def __init__(self, head: nn.Sequential):
        self.grid: list[int] | None = None
        self.taps = torch.empty(0)
        self.last = head[-1]
        self.handle = head[-2].register_forward_hook(self._sample)

    def _sample(self, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.grid = list(output.shape[2:])
        rows, columns = (index.to(output.device) for index in _candidates(self.grid))
        few = output.detach()[:1].index_select(2, rows).index_select(3, columns)
        self.taps = self.last(few).detach()[0].float().cpu()


def _candidates(grid: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Return the rows and the columns of the candidate pixels, evenly over a grid of that height and width."""
    indices = []
    for side in grid:
        n = min(GRID, side)
        indices.append(((torch.arange(n) + 0.5) * side / n).long())
    return tuple(indices)


def _halves(n: int) -> list[tuple[int, int]]:
    """Cut range(n) into two halves; a single pixel stays one."""
    return [(0, n)] if n == 1 else [(0, n // 2), (n // 2, n)]


def _spread(frames: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Choose the frames that changed most, but no near neighbours, which would look the same.

    Args:
        frames: to choose from.
        count: number of all frames so far; the more, the further apart are those that are chosen.
    """
    distance = max(1, count // (2 * FRAMES))
    chosen: list[dict[str, Any]] = []
    for frame in sorted(frames, key=lambda frame: -frame["change"]):
        if all(abs(frame["index"] - other["index"]) >= distance for other in chosen):
            chosen.append(frame)
    return chosen[:FRAMES]


def _encode(images: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Encode (3, H, W) uint8 tensors as data URLs."""
    urls = {}
    for key, image in images.items():
        lossless = image.shape[1] * image.shape[2] <= LOSSLESS
        kind = "png" if lossless else "jpeg"
        options: dict[str, Any] = {} if lossless else {"quality": 95, "subsampling": 0}
        buffer = io.BytesIO()
        to_pillow(image).save(buffer, kind, **options)
        urls[key] = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return urls
