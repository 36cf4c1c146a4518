"""What to train next: the points that lower the expected regret of one query most, per hour. numpy only.

The draws of laws.json are the posterior. A possible run is simulated from one draw, all draws are weighted
by how well they predicted it, the query is answered again, and the regret of that answer is read off
the draw that was the truth. Points are chosen one by one, each in the light of those before.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.answers.candidates import (
    NEAR_BPM,
    Budget,
    Candidates,
    allowed_rows,
    buildable,
    candidates,
    evaluate,
    nothing_fits,
    refuse_unmeasured,
    usable_arms,
    within_reach,
)
from orchestrator.answers.decide import contenders
from orchestrator.laws.forms import Array

TRUTHS = 48  # draws that are taken as the truth
SIZES = 10  # sizes tried per arm
REACH = 4.0  # how far beyond the largest measured size a run may be proposed, where laws need no warning
MISFIT = 0.01  # ln error that a single run does not inform, beyond its noise
NOTHING = 1e-4  # BPM of regret: less is the simulation's own noise
MOST = 60  # points in one suggestion


@dataclass(frozen=True)
class Pick:
    """One point to train. why: regret, order of the arms, largest size or seed repeat."""

    arm: int
    row: int  # of the arm's architecture's configurations
    seed: int
    cost_s: float
    why: str
    gain_bpm: float  # drop of regret it was chosen for, with those before it; optimistic in sum


@dataclass(frozen=True)
class Suggestion:
    """Points to train, what they cost together, and the regret expected before and after."""

    picks: list[Pick]
    cost_s: float
    regret_bpm: float
    regret_after_bpm: float


def suggest(document: dict[str, Any], budget: Budget, hours: float, rng: int = 0) -> Suggestion:
    """Choose points worth at most `hours` of one slot for the query `budget` (no limit: any student).

    One slot is kept for the largest size and one for a seed repeat, as long as the hours pay for them. Raises
    InputError when no law may be used, nothing fits, or nothing is affordable.
    """
    if not hours > 0:
        raise InputError(f"--gpu-hours {hours}: give a positive number of hours")
    refuse_unmeasured(document, budget)
    usable, why = usable_arms(document)
    if not usable:
        raise InputError(f"nothing can be suggested: {why}")
    allowed = {arch: allowed_rows(document, arch, budget) for arch in document["architectures"]}
    near = {j: allowed[document["arms"][j]["arch"]] & within_reach(document, j) for j in usable}
    if not any(rows.any() for rows in near.values()):
        raise InputError(f"nothing can be suggested: {nothing_fits(document, allowed, budget)}")
    students = candidates(document, near)
    trials = _trials(document, usable, near)
    costs = np.array([_cost(document, int(j), int(k)) for j, k in zip(trials.arm, trials.row, strict=True)])
    belief = _Belief(np.exp(students.draws), trials, np.random.default_rng(rng))
    seconds = hours * 3600
    if costs.min() > seconds:
        raise InputError(
            f"--gpu-hours {hours:g}: the cheapest point costs {costs.min() / 3600:.2g} hours; raise the limit"
        )
    doubt = _Doubt(students, trials)
    before = belief.predicted()
    chosen: list[tuple[int, str, float]] = []
    taken = np.zeros(len(costs), dtype=bool)  # one new run a configuration: repeats wait for the next round
    spent = 0.0

    def train(k: int, why: str) -> None:
        nonlocal spent
        regret = belief.regret()
        belief.take(k)
        doubt.take(k)
        chosen.append((k, why, regret - belief.regret()))
        taken[k] = True
        spent += costs[k]

    for k, what in _reserved(document, students, trials):
        if spent + costs[k] <= seconds:
            train(k, what)
    while len(chosen) < MOST:
        open_ = np.flatnonzero((costs <= seconds - spent) & ~taken)
        if not len(open_):
            break
        gains = belief.regret() - belief.look(open_)
        best, why = int(np.argmax(gains / costs[open_])), "regret"
        if gains[best] < NOTHING:  # no run changes the answer: measure its closest rivals
            best, why = int(np.argmax(doubt.worth(open_) / costs[open_])), "order of the arms"
        train(int(open_[best]), why)
    return Suggestion(_picks(document, trials, costs, chosen), spent, before, belief.predicted())


def to_decide(document: dict[str, Any], budget: Budget, most: int = 2) -> list[str]:
    """The students of the arms that may be best whose runs tell most, per hour, about their order."""
    usable, _ = usable_arms(document)
    allowed = {arch: allowed_rows(document, arch, budget) for arch in document["architectures"]}
    near = {j: allowed[document["arms"][j]["arch"]] & within_reach(document, j) for j in usable}
    if not any(rows.any() for rows in near.values()):
        return []
    students = candidates(document, near)
    rivals = {rival["arm"] for rival in contenders(document, students)}
    trials = _trials(document, [j for j in usable if document["arms"][j]["key"] in rivals], near)
    costs = np.array([_cost(document, int(j), int(k)) for j, k in zip(trials.arm, trials.row, strict=True)])
    doubt, out = _Doubt(students, trials), []
    for _ in range(most):
        k = int(np.argmax(doubt.worth(np.arange(len(costs))) / costs))
        doubt.take(k)
        arm = document["arms"][trials.arm[k]]
        columns = document["architectures"][arm["arch"]]["configurations"]
        depth, width = (columns[key][trials.row[k]] for key in ("depth", "width"))
        out.append(f"{arm['key']} depth {depth} width {width}")
    return sorted(set(out))


class _Belief:
    """The draws, the truths among them, and the weights that the points taken so far give."""

    def __init__(self, mae: Array, trials: Candidates, rng: np.random.Generator) -> None:
        self.mae, self.trials, self.rng = mae, trials, rng
        self.truths = rng.permutation(len(mae))[:TRUTHS]
        self.log_weights = np.zeros((len(self.truths), len(mae)))
        self.best = mae[self.truths].min(1)

    def regret(self) -> float:
        """Expected regret of the answer under the weights so far, BPM, to choose by."""
        return self._regret(self.log_weights)

    def predicted(self) -> float:
        """The same, to tell: with the truth not among the draws, where the first run would find it.

        Runs chosen by it were worse (CALIBRATION.md).
        """
        log_weights = self.log_weights.copy()
        log_weights[np.arange(len(self.truths)), self.truths] = -np.inf
        return self._regret(log_weights)

    def _regret(self, log_weights: Array) -> float:
        weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        decision = (weights @ self.mae).argmin(1)
        return float((self.mae[self.truths, decision] - self.best).mean())

    def _evidence(self, k: int) -> Array:
        """ln weights (truths, B) that one run of trial k gives, simulated from every truth."""
        told = self.trials.draws[:, k]
        noise = float(self.trials.noise[k])
        seen = told[self.truths] + noise * np.random.default_rng(k).standard_normal(len(self.truths))
        return -0.5 * (seen[:, None] - told) ** 2 / (noise**2 + MISFIT**2)

    def look(self, trials: np.ndarray) -> Array:
        """Regret after each of these trials alone, (len(trials),)."""
        return np.array([self._regret(self.log_weights + self._evidence(int(k))) for k in trials])

    def take(self, k: int) -> None:
        """Train trial k."""
        self.log_weights = self.log_weights + self._evidence(k)


class _Doubt:
    """Uncertainty of the order of the arms, for when no single run would change the answer.

    Treats the draws as normal: a run removes from the differences between the best arm and the others what it
    correlates with.
    """

    def __init__(self, students: Candidates, trials: Candidates) -> None:
        mae = np.exp(students.draws)
        mean = mae.mean(0)
        arms = np.unique(students.arm)
        top = {int(j): int(np.flatnonzero(students.arm == j)[mean[students.arm == j].argmin()]) for j in arms}
        best = top[int(students.arm[mean.argmin()])]
        gaps = np.stack([mae[:, best] - mae[:, k] for k in top.values()], axis=1)
        likely = np.array([float((mae[:, k] <= mae.min(1) + NEAR_BPM).mean()) for k in top.values()])
        own = mae[:, [best]] * 0.1  # and a little of how good the best one is
        self.targets = _centred(np.concatenate([gaps * np.maximum(likely, 0.01), own], axis=1))
        self.told = _centred(trials.draws)
        self.noise = trials.noise**2 + MISFIT**2

    def worth(self, trials: np.ndarray) -> Array:
        """Variance of the differences that each trial alone would remove, (len(trials),)."""
        told = self.told[:, trials]
        cov = told.T @ self.targets / len(told)
        return np.asarray((cov**2).sum(1) / (told.var(0) + self.noise[trials]))

    def take(self, k: int) -> None:
        """Remove the variance that a run of trial k explains."""
        t = self.told[:, k].copy()
        kept = 1 - np.sqrt(self.noise[k] / (t.var() + self.noise[k]))
        for x in (self.targets, self.told):
            x -= kept * np.outer(t, (t @ x) / len(t) / max(t.var(), 1e-12))


def _centred(x: Array) -> Array:
    return np.asarray(x - x.mean(0))


def _trials(document: dict[str, Any], usable: list[int], near: dict[int, Any]) -> Candidates:
    """Runs that may be proposed: for every arm about `SIZES` configurations, sizes spread evenly in ln."""
    arms, rows = [], []
    for j in usable:
        arm = document["arms"][j]
        columns = document["architectures"][arm["arch"]]["configurations"]
        params = np.array(columns["params"], dtype=float)
        admitted = max(params[near[j]], default=arm["largest"])
        top = min(arm["largest"], admitted) * REACH
        # Below the measured sizes a law is weak; runs there don't help above.
        low = arm["smallest"] if admitted >= arm["smallest"] else arm["smallest"] / REACH
        ok = np.flatnonzero((params >= low) & (params <= top) & buildable(document, j))
        if not len(ok):
            continue
        wanted = np.geomspace(params[ok[0]], params[ok[-1]], SIZES)
        picked = {int(ok[np.argmin(np.abs(np.log(params[ok] / n)))]) for n in wanted}
        shapes = {(r["depth"], r["width"]) for r in arm["runs"]}
        trained = [k for k in ok if (columns["depth"][k], columns["width"][k]) in shapes]
        picked |= {int(k) for k in trained}
        for k in sorted(picked):
            arms.append(j)
            rows.append(k)
    if not arms:
        raise InputError("nothing can be suggested: no student near the measured sizes can be trained")
    return evaluate(document, np.array(arms, dtype=np.intp), np.array(rows, dtype=np.intp))


def _reserved(document: dict[str, Any], students: Candidates, trials: Candidates) -> list[tuple[int, str]]:
    """The largest size of the arm that leads, and a repeat of its trained student nearest to the answer."""
    best = int(np.exp(students.draws).mean(0).argmin())
    arm = document["arms"][students.arm[best]]
    columns = document["architectures"][arm["arch"]]["configurations"]
    own = np.flatnonzero(trials.arm == students.arm[best])
    params = np.array(columns["params"])[trials.row[own]]
    shapes = {(r["depth"], r["width"]) for r in arm["runs"]}
    trained = [k for k in own if (columns["depth"][trials.row[k]], columns["width"][trials.row[k]]) in shapes]
    out = [(int(own[params.argmax()]), "largest size")]
    if trained:
        target = np.log(columns["params"][students.row[best]])
        nearest = min(trained, key=lambda k: abs(np.log(columns["params"][trials.row[k]]) - target))
        out.append((int(nearest), "seed repeat"))
    return out


def _cost(document: dict[str, Any], arm: int, row: int) -> float:
    """Seconds of one slot that a run of this student takes."""
    arch = document["architectures"][document["arms"][arm]["arch"]]
    cost = arch["train_seconds"]
    return float(cost["fixed"] + cost["per_mac"] * arch["configurations"]["macs"][row])


def _picks(
    document: dict[str, Any], trials: Candidates, costs: Array, chosen: list[tuple[int, str, float]]
) -> list[Pick]:
    """Give every chosen trial the next seed its student has not been trained with."""
    used: dict[tuple[int, int], set[int]] = {}
    picks = []
    for k, why, gain in chosen:
        j, row = int(trials.arm[k]), int(trials.row[k])
        if (j, row) not in used:
            arm = document["arms"][j]
            columns = document["architectures"][arm["arch"]]["configurations"]
            shape = (columns["depth"][row], columns["width"][row])
            used[j, row] = {r["seed"] for r in arm["runs"] if (r["depth"], r["width"]) == shape}
        seed = next(s for s in range(len(used[j, row]) + 1) if s not in used[j, row])
        used[j, row].add(seed)
        picks.append(Pick(j, row, seed, float(costs[k]), why, gain))
    return picks
