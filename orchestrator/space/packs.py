"""Points grouped into packs: what one Tune trial trains in one warm process. Knows points only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import Any

from orchestrator.space.plan import Point

# A pack is worth at least so many seconds (Tune's overhead) and at most so many: what is urgent (a teacher, a
# point to be tried again) waits for the end of one.
PACK_S = (4.0, 120.0)
WAVES = 8  # packs per slot and refill that keep the last ones short


@dataclass(frozen=True, repr=False)
class Pack:
    """What a trial carries to its worker. served: by teacher, how many points of the plan learn from it.

    until: by point, the epoch after which it is paused; without one it is trained to its end.
    Tune copies and prints its trials' configurations; this one stays what it is, and says little.
    """

    points: tuple[Point, ...]
    served: Mapping[str, int]
    until: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, points: Iterable[Point], served: Mapping[str, int], until: Mapping[str, int] | None = None
    ) -> "Pack":
        """A pack with what it needs of `served` and `until`."""
        points = tuple(points)
        teachers = {need for point in points for need in point.needs}
        limits = {point.id: until[point.id] for point in points if until and point.id in until}
        return cls(points, {teacher: served[teacher] for teacher in teachers}, limits)

    def __deepcopy__(self, memo: Any) -> "Pack":
        return self

    def __repr__(self) -> str:
        return f"{len(self.points)} points"


def packs(points: Iterable[Point], slots: int, *, most_s: float = PACK_S[1]) -> list[list[Point]]:
    """Group points into packs, longest first: what one Tune trial trains in one warm process.

    most_s: estimated seconds, one by one on a CPU core, that a pack holds at most. A GPU trains a pack as
    stacks, many points in the time of one, and is given all it can use.

    Points of a pack have one shape and one fold's data. The packs are short enough that `slots` slots end at
    about one time, and long enough that starting them costs little. Points of one shape and cost keep their
    order.
    """
    shapes: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        alike = (point.arch, point.depth, point.width, point.role, point.data_fingerprint)
        shapes.setdefault(alike, []).append(point)
    share = sum(p.cost_s for some in shapes.values() for p in some) / max(slots, 1) / WAVES
    target = min(max(share, PACK_S[0]), most_s)
    made: list[tuple[float, list[Point]]] = []
    for shape in sorted(shapes):
        pack: list[Point] = []
        cost = 0.0
        for point in sorted(shapes[shape], key=attrgetter("cost_s"), reverse=True):  # equal ones: no work
            if pack and cost + point.cost_s > target:
                made.append((cost, pack))
                pack, cost = [], 0.0
            pack.append(point)
            cost += point.cost_s
        made.append((cost, pack))
    made.sort(key=itemgetter(0), reverse=True)
    return [pack for _, pack in made]
