"""One training objective for every strategy and every stack: weights over loss terms, on a batch.

M members of a stack, N windows, K classes, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kd.training import losses
from kd.training.strategies import Weights
from kd.training.teacher import TeacherOutputs


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
    """Some members of a stack in a fixed order: picks what is theirs, copying nothing if that is all.

    Their weights are on the device from the start: a step in a CUDA graph can't bring them there.
    """

    def __init__(
        self, members: Sequence[int], weights: Sequence[Weights], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.members = list(members)
        self._all = self.members == list(range(len(weights)))
        self._index = torch.tensor(self.members, device=device)
        mine = [asdict(weights[m]) for m in self.members]
        self._values = {
            name: torch.tensor([float(w[name]) for w in mine], device=device, dtype=dtype) for name in mine[0]
        }
        self._common = {name: value for name, value in mine[0].items() if all(w[name] == value for w in mine)}

    def of(self, x: Tensor, axis: int = 0) -> Tensor:
        """Their slices along the axis of members."""
        return x if self._all else x.index_select(axis, self._index)

    def add(self, total: Tensor, ramp: Tensor | None = None, **losses: Tensor) -> Tensor:
        """`total` (M,) and the mean of each one's losses (theirs * N,), times its weights, times its ramp."""
        values: Any = 0.0
        for term, loss in losses.items():
            values = loss.view(len(self.members), -1).mean(1) * self._values[term] + values
        if ramp is not None:
            values = values * self.of(ramp)
        return total + values if self._all else total.index_add(0, self._index, values)

    def each(self, name: str, n: int) -> Any:
        """A number that all share, as it is; else one per row, (theirs * n, 1)."""
        if name in self._common:
            return self._common[name]
        return self._values[name].repeat_interleave(n).unsqueeze(1)


class Taught(Few):
    """Members that learn from a teacher, ordered by teacher."""

    def __init__(
        self,
        members: Sequence[int],
        weights: Sequence[Weights],
        teachers: Sequence[TeacherOutputs | None],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        first = {id(teacher): m for m, teacher in reversed(list(enumerate(teachers)))}
        super().__init__(sorted(members, key=lambda m: (first[id(teachers[m])], m)), weights, device, dtype)
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


class Objective:
    """The loss of each member of a stack: the batch mean of its weighted terms.

    A term is computed for the members that give it a weight, so that a weight of 0 can't spoil a sum with
    0 * inf. weights, teachers: one per member.
    """

    def __init__(
        self,
        weights: Sequence[Weights],
        labels: Labels,
        teachers: Sequence[TeacherOutputs | None],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.labels, self.members, self._dtype = labels, len(weights), dtype
        device = labels.centres.device
        taught = [m for m, teacher in enumerate(teachers) if teacher is not None]
        for m, w in enumerate(weights):
            if not (w.ce or (m in taught and any((w.hard, w.soft, w.tckd, w.nckd, w.feature)))):
                raise ValueError(f"no loss term is left to train with: {w}")
            if w.tckd or w.nckd:
                losses.check_window(w.window, len(labels.centres))

        def few(members: Sequence[int]) -> Taught | None:
            return Taught(members, weights, teachers, device, dtype) if members else None

        with_ce = [m for m, w in enumerate(weights) if w.ce]
        self._ce = Few(with_ce, weights, device, dtype) if with_ce else None
        self._hard = few([m for m in taught if weights[m].hard])
        self._soft = few([m for m in taught if weights[m].soft])
        self._decoupled = few([m for m in taught if weights[m].tckd or weights[m].nckd])
        widths = {
            m: teacher.features.shape[1]
            for m, teacher in enumerate(teachers)
            if teacher is not None and weights[m].feature
        }
        # Members that learn features, one group for each width of the teachers'.
        self.featured = {
            width: Taught([m for m in widths if widths[m] == width], weights, teachers, device, dtype)
            for width in sorted(set(widths.values()))
        }

    def __call__(
        self, logits: Tensor, features: Mapping[int, Tensor], bpm: Tensor, index: Tensor, ramp: Tensor
    ) -> Tensor:
        """The losses, (M,). logits (M, N, K); bpm, index (M, N): BPM and number of each window.

        features: for each group of `featured` its members' features, (theirs, N, F), connected to the
        teachers' width. ramp: (M,) in 0..1, scales the decoupled terms (DKD's warm-up).
        """
        n = logits.shape[1]
        total = torch.zeros(self.members, dtype=self._dtype, device=logits.device)
        if ce := self._ce:
            target = self.labels.target(ce.of(bpm).flatten())
            total = ce.add(total, ce=losses.cross_entropy(ce.of(logits).flatten(0, 1), target))
        if few := self._hard:
            total = few.add(total, hard=losses.hard(few.of(logits).flatten(0, 1), few.logits(index)))
        if few := self._soft:
            rows = few.of(logits).flatten(0, 1)
            loss = losses.soft(rows, few.logits(index), few.each("temperature", n))
            total = few.add(total, soft=loss)
        if few := self._decoupled:
            tckd, nckd = losses.decoupled_terms(
                few.of(logits).flatten(0, 1),
                few.logits(index),
                self.labels.index(few.of(bpm).flatten()),
                few.each("temperature", n),
                few.each("window", n),
            )
            total = few.add(total, ramp, tckd=tckd, nckd=nckd)
        for width, few in self.featured.items():
            loss = losses.feature(features[width].flatten(0, 1), few.features(index))
            total = few.add(total, feature=loss)
        return total
