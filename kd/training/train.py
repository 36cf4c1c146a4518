"""Training points: alone (`Run`) or several of one shape as a stack (`Runs`), each in its own folder.

step() trains an epoch, finish() evaluates and writes the model. Kill them at any moment and make them again:
every point goes on from its last checkpoint, alone or in any stack, and, alone on a CPU with the same number
of threads, ends with the same bits. The loop itself is `stack.py`. Knows neither Ray nor where sweeps keep
their files.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kd.files import sha256, write_atomically
from kd.models import sizes
from kd.models.architectures import build
from kd.signals.prepare import Data
from kd.training import metrics
from kd.training.member import CHECKPOINT, HISTORY, Diverged, Row, Standing
from kd.training.objective import Labels
from kd.training.recipe import Spec
from kd.training.stack import Shape, Stack, Start
from kd.training.teacher import MODEL, TeacherOutputs, as_tensor, outputs, write_teacher_outputs

__all__ = ["CHECKPOINT", "HISTORY", "Diverged", "Run", "Runs", "device_name", "load_model"]


class Runs:
    """Points of one shape (`kd.training.stack.together`) being trained as one stack, each in its own folder.

    step() trains an epoch of each that is not over; finish(i) evaluates one on the test subjects and writes
    its model. teacher_folders: the finished teachers' folders, for points that need one. A point that is over
    leaves the stack: at once on a CPU, when half of them have left on a GPU. Raises InputError if a folder or
    a teacher doesn't fit its spec.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        data: Data,
        folders: Sequence[Path],
        *,
        teacher_folders: Sequence[Path | None] | None = None,
        device: str = "cpu",
        checkpoint_every_s: float = 30.0,
        dtype: torch.dtype = torch.float32,
        precision: str = "float32",
        convolution: str = "grouped",
    ) -> None:
        self.data, self.device, self.checkpoint_every_s = data, torch.device(device), checkpoint_every_s
        self._dtype, self._precision, self._convolution = dtype, precision, convolution
        from_folders = list(teacher_folders or [None] * len(specs))
        first = specs[0]
        channels, samples = data.train.x.shape[1:]
        self.shape = Shape(first.arch, first.depth, first.width, channels, samples, data.classes)
        centres = metrics.class_centres(data.min_bpm, data.classes).to(self.device)
        self.labels = Labels(centres, first.recipe.label_sigma_bpm)
        self.x, self.bpm = self._tensor(data.train.x), self._tensor(data.train.bpm)
        self._val_x = self._tensor(data.val.x)
        self.points: list[Standing] = []
        teachers: dict[Path | None, TeacherOutputs] = {}
        for spec, folder, from_folder in zip(specs, folders, from_folders, strict=True):
            if spec.strategy != "scratch" and from_folder not in teachers:
                teachers[from_folder] = TeacherOutputs(spec, from_folder, len(data.train), self.device, dtype)
            teacher = None if spec.strategy == "scratch" else teachers[from_folder]
            self.points.append(Standing(spec, folder, teacher))
        starts = [
            point.start(self.shape, from_folder, data, self.device)
            for point, from_folder in zip(self.points, from_folders, strict=True)
        ]
        self._in_stack = list(self.points)  # by their number in the stack
        self._left: dict[int, dict[str, Tensor]] = {}  # the best weights of points that left it
        self.stack = self._stacked(self._in_stack, starts)
        self._checkpointed_at = time.monotonic()

    def step(self) -> list[Row | Diverged | None]:
        """Train an epoch of each point that isn't over, validate, append to its history.

        For each point: the epoch's scalars, None if it was over already, or Diverged if it has just left the
        finite numbers.
        """
        if all(point.over for point in self.points):
            return [None] * len(self.points)
        self._shrink()
        start = time.monotonic()
        training = [point for point in self._in_stack if not point.over]
        losses = self.stack.epoch([point.epoch for point in self._in_stack])
        predicted = metrics.decode_expectation(
            self.stack.logits(self._val_x).flatten(0, 1), self.labels.centres
        )
        bpm = predicted.view(len(self._in_stack), -1).cpu().numpy()
        rows: dict[int, Row | Diverged] = {}
        better = [False] * len(self._in_stack)
        for k, (point, loss) in enumerate(zip(self._in_stack, losses.tolist(), strict=True)):
            if point.over:
                continue
            point.epoch += 1
            val = metrics.error_figures(bpm[k], self.data.val.bpm)
            try:
                _check_finite(point.epoch, loss, val)
            except Diverged as error:  # raised, so that it tells where
                point.diverged = rows[id(point)] = error
                continue
            if val["mae_bpm"] < point.best_mae:
                point.best_mae, point.best_epoch, better[k] = val["mae_bpm"], point.epoch, True
            lr = float(self.stack.lr(k, np.array(point.epoch * self.stack.steps - 1)))
            rows[id(point)] = {
                "epoch": point.epoch,
                "train_loss": loss,
                "val_mae_bpm": val["mae_bpm"],
                "lr": lr,
            }
        self.stack.keep_best(better)
        share = (time.monotonic() - start) / len(training)
        for point in training:
            point.train_seconds += share
            row = rows[id(point)]
            if not isinstance(row, Diverged):
                row["train_seconds"] = round(point.train_seconds, 3)
                point.append(row)
        if time.monotonic() - self._checkpointed_at >= self.checkpoint_every_s:
            self.checkpoint()
        return [rows.get(id(point)) for point in self.points]

    def checkpoint(self) -> None:
        """Write the state of every point in the stack now, each atomically to its own folder."""
        for k, point in enumerate(self._in_stack):
            if point.diverged is None:
                point.checkpoint(self.stack, k)
        self._checkpointed_at = time.monotonic()

    def finish(self, i: int = 0) -> dict[str, Any]:
        """Evaluate a point's best weights on the test subjects, write its model; the figures of result.json.

        A teacher also gets its outputs on every training window written, which is all its students ever see.
        The checkpoint stays until the caller has written result.json and calls `discard_checkpoint`.
        """
        start = time.monotonic()
        point, test = self.points[i], self.data.test
        spec = point.spec
        model = self.shape.build()
        model.load_state_dict(self.best_state(i))
        model.to(self.device, self._dtype)
        with self.stack.precise():
            test_logits, _ = outputs(model, self._tensor(test.x))
        predicted = metrics.decode_expectation(test_logits, self.labels.centres).cpu().numpy()
        argmax = metrics.decode_argmax(test_logits, self.labels.centres).cpu().numpy()
        write_atomically(point.folder / MODEL, lambda path: save_file(_cpu_state(model), path))
        if spec.role == "teacher":
            with self.stack.precise():
                write_teacher_outputs(model, self.x, point.folder)
        if point.teacher is not None:
            point.teacher.check_unchanged()
        size = sizes.size(
            spec.arch,
            spec.depth,
            spec.width,
            channels=self.shape.channels,
            samples=self.shape.samples,
            classes=self.shape.classes,
        )
        counted = sum(p.numel() for p in model.parameters())
        if counted != size.params:
            raise AssertionError(
                f"{spec.arch} {spec.depth}x{spec.width}: {counted} parameters, not {size.params}"
            )
        point.train_seconds += time.monotonic() - start
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
            "val_mae_bpm": point.best_mae,
            "epochs": point.epoch,
            "best_epoch": point.best_epoch,
            "train_seconds": round(point.train_seconds, 3),
            "device": device_name(self.device),
            "model_sha256": sha256(point.folder / MODEL),
            "teacher_sha256": point.teacher.sha256 if point.teacher else None,
        }

    def best_state(self, i: int) -> dict[str, Tensor]:
        """A point's weights after its best epoch, as the state dict of a plain model."""
        point = self.points[i]
        if point in self._in_stack:
            return self.stack.best(self._in_stack.index(point), point.best_epoch)
        return self._left[id(point)]

    def discard_checkpoint(self, i: int = 0) -> None:
        """Remove a point's checkpoint.pt; only once its result.json is safely there."""
        (self.points[i].folder / CHECKPOINT).unlink(missing_ok=True)

    def _stacked(self, points: Sequence[Standing], starts: Sequence[Start]) -> Stack:
        return Stack(
            [point.spec for point in points],
            self.shape,
            starts,
            [point.teacher for point in points],
            self.x,
            self.bpm,
            self.labels,
            dtype=self._dtype,
            precision=self._precision,
            convolution=self._convolution,
        )

    def _shrink(self) -> None:
        """Rebuild the stack without the points that are over, if that pays."""
        left = [(k, point) for k, point in enumerate(self._in_stack) if not point.over]
        worth = (
            len(left) < len(self._in_stack)
            if self.device.type == "cpu"
            else 2 * len(left) <= len(self._in_stack)
        )
        if not left or not worth:
            return
        for i, point in enumerate(self.points):
            if point in self._in_stack and point.over and point.best_epoch:
                self._left[id(point)] = self.best_state(i)
        starts = [
            Start(
                self.stack.state(k, point.epoch),
                self.stack.connector(k),
                self.stack.moments(k),
                self.stack.best(k, point.best_epoch) if point.best_epoch else None,
            )
            for k, point in left
        ]
        self._in_stack = [point for _, point in left]
        self.stack = self._stacked(self._in_stack, starts)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return as_tensor(array).to(self.device, self._dtype)


