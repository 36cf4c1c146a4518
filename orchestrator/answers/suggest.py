"""What to train next: the runs that take most expected regret of a query away, per hour. numpy and scipy.

One step of a sweep that trains for an answer (`economy`): the same belief and the same worth. Its candidates
aren't the points of a plan but any sizes near those measured, each trained in all folds of the sweep, as a
search space does; of what was measured it knows what laws.json tells, test errors.
"""

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
    reach_of,
    refuse_unmeasured,
    usable_arms,
)
from orchestrator.answers.decide import contenders
from orchestrator.answers.economy.belief import Belief, believe
from orchestrator.answers.economy.students import Cells, Index, Students, numbered
from orchestrator.answers.economy.worth import Slices, regret, rivals_of, worth
from orchestrator.laws.forms import Array
from orchestrator.laws.packing import unpack_at

SIZES = 10  # sizes tried per arm
REACH = 4.0  # how far beyond the largest measured size a run may be proposed, where laws need no warning
NOTHING = 1e-5  # BPM of regret: runs worth less change nothing
MOST = 60  # runs in one suggestion
RUNS = 800  # that a belief is made of: those of the arms whose laws promise most


@dataclass(frozen=True)
class Pick:
    """One student to train, in all folds. cost_s: of all of them."""

    arm: int
    row: int  # of the arm's architecture's configurations
    seed: int
    cost_s: float
    why: str  # new size, or seed repeat
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

    Raises InputError when no law may be used, nothing fits, or nothing is affordable.
    """
    if not hours > 0:
        raise InputError(f"--gpu-hours {hours}: give a positive number of hours")
    refuse_unmeasured(document, budget)
    usable, why = usable_arms(document)
    if not usable:
        raise InputError(f"nothing can be suggested: {why}")
    found = _near(document, budget)
    if found is None:
        allowed = {arch: allowed_rows(document, arch, budget) for arch in document["architectures"]}
        raise InputError(f"nothing can be suggested: {nothing_fits(document, allowed, budget)}")
    cheapest = min(found.cost_s)
    if cheapest > hours * 3600:
        raise InputError(
            f"--gpu-hours {hours:g}: the cheapest student costs {cheapest / 3600:.2g} hours; raise the limit"
        )
    rounds = list(islice(_rounds(found, hours * 3600), MOST))
    picks = [_pick(document, found, cell, gain) for cell, gain, _ in rounds]
    before, after = found.regret(found.belief), found.regret(rounds[-1][2])
    return Suggestion(picks, sum(p.cost_s for p in picks), before, after)


def to_decide(document: dict[str, Any], budget: Budget, most: int = 2) -> list[str]:
    """The students, of the arms that may be best, whose runs take most regret away, per hour."""
    near = _near(document, budget)
    if near is None:
        return []
    students = candidates(document, _fitting(document, budget))
    rivals = [rival["arm"] for rival in contenders(document, students)]
    keys = [arm["key"] for arm in document["arms"]]
    found = replace(near, proposed=near.proposed & np.isin(near.arm, [keys.index(key) for key in rivals]))
    out = []
    for cell, _, _ in islice(_rounds(found, np.inf), most):
        arm = document["arms"][found.arm[cell]]
        columns = document["architectures"][arm["arch"]]["configurations"]
        depth, width = (columns[key][found.row[cell]] for key in ("depth", "width"))
        out.append(f"{arm['key']} depth {depth} width {width}")
    return sorted(set(out))


@dataclass(frozen=True)
class _Near:
    """The students that a query is about and what is believed of them, by cell: arm, configuration, cost of a
    run in all folds, whether it may be proposed, and the candidates' runs, one a fold (C, F).
    """

    arm: Index
    row: Index
    cost_s: Array
    proposed: Rows
    runs: Index
    belief: Belief

    @property
    def answer(self) -> int:
        admitted = np.flatnonzero(self.belief.students.cells.fits)
        return int(admitted[self.belief.mean[admitted].argmin()])

    def regret(self, belief: Belief) -> float:
        """Expected regret of the answer by this belief, BPM."""
        return regret(belief, rivals_of(self.belief, self.answer, self._admitted))

    @property
    def _admitted(self) -> Index:
        return np.flatnonzero(self.belief.students.cells.fits)


def _rounds(near: _Near, seconds: float) -> Iterator[tuple[int, float, Belief]]:
    """Cells, the most valuable first, each in the light of those before: what it gains, the belief after it.

    One run of a cell: repeats wait for the next suggestion. The first comes whatever it is worth.
    """
    belief, left = near.belief, near.proposed.copy()
    ends = np.ones(len(near.arm), bool)
    first = Slices(near.runs[:, 0], ends.astype(np.intp), np.zeros(len(ends)), near.cost_s, ends)
    now = near.regret(belief)
    while (open_ := left & (near.cost_s <= seconds)).any():
        rivals = rivals_of(belief, near.answer, near._admitted)
        gain = worth(belief, rivals, first)  # what one fold tells; the others tell alike
        cell = int(np.where(open_, gain / near.cost_s, -1.0).argmax())
        if belief is not near.belief and gain[cell] < NOTHING:
            return
        belief = belief.copy()
        for run in near.runs[cell]:
            belief.look(int(run), 0.0, finish=True)
        after = near.regret(belief)
        yield cell, now - after, belief
        now, left[cell] = after, False
        seconds -= near.cost_s[cell]


def _near(document: dict[str, Any], budget: Budget) -> _Near | None:
    """What a query is about: arms, those first whose laws promise most, at sizes near those measured.

    None where no student fits it.
    """
    near = _fitting(document, budget)
    keys: list[tuple[int, int]] = []  # arm, configuration
    proposed: list[bool] = []
    seen: list[tuple[dict[str, Any], int]] = []  # run, cell
    for j in sorted(near, key=lambda j: _promise(document, j, near[j])):
        arm, columns = _arm(document, j)
        if seen and len(seen) + len(arm["runs"]) > RUNS:
            break
        rows = {shape: row for row, shape in enumerate(zip(columns["depth"], columns["width"], strict=True))}
        runs = [(r, rows.get((r["depth"], r["width"]))) for r in arm["runs"] if r["mae_bpm"] is not None]
        runs = [(r, row) for r, row in runs if row is not None]
        tried, sizes = _sizes(document, j, near[j])
        trained = {row for _, row in runs}
        cells = {row: len(keys) + k for k, row in enumerate(sorted(trained | sizes))}
        seen += [(r, cells[row]) for r, row in runs]
        keys += [(j, row) for row in cells]
        proposed += [bool(tried[row]) for row in cells]
    if not any(proposed):
        return None
    folds, _ = numbered(str(r.get("fold")) for r, _ in seen)
    n_folds = int(folds.max()) + 1 if len(folds) else 1
    c = len(keys)
    new = len(seen) + np.arange(c * n_folds).reshape(c, n_folds)
    students = Students(
        ids=tuple(r["id"] for r, _ in seen) + tuple(f"new {k}" for k in range(new.size)),
        cell=np.array([cell for _, cell in seen] + list(np.repeat(np.arange(c), n_folds)), np.intp),
        fold=np.concatenate([folds, np.tile(np.arange(n_folds), c)]),
        teacher=(None,) * (len(seen) + new.size),  # they are there
        cells=_cells(document, keys, near),
        folds=n_folds,
    )
    belief, _ = believe(students, {}, {r["id"]: float(r["mae_bpm"]) for r, _ in seen}, {})
    cost = [n_folds * _cost(document, *key) for key in keys]
    arm, row = np.array(keys, np.intp).T
    return _Near(arm, row, np.array(cost), np.array(proposed), new, belief)


def _fitting(document: dict[str, Any], budget: Budget) -> dict[int, Rows]:
    """Usable arm -> which of its configurations the query admits, of arms that have some."""
    allowed = {arch: allowed_rows(document, arch, budget) for arch in document["architectures"]}
    near = near_rows(document, allowed)
    return {j: near[j] for j in usable_arms(document)[0] if near[j].any()}


def _arm(document: dict[str, Any], j: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """An arm and the columns of its architecture's configurations."""
    arm = document["arms"][j]
    return arm, document["architectures"][arm["arch"]]["configurations"]


