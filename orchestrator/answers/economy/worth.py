"""Slices of training, and by how much each lowers the expected regret of the answer. numpy and scipy only.

Expected regret is a sum over rivals of E[(answer - rival)+], normal differences, each weighted by how much of
that it is when it is the best of all: rivals that rise and fall together count once. A slice narrows
differences; its worth is what the sum falls by at the means as they are. That has no plateau, unlike the
expected maximum after one slice, which is 0 as long as one slice alone would change nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from orchestrator.answers.economy.belief import Belief
from orchestrator.answers.economy.curves import CurveLaw, reached_by
from orchestrator.answers.economy.students import Index
from orchestrator.laws.forms import Array

RUNGS = (0.15, 0.3, 0.55, 1.0)  # shares of a point's epochs at which it may be paused
RIVALS = 30  # that count; the others have next to no chance
LEAST = 0.03  # weight of a rival that no draw found best
NORMAL = np.random.default_rng(17).standard_normal((400, RIVALS))  # the same for every choice
FIRST = 0.1  # of the error: what an answer is worth where none of its points is trained yet


@dataclass(frozen=True)
class Slices:
    """Slices that could be trained, (S,): student, until which epoch, variance of what that adds about its
    last validation error (0: all), seconds, and whether it is then finished.
    """

    student: Index
    until: Index
    off: Array
    seconds: Array
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.student)


def slices_of(
    law: CurveLaw,
    belief: Belief,
    open_: Sequence[int],
    trained: Mapping[int, int],
    epochs: Mapping[int, int],
    pace: Mapping[int, float],
) -> Slices:
    """The slices of open students (their numbers). trained: epochs so far; epochs: in all; pace: s an
    epoch."""
    told: dict[int, float] = {0: np.inf}
    ways: dict[tuple[int, int], list[tuple[int, float, bool]]] = {}
    rows: list[tuple[int, int, float, float, bool]] = []
    lever = 1 + np.diag(law.leverage)
    for k in open_:
        whole, now = epochs[k], trained.get(k, 0)
        if (now, whole) not in ways:
            ways[now, whole] = _until(law, now, whole, told)
        for until, off, ends in ways[now, whole]:
            seconds = max(until - now, 0.2) * pace[k]
            rows.append((k, until, off * lever[belief.students.cell[k]], max(seconds, 1e-9), ends))
    table = list(zip(*rows, strict=True)) if rows else [()] * 5
    return Slices(
        np.array(table[0], np.intp),
        np.array(table[1], np.intp),
        np.array(table[2], float),
        np.array(table[3], float),
        np.array(table[4], bool),
    )


def _until(law: CurveLaw, now: int, whole: int, told: dict[int, float]) -> list[tuple[int, float, bool]]:
    """Epochs to go on until, the variance of what that adds, and whether it is then finished."""
    out = []
    for until in sorted({max(1, round(share * whole)) for share in RUNGS}):
        if until >= whole:
            out.append((until, 0.0, True))
        elif until > now:
            before, after = reached_by(now, whole), reached_by(until, whole)
            for reached in (before, after):
                if reached not in told:
                    told[reached] = law.weights(reached)[1]
            if after and told[after] < told[before] * (1 - 1e-6):
                out.append((until, 1 / (1 / told[after] - 1 / told[before]), False))
    return out


def shortfall(gap: Array, spread: Array) -> Array:
    """E[(X)+] of X normal with mean -gap and standard deviation spread."""
    spread = np.maximum(spread, 1e-9)
    z = gap / spread
    return np.asarray(spread * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) - gap * ndtr(-z))


@dataclass(frozen=True)
class Rivals:
    """The cells that may be better than the answer, (b,): gap in ln error, its variance, and their weight."""

    answer: int
    cells: Index
    gap: Array
    variance: Array
    weight: Array


def rivals_of(belief: Belief, answer: int, admitted: Index) -> Rivals:
    """The admitted cells but the answer; those with the most to lose to."""
    others = admitted[admitted != answer]
    gap, variance = _differences(belief, answer, others)
    lost = shortfall(gap, np.sqrt(variance))
    keep = np.argsort(-lost, kind="stable")[:RIVALS]
    others, gap, variance, lost = others[keep], gap[keep], variance[keep], lost[keep]
    cov = belief.covariance
    across = cov[np.ix_(others, others)] - cov[others, answer][:, None] - cov[answer, others][None]
    values, vectors = np.linalg.eigh(across + cov[answer, answer])
    apart = gap + NORMAL[:, : len(others)] * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    best = apart == apart.min(1, keepdims=True) if len(others) else apart
    won = (np.maximum(-apart, 0.0) * best).mean(0)
    weight = np.clip((won + LEAST * lost) / np.maximum(lost, 1e-12), 0.0, 1.0)
    return Rivals(answer, others, gap, variance, weight)


def _differences(belief: Belief, answer: int, others: Index) -> tuple[Array, Array]:
    """Mean and variance of the others' ln error less the answer's."""
    cov = belief.covariance
    variance = np.diag(cov)[others] + cov[answer, answer] - 2 * cov[answer, others]
    return belief.mean[others] - belief.mean[answer], np.maximum(variance, 0.0)


def narrowed(belief: Belief, rivals: Rivals, slices: Slices) -> Array:
    """By how much each slice lowers the variance of each difference, (S, b)."""
    c, n = len(belief.students.cells), len(belief.students)
    away = belief.to_cells[:, rivals.cells] - belief.to_cells[:, [rivals.answer]]
    k = slices.student
    seen = belief.variance[c + k] + slices.off + 1e-9
    first = away[c + k]
    out = first**2 / seen[:, None]
    tested = np.flatnonzero(slices.ends)
    k = k[tested]
    both = belief.both[k] / seen[tested]
    second = away[c + n + k] - first[tested] * both[:, None]
    left = np.maximum(belief.variance[c + n + k] - belief.both[k] * both, 1e-9)
    out[tested] += second**2 / left[:, None]
    return np.asarray(out)


def worth(belief: Belief, rivals: Rivals, slices: Slices) -> Array:
    """BPM of expected regret that each slice takes away, (S,)."""
    level = float(np.exp(belief.mean[rivals.answer]))
    if not len(rivals.cells):
        return np.zeros(len(slices))
    left = np.maximum(rivals.variance - narrowed(belief, rivals, slices), 0.0)
    now = shortfall(rivals.gap, np.sqrt(rivals.variance))
    return level * (now - shortfall(rivals.gap, np.sqrt(left))) @ rivals.weight


def regret(belief: Belief, rivals: Rivals) -> float:
    """What the regret that these rivals stand for is by a belief, BPM."""
    gap, variance = _differences(belief, rivals.answer, rivals.cells)
    level = float(np.exp(belief.mean[rivals.answer]))
    return level * float(shortfall(gap, np.sqrt(variance)) @ rivals.weight)
