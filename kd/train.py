"""The one training loop, for teachers and students. Knows neither Ray nor where the sweep keeps its files.

A `Run` trains one model in a folder, an epoch a `step()`. Kill it at any moment and make it again: it goes on
from its last checkpoint and, on a CPU with the same number of threads, ends with the same bits.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kd import births, metrics, sizes
from kd.files import sha256, write_atomically
from kd.models import build
from kd.objective import Labels, objective
from kd.prepare import Data
from kd.prune import newborn
from kd.recipe import Spec
from kd.strategies import STRATEGIES
from kd.teacher import MODEL, TeacherOutputs, as_tensor, outputs, write_teacher_outputs

CHECKPOINT, HISTORY = "checkpoint.pt", "history.jsonl"


class Diverged(RuntimeError):
    """Training left the finite numbers; `epoch` says when, the message what."""

    def __init__(self, epoch: int, cause: str) -> None:
        super().__init__(f"diverged in epoch {epoch}: {cause}")
        self.epoch = epoch
        self.cause = cause

    def __reduce__(self) -> tuple[type["Diverged"], tuple[int, str]]:
        return Diverged, (self.epoch, self.cause)


class Run:
    """One model being trained in `folder`.

    step() trains one epoch and returns its scalars, or None when training is over; finish() then evaluates on
    the test subjects and writes the model. teacher_folder: the finished teacher's folder, for strategies that
    need one. Raises InputError if the folder or the teacher doesn't fit the spec, Diverged on NaN.
    """

    def __init__(
        self,
        spec: Spec,
        data: Data,
        folder: Path,
        *,
        teacher_folder: Path | None = None,
        device: str = "cpu",
        checkpoint_every_s: float = 30.0,
    ) -> None:
        self.spec, self.data, self.folder, self.device = spec, data, Path(folder), torch.device(device)
        self.checkpoint_every_s = checkpoint_every_s
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = spec.recipe
        channels, samples = data.train.x.shape[1:]
        self.weights = STRATEGIES[spec.strategy](**spec.strategy_args)
        self.labels = Labels(
            metrics.class_centres(data.min_bpm, data.classes).to(self.device), recipe.label_sigma_bpm
        )
        self.x, self.bpm = self._tensor(data.train.x), self._tensor(data.train.bpm)
        self.teacher = None
        if spec.strategy != "scratch":
            self.teacher = TeacherOutputs(spec, teacher_folder, len(data.train), self.device)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)  # points that differ only in strategy or teacher start alike
            self.model = build(
                spec.arch, spec.depth, spec.width, channels=channels, samples=samples, classes=data.classes
            )
            if births.needs_teacher(spec.birth):
                self.model.load_state_dict(newborn(spec, teacher_folder, data))
            self.connector: nn.Module = nn.Identity()
            if self.weights.feature and self.teacher is not None:
                student_width = self.model.fc.in_features
                self.connector = nn.Linear(int(student_width), self.teacher.features.shape[1])  # type: ignore[arg-type]
        self.model.to(self.device)
        self.connector.to(self.device)
        self.parameters = [*self.model.parameters(), *self.connector.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
                {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=recipe.lr,
            fused=True,
        )
        windows = min(recipe.windows_per_epoch or len(self.bpm), len(self.bpm))
        self.batch = min(recipe.batch_size, windows)
        self.steps_per_epoch = windows // self.batch
        self.max_epochs = recipe.max_epochs
        self.epoch, self.best_epoch, self.best_mae, self.train_seconds = 0, 0, math.inf, 0.0
        self.best_state: dict[str, Tensor] = {}
        self._resume()
        self._checkpointed_at = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether every epoch is done, or validation stopped improving."""
        patience = self.spec.recipe.patience
        return self.epoch >= self.max_epochs or bool(patience and self.epoch - self.best_epoch >= patience)

    def step(self) -> dict[str, float] | None:
        """Train one epoch, validate, append to history.jsonl; the epoch's scalars, or None when over."""
        if self.over:
            return None
        start = time.monotonic()
        loss = self._train_epoch()
        self.epoch += 1
        if not math.isfinite(loss):
            raise Diverged(self.epoch, f"the training loss is {loss}; try a lower learning rate")
        val_logits, _ = outputs(self.model, self._tensor(self.data.val.x))
        val = metrics.error_figures(self._decode(val_logits), self.data.val.bpm)
        if not metrics.finite(val):
            raise Diverged(self.epoch, "the validation logits are not finite; try a lower learning rate")
        if val["mae_bpm"] < self.best_mae:
            self.best_mae, self.best_epoch = val["mae_bpm"], self.epoch
            self.best_state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.train_seconds += time.monotonic() - start
        row = {
            "epoch": self.epoch,
            "train_loss": loss,
            "val_mae_bpm": val["mae_bpm"],
            "lr": self._lr(self.epoch * self.steps_per_epoch - 1),
            "train_seconds": round(self.train_seconds, 3),
        }
        with (self.folder / HISTORY).open("a") as file:
            file.write(json.dumps(row) + "\n")
        if time.monotonic() - self._checkpointed_at >= self.checkpoint_every_s:
            self.checkpoint()
        return row

    def checkpoint(self) -> None:
        """Write the whole state now, atomically."""
        state = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_mae": self.best_mae,
            "train_seconds": self.train_seconds,
            "model": self.model.state_dict(),
            "connector": self.connector.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best_state": self.best_state,
        }
        write_atomically(self.folder / CHECKPOINT, lambda path: torch.save(state, path))
        self._checkpointed_at = time.monotonic()

    def finish(self) -> dict[str, Any]:
        """Evaluate the best weights on the test subjects, write the model; the figures of result.json.

        A teacher also gets its outputs on every training window written, which is all its students ever see.
        The checkpoint stays until the caller has written result.json and calls `discard_checkpoint`.
        """
        start = time.monotonic()
        spec, test = self.spec, self.data.test
        self.model.load_state_dict(self.best_state)
        test_logits, _ = outputs(self.model, self._tensor(test.x))
        predicted = self._decode(test_logits)
        argmax = metrics.decode_argmax(test_logits, self.labels.centres).cpu().numpy()
        write_atomically(self.folder / MODEL, lambda path: save_file(_cpu_state(self.model), path))
        if spec.role == "teacher":
            write_teacher_outputs(self.model, self.x, self.folder)
        if self.teacher is not None:
            self.teacher.check_unchanged()
        channels, samples = self.data.train.x.shape[1:]
        size = sizes.size(
            spec.arch,
            spec.depth,
            spec.width,
            channels=channels,
            samples=samples,
            classes=len(self.labels.centres),
        )
        counted = sum(p.numel() for p in self.model.parameters())
        if counted != size.params:
            raise AssertionError(
                f"{spec.arch} {spec.depth}x{spec.width}: {counted} parameters, not {size.params}"
            )
        self.train_seconds += time.monotonic() - start
        return {
            "params": size.params,
            "macs": size.macs,
            "activation_bytes": size.activation_bytes,
            "weight_bytes": size.weight_bytes,
            "weight_bytes_int8": size.weight_bytes_int8,
            **metrics.error_figures(predicted, test.bpm),
            "mae_bpm_argmax": metrics.error_figures(argmax, test.bpm)["mae_bpm"],
            "mae_by_subject": metrics.mae_by(test.subject, predicted, test.bpm),
            "mae_by_dataset": metrics.mae_by(test.dataset, predicted, test.bpm),
            "val_mae_bpm": self.best_mae,
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "train_seconds": round(self.train_seconds, 3),
            "device": device_name(self.device),
            "model_sha256": sha256(self.folder / MODEL),
            "teacher_sha256": self.teacher.sha256 if self.teacher else None,
        }

    def discard_checkpoint(self) -> None:
        """Remove checkpoint.pt; only once result.json is safely there."""
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _train_epoch(self) -> float:
        self.model.train()
        generator = torch.Generator().manual_seed(self.spec.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.bpm), generator=generator).to(self.device)
        total = torch.zeros((), device=self.device)
        ramp = 1.0
        if (
            self.weights.warmup_fraction
        ):  # counted from 1, as in the authors' code: the first epoch distils too
            ramp = min((self.epoch + 1) / (self.weights.warmup_fraction * self.max_epochs), 1.0)
        for i in range(self.steps_per_epoch):
            index = order[i * self.batch : (i + 1) * self.batch]
            loss = self._train_step(index, self._lr(self.epoch * self.steps_per_epoch + i), ramp)
            total += loss
        return float(total) / self.steps_per_epoch

    def _train_step(self, index: Tensor, lr: float, ramp: float) -> Tensor:
        teacher_logits, teacher_features = self.teacher.batch(index) if self.teacher else (None, None)
        logits, features = self.model(self.x[index])
        loss = objective(
            self.weights,
            self.labels,
            logits,
            self.connector(features),
            self.bpm[index],
            teacher_logits,
            teacher_features,
            ramp,
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.spec.recipe.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        return loss.detach()

    def _lr(self, step: int) -> float:
        """Linear warm-up, then cosine to zero over all steps."""
        recipe = self.spec.recipe
        steps = self.steps_per_epoch * self.max_epochs
        warmup = max(round(recipe.warmup_fraction * steps), 1)
        if step < warmup:
            return recipe.lr * (step + 1) / warmup
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))

    def _decode(self, logits: Tensor) -> np.ndarray:
        return metrics.decode_expectation(logits, self.labels.centres).cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return as_tensor(array).to(self.device)

    def _resume(self) -> None:
        path, history = self.folder / CHECKPOINT, self.folder / HISTORY
        if not path.exists():
            history.unlink(missing_ok=True)
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.epoch, self.best_epoch = state["epoch"], state["best_epoch"]
        self.best_mae, self.train_seconds = state["best_mae"], state["train_seconds"]
        self.model.load_state_dict(state["model"])
        self.connector.load_state_dict(state["connector"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best_state = state["best_state"]
        rows = history.read_text().splitlines()[: self.epoch]
        write_atomically(history, lambda p: p.write_text("".join(row + "\n" for row in rows)))


def load_model(
    folder: Path, *, arch: str, depth: int, width: int, channels: int, samples: int, classes: int
) -> nn.Module:
    """The trained model of a finished point, in evaluation mode."""
    model = build(arch, depth, width, channels=channels, samples=samples, classes=classes)
    model.load_state_dict(load_file(Path(folder) / MODEL))
    return model.eval()


def device_name(device: torch.device) -> str:
    """What result.json calls the device: "cpu", or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _cpu_state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
