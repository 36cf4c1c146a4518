"""One point in its folder: how far it is, its checkpoint and its history. Knows a stack, no evaluation."""

import errno
import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.errors import InputError, out_of_gpu_memory
from kd.files import append_json_line, read_text, sha256, write_atomically, write_text
from kd.models import inits
from kd.models.layers import linear
from kd.signals.prepare import Data
from kd.training import metrics
from kd.training.objective import learns_features
from kd.training.pretrain import Pretraining
from kd.training.prune import initial_state
from kd.training.recipe import Spec
from kd.training.schedule import Cooldown
from kd.training.stack import Shape, Stack, Start
from kd.training.stem import CHECKPOINT, CONTINUED, HISTORY, Stem
from kd.training.strategies import PRETRAIN
from kd.training.strategies import weights as weights_of
from kd.training.teacher import MODEL, TeacherOutputs

Row = dict[str, float]
# What torch.load and a look into its mapping raise for damaged files; of OSError see `_damage`
UNREADABLE = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OSError,
    InputError,
)


class Diverged(RuntimeError):
    """Training left the finite numbers; `epoch` says when, the message what."""

    def __init__(self, epoch: int, cause: str) -> None:
        super().__init__(f"diverged in epoch {epoch}: {cause}")
        self.epoch = epoch
        self.cause = cause

    def __reduce__(self) -> tuple[type["Diverged"], tuple[int, str]]:
        return Diverged, (self.epoch, self.cause)


