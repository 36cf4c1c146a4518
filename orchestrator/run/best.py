"""The best student of each strategy so far. Knows points and their errors; reads nothing."""

from dataclasses import dataclass, field
from statistics import fmean

from orchestrator.space.plan import Point
from orchestrator.store.configuration import configuration


@dataclass(frozen=True)
class Leader:
    """error_bpm: by the sweep's metric; with folds the mean over `folds` of one configuration's points."""

    error_bpm: float
    point: str
    folds: int  # 0: the split is fixed, and this is one point
    ids: tuple[str, ...] = field(default=(), compare=False)  # of the points that it is the mean of


@dataclass
class Best:
    """Errors of done points. With folds a configuration is judged by the mean over its folds and seeds."""

    _errors: dict[str, dict[str, float]] = field(default_factory=dict)
    _points: dict[str, Point] = field(default_factory=dict)

    def add(self, point: Point, error_bpm: float) -> None:
        """A point is done."""
        self._points[point.id] = point
        self._errors.setdefault(_judged_with(point), {})[point.id] = error_bpm

    def by_kind(self) -> dict[str, Leader]:
        """strategy (or "teacher") -> the best of those done in the most folds; the least error first."""
        kinds: dict[str, list[Leader]] = {}
        for errors in self._errors.values():
            points = [self._points[id] for id in errors]
            folds = len({p.fold for p in points if p.fold is not None})
            first = min(points, key=lambda p: (p.fold or 0, p.seed, p.id))
            leader = Leader(fmean(errors.values()), first.id, folds, tuple(errors))
            kinds.setdefault("teacher" if first.role == "teacher" else first.strategy, []).append(leader)
        best = {
            kind: min(leaders, key=lambda one: (-one.folds, one.error_bpm, one.point))
            for kind, leaders in kinds.items()
        }
        return dict(sorted(best.items(), key=lambda item: item[1].error_bpm))


def _judged_with(point: Point) -> str:
    """What the points share that are judged by their mean; where the split is fixed, each for itself."""
    return point.id if point.fold is None else configuration(point.fields)
