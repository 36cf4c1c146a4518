"""Training points: alone (`Run`) or several of one shape as a stack (`Runs`), each in its own folder.

step() trains an epoch, finish() evaluates and writes the model. Kill them at any moment and make them again:
every point goes on from its last checkpoint, alone or in any stack, and, alone on a CPU with the same number
of threads, ends with the same bits. The loop itself is `stack.py`. Knows neither Ray nor where sweeps keep
their files.
"""

import ctypes
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kd.files import sha256, write_atomically, write_json
from kd.models import sizes, weights
from kd.models.architectures import build
from kd.signals.prepare import Data
from kd.signals.windows import WindowSet
from kd.training import metrics, tracking
from kd.training.fused import FusedStack, fits
from kd.training.member import CHECKPOINT, HISTORY, Diverged, Member, Row
from kd.training.objective import Labels
from kd.training.recipe import Spec
from kd.training.stack import Shape, Stack, Start
from kd.training.stem import Stem
from kd.training.strategies import needs_teacher
from kd.training.strategies import weights as weights_of
from kd.training.teacher import MODEL, Forward, TeacherOutputs, as_tensor, batches, write_teacher_outputs
from kd.training.validation import BySubject

__all__ = ["CHECKPOINT", "HISTORY", "Diverged", "Run", "Runs", "device_name", "load_model"]


