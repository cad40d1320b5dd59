"""A page to look at: the frames that changed most, curves over time, and the filters that the network predicted."""

import base64
import io
import time
from importlib.resources import files

import torch
from PIL import Image
from torch.nn import functional as F

from stfan.evaluation.metrics import sharpness
from stfan.files import to_json, whole
from stfan.images import to_8bit

FRAMES = 4  # shown, and so many in memory
GRID = 16  # candidate pixels along each side of a frame; one of each quarter is shown
CHANNELS = 4  # whose filters are shown, of each kind
LOSSLESS = 1280 * 720  # pixels; larger frames go into the page as JPEG, so that it can still be mailed
SHARPNESS = {
    "name": "sharpness",
    "rule": "Sharpness is the variance of the Laplacian of the luma on a scale of 255; noise raises it too.",
}


class Report:
    """Watches a model deblur, and writes what it saw as one HTML page that needs nothing else.

    Memory stays flat: a few frames are kept, and of all others three numbers.

    Args:
        model: an STFAN; from now until :meth:`write` its filters are sampled at a few pixels.
        title: the page's heading.
        facts: {what: value} for its head.
        measure: {"name", "rule"} of the curve.

    Attributes:
        first: the number of the first frame that it saw; set it where a run goes on from another.
    """

    def __init__(self, model, title, facts, measure=SHARPNESS):
        self.title, self.facts, self.measure = title, facts, measure
        self.kernel_size, self.first = model.kernel_size, 0
        self._probes = {"align": _Probe(model.align[-1]), "deblur": _Probe(model.deblur[-1])}
        self._kept = []
        self._names, self._seconds, self._curves = [], [], {"input": [], "output": []}
        self._last = time.perf_counter()

    def see(self, before, after):
        """Take the next frame of a video, (3, H, W) in [0, 1] both; its time is that since the last one."""
        now = time.perf_counter()
        scores = sharpness(before), sharpness(after)
        self._see(before, after, None, scores, now - self._last)
        self._last = time.perf_counter()

    def see_judged(self, judged):
        """Take the next frame of an evaluation, a :class:`stfan.evaluation.evaluate.Judged`."""
        scores = [side and side[0] for side in (judged.input, judged.output)]
        self._names.append([judged.clip, judged.frame])
        self._see(judged.before, judged.after, judged.target, scores, judged.seconds)

    def _see(self, before, after, target, scores, seconds):
        index = len(self._seconds)
        self._seconds.append(round(seconds, 4))
        for side, score in zip(self._curves, scores, strict=True):
            self._curves[side].append(score and round(score, 4))
        change = (after - before).abs().mean(0)
        kept = {"index": index, "change": float(change.mean()), "size": [before.shape[2], before.shape[1]]}
        self._kept = _spread([*self._kept, kept], index + 1)
        if any(frame is kept for frame in self._kept):
            images = {"before": before, "after": after, "target": target}
            kept["images"] = {key: to_8bit(image) for key, image in images.items() if image is not None}
            kept |= self._filters(change)

    def _filters(self, change):
        """What the probes saw at the pixels that changed most, one in each quarter of the frame.

        Args:
            change: (H, W), of each pixel.

        Returns:
            {"pixels": [(x, y)], "filters": {kind: {"channels", "taps"}}}, taps as [pixel][channel][k * k] with the
            mean over all channels first; no pixels where the network did not see the frame as a whole.
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
            shown = torch.cat([taps.mean(1, keepdim=True), taps[:, channels]], 1)
            filters[kind] = {"channels": channels.tolist(), "taps": shown.tolist()}
        return {"pixels": [(4 * int(columns[x]), 4 * int(rows[y])) for y, x in places], "filters": filters}

    def write(self, path, result=None):
        """Write the page, whole or not at all, and let go of the model.

        Args:
            path: of the file.
            result: what :func:`stfan.evaluation.evaluate.evaluate` gave, for a table of the clips.

        Raises:
            ValueError: no frame was seen.
        """
        for probe in self._probes.values():
            probe.handle.remove()
        if not self._seconds:
            raise ValueError(f"{path}: no frame was seen, so there is nothing to report")
        data = {
            "title": self.title,
            "facts": self.facts,
            "measure": self.measure,
            "kernel_size": self.kernel_size,
            "first": self.first,
            "names": self._names,
            "seconds": self._seconds,
            **self._curves,
            "frames": [kept | {"images": _encode(kept["images"])} for kept in self._kept],
            "result": result,
        }
        page = files("stfan.evaluation").joinpath("report.html").read_text("utf-8")
        page = page.replace("{{data}}", to_json(data).replace("<", "\\u003c"))  # or </script> would end it
        with whole(path) as partial:
            partial.write_text(page, "utf-8")


class _Probe:
    """Keeps what a layer that predicts filters said last, at a few pixels.

    Attributes:
        grid: [height, width] of the layer's output.
        taps: (taps, rows, columns) at the candidate pixels.
    """

    def __init__(self, layer):
        self.grid = self.taps = None
        self.handle = layer.register_forward_hook(self._look)

    def _look(self, layer, inputs, output):
        self.grid = list(output.shape[2:])
        rows, columns = (places.to(output.device) for places in _candidates(self.grid))
        self.taps = output.detach()[0].index_select(1, rows).index_select(2, columns).float().cpu()


def _candidates(grid):
    """Rows and columns of the candidate pixels, evenly over a grid of that height and width."""
    return tuple(((torch.arange(n) + 0.5) * side / n).long() for side in grid for n in [min(GRID, side)])


def _halves(n):
    """Two ranges over n, or one where that is all there is."""
    return [(0, n)] if n == 1 else [(0, n // 2), (n // 2, n)]


def _spread(kept, seen):
    """Of the frames kept those that changed most, but no near neighbours: they would look the same."""
    apart, chosen = max(1, seen // (2 * FRAMES)), []
    for frame in sorted(kept, key=lambda frame: -frame["change"]):
        if all(abs(frame["index"] - other["index"]) >= apart for other in chosen):
            chosen.append(frame)
    return chosen[:FRAMES]


def _encode(images):
    """(3, H, W) uint8 tensors as data URLs."""
    urls = {}
    for key, image in images.items():
        lossless = image.shape[1] * image.shape[2] <= LOSSLESS
        kind, options = ("png", {}) if lossless else ("jpeg", {"quality": 95, "subsampling": 0})
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(buffer, kind, **options)
        urls[key] = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return urls
