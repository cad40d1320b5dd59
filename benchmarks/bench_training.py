"""Peak memory and time of one training step against the frames it propagates back through, at the authors' crop.

Each setting trains on random frames in a process of its own; weights are random too, on which neither depends.
"""

import argparse
import json
import sys
import time
import types
from pathlib import Path

from harness import Contender, ask, environment, free_bytes, json_path, start, threads_of

CROP = (320, 448)


class Step(Contender):
    """One forward and backward pass through a window of frames, and Adam's step."""

    def __init__(self, name, options):
        import torch

        import fac_ext
        from stfan.model.network import STFAN, initialise
        from stfan.training.losses import Loss
        from stfan.training.unroll import UnrolledLoss

        self.torch, self.cuda, self.options = torch, options.device.startswith("cuda"), options
        self.release_memory, self.buffer = fac_ext.release_memory, None
        self.model = initialise(STFAN(), "kaiming", 0).to(options.device)
        self.unrolled_loss = UnrolledLoss(self.model, Loss(perceptual_weight=0.0), options.recompute)
        self.optimiser = torch.optim.Adam(self.model.parameters(), 1e-6)
        self.operands = [torch.rand(2, 1, options.frames, 3, *CROP, device=options.device)]

    def _step(self):
        with self.torch.autocast(
            self.options.device.split(":")[0], self.torch.bfloat16, enabled=self.options.bf16
        ):
            loss, _, _ = self.unrolled_loss(*self.operands[0], None)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def prepare(self, mode):
        """A function that does what is measured, and takes its time."""

        def timed():
            started = time.perf_counter()
            self._step()
            if self.cuda:
                self.torch.cuda.synchronize()
            self.spent = time.perf_counter() - started

        return timed

    def _warm_up(self, mode):
        """What is loaded and made once: on frames of 16 x 16, on a GPU on all."""
        operands = self.operands
        self.operands = operands if self.cuda else [operands[0][..., :16, :16]]
        self._step()
        self.operands = operands

    def seconds(self, mode):
        """Of the step whose memory was measured."""
        return self.spent


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--windows", type=int, nargs="+", default=[1, 2, 5, 10, 20], help="frames of a step [%(default)s]")
    add("--bf16", action="store_true", help="in bfloat16 (autocast)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N [%(default)s]")
    add(
        "--json",
        type=Path,
        help="also write the figures to this file, or to DEVICE-training.json in this folder",
    )
    add("--commit", help="the commit to name in the JSON [asked of git]")
    options = parser.parse_args()
    facts = environment(types.SimpleNamespace(**vars(options), threads=None))
    print(
        f"{facts['device']}, {threads_of(facts)}, torch {facts['torch']}, {options.device}; {CROP[0]} x {CROP[1]}"
    )
    print(f"{'frames':>8}{'recompute':>11}{'extra MB':>10}{'seconds':>9}")
    cases = []
    for frames in options.windows:
        for recompute in (False, True):
            case = types.SimpleNamespace(**vars(options), frames=frames, recompute=recompute)
            known = [c for c in cases if c["recompute"] == recompute and isinstance(c["result"], dict)]
            needed = frames / known[-1]["frames"] * known[-1]["result"]["extra_mb"] * 1e6 if known else 0
            if needed > 0.8 * free_bytes(options):
                extra, spent = f"needs some {needed / 1e9:.0f} GB", None
            else:
                pipe, process = start(Step, "step", case)
                extra, spent = (ask(pipe, process, (what, None)) for what in ("extra_bytes", "seconds"))
                process.kill()
                process.join()
            done = isinstance(extra, int) and isinstance(spent, float)
            result = {"extra_mb": round(extra / 1e6, 1), "seconds": round(spent, 4)} if done else str(extra)
            cases.append({"frames": frames, "recompute": recompute, "result": result})
            shown = f"{extra / 1e6:10.0f}{spent:9.2f}" if done else f"  {extra}"
            print(f"{frames:8}{'yes' if recompute else 'no':>11}{shown}", flush=True)
            if options.json:
                path = json_path(options.json, facts, "-training")
                told = {"environment": facts, "crop": CROP, "bf16": options.bf16, "cases": cases}
                path.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