def _promise(document: dict[str, Any], j: int, near: Rows) -> float:
    """The least ln error of an arm's law at these configurations."""
    arm, columns = _arm(document, j)
    return float(unpack_at(arm["median"], np.array(columns["position"])[near]).min())


def _sizes(document: dict[str, Any], j: int, near: Rows) -> tuple[Rows, set[int]]:
    """Configurations of an arm that may be proposed; `SIZES` of them, spread evenly in ln, and the largest
    that the query admits.
    """
    arm, columns = _arm(document, j)
    params = np.array(columns["params"], dtype=float)
    most = float(params[near].max())
    # Below the measured sizes a law is weak, and runs there don't help above.
    low = arm["smallest"] if most >= arm["smallest"] else arm["smallest"] / REACH
    top = min(arm["largest"], most) * min(REACH, max(reach_of(arm), 1.0))
    tried = (params >= low) & (params <= top) & buildable(document, j)
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


def _pick(document: dict[str, Any], near: _Near, cell: int, gain: float) -> Pick:
    """A student with the next seed that it has not been trained with."""
    j, row = int(near.arm[cell]), int(near.row[cell])
    arm, columns = _arm(document, j)
    shape = columns["depth"][row], columns["width"][row]
    used = {r["seed"] for r in arm["runs"] if (r["depth"], r["width"]) == shape}
    seed = next(s for s in range(len(used) + 1) if s not in used)
    why = "seed repeat" if used else "new size"
    return Pick(j, row, seed, float(near.cost_s[cell]), why, gain)
