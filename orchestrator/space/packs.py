"""Points grouped into packs: what one Tune trial trains in one warm process. Knows points only."""

from collections.abc import Iterable
from typing import Any

from orchestrator.space.plan import Point

# A pack is worth at least so many seconds (Tune's overhead) and at most so many: what is urgent (a teacher, a
# point to be tried again) waits for the end of one.
PACK_S = (4.0, 120.0)
WAVES = 8  # packs per slot and refill that keep the last ones short


def packs(points: Iterable[Point], slots: int, *, most_s: float = PACK_S[1]) -> list[list[Point]]:
    """Group points into packs, longest first: what one Tune trial trains in one warm process.

    most_s: estimated seconds, one by one on a CPU core, that a pack holds at most. A GPU trains a pack as
    stacks, many points in the time of one, and is given all it can use.

    Points of a pack have one shape. The packs are short enough that `slots` slots end at about one time, and
    long enough that starting them costs little.
    """
    ordered = sorted(points, key=lambda p: (-p.cost_s, p.arch, p.depth, p.width, p.id))
    share = sum(p.cost_s for p in ordered) / max(slots, 1) / WAVES
    target = min(max(share, PACK_S[0]), most_s)
    made: list[list[Point]] = []
    open_: dict[tuple[Any, ...], tuple[list[Point], float]] = {}
    for point in ordered:
        shape = (point.arch, point.depth, point.width, point.role)
        pack, cost = open_.get(shape, ([], 0.0))
        if not pack or cost + point.cost_s > target:
            pack, cost = [], 0.0
            made.append(pack)
        pack.append(point)
        open_[shape] = (pack, cost + point.cost_s)
    made.sort(key=lambda pack: -sum(p.cost_s for p in pack))
    return made