class Run(Runs):
    """One point being trained in `folder`: a stack of one.

    step() trains one epoch and returns its scalars, or None when training is over; finish() then evaluates.
    teacher_folder: the finished teacher's folder, for strategies and inits that need one. Raises InputError
    if the folder or the teacher doesn't fit the spec; step() raises Diverged on NaN.
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
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            [spec],
            data,
            [folder],
            teacher_folders=[teacher_folder],
            device=device,
            checkpoint_every_s=checkpoint_every_s,
            dtype=dtype,
        )
        self.spec, self.max_epochs, self.steps_per_epoch = spec, spec.recipe.max_epochs, self.stack.steps

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return self.points[0].epoch

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        return self.stack.model

    @property
    def connector(self) -> nn.Module:
        """What makes its features as wide as its teacher's."""
        return next(iter(self.stack.connectors.values()), nn.Identity())

    def step(self) -> Row | None:  # type: ignore[override]  # of the one point there is
        """Train one epoch, validate, append to history.jsonl; the epoch's scalars, or None when over."""
        (row,) = super().step()
        if isinstance(row, Diverged):
            raise row
        return row


def _check_finite(epoch: int, loss: float, val: dict[str, float]) -> None:
    """Raise Diverged if a number isn't finite."""
    if not math.isfinite(loss):
        raise Diverged(epoch, f"the training loss is {loss}; try a lower learning rate")
    if not metrics.finite(val):
        raise Diverged(epoch, "the validation logits are not finite; try a lower learning rate")


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