class Runs:
    """Points of one shape (`kd.training.stack.together`) being trained as one stack, each in its own folder.

    step() trains an epoch of each that is not over; finish(i) evaluates one on the test subjects and writes
    its model. teacher_folders: the finished teachers' folders, for points that need one. A point that is over
    leaves the stack: at once on a CPU, when half of them have left on a GPU. engine: `compiled.library()`,
    which trains a point that is alone on a CPU; default: torch. until: epochs after which points wait, as
    `Member.until`; made again with a later one, they go on. stems: what longer trainings under wsd begin
    with, and leave to others (`stem.Stem`). Raises InputError if a folder or a teacher
    doesn't fit its spec.
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
        convolution: str = "grouped",
        engine: ctypes.CDLL | None = None,
        until: Sequence[int | None] | None = None,
        stems: Sequence[Stem | None] | None = None,
    ) -> None:
        self._engine = engine
        data = data.seen_by(specs[0].recipe.channels)
        self.data, self.device, self.checkpoint_every_s = data, torch.device(device), checkpoint_every_s
        self._dtype, self._convolution = dtype, convolution
        from_folders = list(teacher_folders or [None] * len(specs))
        first = specs[0]
        channels, samples = data.train.x.shape[1:]
        self.shape = self.shape_of(first, channels, samples, data.classes)
        centres = metrics.class_centres(data.min_bpm, data.classes).to(self.device)
        self.labels = Labels(centres, first.recipe.label_sigma_bpm)
        self.x, self.bpm = self._tensor(data.taught_x), self._tensor(data.train.bpm)
        self._val_x, self._val = self._tensor(data.val.x), BySubject(data.val)
        self.members: list[Member] = []
        teachers: dict[Path | None, TeacherOutputs] = {}
        sure = data.unlabelled.sure if data.unlabelled else 1.0
        limits = list(until or [None] * len(specs))
        kept = list(stems or [None] * len(specs))
        for spec, folder, from_folder, limit, stem in zip(
            specs, folders, from_folders, limits, kept, strict=True
        ):
            if needs_teacher(spec.strategy) and from_folder not in teachers:
                teachers[from_folder] = TeacherOutputs(
                    spec, from_folder, len(self.x), self.device, dtype, labelled=len(data.train), sure=sure
                )
            teacher = teachers[from_folder] if needs_teacher(spec.strategy) else None
            self.members.append(Member(spec, folder, teacher, limit, stem))
        starts = [
            member.start(self.shape, from_folder, data, self.device)
            for member, from_folder in zip(self.members, from_folders, strict=True)
        ]
        self.stack = self._stack_of(self.members, starts)
        self._checkpointed_at = time.monotonic()
        for member, start in zip(self.members, starts, strict=True):
            member.pretrain(self.shape, start, self.x)
            self._end_pretraining(member)

    def shape_of(self, spec: Spec, channels: int, samples: int, classes: int) -> Shape:
        """What builds the points' models."""
        return Shape(spec.arch, spec.depth, spec.width, channels, samples, classes)

    def step(self) -> list[Row | Diverged | None]:
        """Train an epoch of each point that isn't over and doesn't wait, validate, append to its history.

        For each point: the epoch's scalars, None if it was over or waits, or Diverged if it has just left the
        finite numbers.
        """
        if all(member.resting for member in self.members):
            return [None] * len(self.members)
        if any(member.pretraining for member in self.members):
            return self._pretrain()
        self._shrink()
        start = time.monotonic()
        stacked = self._stacked
        training = [member for member in stacked if not member.resting]
        self.stack.cooldowns = [member.cooldown for member in stacked]
        losses = self.stack.epoch([member.epoch for member in stacked]).tolist()
        bpm = self.stack.predict(self._val_x).cpu().numpy()
        rows: dict[Member, Row | Diverged] = {}
        for member in training:
            k = member.place
            lr = float(self.stack.lr(k, np.array((member.epoch + 1) * self.stack.steps - 1)))
            recipe = member.spec.recipe
            val = self._val.criterion(bpm[k], recipe.stop_on, recipe.stop_weights)
            rows[member] = member.trained(losses[k], val, lr)
        better = {member.place for member in training if member.best_epoch == member.epoch}
        self.stack.keep_best([k in better for k in range(len(stacked))])
        share = (time.monotonic() - start) / len(training)
        for member, row in rows.items():
            member.train_seconds += share
            if not isinstance(row, Diverged):
                row["train_seconds"] = round(member.train_seconds, 3)
                member.append(row)
            if member.waits or member.branches:
                member.checkpoint(self.stack)
            if member.branches:
                member.keep_stem()
        if time.monotonic() - self._checkpointed_at >= self.checkpoint_every_s:
            self.checkpoint()
        return [rows.get(member) for member in self.members]

    def _pretrain(self) -> list[Row | Diverged | None]:
        """Pre-train each point that has to be for an epoch, one after another; others wait for them.

        A checkpoint is written where it is over: it is dear, and what follows begins with it.
        """
        found: list[Row | Diverged | None] = []
        for member in self.members:
            if member.pretraining is None:
                found.append(None if member.resting else {"epoch": member.epoch})
                continue
            start = time.monotonic()
            with self.stack.precise():
                row = member.pretrain_epoch()
            member.train_seconds += time.monotonic() - start
            found.append(row)
            if isinstance(row, Diverged):
                member.pretraining = None
                continue
            row["train_seconds"] = round(member.train_seconds, 3)
            member.append(row)
            self._end_pretraining(member)
        if time.monotonic() - self._checkpointed_at >= self.checkpoint_every_s:
            self.checkpoint()
        return found

    def _end_pretraining(self, member: Member) -> None:
        """Let a point whose pre-training is over begin with what that gave."""
        if member.pretraining is not None and member.pretraining.over:
            member.checkpoint(self.stack)
            self.stack.begin(member.place, member.pretraining.weights())
            member.pretraining = None

    def checkpoint(self) -> None:
        """Write the state of every point in the stack now, each atomically to its own folder."""
        for member in self._stacked:
            if member.diverged is None:
                member.checkpoint(self.stack)
        self._checkpointed_at = time.monotonic()

    def finish(self, i: int = 0) -> dict[str, Any]:
        """Evaluate a point's best weights on the test subjects, write its model; the figures of result.json.

        A teacher also gets its outputs on every training window written, which is all its students ever see.
        The checkpoint stays until the caller has written result.json and calls `discard_checkpoint`.
        """
        start = time.monotonic()
        member, test = self.members[i], self.data.test
        model = self.shape.build()
        model.load_state_dict(self.best_state(i))
        model.to(self.device, self._dtype).eval()
        compute: Forward = self.stack.best_outputs if isinstance(self.stack, FusedStack) else model

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            return compute(x.to(self.device, self._dtype))  # test windows are never all on the device

        with self.stack.precise():
            errors, logits = evaluate(forward, test, as_tensor(test.x), self.labels.centres)
            val = torch.cat([part.float() for part, _ in batches(forward, self._val_x)])
            errors |= track(self.data, val.cpu().numpy(), logits, member.folder)
            if self.data.axes and self.data.acc_optional:
                x = as_tensor(np.array(test.x))
                x[:, -self.data.axes :] = 0
                without, _ = evaluate(forward, test, x, self.labels.centres)
                errors["mae_bpm_without_acc"] = without["mae_bpm"]
            taught = self.x if member.spec.role == "teacher" else None
            write(model, self.shape, member.folder, taught, forward)
        if member.teacher is not None:
            member.teacher.check_unchanged()
        member.train_seconds += time.monotonic() - start
        found = {**figures(member, self.shape, model, errors), **self.data.scales}
        found["engine"] = self.stack.engine
        if member.teacher is not None and member.spec.strategy_args.get("unlabelled_share"):
            found["unlabelled_windows"] = len(member.teacher.besides)
        if member.pretrained:
            found["pretrained_windows"] = len(self.x)
        return found

    def best_state(self, i: int) -> dict[str, Tensor]:
        """A point's weights after its best epoch, as the state dict of a plain model."""
        return self.members[i].best_state(self.stack)

    def discard_checkpoint(self, i: int = 0) -> None:
        """Remove a point's checkpoint.pt; only once its result.json is safely there."""
        (self.members[i].folder / CHECKPOINT).unlink(missing_ok=True)

    @property
    def _stacked(self) -> list[Member]:
        """Those in the stack, by their number there."""
        return [member for member in self.members if member.left_with is None]

    def _stack_of(self, members: Sequence[Member], starts: Sequence[Start]) -> Stack:
        for place, member in enumerate(members):
            member.place = place
        stack: Callable[..., Stack] = Stack
        if self._engine is not None and self._engine_fits(members):
            stack = functools.partial(FusedStack, self._engine)
        return stack(
            [member.spec for member in members],
            self.shape,
            starts,
            [member.teacher for member in members],
            self.x,
            self.bpm,
            self.labels,
            dtype=self._dtype,
            convolution=self._convolution,
        )

    def _engine_fits(self, members: Sequence[Member]) -> bool:
        plain = len(members) == 1 and self.device.type == "cpu" and self._dtype == torch.float32
        spec = members[0].spec
        return plain and fits(self.shape, weights_of(spec.strategy, spec.strategy_args))

    def _shrink(self) -> None:
        """Rebuild the stack without the points that are over, if that pays."""
        stacked = self._stacked
        left = [member for member in stacked if not member.resting]
        worth = len(left) < len(stacked) if self.device.type == "cpu" else 2 * len(left) <= len(stacked)
        if not left or not worth:
            return
        for member in stacked:
            if member.resting:
                member.leave(self.stack)
        self.stack = self._stack_of(left, [member.restart(self.stack) for member in left])

    def _tensor(self, array: np.ndarray) -> Tensor:
        return as_tensor(np.ascontiguousarray(array)).to(self.device, self._dtype)


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
        engine: ctypes.CDLL | None = None,
    ) -> None:
        super().__init__(
            [spec],
            data,
            [folder],
            teacher_folders=[teacher_folder],
            device=device,
            checkpoint_every_s=checkpoint_every_s,
            dtype=dtype,
            engine=engine,
        )
        self.spec, self.max_epochs, self.steps_per_epoch = spec, spec.recipe.max_epochs, self.stack.steps

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return self.members[0].epoch

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


