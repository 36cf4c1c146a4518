"""One training objective for every strategy and every stack: weights over loss terms, on a batch.

M members of a stack, N windows, K classes, F features.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd.training import losses
from kd.training.teacher import TeacherOutputs
from kd.training.terms import TERMS, Weights


@dataclass(frozen=True)
class Labels:
    """Turns BPM into training targets. centres: (K,) BPM; sigma_bpm: Gaussian smoothing, 0 = one-hot."""

    centres: Tensor
    sigma_bpm: float

    def index(self, bpm: Tensor) -> Tensor:
        """Class index of each BPM, (N,), clipped to the classes."""
        return (bpm - self.centres[0]).round().long().clamp(0, len(self.centres) - 1)

    def target(self, bpm: Tensor) -> Tensor:
        """What cross-entropy takes: (N, K) Gaussian round the BPM, or class indices (N,) without smoothing.

        The Gaussian, from BeliefPPG's binned regression loss, tells the model that classes have an order.
        """
        if self.sigma_bpm == 0:
            return self.index(bpm)
        distance = (self.centres - bpm.unsqueeze(1)) / self.sigma_bpm  # (N, K)
        return (-0.5 * distance.square()).softmax(1)


class Few:
    """Some of a stack's members in a fixed order: picks what is theirs, copying nothing if that is all.

    among: the members that what it picks from is of.
    """

    def __init__(self, members: Sequence[int], among: Sequence[int], device: torch.device) -> None:
        self.members = list(members)
        self._all = self.members == list(among)
        self._index = torch.tensor([list(among).index(m) for m in self.members], device=device)

    def of(self, x: Tensor, axis: int = 0) -> Tensor:
        """Their slices along the axis of members."""
        return x if self._all else x.index_select(axis, self._index)

    def add(self, total: Tensor, values: Tensor) -> Tensor:
        """`total` (M,) with a value of each of them added."""
        return total + values if self._all else total.index_add(0, self._index, values)


class Taught(Few):
    """Members that learn from a teacher, ordered by teacher."""

    def __init__(
        self, members: Sequence[int], teachers: Sequence[TeacherOutputs | None], device: torch.device
    ) -> None:
        first = {id(teacher): m for m, teacher in reversed(list(enumerate(teachers)))}
        ordered = sorted(members, key=lambda m: (first[id(teachers[m])], m))
        super().__init__(ordered, range(len(teachers)), device)
        self._groups: list[tuple[TeacherOutputs, int]] = []
        for teacher in (teachers[m] for m in self.members):
            assert teacher is not None
            if self._groups and self._groups[-1][0] is teacher:
                self._groups[-1] = (teacher, self._groups[-1][1] + 1)
            else:
                self._groups.append((teacher, 1))

    def logits(self, index: Tensor) -> Tensor:
        """What each one's teacher said of the windows in `index` (M, N): (theirs * N, K)."""
        return self._rows(index, [teacher.logits for teacher, _ in self._groups])

    def features(self, index: Tensor) -> Tensor:
        """The teachers' features of the same windows, (theirs * N, F)."""
        return self._rows(index, [teacher.features for teacher, _ in self._groups])

    def _rows(self, index: Tensor, tables: Sequence[Tensor]) -> Tensor:
        parts = self.of(index).split([count for _, count in self._groups])
        rows = [table[part.flatten()] for table, part in zip(tables, parts, strict=True)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


@dataclass(frozen=True)
class Batch:
    """What a step has of every member; see `Objective.__call__`."""

    logits: Tensor
    features: Mapping[int, Tensor]
    bpm: Tensor
    index: Tensor
    labels: Labels


class Job:
    """One loss function for the members that give it a weight; of those that learn features, of one width.

    few: the members. weights: one per member of the stack. connected: the members whose features are
    connected to their teachers' `width`, for a function that asks for features.
    """

    def __init__(
        self,
        name: str,
        few: Few,
        weights: Sequence[Weights],
        dtype: torch.dtype,
        device: torch.device,
        width: int = 0,
        connected: Few | None = None,
        unlabelled: int = 0,
    ) -> None:
        self.few, self.width, self.needs, self.ramped = few, width, needs_of(name), TERMS[name].ramped
        without = OF_TEACHER & set(self.needs) and "target" not in self.needs
        self.unlabelled = unlabelled if without else 0
        self.labelled_only = unlabelled > self.unlabelled
        self._unlabelled_weight = torch.tensor(
            [[weights[m].unlabelled_weight] for m in few.members], device=device, dtype=dtype
        )  # (theirs, 1)
        self.function: Callable[..., Tensor | tuple[Tensor, ...]] = getattr(losses, name)
        self._connected = connected and Few(few.members, connected.members, device)
        mine = [weights[m] for m in few.members]

        # On the device from the start: a step in a CUDA graph can't bring numbers there.
        def on_device(values: Sequence[float]) -> Tensor:
            return torch.tensor([float(value) for value in values], device=device, dtype=dtype)

        columns = zip(*(w.of(TERMS[name]) for w in mine), strict=True)
        self._weights = [on_device(column) if any(column) else None for column in columns]
        self._settings: dict[str, Any] = {}
        for setting in SETTINGS:
            values = [getattr(w, setting) for w in mine]
            self._settings[setting] = values[0] if len(set(values)) == 1 else on_device(values)

    def values(self, batch: Batch, ramp: Tensor) -> Tensor:
        """The batch means of what the function gives, weighed, (theirs,).

        In means, windows without labels count as much as their weight says.
        """
        given = self.function(*(INPUTS[name](self, batch) for name in self.needs))
        total: Any = 0.0
        for loss, weight in zip(given if isinstance(given, tuple) else (given,), self._weights, strict=True):
            if weight is not None:
                total = self._mean(loss.view(len(self.few.members), -1)) * weight + total
        return total * self.few.of(ramp) if self.ramped else total

    def _mean(self, losses: Tensor) -> Tensor:
        """(theirs, N) -> (theirs,)."""
        if not self.unlabelled:
            return losses.mean(1)
        weight = self.counts(losses.shape[1]).to(losses.dtype)
        return (losses * weight).sum(1) / weight.sum(1)

    def counts(self, n: int) -> Tensor:
        """How much each of a batch's windows counts in means: 1, or without label its weight, (theirs, n)."""
        weight = self._unlabelled_weight
        ones = weight.new_ones(len(self.few.members), n - self.unlabelled)
        return torch.cat([ones, weight.expand(-1, self.unlabelled)], 1)

    def setting(self, name: str, n: int) -> Any:
        """A number that all share, as it is; else one per row, (theirs * n, 1)."""
        value = self._settings[name]
        return value.repeat_interleave(n).unsqueeze(1) if isinstance(value, Tensor) else value

    def connected_features(self, batch: Batch) -> Tensor:
        """The members' features, connected to their teachers' width, (theirs * N, F)."""
        assert self._connected is not None
        return self._connected.of(batch.features[self.width]).flatten(0, 1)


# What a loss function may ask for, by the name of its parameter. Rows are (theirs * N, ...), but counts
# (theirs, N).
INPUTS: dict[str, Callable[[Any, Batch], Any]] = {
    "student_logits": lambda job, batch: job.few.of(batch.logits).flatten(0, 1),
    "teacher_logits": lambda job, batch: job.few.logits(batch.index),
    "student_features": lambda job, batch: job.connected_features(batch),
    "teacher_features": lambda job, batch: job.few.features(batch.index),
    "target": lambda job, batch: batch.labels.target(job.few.of(batch.bpm).flatten()),
    "label": lambda job, batch: _label(job, batch),
    "temperature": lambda job, batch: job.setting("temperature", batch.bpm.shape[1]),
    "window": lambda job, batch: job.setting("window", batch.bpm.shape[1]),
    "counts": lambda job, batch: job.counts(batch.bpm.shape[1]),
}
FEATURES = {"student_features", "teacher_features"}
OF_TEACHER = {"teacher_logits", *FEATURES}  # without a teacher there is no width to connect features to
SETTINGS = ("temperature", "window")


def _label(job: Job, batch: Batch) -> Tensor:
    """The true class; of a window without label the one its teacher holds most likely, (theirs * N,)."""
    bpm = job.few.of(batch.bpm).flatten()
    if not job.unlabelled:
        return batch.labels.index(bpm)
    taught = job.few.logits(batch.index).argmax(1)  # type: ignore[attr-defined]  # a job of a teacher's
    return torch.where(bpm.isnan(), taught, batch.labels.index(bpm.nan_to_num()))


def needs_of(name: str) -> tuple[str, ...]:
    """What the loss function of an entry of `TERMS` asks for. ValueError if it can't have it."""
    needs = tuple(inspect.signature(getattr(losses, name)).parameters)
    if unknown := [need for need in needs if need not in INPUTS]:
        raise ValueError(f"loss {name} asks for {', '.join(unknown)}: there is {', '.join(INPUTS)}")
    return needs


def learns_features(weights: Weights) -> bool:
    """Whether a term of some weight asks for features."""
    return any(any(weights.of(term)) and FEATURES & set(needs_of(name)) for name, term in TERMS.items())


class Objective:
    """The loss of each member of a stack: the batch mean of its weighted terms.

    A term is computed for the members that give it a weight, so that a weight of 0 can't spoil a sum with
    0 * inf. weights, teachers: one per member. unlabelled: how many windows of each batch, its last, have no
    label (NaN): only terms that need a teacher see them.
    """

    def __init__(
        self,
        weights: Sequence[Weights],
        labels: Labels,
        teachers: Sequence[TeacherOutputs | None],
        dtype: torch.dtype = torch.float32,
        unlabelled: int = 0,
    ) -> None:
        self.labels, self.members, self._dtype = labels, len(weights), dtype
        self.unlabelled = unlabelled
        device = labels.centres.device
        widths = {
            m: teacher.features.shape[1]
            for m, teacher in enumerate(teachers)
            if teacher is not None and learns_features(weights[m])
        }
        # Members that learn features, one group for each width of the teachers'.
        self.featured = {
            width: Taught([m for m in widths if widths[m] == width], teachers, device)
            for width in sorted(set(widths.values()))
        }
        self._jobs: list[Job] = []
        for name, term in TERMS.items():
            needs = set(needs_of(name))
            members = [m for m, w in enumerate(weights) if any(w.of(term))]
            if needs & OF_TEACHER:
                members = [m for m in members if teachers[m] is not None]
            groups: dict[int, list[int]] = {}
            for m in members:
                groups.setdefault(widths[m] if needs & FEATURES else 0, []).append(m)
                if "window" in needs:
                    losses.check_window(weights[m].window, len(labels.centres))
            for width, group in sorted(groups.items()):
                few = (
                    Taught(group, teachers, device)
                    if needs & OF_TEACHER
                    else Few(group, range(len(weights)), device)
                )
                connected = self.featured.get(width)
                self._jobs.append(Job(name, few, weights, dtype, device, width, connected, unlabelled))
        busy = {m for job in self._jobs for m in job.few.members}
        for m, w in enumerate(weights):
            if m not in busy:
                raise ValueError(f"no loss term is left to train with: {w}")

    def __call__(
        self, logits: Tensor, features: Mapping[int, Tensor], bpm: Tensor, index: Tensor, ramp: Tensor
    ) -> Tensor:
        """The losses, (M,). logits (M, N, K); bpm, index (M, N): BPM and number of each window.

        features: for each group of `featured` its members' features, (theirs, N, F), connected to the
        teachers' width. ramp: (M,) in 0..1, scales the ramped terms (DKD's warm-up).
        """
        batch = labelled = Batch(logits, features, bpm, index, self.labels)
        if n := self.unlabelled:
            theirs = {width: rows[:, :-n] for width, rows in features.items()}
            labelled = Batch(logits[:, :-n], theirs, bpm[:, :-n], index[:, :-n], self.labels)
        total = torch.zeros(self.members, dtype=self._dtype, device=logits.device)
        for job in self._jobs:
            seen = labelled if job.labelled_only else batch
            total = job.few.add(total, job.values(seen, ramp))
        return total
