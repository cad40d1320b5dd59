"""Train by a recipe, on one device or, under torchrun, on many; a killed run goes on bit for bit.

A run's folder holds recipe.toml, checkpoints/, TensorBoard's events, from the first checkpoint on
weights.safetensors, the weights to use, and after the command's end their card, weights.json, and record.json. All
randomness depends on (seed, draw) alone, so neither the number of workers nor an interruption shows.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from stfan.evaluation.buckets import bucket_scores
from stfan.evaluation.evaluate import FrameScore, evaluate
from stfan.model import weights
from stfan.model.deblurrer import Deblurrer
from stfan.model.network import STFAN
from stfan.training import checkpoint, loader
from stfan.training.card import PROTOCOL, data_provenance
from stfan.training.finite import STEPS, FiniteCheck, Step
from stfan.training.graph import Capture, GraphedStep, capture_cuda
from stfan.training.losses import Loss
from stfan.training.meters import Meters
from stfan.training.recipe import Recipe
from stfan.training.setup import build_accelerator, build_network, build_optimiser
from stfan.training.unroll import UnrolledLoss

EMA_FILE = "mean"  # of a checkpoint
STATE = {"iteration", "processes", "batches", "curve", "optimiser"}  # what it holds beside tensors

OnStep = Callable[["Trainer", Tensor], object]
Report = Callable[[str], object]


class Trainer:
    """Trains by a recipe, in a folder.

    Args:
        recipe: a :class:`stfan.training.recipe.Recipe`.
        folder: the folder of the run, for everything that it writes.
        cpu: train on the CPU, whatever other devices there are.

    Attributes:
        iteration: number of optimiser steps so far.
        batches: number of batches that each process has taken.
        curve: reports on the run so far, a dict for each.
        model: the network.
        ema_model: the mean of its weights over time, or None.
        clips: {name: (blurry paths, sharp paths)} of the validation clips.
        main: whether this is the main process.
    """

    def __init__(self, recipe: Recipe, folder: str | Path, cpu: bool = False):
        self.recipe, self.folder = recipe, Path(folder)
        self.accelerator = build_accelerator(recipe, cpu)
        self.main: bool = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device
        self.processes: int = self.accelerator.num_processes
        self.data, self.clips = loader.build_datasets(recipe, self.device)
        self.provenance = data_provenance(recipe)
        self.model = build_network(recipe)
        self.model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        loss = Loss(
            recipe.pixel_loss, 1.0, recipe.perceptual_weight, recipe.backbone, recipe.backbone_weights
        )
        self.optimiser = build_optimiser(self.model, recipe)
        unrolled_loss = UnrolledLoss(
            self.model, loss.to(self.device), recipe.gradient_checkpointing, recipe.border
        )
        self.unrolled_loss = self.accelerator.prepare_model(unrolled_loss)
        self.ema_model = AveragedModel(self.model) if recipe.ema_decay else None
        means = self.ema_model.parameters() if self.ema_model else ()
        self.finite_check = FiniteCheck(
            [*self.model.parameters(), *means], 1 if self.device.type == "cpu" else STEPS
        )
        self.iteration = self.batches = 0
        self.curve: list[dict[str, Any]] = []
        self.names: list[str] = []  # of the values that a step measures
        self.graph: GraphedStep | None = None
        if recipe.cuda_graph and self.device.type == "cuda" and self.processes == 1:
            self.use_graph(capture_cuda)

    def use_graph(self, capture: Capture) -> None:
        """Run whole steps by what `capture` records: rates in tensors, and looks at losses after the step."""
        self.graph = GraphedStep(self._whole_step, capture)
        self.finite_check.steps = STEPS
        for group in self.optimiser.param_groups:
            group.update(lr=torch.zeros((), device=self.device), capturable=True)

    @property
    def eval_model(self) -> STFAN:
        """The network to validate and to export: the mean of the weights over time if there is one."""
        return cast(STFAN, self.ema_model.module) if self.ema_model else self.model

    def train(
        self,
        minutes: float | None = None,
        on_step: OnStep = lambda trainer, loss: None,
        report: Report = lambda line: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the recipe's last iteration, or until so many minutes have passed.

        Args:
            minutes: the limit; None is without limit.
            on_step: called after each iteration with this trainer and the loss.
            report: called with a line of text now and then.
            stop: called after each batch; True ends the run there.

        Returns:
            whether the last iteration is done.

        Raises:
            FloatingPointError: loss or gradient is not finite; the message names iteration and sequences, and the
                iteration whose weights the network has then: on a GPU one of at most 50 steps before.
        """
        started = time.monotonic()
        writer = SummaryWriter(self.folder, purge_step=self.iteration + 1) if self.main else None
        if not self.clips:
            report("there are no clips to judge on: validation=FOLDER names some")
        batches = self._load_batches()
        can_skip = not (self.recipe.synthetic or self.recipe.skip_corrupt)
        hint = "; a run that goes on with skip_corrupt=true passes over such files" if can_skip else ""
        meters, due = Meters(), self._due()
        with writer or nullcontext():
            while self.iteration < self.recipe.iterations:
                with meters.waiting():
                    batch = loader.next_batch(batches, hint)
                self.train_on_sequence(batch, meters, on_step)
                self.batches += 1
                before, due = due, self._due()
                is_late = minutes is not None and time.monotonic() - started > 60 * minutes
                stopping = self._any_process(stop() or is_late)
                is_done = self.iteration >= self.recipe.iterations
                if before != due or stopping or is_done:
                    self._check_finite()
                if before["log"] != due["log"] or stopping or is_done:
                    self._log(writer, meters, report)
                if before["validate"] != due["validate"] or is_done:
                    self._validate(writer, report)
                if before["checkpoint"] != due["checkpoint"] or stopping or is_done:
                    self.save()
                if stopping:
                    break
        del batches  # ends the workers
        return self.iteration >= self.recipe.iterations

    def _load_batches(self) -> Iterator[dict[str, Any]]:
        """Iterate over the batches of this process, from the first one that it has not taken."""
        sampler = loader.InfiniteBatchSampler(
            self.batches, self.recipe.batch, self.accelerator.process_index, self.processes
        )
        pin_memory = self.device.type == "cuda"
        return iter(loader.build_loader(self.data, sampler, self.recipe.workers, pin_memory))

    def _due(self) -> dict[str, int]:
        """Count how often each recurring task was due so far."""
        intervals = {
            "log": self.recipe.log_every,
            "checkpoint": self.recipe.checkpoint_every,
            "validate": self.recipe.validate_every,
        }
        return {name: self.iteration // every if every else 0 for name, every in intervals.items()}

    def _any_process(self, condition: bool) -> bool:
        """Say whether a condition holds in any of the processes."""
        if self.processes == 1:
            return condition
        value = torch.as_tensor(condition, device=self.device).float()
        return bool(self.accelerator.reduce(value, "sum") > 0)

    def _load(self, frames: Tensor) -> Tensor:
        """Return frames on the device in [0, 1]; stored clips are in 8 bits until then."""
        frames = frames.to(self.device, non_blocking=True)
        return frames.float() / 255 if frames.dtype == torch.uint8 else frames

    def train_on_sequence(self, batch: dict[str, Any], meters: Meters, on_step: OnStep) -> None:
        """Train on one batch of sequences, with an optimiser step after each window."""
        blurry, sharp = (self._load(batch[side]) for side in ("blurry", "sharp"))
        carried: list[Tensor] = []
        for pair in zip(blurry.split(self.recipe.window, 1), sharp.split(self.recipe.window, 1), strict=True):
            if self.iteration >= self.recipe.iterations:
                return
            for group in self.optimiser.param_groups:
                rate = self.recipe.learning_rate * group["scale"] * self.recipe.rate(self.iteration)
                if self.graph:
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            self.finite_check.keep(self.iteration)
            values, *carried = (self.graph or self._propagate)([*pair, *carried])
            # the next replay writes over them
            measured = dict(zip(self.names, values.clone().unbind(), strict=True))
            self.finite_check.add(Step(self.iteration, measured["loss"], measured["gradient"], batch["name"]))
            if self.finite_check.due:
                self._check_finite()
            if not self.graph:
                self._update()
            if self.ema_model:
                self._count_mean(self.ema_model)
            self.iteration += 1
            meters.update(measured)
            on_step(self, measured["loss"])

    def _propagate(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Compute a window's loss and gradients; return the measured values, in one tensor, and the next window's start.

        Args:
            arguments: blurry and sharp frames and, but for a sequence's first window, what the one before returned.
        """
        blurry, sharp, *carried = arguments
        loss, terms, after = self.unrolled_loss(blurry, sharp, carried or None)
        self.optimiser.zero_grad()
        self.accelerator.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm or torch.inf)
        measured = {"loss": loss.detach(), **terms, "gradient": norm}
        self.names = list(measured)
        return [torch.stack([value.float() for value in measured.values()]), *after]

    def _whole_step(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        results = self._propagate(arguments)
        self._update()
        return results

    @torch.no_grad()
    def _update(self) -> None:
        """Make the optimiser's step and take it into the mean of the weights."""
        self.optimiser.step()
        if self.ema_model:
            means: list[Tensor] = list(self.ema_model.parameters())
            weights: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(means, weights, 1 - self.recipe.ema_decay)

    @torch.no_grad()
    def _count_mean(self, ema_model: AveragedModel) -> None:
        """Count a step of the mean, which the first one is; ema_model.update_parameters would wait for the device."""
        if ema_model.n_averaged == 0:
            torch._foreach_copy_(list(ema_model.parameters()), list(self.model.parameters()))
        ema_model.n_averaged += 1

    def _check_finite(self) -> None:
        """End all processes if a step since the last look was not finite in one of them, and name its sequences."""
        bad = self.finite_check.first_bad()
        if not self._any_process(bad is not None):
            return
        self.finite_check.restore()
        reports = []
        if bad is not None:
            step, loss, norm = bad
            words = f"loss {loss:.6g}, its gradient's norm {norm:.6g} on {', '.join(step.names)}"
            reports = [(step.iteration, math.isfinite(loss), words)]
        if self.processes > 1:
            reports = gather_object(reports)
        # With several processes all share a bad gradient; the loss tells whose it is.
        first = min(report[:2] for report in reports)
        culprits = [words for *which, words in reports if tuple(which) == first]
        raise FloatingPointError(
            f"iteration {first[0]}: not finite: {'; '.join(culprits)}. The weights are those of iteration "
            f"{self.finite_check.iteration}. Begin again in another folder, with "
            f"weights={self.folder / 'weights.safetensors'} if they are good, and with a smaller learning_rate, with "
            f"clip_norm, or in float32"
        )

    def _log(self, writer: SummaryWriter | None, meters: Meters, report: Report) -> None:
        """Record and report the means since the last time."""
        entry: dict[str, float] = {
            name: self.accelerator.reduce(value, "mean").item() for name, value in meters.means().items()
        }
        entry["learning_rate"] = self.recipe.learning_rate * self.recipe.rate(self.iteration - 1)
        entry |= meters.times()
        self.curve.append({"iteration": self.iteration, **entry})
        if writer is None:
            return
        for name, value in entry.items():
            writer.add_scalar(f"train/{name}", value, self.iteration)
        report(
            f"iteration {self.iteration}: loss {entry['loss']:.6f}, "
            f"{entry['iterations_per_second']:.2f} iterations/s, {entry['waited']:.0%} of the time for data"
        )

    def _validate(self, writer: SummaryWriter | None, report: Report) -> None:
        """Evaluate the network on the validation clips, in the main process; the others wait."""
        if writer is not None and self.clips:
            pictures: dict[str, Tensor] = {}

            def keep_last(score: FrameScore) -> None:
                pictures[score.clip] = torch.cat([score.before, score.after, score.target], 2)

            self.eval_model.eval()
            scores = evaluate(Deblurrer(self.eval_model), self.clips, PROTOCOL, keep_last)
            self.eval_model.train()
            for name, picture in list(pictures.items())[:4]:
                writer.add_image(f"test/{name}: before, after, truth", picture.clamp(0, 1), self.iteration)
            self._record_scores(scores, writer, report)
        self.accelerator.wait_for_everyone()

    def _record_scores(self, scores: dict[str, Any], writer: SummaryWriter, report: Report) -> None:
        """Record and report the scores of the validation clips."""
        overall, buckets = scores["overall"], bucket_scores(scores)
        entry = {"iteration": self.iteration, "test": {side: overall[side] for side in ("input", "output")}}
        self.curve.append(entry | ({"buckets": buckets} if buckets else {}))
        for kind, drifts in buckets.items():
            gains = {drift: score["gain"] for drift, score in drifts.items()}
            for drift, gain in gains.items():
                writer.add_scalar(f"test/gain, {kind}, {drift} px", gain, self.iteration)
            words = ", ".join(f"{drift} px {gain:+.2f}" for drift, gain in gains.items())
            report(f"iteration {self.iteration}: gain in dB, {kind}: {words}")
        for side in ("input", "output"):
            for name, value in overall[side].items():
                writer.add_scalar(f"test/{side}_{name} ({PROTOCOL.name})", value, self.iteration)
        before, after = overall["input"], overall["output"]
        report(
            f"iteration {self.iteration}: PSNR ({PROTOCOL.name}) {before['psnr']:.2f} -> {after['psnr']:.2f} dB, "
            f"SSIM {before['ssim']:.4f} -> {after['ssim']:.4f}"
        )

    def save(self) -> None:
        """Write a checkpoint and the weights to use; delete the card of older weights."""
        if self.main:
            state = {
                "iteration": self.iteration,
                "batches": self.batches,
                "processes": self.processes,
                "curve": self.curve,
                "optimiser": self.optimiser.state_dict(),
            }
            checkpoint.write(self.folder, self.iteration, self._state_dicts(), state)
            (self.folder / "weights.json").unlink(missing_ok=True)
            weights.save(self.eval_model, self.folder / "weights.safetensors")
        self.accelerator.wait_for_everyone()

    def _state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """Return the state dicts of a checkpoint, by the names of their files."""
        ema = {EMA_FILE: self.ema_model.state_dict()} if self.ema_model else {}
        return {"model": self.model.state_dict(), **ema}

    def load(self, place: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is damaged, or of another network, or of another number of processes.
        """
        tensors, state = checkpoint.read(place, self._state_dicts())
        if not isinstance(state, dict) or not STATE <= state.keys():
            raise ValueError(f"{place}/state.pt: must hold {', '.join(sorted(STATE))}")
        if state["processes"] != self.processes:
            raise ValueError(
                f"{place}: is of a run with {state['processes']} processes, this one has {self.processes}"
            )
        try:
            self.model.load_state_dict(tensors["model"])
            if self.ema_model:
                self.ema_model.load_state_dict(tensors[EMA_FILE])
            self.optimiser.load_state_dict(state["optimiser"])
            # The optimiser's kernel needs its moments in the parameters' layout in memory.
            for parameter, moments in self.optimiser.state.items():
                for name in moments.keys() - {"step"}:
                    moments[name] = torch.empty_like(parameter).copy_(moments[name])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{place}: is of another network: {error}") from error
        if self.graph:  # which has recorded the places of the former state
            self.use_graph(self.graph.capture)
        self.iteration, self.batches, self.curve = (state[key] for key in ("iteration", "batches", "curve"))
