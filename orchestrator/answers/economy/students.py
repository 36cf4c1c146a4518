"""The students of a plan as arrays: which arm, configuration and fold each is of. numpy only.

A cell is an arm at one configuration; its points differ by fold and seed. What a question asks for is a cell.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from orchestrator.answers.candidates import LIMITS
from orchestrator.laws.arms import canonical
from orchestrator.laws.forms import Array
from orchestrator.space.plan import Point

Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Cells:
    """All cells of a plan, (C,) each: numbers of what they share with others, and their sizes.

    u: ln params less their mean. t: ln params of the teacher less the mean of all teachers'; 0 without one.
    teacher: -1 without one. fits: whether the question admits the cell.
    """

    arch: Index
    strategy: Index  # with its arguments
    init: Index
    teacher: Index
    arm: Index
    configuration: Index
    u: Array
    t: Array
    fits: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.u)


@dataclass(frozen=True)
class Students:
    """The students of a plan, (N,) each, and their cells. teacher: id of the point it needs first, or
    None."""

    ids: tuple[str, ...]
    cell: Index
    fold: Index
    teacher: tuple[str | None, ...]
    cells: Cells
    folds: int

    def __len__(self) -> int:
        return len(self.ids)


def students_of(points: Sequence[Point], question: Mapping[str, float]) -> Students:
    """The students among `points`. question: limits as `query` takes them, {"max_params": 60000}.

    Raises InputError for a limit that a plan's points don't tell, and where none of them meets all limits.
    """
    columns = _columns(question)
    learners = [p for p in points if p.role == "student"]
    sizes = {p.teacher_group or p.id: p.params for p in points if p.role == "teacher" and p.params}
    sizes |= {p.id: p.params for p in points if p.role == "teacher" and p.params}
    keys = [_cell_key(p) for p in learners]
    cell, first = numbered(keys)
    chosen = [learners[i] for i in first]
    u = np.log([float(max(p.params, 1)) for p in chosen])
    t = np.array([np.log(sizes.get(p.teacher or "", 0) or np.nan) for p in chosen])
    known = np.isfinite(t)
    t = np.where(known, t - (t[known].mean() if known.any() else 0.0), 0.0)
    teacher = np.array([-1 if p.teacher is None else 0 for p in chosen], dtype=np.intp)
    taught = teacher >= 0
    teacher[taught] = numbered([p.teacher_group or p.teacher for p in chosen if p.teacher is not None])[0]
    fits = np.array([all(getattr(p, c) <= most for c, most in columns) for p in chosen], dtype=bool)
    if not fits.any():
        least = ", ".join(f"{c} {min((getattr(p, c) for p in chosen), default=0):,}" for c, _ in columns)
        asked = ", ".join(f"{name} {value:g}" for name, value in question.items())
        raise InputError(f"no student of the plan is within {asked} (least: {least}): raise the limit")
    cells = Cells(
        arch=numbered([p.arch for p in chosen])[0],
        strategy=numbered([(p.strategy, _arguments(p)) for p in chosen])[0],
        init=numbered([p.init for p in chosen])[0],
        teacher=teacher,
        arm=numbered([key[:5] for key in (keys[i] for i in first)])[0],
        configuration=numbered([(p.arch, p.depth, p.width, p.init) for p in chosen])[0],
        u=u - u.mean(),
        t=t,
        fits=fits,
    )
    fold, folds = numbered([p.fold for p in learners])
    ids = tuple(p.id for p in learners)
    return Students(ids, cell, fold, tuple(p.teacher for p in learners), cells, len(folds))


def _columns(question: Mapping[str, float]) -> list[tuple[str, float]]:
    """(attribute of a point, most) of each limit."""
    out = []
    for name, limit in question.items():
        if name not in LIMITS or name == "max_latency_ms":
            known = ", ".join(n.replace("_", "-") for n in LIMITS if n != "max_latency_ms")
            raise InputError(f"--answer {name.replace('_', '-')}: a plan's points tell {known}: use these")
        column, unit, _ = LIMITS[name]
        out.append((column, float(limit) * unit))
    return out


def _cell_key(p: Point) -> tuple[Any, ...]:
    """The arm of a point (5 entries), then its configuration."""
    return (p.arch, p.init, p.strategy, _arguments(p), p.teacher_group or p.teacher, p.depth, p.width)


def _arguments(p: Point) -> str:
    return _canonical(p.strategy, tuple(sorted(p.strategy_args.items())))


@lru_cache(maxsize=4096)
def _canonical(strategy: str, args: tuple[tuple[str, Any], ...]) -> str:
    return canonical(strategy, dict(args))


def numbered(keys: Iterable[Hashable]) -> tuple[Index, list[int]]:
    """Each key's number, in order of appearance, and where each number appeared first."""
    numbers: dict[Hashable, int] = {}
    first: list[int] = []
    out = []
    for place, key in enumerate(keys):
        if key not in numbers:
            numbers[key] = len(numbers)
            first.append(place)
        out.append(numbers[key])
    return np.array(out, dtype=np.intp), first
