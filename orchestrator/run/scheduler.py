"""Which pack may run next: a student waits for its teacher, and for nothing else. No Ray, no torch.

It receives events (done, failed, lost) and answers `release`. Failures are counted by point, so that
one bad point neither takes its pack with it nor uses up its neighbours' retries.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from orchestrator.run.progress import Cost

MUCH = 1.25  # ready points or slots that are so many times what they were are packed anew


class Trainee(Protocol):
    """What the scheduler needs of a point (`orchestrator.space.plan.Point`)."""

    @property
    def id(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def needs(self) -> Sequence[str]: ...
    @property
    def cost_s(self) -> float: ...


class Scheduler:
    """Hands out packs of points: teachers first (most awaited seconds first), then `pack`'s order.

    pack(points, slots) -> packs, longest first. max_failures: how often a point may fail and be tried again.
    Every point is at any time in one of: done, failed, blocked, running, ready, waiting for its teacher.
    """

    def __init__(
        self,
        points: Iterable[Trainee],
        done: set[str],
        *,
        pack: Callable[[list[Any], int], list[list[Any]]],
        max_failures: int = 1,
    ) -> None:
        self.points = {point.id: point for point in points}
        self.done = done & self.points.keys()
        self.cost = Cost(sum(p.cost_s for p in self.points.values() if p.id not in self.done))
        self.failed: set[str] = set()
        self.blocked: set[str] = set()
        self.until: dict[str, int] = {}  # point -> epoch after which it is paused; see `chosen`
        self.running: dict[str, list[str]] = {}  # trial -> what is left of its pack, the current point first
        self.max_failures = max_failures
        self.failures: dict[str, int] = {}
        self._pack = pack
        # teacher -> points that wait for it, not yet released; who needs several waits for one after another
        self._students: dict[str, list[str]] = {}
        self._blocked_by: dict[str, list[str]] = {}  # teacher -> points of `blocked` that wait for it
        self._pool: list[str] = []  # ready students not yet in a pack
        # Ready packs as a heap, the longest first: (-seconds, number, ids).
        self._packs: list[tuple[float, int, list[str]]] = []
        self._packed_s = 0.0  # of all ready packs
        self._packed_for = self._number = 0
        self._urgent: list[list[str]] = []  # retries and teachers, the next one last
        awaited = self._awaited()
        teachers = []
        for point in self.points.values():
            if point.id in self.done:
                continue
            if (need := self._need(point.id)) is not None:
                self._students.setdefault(need, []).append(point.id)
            elif point.role == "teacher":
                teachers.append(point)
            else:
                self._pool.append(point.id)
        teachers.sort(key=lambda point: point.cost_s + awaited.get(point.id, 0.0))
        self._urgent += [[point.id] for point in teachers]

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing can be released any more."""
        return not (self.running or self._urgent or self._pool or self._packs)

    def release(self, trial: str, slots: int) -> list[str] | None:
        """The next pack (ids, in training order) for a trial, or None: no free slot, or nothing ready."""
        if len(self.running) >= slots:
            return None
        if self._urgent:
            ids = self._urgent.pop()
        else:
            self._repack(slots)
            if not self._packs:
                return None
            cost, _, ids = heapq.heappop(self._packs)
            self._packed_s += cost
        self.running[trial] = list(ids)
        return list(ids)

    def point_done(self, trial: str, id: str) -> None:
        """A point is trained and stored: its students become ready."""
        self._leave(trial, id)
        self.done.add(id)
        self.cost.left_s -= self.points[id].cost_s
        for student in self._students.pop(id, []):
            if (need := self._need(student)) is not None:
                self._students.setdefault(need, []).append(student)
                if need in self.failed or need in self.blocked:
                    self._block(need)
            elif self.points[student].role == "teacher":
                self._urgent.append([student])
            else:
                self._pool.append(student)

    def point_paused(self, trial: str, id: str, epoch: int) -> None:
        """A point waits after an epoch, which only those do that are in `until`."""
        raise NotImplementedError

    def point_failed(self, trial: str, id: str, *, blame: bool = True) -> bool:
        """A point failed; True if it will be tried again, else it has failed, its students are blocked.

        blame: whether that counts; without, it will always be tried again.
        """
        self._leave(trial, id)
        if blame:
            self.failures[id] = self.failures.get(id, 0) + 1
        if not blame or self.failures[id] <= self.max_failures:
            self._urgent.append([id])
            return True
        self.failed.add(id)
        self.cost.left_s -= self.points[id].cost_s
        self._block(id)
        return False

    def forgive(self, id: str) -> None:
        """A point's failures were not its own: it starts over, and its students wait for it again."""
        self.failures.pop(id, None)
        if id in self.failed:
            self.failed.remove(id)
            self.cost.left_s += self.points[id].cost_s
            self._urgent.append([id])
            self._unblock(id)

    def trial_over(self, trial: str) -> None:
        """A trial has ended or was stopped; what is left of its pack is ready again."""
        self._pool += self.running.pop(trial, [])

    def trial_lost(self, trial: str, *, blame: bool) -> tuple[str, bool] | None:
        """A trial's process died; (the point it was training, whether that is tried again), if there was one.

        blame: whether the death counts as a failure of that point; a node that left the cluster doesn't.
        """
        left = self.running.get(trial, [])
        if not left:
            self.running.pop(trial, None)
            return None
        current = left[0]
        again = self.point_failed(trial, current, blame=blame)
        self.trial_over(trial)
        return current, again

    def _need(self, id: str) -> str | None:
        """The first of what a point needs that isn't done."""
        return next((need for need in self.points[id].needs if need not in self.done), None)

    def _awaited(self) -> dict[str, float]:
        """Seconds that wait for each point: of students, and of those of the means that it is in."""
        awaited: dict[str, float] = {}
        for teachers in (False, True):  # students first
            for point in self.points.values():
                if (point.role == "teacher") is teachers and point.id not in self.done:
                    seconds = point.cost_s + awaited.get(point.id, 0.0)
                    for need in point.needs:
                        awaited[need] = awaited.get(need, 0.0) + seconds
        return awaited

    def _leave(self, trial: str, id: str) -> None:
        self.running[trial].remove(id)

    def _block(self, teacher: str) -> None:
        students = self._students.pop(teacher, [])
        if students:
            self._blocked_by.setdefault(teacher, []).extend(students)
        for student in students:
            self.blocked.add(student)
            self.cost.left_s -= self.points[student].cost_s
            self._block(student)

    def _unblock(self, teacher: str) -> None:
        students = self._blocked_by.pop(teacher, [])
        if students:
            self._students.setdefault(teacher, []).extend(students)
        for student in students:
            self.blocked.remove(student)
            self.cost.left_s += self.points[student].cost_s
            self._unblock(student)

    def _repack(self, slots: int) -> None:
        """Pack what has become ready; all anew only where much has, or the slots are others, so that packing
        costs each point a few times its share, however often students become ready and nodes come and go.
        """
        pool_s = sum(self.points[id].cost_s for id in self._pool)
        others = not self._packed_for / MUCH < slots < self._packed_for * MUCH
        if pool_s > (MUCH - 1) * self._packed_s or (self._packs and others):
            self._pool += [id for _, _, ids in self._packs for id in ids]
            self._packs, self._packed_s, self._packed_for = [], 0.0, slots
        if not self._pool:
            return
        for pack in self._pack([self.points[id] for id in self._pool], slots):
            cost = sum(point.cost_s for point in pack)
            self._packs.append((-cost, self._number, [point.id for point in pack]))
            self._packed_s += cost
            self._number += 1
        heapq.heapify(self._packs)
        self._pool = []
