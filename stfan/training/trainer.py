"""Training: a recipe carried out, on one device or, under torchrun, on many; what is killed goes on bit for bit.

A run's folder holds recipe.toml, checkpoints/, TensorBoard's events, from the first checkpoint on weights.safetensors, the
weights to use, and from the command's end on their card, weights.json. All randomness is of (seed, draw): neither the
number of workers nor an interruption shows.
"""

import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import gather_object
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from stfan.devices import fast_bfloat16
from stfan.evaluation.buckets import bucket_scores
from stfan.evaluation.evaluate import evaluate
from stfan.model import weights
from stfan.model.deblurrer import Deblurrer
from stfan.model.network import STFAN, initialise
from stfan.training import checkpoint, loader
from stfan.training.card import PROTOCOL, data_provenance
from stfan.training.losses import Loss
from stfan.training.meters import Meters
from stfan.training.unroll import UnrolledLoss

PATIENCE = timedelta(hours=12)  # of the other processes while one of them judges


class Trainer:
    """A training run in a folder.

    Args:
        recipe: a :class:`stfan.training.recipe.Recipe`.
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
            mixed_precision="bf16" if self._half(recipe.precision, cpu) else "no",
            kwargs_handlers=[
                # the layer that makes the next state has no part in the loss of a window of one frame
                DistributedDataParallelKwargs(
                    find_unused_parameters=1 in (recipe.window, recipe.length % recipe.window)
                ),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
        self.main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.processes = self.accelerator.num_processes
        self.data, self.clips = loader.sequences(recipe, self.device)
        self.provenance = data_provenance(recipe)
        self.model = self.network(recipe)
        self.model.to(self.device, memory_format=torch.channels_last)
        loss = Loss(
            recipe.pixel_loss, 1.0, recipe.perceptual_weight, recipe.backbone, recipe.backbone_weights
        )
        slow = [self.model.align[-1], self.model.deblur[-1], self.model.align_summary, self.model.fusion]
        slow = {id(parameter) for layer in slow if layer is not None for parameter in layer.parameters()}
        groups = {1.0: [], recipe.slow_lr_scale: []}
        for parameter in self.model.parameters():
            groups[recipe.slow_lr_scale if id(parameter) in slow else 1.0].append(parameter)
        self.optimiser = torch.optim.Adam(
            [{"params": members, "scale": scale} for scale, members in groups.items() if members],
            betas=recipe.betas,
            fused=True,
        )
        window = UnrolledLoss(self.model, loss.to(self.device), recipe.gradient_checkpointing)
        self.unrolled_loss = self.accelerator.prepare_model(window)
        self.ema_model = (
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))
            if recipe.ema_decay
            else None
        )
        self.iteration = self.batches = 0
        self.curve = []

    @staticmethod
    def network(recipe):
        """Make the network that a recipe begins with.

        Raises:
            ValueError: weights of another preset than the recipe's.
        """
        if not recipe.weights:
            return initialise(STFAN(recipe.preset, recipe.kernel_size), recipe.initialisation, recipe.seed)
        model = weights.load(recipe.weights).train()
        if model.preset != recipe.preset:
            raise ValueError(
                f"recipe: preset is {recipe.preset}, and weights={recipe.weights} are of the preset {model.preset}"
            )
        return model

    @staticmethod
    def _half(precision, cpu):
        """Whether to compute in bfloat16."""
        device = "cpu" if cpu or not torch.cuda.is_available() else "cuda"
        return precision == "bfloat16" or (precision == "auto" and fast_bfloat16(device))

    @property
    def eval_model(self):
        """The network to judge and to export: the mean of the weights over time where there is one."""
        return self.ema_model.module if self.ema_model else self.model

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
        writer = SummaryWriter(self.folder, purge_step=self.iteration + 1) if self.main else None
        if not self.clips:
            report("there are no clips to judge on: validation=FOLDER names some")
        draws = loader.InfiniteBatchSampler(
            self.batches, self.recipe.batch, self.accelerator.process_index, self.processes
        )
        batches = iter(loader.loader(self.data, draws, self.recipe.workers, self.device.type == "cuda"))
        can_skip = not (self.recipe.synthetic or self.recipe.skip_corrupt)
        hint = "; --resume auto with skip_corrupt=true passes over such files" if can_skip else ""
        watch, due = Meters(), self._due()
        with writer or nullcontext():
            while self.iteration < self.recipe.iterations:
                with watch.waiting():
                    batch = loader.next_batch(batches, hint)
                self.train_on_sequence(batch, watch, on_step)
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
        return bool(self.accelerator.reduce(torch.as_tensor(wish, device=self.device).float(), "sum") > 0)

    def raise_non_finite(self, finite, loss, norm, names):
        """End all processes, each naming the sequences on which it went wrong."""
        said = f"loss {loss:.6g}, its gradient's norm {norm:.6g} on {', '.join(names)}"
        told = [(bool(finite), said, loss)]
        told = gather_object(told) if self.processes > 1 else told
        culprits = [said for _, said, value in told if value - value != 0] or [
            said for good, said, _ in told if not good
        ]
        raise FloatingPointError(
            f"iteration {self.iteration}: not finite: {'; '.join(culprits)}. The weights are those before it. Begin again "
            f"in another folder, with weights={self.folder / 'weights.safetensors'} if they are good, and with a smaller "
            f"learning_rate, with clip_norm, or in float32"
        )

    def train_on_sequence(self, batch, watch, on_step):
        """Train on one batch of sequences, with an optimiser step after each window."""
        blurry, sharp = (batch[side].to(self.device, non_blocking=True) for side in ("blurry", "sharp"))
        carried = None
        for pair in zip(blurry.split(self.recipe.window, 1), sharp.split(self.recipe.window, 1), strict=True):
            if self.iteration >= self.recipe.iterations:
                return
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * group["scale"] * self.recipe.rate(self.iteration)
            loss, terms, carried = self.unrolled_loss(*pair, carried)
            self.optimiser.zero_grad()
            self.accelerator.backward(loss)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm or torch.inf)
            finite = torch.isfinite(norm) & torch.isfinite(loss.detach())
            if self._agreed(~finite):
                self.raise_non_finite(finite, float(loss.detach()), float(norm), batch["name"])
            self.optimiser.step()
            if self.ema_model:
                self.ema_model.update_parameters(self.model)
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

            self.eval_model.eval()
            scores = evaluate(Deblurrer(self.eval_model), self.clips, PROTOCOL, keep)
            self.eval_model.train()
            told, buckets = scores["overall"], bucket_scores(scores)
            entry = {"iteration": self.iteration, "test": {side: told[side] for side in ("input", "output")}}
            self.curve.append(entry | ({"buckets": buckets} if buckets else {}))
            for kind, drifts in buckets.items():
                gains = {drift: score["gain"] for drift, score in drifts.items()}
                writer.add_scalars(f"test/gain, {kind}", gains, self.iteration)
                said = ", ".join(f"{drift} px {gain:+.2f}" for drift, gain in gains.items())
                report(f"iteration {self.iteration}: gain in dB, {kind}: {said}")
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
        """Write a checkpoint, and the weights to use; the card of older ones goes."""
        if self.main:
            state = {"iteration": self.iteration, "batches": self.batches, "processes": self.processes}
            state |= {"curve": self.curve, "optimiser": self.optimiser.state_dict()}
            checkpoint.write(self.folder, self.iteration, self._tensors(), state)
            (self.folder / "weights.json").unlink(missing_ok=True)
            weights.save(self.eval_model, self.folder / "weights.safetensors")
        self.accelerator.wait_for_everyone()

    def _tensors(self):
        mean = {"mean": self.ema_model.state_dict()} if self.ema_model else {}
        return {"model": self.model.state_dict(), **mean}

    def load(self, place):
        """Take up a checkpoint.

        Raises:
            ValueError: it is damaged, or of another network, or of another number of processes.
        """
        tensors, state = checkpoint.read(place, self._tensors())
        if state["processes"] != self.processes:
            raise ValueError(
                f"{place}: is of a run with {state['processes']} processes, this one has {self.processes}"
            )
        try:
            self.model.load_state_dict(tensors["model"])
            if self.ema_model:
                self.ema_model.load_state_dict(tensors["mean"])
            self.optimiser.load_state_dict(state["optimiser"])
            for parameter, held in self.optimiser.state.items():  # as the parameters are laid out in memory
                for name in ("exp_avg", "exp_avg_sq"):
                    held[name] = torch.empty_like(parameter).copy_(held[name])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{place}: is of another network: {error}") from error
        self.iteration, self.batches, self.curve = (state[key] for key in ("iteration", "batches", "curve"))
