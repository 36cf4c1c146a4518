"""A scheduler that releases only what a decision names, to the epoch it names. No Ray, no torch.

Whoever decides calls `choose` again and again; in between the most valuable point that is ready goes next,
with others of its pack that are named, too.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orchestrator.run.scheduler import Scheduler, Trainee

MOST = 500  # ready points that a pack is made from: packing more would cost more than it gives


class Chosen(Scheduler):
    """As `Scheduler`, but nothing is released before it is named, and it is over when that is said.

    epochs: full length by point; trained: epochs that points which are not done have in their checkpoints.
    A point whose teacher isn't done waits for it, named or not. What failed is tried again if it is named.
    """

    def __init__(
        self,
        points: Iterable[Trainee],
        done: set[str],
        *,
        pack: Callable[[list[Any], int], list[list[Any]]],
        epochs: Mapping[str, int],
        trained: Mapping[str, int],
        max_failures: int = 1,
    ) -> None:
        super().__init__(points, done, pack=pack, max_failures=max_failures)
        self.epochs, self.trained = epochs, dict(trained)
        self.ended = False
        self.cost.left_s = 0.0

    def choose(self, train: Iterable[tuple[str, int]]) -> None:
        """From now on release only these, the most valuable first, each until its epoch."""
        self.until = {id: min(epoch, self.epochs[id]) for id, epoch in train if id in self.points}
        self.cost.left_s = sum(
            self.points[id].cost_s * max(epoch - self.trained.get(id, 0), 0) / self.epochs[id]
            for id, epoch in self.until.items()
            if id not in self.done
        )

    def end(self) -> None:
        """Nothing more is released."""
        self.ended, self.until = True, {}
        self.cost.left_s = 0.0

    @property
    def over(self) -> bool:
        """Whether it was said to be."""
        return self.ended

    @property
    def ready(self) -> list[str]:
        """What is named and can be released now, the most valuable first."""
        not_now = self.done | self.failed | self.blocked
        not_now |= {id for ids in self.running.values() for id in ids}
        return [
            id
            for id, epoch in self.until.items()
            if id not in not_now and self._wants(id, epoch) and self._need(id) is None
        ]

    def _wants(self, id: str, epoch: int) -> bool:
        """Whether anything is left until an epoch. A kill after the last one leaves the result to be made."""
        return self.trained.get(id, 0) < epoch or epoch == self.epochs[id]

    def release(self, trial: str, slots: int) -> list[str] | None:
        """The next pack, which has the most valuable point first; None: no free slot, or nothing ready."""
        if len(self.running) >= slots:
            return None
        ready = self.ready[:MOST]
        if not ready:
            return None
        packs = self._pack([self.points[id] for id in ready], slots)
        first = next(ids for pack in packs if ready[0] in (ids := [point.id for point in pack]))
        rank = {id: k for k, id in enumerate(ready)}
        self.running[trial] = sorted(first, key=rank.__getitem__)
        return list(self.running[trial])

    def point_paused(self, trial: str, id: str, epoch: int) -> None:
        """A point has come to where it waits."""
        self._leave(trial, id)
        self.trained[id] = epoch
