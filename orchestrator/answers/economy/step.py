"""One step of a sweep that trains for an answer: what is known -> what to train next, or that it is enough.

Pure and deterministic: a sweep that was killed asks again and hears the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.answers.economy.belief import Belief, believe
from orchestrator.answers.economy.choose import Chosen, Situation, choose, without
from orchestrator.answers.economy.students import Index, students_of
from orchestrator.answers.economy.worth import Slices, slices_of
from orchestrator.laws.forms import Array
from orchestrator.run.belief import (
    ADVISED,
    BUDGET,
    EXPECTED,
    HOURS,
    NOTHING_MORE,
    OF_GRID,
    P_BEST,
    PROBABILITY,
    REACHED,
    REGRET,
)
from orchestrator.space.plan import Point

DRAWS = 1000
MOST = 8  # slices in a step: a driver with more slots asks again
NOTHING = 1e-5  # BPM: slices that all are worth less change nothing


@dataclass(frozen=True)
class Known:
    """What a sweep knows.

    question: limits as `query` takes them ({"max_params": 60000}). points: the whole plan, teachers too,
    without those that failed for good and who learn from them. curves: point id -> validation MAE in BPM
    after each epoch trained so far. results: result.json of finished points, `mae_bpm` as the sweep's
    metric has it (`Headline.judged`). seconds_per_epoch: of every point, measured where known. epochs: full
    length by point. running: points in training now. until_regret: BPM; budget_s: the most that spent_s may
    become.
    """

    question: Mapping[str, float]
    points: Sequence[Point]
    curves: Mapping[str, Sequence[float]]
    results: Mapping[str, dict[str, Any]]
    seconds_per_epoch: Mapping[str, float]
    epochs: Mapping[str, int]
    running: frozenset[str]
    spent_s: float
    until_regret: float | None
    budget_s: float | None


@dataclass(frozen=True)
class Step:
    """train: (point id, train until this epoch), most valuable first; a teacher that isn't done before the
    students that need it. stop: None to go on, else why not; belief (JSON): the words of both are in
    `orchestrator.run.belief`.
    """

    train: list[tuple[str, int]]
    stop: str | None
    belief: dict[str, Any]


def next_step(known: Known, seed: int = 0) -> Step:
    """What to train next. seed: of the draws that tell the regret.

    Raises InputError for a question that the plan's points can't answer.
    """
    students = students_of(known.points, known.question)
    tested = {id: float(r["mae_bpm"]) for id, r in known.results.items()}
    belief, law = believe(students, known.curves, tested, known.epochs)
    number = {id: k for k, id in enumerate(students.ids)}
    admitted = np.flatnonzero(students.cells.fits)
    finished = np.unique([students.cell[k] for id, k in number.items() if id in tested]).astype(int)
    ready = np.intersect1d(admitted, finished)
    draws = np.exp(_draws(belief, admitted, seed))
    expected = draws.mean(0)
    leader = int(admitted[expected.argmin()])
    best_ready = int(ready[expected[np.searchsorted(admitted, ready)].argmin()]) if len(ready) else None
    told = _told(known, draws, admitted, best_ready)
    told[ADVISED] = _point_of(students.ids, students.cell, tested, best_ready)
    open_ = [k for id, k in number.items() if id not in tested and id not in known.running]
    for id, k in number.items():
        if id in known.running and id not in tested:
            belief.look(k, 0.0, finish=True)  # what it will tell needn't be asked again
    pace = {k: float(known.seconds_per_epoch[students.ids[k]]) for k in open_}
    epochs = {k: int(known.epochs[students.ids[k]]) for k in open_}
    trained = {k: len(known.curves.get(students.ids[k], ())) for k in open_}
    slices = slices_of(law, belief, open_, trained, epochs, pace)
    target = known.until_regret
    if target is not None and best_ready is not None and told[REGRET] <= target:
        return Step([], REACHED, told)
    left = None if known.budget_s is None else known.budget_s - known.spent_s
    if left is not None and left <= 0:
        return Step([], BUDGET, told)
    at = Situation(leader, leader in finished, admitted, _owed(known))
    waiting = [k for k in open_ if students.teacher[k] in known.running]
    chosen = _chosen(belief, slices, at, left, waiting)
    if not chosen and not known.running:
        short = left is not None and len(slices) and bool(choose(belief, slices, at, 1, None))
        return Step([], BUDGET if short else NOTHING_MORE, told)
    train: list[tuple[str, int]] = []
    members = {p.id: p.needs for p in known.points if p.role == "teacher"}
    named = set()
    for one in chosen:
        teacher = students.teacher[one.student]
        for need in (*members.get(teacher, ()), teacher) if teacher else ():
            if need in at.owed and need not in named:
                named.add(need)
                train.append((need, int(known.epochs[need])))
        train.append((students.ids[one.student], one.until))
    return Step(train, None, told)


def _chosen(
    belief: Belief, slices: Slices, at: Situation, left: float | None, waiting: Sequence[int]
) -> list[Chosen]:
    """What is worth training. Where all of it waits for teachers in training, something besides that doesn't:
    a slot costs as much idle as busy.
    """
    found = choose(belief, slices, at, MOST, left)
    if found and all(one.student in waiting for one in found):
        now = without(slices, np.flatnonzero(~np.isin(slices.student, waiting)))
        left = None if left is None else left - sum(one.seconds for one in found)
        found += choose(belief, now, at, MOST, left)
    return [one for one in found if one.worth > NOTHING]


def _draws(belief: Belief, cells: Index, seed: int) -> Array:
    """Draws of ln error (DRAWS, m) of these cells; half of them are the others mirrored."""
    cov = belief.covariance[np.ix_(cells, cells)]
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    normal = np.random.default_rng(seed).standard_normal((DRAWS // 2, len(cells)))
    away = normal * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    return np.asarray(belief.mean[cells] + np.concatenate([away, -away]))


def _told(known: Known, draws: Array, cells: Index, answer: int | None) -> dict[str, Any]:
    grid = sum(known.seconds_per_epoch[p.id] * known.epochs[p.id] for p in known.points)
    share = known.spent_s / grid if grid > 0 else 1.0
    told: dict[str, Any] = {P_BEST: None, REGRET: None, EXPECTED: None}
    if answer is not None:
        column = int(np.flatnonzero(cells == answer)[0])
        lost = draws[:, column] - draws.min(1)
        told[P_BEST] = round(float((draws.argmin(1) == column).mean()), 4)
        told[REGRET] = round(float(np.quantile(lost, PROBABILITY)), 5)
        told[EXPECTED] = round(float(lost.mean()), 5)
    told[OF_GRID] = round(share, 5)
    told[HOURS] = _hours(known, told[REGRET], grid)
    return told


def _hours(known: Known, regret: float | None, grid_s: float) -> float | None:
    """Hours of one slot to the target, if regret goes on falling as the root of the time spent."""
    if known.until_regret is None or regret is None or known.spent_s <= 0:
        return None
    if regret <= known.until_regret:
        return 0.0
    if known.until_regret <= 0:
        return None
    more = known.spent_s * ((regret / known.until_regret) ** 2 - 1)
    return round(more / 3600, 4) if known.spent_s + more <= grid_s else None


def _point_of(ids: Sequence[str], cell: Index, tested: Mapping[str, float], answer: int | None) -> str | None:
    """The best finished point of a cell."""
    found = [(tested[id], id) for id, c in zip(ids, cell, strict=True) if c == answer and id in tested]
    return min(found)[1] if found else None


def _owed(known: Known) -> dict[str, float]:
    """Teachers that aren't there, and the seconds they still take; those in training cost no more."""
    owed = {}
    for p in known.points:
        if p.role == "teacher" and p.id not in known.results and p.id not in known.running:
            left = max(known.epochs[p.id] - len(known.curves.get(p.id, ())), 0.2)
            owed[p.id] = max(left * known.seconds_per_epoch[p.id], 1e-9)
    for p in known.points:
        if p.id in owed:  # of a mean: its members', too
            owed[p.id] += sum(owed.get(id, 0.0) for id in p.needs)
    return owed
