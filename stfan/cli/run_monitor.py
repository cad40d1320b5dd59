"""What a run of stfan deblur shows and remembers: progress, an estimate, the frame that changed most, a report."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stfan.cli.blur_found import BlurFound
from stfan.cli.console import ProgressBar
from stfan.cli.estimate import Estimate
from stfan.cli.job import LoadedNetwork, Look
from stfan.cli.most_changed import MostChangedFrame

if TYPE_CHECKING:
    import torch

log = logging.getLogger("stfan")


class RunMonitor:
    """Shows progress and an estimate, and remembers what `look` asks for.

    Args:
        name: of the input.
        network: what deblurs it; a report samples its filters from now on.
        look: what to write at the end.
        bar: the progress bar.
        estimate: says how long the run takes.
        whole: the bar of many videos together.
        plan: what becomes of each part of the input, for the report.

    Attributes:
        blur: how much blur was found.
    """

    def __init__(
        self,
        name: str,
        network: LoadedNetwork,
        look: Look,
        bar: ProgressBar,
        estimate: Estimate,
        whole: ProgressBar | None = None,
        plan: Sequence[str] = (),
    ) -> None:
        self.look, self._bars, self._estimate = look, [bar, whole] if whole else [bar], estimate
        self._most_changed, self.blur = MostChangedFrame(), BlurFound(network.choice.strength)
        self._report = None
        if look.report:
            from stfan.evaluation.report import Report
            from stfan.model.weights import count

            facts = {
                "weights": str(network.choice.weights or "bundled"),
                "parameters": count(network.model),
                "device": network.device,
                "dtype": network.dtype,
                "strength": network.choice.strength,
            }
            self._report = Report(network.model, f"{name}: what stfan deblur changed", facts)
            self._report.plan = list(plan)

    def start(self, resumed: int) -> None:
        """Begin after so many frames that an earlier run made."""
        self._most_changed.count = resumed
        if self._report:
            self._report.first = resumed
        self._estimate.start(resumed)
        self._bars[0].start(resumed)

    def measure(self, before: "torch.Tensor", after: "torch.Tensor") -> "torch.Tensor":
        """Measure how much a frame changed, on its device."""
        return self._most_changed.measure(before, after)

    def add(self, before: "torch.Tensor", after: "torch.Tensor", numbers: list[float]) -> None:
        """Take note of the next frame; `numbers` are those of :meth:`measure`."""
        self._most_changed.add(before, after, numbers)
        self.blur.add(before)
        if self._report:
            self._report.add_frame(before, after)
        self._estimate.add()
        for bar in self._bars:
            bar.advance()

    @property
    def words(self) -> str:
        """How much the frames changed, and whether there was little blur, as the last line and the report say it."""
        return self._most_changed.words + self.blur.note

    def save(self) -> list[str]:
        """Write what `look` asks for, and return a line about each file."""
        picture, report = self.look.picture, self.look.report
        if not self._most_changed.pair and (picture or report):
            log.warning("nothing for --picture or --report to show: an earlier run made all frames")
            return []
        lines = []
        if picture:
            self._most_changed.save(picture)
            frame = self._most_changed.frame
            lines.append(
                f"{picture}: frame {frame}, before (left) and after (right), below at 4x what changed most"
            )
        if self._report and report:
            self._report.facts |= self.blur.facts
            self._report.summary = self.words
            self._report.write(report)
            lines.append(str(report))
        return lines
