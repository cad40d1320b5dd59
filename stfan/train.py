"""Training: a recipe carried out, on one device or, under torchrun, on many; what is killed goes on bit for bit.

A run's folder holds recipe.toml, checkpoints/, TensorBoard's events, and, from the first checkpoint on, the weights to
use with their card. All randomness is of (seed, draw): neither the number of workers nor an interruption shows.
"""

import json
import os
import shutil
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from stfan import weights
from stfan.datasets import find_videos, phases
from stfan.evaluate import evaluate
from stfan.info import devices
from stfan.losses import Loss
from stfan.metrics import PROTOCOLS
from stfan.model import STFAN
from stfan.sequences import Sequences
from stfan.stream import Deblurrer
from stfan.synth import Synthetic
from stfan.window import Window, initialise

KEPT = 2  # checkpoints
PROTOCOL = PROTOCOLS["rgb8"]


class Draws:
    """The numbers of the sequences that one process takes: batch after batch, without end."""

    def __init__(self, first, batch, process, processes):
        self.first, self.batch, self.process, self.processes = first, batch, process, processes

    def __iter__(self):
        step = self.first
        while True:
            begin = (step * self.processes + self.process) * self.batch
            yield list(range(begin, begin + self.batch))
            step += 1


def sequences(recipe):
    """The sequences to train on, and {clip: (blurry paths, sharp paths)} to judge on."""
    kind = {"gopro_blur": recipe.gopro_blur}
    if recipe.synthetic:
        data = Synthetic(
            recipe.data,
            recipe.cutouts,
            length=recipe.length,
            crop=recipe.crop,
            seed=recipe.seed,
            part="train",
        )
    else:
        there = phases(recipe.data, recipe.layout, **kind)
        data = Sequences(
            find_videos(recipe.data, "train" if there else None, recipe.layout, **kind).videos,
            length=recipe.length,
            crop=recipe.crop,
            noise=recipe.noise,
            brightness=recipe.brightness,
            contrast=recipe.contrast,
            seed=recipe.seed,
            skip_corrupt=recipe.skip_corrupt,
        )
        if not recipe.validation and "test" in there:
            return data, find_videos(recipe.data, "test", recipe.layout, **kind).clips
    if not recipe.validation:
        return data, {}
    phase = "test" if "test" in phases(recipe.validation, **kind) else None
    return data, find_videos(recipe.validation, phase, **kind).clips