def evaluate(
    forward: Forward, test: WindowSet, x: Tensor, centres: Tensor
) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """A model's errors in BPM on the windows `test`, and its logits (N, K); x: these windows (N, C, S).

    Decoded by expectation over the class centres (K,); `mae_bpm_argmax` by the most likely class.
    """
    decoded = [
        (metrics.decode_expectation(logits, centres), metrics.decode_argmax(logits, centres), logits.float())
        for logits, _ in batches(forward, x)
    ]
    predicted, argmax, logits = (torch.cat(parts).cpu().numpy() for parts in zip(*decoded, strict=True))
    errors = {
        **metrics.error_figures(predicted, test.bpm),
        "mae_bpm_argmax": metrics.error_figures(argmax, test.bpm)["mae_bpm"],
        "subjects": BySubject(test).figures(predicted),
        "mae_by_subject": metrics.mae_by(test.subject, predicted, test.bpm),
        "mae_by_dataset": metrics.mae_by(test.dataset, predicted, test.bpm),
    }
    return errors, logits


def track(
    data: Data, val: npt.NDArray[np.float32], test: npt.NDArray[np.float32], folder: Path
) -> dict[str, Any]:
    """The errors of a model with a tracker behind it, {} of data without time; writes tracker.json.

    val: the logits (V, K) of the validation windows, which the tracker is chosen on; test: (N, K).
    """
    config = tracking.fit(data.train, data.val, val, data.min_bpm)
    if config is None or not data.test.runs():
        return {}
    found = tracking.measure(config, data.test, test, data.min_bpm)
    bpm, smoothed, step = found.pop("bpm"), found.pop("smoothed_bpm"), found["step"] or {}
    write_json(folder / tracking.FILE, {"tracker": config, **found})
    return {
        "mae_bpm_tracked": metrics.error_figures(bpm, data.test.bpm)["mae_bpm"],
        "mae_bpm_smoothed": metrics.error_figures(smoothed, data.test.bpm)["mae_bpm"],
        "mae_by_subject_tracked": metrics.mae_by(data.test.subject, bpm, data.test.bpm),
        "coverage_90": found["window"]["coverage_90"],
        "coverage_90_tracked": found["tracked"]["coverage_90"],
        "unsure": found["tracked"]["unsure"],
        **{key: step.get(key) for key in ("step_63_s", "step_5_bpm_s")},
    }


