"""What to train next: the runs that take most expected regret of a query away, per hour. numpy and scipy.

One step of a sweep that trains for an answer (`economy`): the same belief and the same worth. Its candidates
aren't the points of a plan but any sizes near those measured, each trained in all folds of the sweep, as a
search space does; of what was measured it knows what laws.json tells, test errors.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.answers.candidates import (
    Budget,
    Rows,
    allowed_rows,
    buildable,
    candidates,
    near_rows,
    nothing_fits,
    refuse_unmeasured,
)
from orchestrator.answers.decide import contenders
from orchestrator.answers.economy.belief import Belief, believe
from orchestrator.answers.economy.students import Cells, Index, Students, numbered
from orchestrator.answers.economy.worth import Slices, regret, rivals_of, worth
from orchestrator.answers.evidence import measured_of
from orchestrator.laws.forms import Array

SIZES = 10  # sizes tried per arm
REACH = 4.0  # how far beyond the largest measured size a run may be proposed, where laws need no warning
NOTHING = 1e-5  # BPM of regret: runs worth less change nothing
MOST = 60  # runs in one suggestion
RUNS = 800  # that a belief is made of: those of the arms whose laws promise most


@dataclass(frozen=True)
class Pick:
    """One student to train, in all folds. cost_s: of those that it lacks.

    why: new size, missing folds or seed repeat.
    """

    arm: int
    row: int  # of the arm's architecture's configurations
    seed: int
    cost_s: float
    why: str
    gain_bpm: float  # drop of expected regret, with those before it


@dataclass(frozen=True)
class Suggestion:
    """Students to train, what they cost together, and the regret expected before and after."""

    picks: list[Pick]
    cost_s: float
    regret_bpm: float
    regret_after_bpm: float


def suggest(document: dict[str, Any], budget: Budget, hours: float) -> Suggestion:
    """Choose runs worth at most `hours` of one slot for the query `budget` (no limit: any student).

    Arms without a law have their part. Raises InputError when nothing fits, or nothing is affordable.
    """
    if not hours > 0:
        raise InputError(f"--gpu-hours {hours}: give a positive number of hours")
    refuse_unmeasured(document, budget)
    allowed = {arch: allowed_rows(document, arch, budget) for arch in document["architectures"]}
    found = _near(document, _fitting(document, allowed))
    if found is None:
        raise InputError(f"nothing can be suggested: {nothing_fits(document, allowed, budget)}")
    cheapest = min(found.cost_s[found.proposed])
    if cheapest > hours * 3600:
        raise InputError(
            f"--gpu-hours {hours:g}: the cheapest student costs {cheapest / 3600:.2g} hours; raise the limit"
        )
    rounds = list(islice(_rounds(found, hours * 3600), MOST))
    picks = [
        Pick(*found.keys[cell], found.seed[cell], float(found.cost_s[cell]), found.why[cell], gain)
        for cell, gain, _ in rounds
    ]
    before, after = found.regret(found.belief), found.regret(rounds[-1][2])
    return Suggestion(picks, sum(p.cost_s for p in picks), before, after)


def to_decide(document: dict[str, Any], budget: Budget, most: int = 2) -> list[str]:
    """The students, of the arms that may be best, whose runs take most regret away, per hour."""
    allowed = {arch: allowed_rows(document, arch, budget) for arch in document["architectures"]}
    near = _near(document, _fitting(document, allowed))
    within = {j: rows for j, rows in near_rows(document, allowed).items() if rows.any()}
    if near is None or not within:
        return []
    rivals = {rival["arm"] for rival in contenders(document, candidates(document, within))}
    leading = np.array([document["arms"][j]["key"] in rivals for j, _ in near.keys])
    out = []
    for cell, _, _ in islice(_rounds(replace(near, proposed=near.proposed & leading), np.inf), most):
        arm, columns = _arm(document, near.keys[cell][0])
        depth, width = (columns[key][near.keys[cell][1]] for key in ("depth", "width"))
        out.append(f"{arm['key']} depth {depth} width {width}")
    return sorted(set(out))


@dataclass(frozen=True)
class _Near:
    """The students that a query is about and what is believed of them, by cell.

    keys: arm, configuration; runs: those of the next seed, one for each fold that it lacks, with what they
    cost together; proposed: whether they may be.
    """

    keys: list[tuple[int, int]]
    seed: list[int]
    why: list[str]
    runs: list[list[int]]
    cost_s: Array
    proposed: Rows
    belief: Belief

    @property
    def admitted(self) -> Index:
        return np.flatnonzero(self.belief.students.cells.fits)

    @property
    def answer(self) -> int:
        return int(self.admitted[self.belief.mean[self.admitted].argmin()])

    def regret(self, belief: Belief) -> float:
        """Expected regret of the answer by this belief, BPM."""
        return regret(belief, rivals_of(self.belief, self.answer, self.admitted))


def _rounds(near: _Near, seconds: float) -> Iterator[tuple[int, float, Belief]]:
    """Cells, the most valuable first, each in the light of those before: what it gains, the belief after it.

    One run of a cell: repeats wait for the next suggestion. The first comes whatever it is worth.
    """
    belief, left = near.belief, near.proposed.copy()
    ends = np.ones(len(left), bool)
    first = Slices(np.array([r[0] for r in near.runs]), ends * 1, ends * 0.0, near.cost_s, ends)
    now = near.regret(belief)
    while (open_ := left & (near.cost_s <= seconds)).any():
        rivals = rivals_of(belief, near.answer, near.admitted)
        gain = worth(belief, rivals, first)  # what one fold tells; the others tell alike
        cell = int(np.where(open_, gain / near.cost_s, -1.0).argmax())
        if belief is not near.belief and gain[cell] < NOTHING:
            return
        belief = belief.copy()
        for run in near.runs[cell]:
            belief.look(run, 0.0, finish=True)
        after = near.regret(belief)
        yield cell, now - after, belief
        now, left[cell] = after, False
        seconds -= near.cost_s[cell]


def _near(document: dict[str, Any], near: dict[int, Rows]) -> _Near | None:
    """The students at sizes near those measured; None if there is none. near: arm -> what the query admits.

    The arms that measured best come first; the last ones are left out where runs are too many.
    """
    keys: list[tuple[int, int]] = []
    proposed: list[bool] = []
    seen: list[tuple[dict[str, Any], int]] = []  # run, cell
    best = {j: min((m.error for m in measured_of(document, j).values()), default=np.inf) for j in near}
    for j in sorted(near, key=best.__getitem__):
        arm, columns = _arm(document, j)
        if seen and len(seen) + len(arm["runs"]) > RUNS:
            break
        rows = {shape: row for row, shape in enumerate(zip(columns["depth"], columns["width"], strict=True))}
        runs = [(r, rows.get((r["depth"], r["width"]))) for r in _measured(arm)]
        tried, sizes = _sizes(document, j, near[j])
        trained = {row for _, row in runs if row is not None}
        cells = {row: len(keys) + k for k, row in enumerate(sorted(trained | sizes))}
        seen += [(r, cells[row]) for r, row in runs if row is not None]
        keys += [(j, row) for row in cells]
        proposed += [bool(tried[row]) for row in cells]
    if not any(proposed):
        return None
    return _believed(document, near, keys, proposed, seen)


def _believed(
    document: dict[str, Any],
    near: dict[int, Rows],
    keys: list[tuple[int, int]],
    proposed: list[bool],
    seen: list[tuple[dict[str, Any], int]],
) -> _Near:
    """What runs, each with its cell, tell of the cells, and the runs that these lack."""
    folds = sorted({str(r.get("fold")) for r, _ in seen}) or ["None"]
    done: list[dict[int, set[str]]] = [{} for _ in keys]  # cell -> seed -> folds
    for r, cell in seen:
        done[cell].setdefault(r["seed"], set()).add(str(r.get("fold")))
    seed = [next(s for s in range(len(d) + 1) if d.get(s) != set(folds)) for d in done]
    lacks = [[f for f in folds if f not in d.get(s, ())] for d, s in zip(done, seed, strict=True)]
    repeat = ["seed repeat" if d else "new size" for d in done]
    new = [(cell, f) for cell, missing in enumerate(lacks) for f in missing]
    number = {one: len(seen) + k for k, one in enumerate(new)}
    runs = [(r["id"], cell, str(r.get("fold"))) for r, cell in seen]
    runs += [(f"new {cell} {f}", cell, f) for cell, f in new]
    students = Students(
        ids=tuple(id for id, _, _ in runs),
        cell=np.array([cell for _, cell, _ in runs], np.intp),
        fold=np.array([folds.index(f) for _, _, f in runs], np.intp),
        teacher=(None,) * len(runs),  # they are there
        cells=_cells(document, keys, near),
        folds=len(folds),
    )
    belief, _ = believe(students, {}, {r["id"]: float(r["mae_bpm"]) for r, _ in seen}, {})
    return _Near(
        keys=keys,
        seed=seed,
        why=["missing folds" if s in d else w for d, s, w in zip(done, seed, repeat, strict=True)],
        runs=[[number[cell, f] for f in missing] for cell, missing in enumerate(lacks)],
        cost_s=np.array([len(f) * _cost(document, *key) for f, key in zip(lacks, keys, strict=True)]),
        proposed=np.array(proposed),
        belief=belief,
    )


def _fitting(document: dict[str, Any], allowed: dict[str, Rows]) -> dict[int, Rows]:
    """Arm -> which of its configurations are allowed, and near the sizes its architecture was measured at."""
    out = {}
    for j, arm in enumerate(document["arms"]):
        if _measured(arm):
            params = np.array(_arm(document, j)[1]["params"], dtype=float)
            low, top = _range(document, arm["arch"])
            near = allowed[arm["arch"]] & (params >= low / REACH) & (params <= top * REACH)
            out[j] = near & buildable(document, j)
    return {j: rows for j, rows in out.items() if rows.any()}


def _measured(arm: dict[str, Any]) -> list[dict[str, Any]]:
    """An arm's runs that have an error."""
    return [r for r in arm["runs"] if r["mae_bpm"] is not None and math.isfinite(r["mae_bpm"])]