class Run:
    """A training run in a folder.

    Args:
        recipe: a :class:`stfan.recipe.Recipe`.
        folder: where all of it goes.
        cpu: train on the CPU, whatever else there is.

    Attributes:
        iteration: optimiser steps that are done.
        batches: that each process has taken.
        curve: what was said of the run so far, a dict for each time.
    """

    def __init__(self, recipe, folder, cpu=False):
        self.recipe, self.folder = recipe, Path(folder)
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
            # the layer that makes the next state has no part in the loss of a window's last frame
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.data, self.clips = sequences(recipe)
        if recipe.weights:
            self.model = weights.load(recipe.weights).train()
        else:
            self.model = initialise(
                STFAN(recipe.preset, recipe.kernel_size), recipe.initialisation, recipe.seed
            )
        self.model.to(self.device)
        loss = Loss(recipe.pixel, 1.0, recipe.perceptual, recipe.backbone, recipe.backbone_weights)
        slow = [*self.model.align[-1:], *self.model.deblur[-1:], self.model.align_summary, self.model.fusion]
        slow = {id(parameter) for layer in slow for parameter in layer.parameters()}
        groups = {1.0: [], recipe.slow: []}
        for parameter in self.model.parameters():
            groups[recipe.slow if id(parameter) in slow else 1.0].append(parameter)
        self.optimiser = torch.optim.Adam(
            [{"params": members, "scale": scale} for scale, members in groups.items() if members],
            betas=recipe.betas,
            fused=True,
        )
        window = Window(self.model, loss.to(self.device), recipe.recompute)
        self.window = self.accelerator.prepare_model(window)
        self.mean = (
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
        )
        self.iteration = self.batches = 0
        self.curve = []

    @property
    def judged(self):
        """The network to judge and to export: the mean of the weights over time where there is one."""
        return self.mean.module if self.mean else self.model

    def train(
        self, minutes=None, on_step=lambda run, loss: None, report=lambda line: None, stop=lambda: False
    ):
        """Carry on to the recipe's last iteration, or until so many minutes have passed.

        Args:
            minutes: None is without limit.
            on_step: called after each iteration with this run and the loss.
            report: called with a line of words now and then.
            stop: asked after each batch; True ends the run there.

        Returns:
            whether the last iteration is done.

        Raises:
            FloatingPointError: loss or gradient is not finite; names iteration and sequences. The weights stay good.
        """
        started = time.monotonic()
        writer = SummaryWriter(self.folder, purge_step=self.iteration) if self.main else None
        source = DataLoader(
            self.data,
            batch_sampler=Draws(
                self.batches,
                self.recipe.batch,
                self.accelerator.process_index,
                self.accelerator.num_processes,
            ),
            num_workers=self.recipe.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.recipe.workers > 0,
        )
        watch, due = Watch(), self._due()
        batches = iter(source)
        with writer or nullcontext():
            while self.iteration < self.recipe.iterations:
                with watch.waiting():
                    batch = _take(batches)
                self._sequence(batch, watch, on_step)
                self.batches += 1
                before, due = due, self._due()
                late = self._agreed(
                    stop() or (minutes is not None and time.monotonic() - started > 60 * minutes)
                )
                last = late or self.iteration >= self.recipe.iterations
                if before["log"] != due["log"] or last:
                    self._log(writer, watch, report)
                if before["validate"] != due["validate"] or self.iteration >= self.recipe.iterations:
                    self._validate(writer, report)
                if before["checkpoint"] != due["checkpoint"] or last:
                    self.save()
                if late:
                    break
        del batches  # ends the workers
        return self.iteration >= self.recipe.iterations

    def _due(self):
        every = {"log": self.recipe.log_every, "checkpoint": self.recipe.checkpoint_every}
        every |= {"validate": self.recipe.validate_every}
        return {name: self.iteration // count if count else 0 for name, count in every.items()}

    def _agreed(self, wish):
        """Whether any of the processes wishes so."""
        return bool(self.accelerator.reduce(torch.tensor(float(wish), device=self.device), "sum") > 0)

    def _sequence(self, batch, watch, on_step):
        """Train on one batch of sequences, with an optimiser step after each window."""
        blurry, sharp = (batch[side].to(self.device, non_blocking=True) for side in ("blurry", "sharp"))
        carried = None
        for pair in zip(blurry.split(self.recipe.window, 1), sharp.split(self.recipe.window, 1), strict=True):
            if self.iteration >= self.recipe.iterations:
                return
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * group["scale"] * self.recipe.rate(self.iteration)
            loss, terms, carried = self.window(*pair, carried)
            self.optimiser.zero_grad()
            self.accelerator.backward(loss)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm or torch.inf)
            if not (
                torch.isfinite(norm) and torch.isfinite(loss.detach())
            ):  # the gradient's is that of all processes
                raise FloatingPointError(
                    f"iteration {self.iteration}: the loss is {float(loss.detach()):.6g}, its gradient's norm "
                    f"{float(norm):.6g}, on {', '.join(batch['name'])}; the weights are those before it. "
                    f"A smaller learning_rate, clip_norm or precision=float32 may help"
                )
            self.optimiser.step()
            if self.mean:
                self.mean.update_parameters(self.model)
            self.iteration += 1
            watch.see({"loss": loss.detach(), **terms, "gradient": norm})
            on_step(self, loss.detach())

    def _log(self, writer, watch, report):
        """Say how it goes."""
        told = {name: self.accelerator.reduce(value, "mean").item() for name, value in watch.means().items()}
        told |= {"learning_rate": self.recipe.learning_rate * self.recipe.rate(self.iteration - 1)}
        told |= watch.times()
        self.curve.append({"iteration": self.iteration, **told})
        if not self.main:
            return
        for name, value in told.items():
            writer.add_scalar(f"train/{name}", value, self.iteration)
        report(
            f"iteration {self.iteration}: loss {told['loss']:.6f}, {told['iterations_per_second']:.2f} iterations/s, "
            f"{told['waited']:.0%} of the time for data"
        )

    def _validate(self, writer, report):
        """Judge the network on the clips that are kept apart."""
        if self.main and self.clips:
            pictures = {}

            def keep(judged):
                pictures[judged.clip] = torch.cat([judged.before, judged.after, judged.target], 2)

            self.judged.eval()
            scores = evaluate(Deblurrer(self.judged), self.clips, PROTOCOL, keep)
            self.judged.train()
            told = scores["overall"]
            self.curve.append(
                {"iteration": self.iteration, "test": {side: told[side] for side in ("input", "output")}}
            )
            for side in ("input", "output"):
                for name, value in told[side].items():
                    writer.add_scalar(f"test/{side}_{name} ({PROTOCOL.name})", value, self.iteration)
            for name, picture in list(pictures.items())[:4]:
                writer.add_image(f"test/{name}: before, after, truth", picture.clamp(0, 1), self.iteration)
            report(
                f"iteration {self.iteration}: PSNR ({PROTOCOL.name}) {told['input']['psnr']:.2f} -> "
                f"{told['output']['psnr']:.2f} dB, SSIM {told['input']['ssim']:.4f} -> {told['output']['ssim']:.4f}"
            )
        self.accelerator.wait_for_everyone()

    def save(self):
        """Write a checkpoint, and the weights to use; whole or not at all. Older checkpoints than KEPT go."""
        if self.main:
            place = self.folder / "checkpoints" / f"{self.iteration:08d}"
            partial = place.with_name(f"{place.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                save_file(self.model.state_dict(), partial / "model.safetensors")
                if self.mean:
                    save_file(self.mean.state_dict(), partial / "mean.safetensors")
                state = {"iteration": self.iteration, "batches": self.batches, "curve": self.curve}
                torch.save(state | {"optimiser": self.optimiser.state_dict()}, partial / "state.pt")
                shutil.rmtree(place, ignore_errors=True)
                os.replace(partial, place)
                weights.save(self.judged, self.folder / "weights.safetensors")
            except OSError as error:
                shutil.rmtree(partial, ignore_errors=True)
                good = latest(self.folder)
                error.add_note(
                    f"(the last good checkpoint is {good})" if good else "(there is no checkpoint yet)"
                )
                raise
            for old in checkpoints(self.folder)[:-KEPT]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def load(self, place):
        """Take up a checkpoint.

        Raises:
            ValueError: it is damaged, or of another network.
        """
        try:
            self.model.load_state_dict(load_file(place / "model.safetensors"))
            if self.mean:
                self.mean.load_state_dict(load_file(place / "mean.safetensors"))
            state = torch.load(place / "state.pt", map_location="cpu", weights_only=True)
            self.optimiser.load_state_dict(state["optimiser"])
            self.iteration, self.batches, self.curve = (
                state[key] for key in ("iteration", "batches", "curve")
            )
        except Exception as error:  # of many types where the bytes are any
            raise ValueError(f"{place}: is no checkpoint of this recipe, or damaged: {error}") from error

    def card(self):
        """What the exported weights are, as JSON: recipe, data, device, curve, and scores on the clips kept apart."""
        told = {
            "preset": self.model.preset,
            "parameters": weights.count(self.model),
            "recipe": asdict(self.recipe),
            "iterations": self.iteration,
            "processes": self.accelerator.num_processes,
            "data": {"sequences": len(self.data), "test": sorted(self.clips)},
            "date": date.today().isoformat(),
            "device": devices()[str(self.device) if self.device.type == "cuda" else "cpu"],
            "torch": torch.__version__,
            "curve": self.curve,
        }
        if self.recipe.synthetic:
            told["data"]["pictures"] = [path.name for path in self.data.pictures]
        made = self.recipe.validation and Path(self.recipe.validation, "clips.json")
        if made and made.exists():
            test = json.loads(made.read_text())["clips"]
            told["data"]["clips"] = {name: facts for name, facts in test.items() if name.startswith("test/")}
        if self.recipe.sources:
            told["data"]["sources"] = json.loads(Path(self.recipe.sources).read_text())
        if self.recipe.weights:
            with suppress(OSError, ValueError):
                told["begun_from"] = json.loads(Path(self.recipe.weights).with_suffix(".json").read_text())
        if self.clips:
            model = weights.load(
                self.folder / "weights.safetensors", self.device
            )  # rounded to half precision
            told["scores"] = evaluate(Deblurrer(model), self.clips, PROTOCOL)
            for clip in told["scores"]["clips"].values():
                del clip["per_frame"]
        return told


def _take(batches):
    """The next batch; what a worker says of a file, without the worker's traceback."""
    try:
        return next(batches)
    except OSError as error:
        said = str(error).strip().splitlines()[-1].removeprefix("OSError: ")
        raise OSError(f"{said}; skip_corrupt=true passes over such files") from error


class Watch:
    """Means of what is seen, and where the time goes, since they were asked for last."""

    def __init__(self):
        self._begin()

    def _begin(self):
        self.sums, self.count, self.waited, self.started = {}, 0, 0.0, time.monotonic()

    @contextmanager
    def waiting(self):
        """A block in which one waits for data."""
        started = time.monotonic()
        yield
        self.waited += time.monotonic() - started

    def see(self, values):
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.count += 1

    def means(self):
        return {name: total / self.count for name, total in self.sums.items()}

    def times(self):
        passed = max(time.monotonic() - self.started, 1e-9)
        told = {"iterations_per_second": self.count / passed, "waited": self.waited / passed}
        self._begin()
        return told


def checkpoints(folder):
    """The checkpoints in a run's folder, the oldest first."""
    return sorted(path for path in Path(folder, "checkpoints").glob("[0-9]*") if path.suffix != ".partial")


def latest(folder):
    """The newest checkpoint in a run's folder, or None."""
    return next(reversed(checkpoints(folder)), None)