def write(
    model: nn.Module, shape: Shape, folder: Path, x: Tensor | None = None, forward: Forward | None = None
) -> None:
    """A trained model into its folder; given training windows x (N, C, S), its outputs on them, too.

    forward: what computes them, the model itself by default.
    """
    named = (shape.arch, shape.depth, shape.width)
    write_atomically(folder / MODEL, lambda path: weights.save(model.state_dict(), path, *named))
    if x is not None:
        write_teacher_outputs(forward or model, x, folder)


def figures(member: Member, shape: Shape, model: nn.Module, errors: dict[str, Any]) -> dict[str, Any]:
    """What result.json says of a point whose model is written: sizes, errors, how it was trained.

    errors: what `evaluate` gave. Raises AssertionError if the model's size isn't that in closed form.
    """
    size = sizes.size(
        shape.arch,
        shape.depth,
        shape.width,
        channels=shape.channels,
        samples=shape.samples,
        classes=shape.classes,
    )
    counted = sum(p.numel() for p in model.parameters())
    if counted != size.params:
        raise AssertionError(
            f"{shape.arch} {shape.depth}x{shape.width}: {counted} parameters, not {size.params}"
        )
    return {
        "params": size.params,
        "macs": size.macs,
        "activation_bytes": size.activation_bytes,
        "weight_bytes": size.weight_bytes,
        "weight_bytes_int8": size.weight_bytes_int8,
        **errors,
        "val_mae_bpm": member.best_mae,
        "epochs": member.epoch,
        "best_epoch": member.best_epoch,
        **({"cooldown_from": member.cooldown.begins} if member.cooldown else {}),
        "train_seconds": round(member.train_seconds, 3),
        "device": device_name(next(model.parameters()).device),
        "model_sha256": sha256(member.folder / MODEL),
        "teacher_sha256": member.teacher_sha256,
    }


def load_model(
    folder: Path, *, arch: str, depth: int, width: int, channels: int, samples: int, classes: int
) -> nn.Module:
    """The trained model of a finished point, in evaluation mode. Raises InputError for a damaged file."""
    model = build(arch, depth, width, channels=channels, samples=samples, classes=classes)
    weights.fill(model, weights.read(Path(folder) / MODEL), Path(folder) / MODEL)
    return model.eval()


def device_name(device: torch.device) -> str:
    """What result.json calls the device: "cpu", or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