def _range(document: dict[str, Any], arch: str) -> tuple[int, int]:
    """The smallest and the largest size that was measured of an architecture, parameters."""
    arms = [arm for arm in document["arms"] if arm["arch"] == arch]
    return min(arm["smallest"] for arm in arms), max(arm["largest"] for arm in arms)


def _arm(document: dict[str, Any], j: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """An arm and the columns of its architecture's configurations."""
    arm = document["arms"][j]
    return arm, document["architectures"][arm["arch"]]["configurations"]


def _sizes(document: dict[str, Any], j: int, near: Rows) -> tuple[Rows, set[int]]:
    """Configurations of an arm that may be proposed; `SIZES` of them, spread evenly in ln, and the largest
    that the query admits.
    """
    arm, columns = _arm(document, j)
    params = np.array(columns["params"], dtype=float)
    low, top = _range(document, arm["arch"])
    most = float(params[near].max())
    # Runs below the measured sizes don't help above.
    tried = params >= (low if most >= low else low / REACH)
    tried &= (params <= min(top, most) * REACH) & buildable(document, j)
    ok = np.flatnonzero(tried)
    sizes = {int(np.flatnonzero(near)[params[near].argmax()])}
    for n in np.geomspace(params[ok[0]], params[ok[-1]], SIZES) if len(ok) else ():
        sizes.add(int(ok[np.argmin(np.abs(np.log(params[ok] / n)))]))
    return tried, sizes


def _cells(document: dict[str, Any], keys: Iterable[tuple[int, int]], near: dict[int, Rows]) -> Cells:
    """These students, by arm and configuration."""
    of = [(document["arms"][j], j, row) for j, row in keys]
    u = np.log([_arm(document, j)[1]["params"][row] for _, j, row in of])
    teachers = [document["teacher_points"].get(arm["teacher"]) for arm, _, _ in of]
    t = np.log([float(teacher["params"] or 1) if teacher else np.nan for teacher in teachers])
    known = np.isfinite(t)
    teacher = numbered(arm["teacher"] for arm, _, _ in of)[0]
    return Cells(
        arch=numbered(arm["arch"] for arm, _, _ in of)[0],
        strategy=numbered((arm["strategy"], str(arm["strategy_args"])) for arm, _, _ in of)[0],
        init=numbered(arm["init"] for arm, _, _ in of)[0],
        teacher=np.where([arm["teacher"] is None for arm, _, _ in of], -1, teacher),
        arm=numbered(j for _, j, _ in of)[0],
        configuration=numbered((arm["arch"], row, arm["init"]) for arm, _, row in of)[0],
        u=u - u.mean(),
        t=np.where(known, t - (t[known].mean() if known.any() else 0.0), 0.0),
        fits=np.array([bool(near[j][row]) for _, j, row in of]),
    )


def _cost(document: dict[str, Any], arm: int, row: int) -> float:
    """Seconds of one slot that a run of this student takes, in one fold."""
    arch = document["architectures"][document["arms"][arm]["arch"]]
    cost = arch["train_seconds"]
    return float(cost["fixed"] + cost["per_mac"] * arch["configurations"]["macs"][row])