class Member:
    """One point in training, in its folder: how far it is, its best, and what of it is written.

    place: its number in the stack. left_with: its best weights when it left the stack,
    None while it is there. pretraining: until it is over, for a point that is pre-trained.
    until: the epoch after which it waits, checkpointed, for somebody to make it again; None: to its end.
    stem: where the checkpoint before its cooldown is kept for longer trainings of the same point.
    cooldown: of schedule wsd; it begins early where validation stops improving before.
    """

    def __init__(
        self,
        spec: Spec,
        folder: Path,
        teacher: TeacherOutputs | None,
        until: int | None = None,
        stem: Stem | None = None,
    ) -> None:
        self.spec, self.folder, self.teacher, self.until = spec, Path(folder), teacher, until
        self.cooldown = Cooldown.planned(spec.recipe)
        self.stem = stem if self.cooldown else None
        self.teacher_sha256 = teacher.sha256 if teacher else None  # also of one it only starts from
        self.epoch, self.best_epoch, self.best_mae, self.train_seconds = 0, 0, math.inf, 0.0
        self.diverged: Diverged | None = None
        self.place = 0
        self.pretrained = 0  # epochs of pre-training behind it
        self.pretraining: Pretraining | None = None
        self._pretraining_was: dict[str, Any] | None = None  # of its checkpoint
        self.checkpointed = 0  # the epoch that its checkpoint holds, those of pre-training counted too
        self.set_aside: str | None = None  # what became of a checkpoint that could not be read
        self.left_with: dict[str, Tensor] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def max_epochs(self) -> int:
        """Epochs that it is trained at most."""
        return self.cooldown.ends if self.cooldown else self.spec.recipe.max_epochs

    @property
    def over(self) -> bool:
        """Whether every epoch is done, validation stopped improving, or it diverged.

        With a cooldown, what ends when validation stops improving is what comes before it.
        """
        stalled = self._stalled and self.cooldown is None
        return self.epoch >= self.max_epochs or stalled or self.diverged is not None

    @property
    def _stalled(self) -> bool:
        patience = self.spec.recipe.patience
        return bool(patience and self.epoch - self.best_epoch >= patience)

    def _cool_down_early(self) -> None:
        """Let the rate fall from here if validation has stopped improving before it was to.

        That depends on no length: a longer training of the same point does so after the same epoch.
        """
        if self.cooldown and self._stalled and self.epoch < self.cooldown.begins:
            self.cooldown = self.cooldown.early(self.spec.recipe, self.epoch)

    @property
    def waits(self) -> bool:
        """Whether it has reached `until` with epochs left, and is in its checkpoint from there on."""
        reached = self.until is not None and self.epoch >= self.until and self.pretraining is None
        return reached and not self.over

    @property
    def resting(self) -> bool:
        """Whether it trains no more here: over, or waiting."""
        return self.over or self.waits

    def start(self, shape: Shape, teacher_folder: Path | None, data: Data, device: torch.device) -> Start:
        """What its checkpoint holds; without one, fresh weights, decided by seed and init alone."""
        path, history = self.folder / CHECKPOINT, self.folder / HISTORY
        for half_written in self.folder.glob(".*.tmp"):  # by a process that was killed
            half_written.unlink(missing_ok=True)
        if inits.needs_teacher(self.spec.init) and teacher_folder is not None:
            weights = Path(teacher_folder) / MODEL
            self.teacher_sha256 = sha256(weights) if weights.exists() else None
        if not path.exists():
            history.unlink(missing_ok=True)
            (self.folder / CONTINUED).unlink(missing_ok=True)
            if self.stem:
                self.stem.begin(self.folder, self.spec.recipe.cooldown_from)
        if not path.exists():
            return self._fresh(shape, teacher_folder, data)
        try:
            start = self._resumed(path, history, device)
            return start or self._fresh(shape, teacher_folder, data)
        except UNREADABLE as error:
            if out_of_gpu_memory(error) or not _damage(error):
                raise
            self.set_aside = (
                f"{path} is damaged ({_first_line(error)}): set aside, trained from the first epoch"
            )
            path.replace(path.with_name(path.name + ".broken"))
            (self.folder / CONTINUED).unlink(missing_ok=True)
            history.unlink(missing_ok=True)
            self.epoch, self.best_epoch, self.best_mae, self.train_seconds = 0, 0, math.inf, 0.0
            self.pretrained, self._pretraining_was = 0, None
            self.cooldown = Cooldown.planned(self.spec.recipe)
            return self._fresh(shape, teacher_folder, data)

    def pretrain(self, shape: Shape, start: Start, x: Tensor) -> None:
        """Begin its pre-training on x (N, C, S), or go on with it, if it has one and no epoch behind that."""
        if self.spec.strategy_args.get(PRETRAIN) and not self.epoch:
            self.pretraining = Pretraining(self.spec, shape, start.model, x, self._pretraining_was)
            self._pretraining_was = None

    def _resumed(self, path: Path, history: Path, device: torch.device) -> Start | None:
        """What a checkpoint holds, None for one of pre-training, which is kept for `pretrain`.

        Raises one of UNREADABLE if it is damaged or its history is missing.
        """
        state = torch.load(path, map_location=device, weights_only=True)
        if "pretraining" in state:
            rows = read_text(history).splitlines()
            self._pretraining_was = dict(state["pretraining"])
            self.train_seconds = float(state["train_seconds"])
            self.pretrained = self.checkpointed = int(state["pretraining"]["epoch"])
            write_text(history, "".join(row + "\n" for row in rows[: self.pretrained]))
            return None
        start = Start(state["model"], state["connector"], state["moments"], state["best_state"])
        self.pretrained = int(self.spec.strategy_args.get(PRETRAIN, 0))
        rows = read_text(history).splitlines()[: self.pretrained + state["epoch"]]
        self.epoch, self.best_epoch = int(state["epoch"]), int(state["best_epoch"])
        self.best_mae, self.train_seconds = float(state["best_mae"]), float(state["train_seconds"])
        self.checkpointed = self.pretrained + self.epoch
        if self.cooldown and (began := state.get("cooled_early_from")) is not None:
            self.cooldown = self.cooldown.early(self.spec.recipe, int(began))
        self._cool_down_early()  # where a shorter training did so as planned
        write_text(history, "".join(row + "\n" for row in rows))
        return start

    def _fresh(self, shape: Shape, teacher_folder: Path | None, data: Data) -> Start:
        weights = weights_of(self.spec.strategy, self.spec.strategy_args)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.spec.seed)  # points that differ only in strategy or teacher start alike
            state, connector = shape.build().state_dict(), {}
            if self.teacher is not None and learns_features(weights):
                student_width, teacher_width = state["fc.weight"].shape[1], self.teacher.features.shape[1]
                connector = linear(student_width, teacher_width).state_dict()
            if inits.needs_teacher(self.spec.init):
                state = initial_state(self.spec, teacher_folder, data)
        return Start(state, connector)

    def pretrain_epoch(self) -> Row | Diverged:
        """Pre-train it for an epoch; the epoch's row, or Diverged if the loss isn't finite."""
        assert self.pretraining is not None
        loss, lr = self.pretraining.step()
        self.pretrained = self.pretraining.epoch
        if not math.isfinite(loss):
            cause = f"the loss of pre-training is {loss} after {self.pretrained} epochs of it"
            self.diverged = Diverged(0, f"{cause}; try a lower learning rate")
            return self.diverged
        row: dict[str, Any] = {"epoch": self.pretrained, "pretrain_loss": loss, "val_mae_bpm": None, "lr": lr}
        return row

    def trained(self, loss: float, val: dict[str, float], lr: float) -> Row | Diverged:
        """It has trained an epoch, with this mean loss and these figures on the validation windows.

        lr: of the epoch's last step. Gives the epoch's row, or Diverged if a number isn't finite.
        """
        self.epoch += 1
        try:
            _check_finite(self.epoch, loss, val)
        except Diverged as error:  # raised, so that it tells where
            self.diverged = error
            return error
        if val["mae_bpm"] < self.best_mae:
            self.best_mae, self.best_epoch = val["mae_bpm"], self.epoch
        self._cool_down_early()
        return {"epoch": self.epoch, "train_loss": loss, "val_mae_bpm": val["mae_bpm"], "lr": lr}

    def best_state(self, stack: Stack) -> dict[str, Tensor]:
        """Its weights after its best epoch, as the state dict of a plain model."""
        return stack.best(self.place, self.best_epoch) if self.left_with is None else self.left_with

    def leave(self, stack: Stack) -> None:
        """Take along what is still needed of it when the stack goes on without it."""
        self.left_with = self.best_state(stack) if self.best_epoch else {}

    def restart(self, stack: Stack) -> Start:
        """What it goes on with in another stack."""
        return Start(
            stack.state(self.place, self.epoch),
            stack.connector(self.place),
            stack.moments(self.place),
            self.best_state(stack) if self.best_epoch else None,
        )

    def checkpoint(self, stack: Stack) -> None:
        """Write its whole state, atomically; not again when it has trained no epoch since."""
        if self.pretrained + self.epoch == self.checkpointed:
            return
        if self.pretraining is not None:
            self._write({"pretraining": self.pretraining.state(), "train_seconds": self.train_seconds})
            return
        now = self.restart(stack)
        state = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_mae": self.best_mae,
            "train_seconds": self.train_seconds,
            "model": now.model,
            "connector": now.connector,
            "moments": now.moments,
            "best_state": now.best or {},
        }
        if self.cooldown and self.cooldown.begins < self.spec.recipe.cooldown_from:
            state["cooled_early_from"] = self.cooldown.begins
        self._write(state)

    def _write(self, state: dict[str, Any]) -> None:
        write_atomically(self.folder / CHECKPOINT, lambda path: torch.save(state, path))
        self.checkpointed = self.pretrained + self.epoch

    @property
    def branches(self) -> bool:
        """Whether it is where longer trainings of the same point part from it."""
        begins = self.cooldown.begins if self.cooldown else None
        return self.stem is not None and 0 < self.epoch == begins and not self.diverged

    def keep_stem(self) -> None:
        """Keep the checkpoint that was just written for those."""
        assert self.stem is not None
        self.stem.keep(self.folder, self.epoch)

    def append(self, row: Row) -> None:
        """Add an epoch to the history."""
        append_json_line(self.folder / HISTORY, row)


def _damage(error: Exception) -> bool:
    """Whether the file is to blame: a cut one makes torch seek before its start. Not a disk or a network."""
    return not isinstance(error, OSError) or error.errno in (errno.EINVAL, errno.ENOENT)


def _first_line(error: Exception) -> str:
    """What an error says, its type where it says nothing."""
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def _check_finite(epoch: int, loss: float, val: dict[str, float]) -> None:
    """Raise Diverged if a number isn't finite."""
    if not math.isfinite(loss):
        raise Diverged(epoch, f"the training loss is {loss}; try a lower learning rate")
    if not metrics.finite(val):
        raise Diverged(epoch, "the validation logits are not finite; try a lower learning rate")
