"""One point in its folder: how far it is, its checkpoint and its history. Knows a stack, no evaluation."""

import json
import math
from pathlib import Path

import torch

from kd.files import write_atomically
from kd.models import inits
from kd.models.architectures import linear
from kd.signals.prepare import Data
from kd.training.objective import learns_features
from kd.training.prune import initial_state
from kd.training.recipe import Spec
from kd.training.stack import Shape, Stack, Start
from kd.training.strategies import STRATEGIES
from kd.training.teacher import TeacherOutputs

CHECKPOINT, HISTORY = "checkpoint.pt", "history.jsonl"
Row = dict[str, float]


class Diverged(RuntimeError):
    """Training left the finite numbers; `epoch` says when, the message what."""

    def __init__(self, epoch: int, cause: str) -> None:
        super().__init__(f"diverged in epoch {epoch}: {cause}")
        self.epoch = epoch
        self.cause = cause

    def __reduce__(self) -> tuple[type["Diverged"], tuple[int, str]]:
        return Diverged, (self.epoch, self.cause)


class Standing:
    """One point in its folder: how far it is, and what of it is written."""

    def __init__(self, spec: Spec, folder: Path, teacher: TeacherOutputs | None) -> None:
        self.spec, self.folder, self.teacher = spec, Path(folder), teacher
        self.epoch, self.best_epoch, self.best_mae, self.train_seconds = 0, 0, math.inf, 0.0
        self.diverged: Diverged | None = None
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def over(self) -> bool:
        """Whether every epoch is done, validation stopped improving, or it diverged."""
        recipe = self.spec.recipe
        stalled = bool(recipe.patience and self.epoch - self.best_epoch >= recipe.patience)
        return self.epoch >= recipe.max_epochs or stalled or self.diverged is not None

    def start(self, shape: Shape, teacher_folder: Path | None, data: Data, device: torch.device) -> Start:
        """What its checkpoint holds; without one, fresh weights, decided by seed and init alone."""
        path, history = self.folder / CHECKPOINT, self.folder / HISTORY
        for half_written in self.folder.glob(".*.tmp"):  # by a process that was killed
            half_written.unlink(missing_ok=True)
        if not path.exists():
            history.unlink(missing_ok=True)
            return self._fresh(shape, teacher_folder, data)
        state = torch.load(path, map_location=device, weights_only=True)
        self.epoch, self.best_epoch = state["epoch"], state["best_epoch"]
        self.best_mae, self.train_seconds = state["best_mae"], state["train_seconds"]
        rows = history.read_text().splitlines()[: self.epoch]
        write_atomically(history, lambda p: p.write_text("".join(row + "\n" for row in rows)))
        return Start(state["model"], state["connector"], state["moments"], state["best_state"])

    def _fresh(self, shape: Shape, teacher_folder: Path | None, data: Data) -> Start:
        weights = STRATEGIES[self.spec.strategy](**self.spec.strategy_args)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.spec.seed)  # points that differ only in strategy or teacher start alike
            state, connector = shape.build().state_dict(), {}
            if self.teacher is not None and learns_features(weights):
                student_width, teacher_width = state["fc.weight"].shape[1], self.teacher.features.shape[1]
                connector = linear(student_width, teacher_width).state_dict()
            if inits.needs_teacher(self.spec.init):
                state = initial_state(self.spec, teacher_folder, data)
        return Start(state, connector)

    def checkpoint(self, stack: Stack, member: int) -> None:
        """Write its whole state, atomically."""
        state = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_mae": self.best_mae,
            "train_seconds": self.train_seconds,
            "model": stack.state(member, self.epoch),
            "connector": stack.connector(member),
            "moments": stack.moments(member),
            "best_state": stack.best(member, self.best_epoch) if self.best_epoch else {},
        }
        write_atomically(self.folder / CHECKPOINT, lambda path: torch.save(state, path))

    def append(self, row: Row) -> None:
        """Add an epoch to the history."""
        with (self.folder / HISTORY).open("a") as file:
            file.write(json.dumps(row) + "\n")
