"""What finished points and unfinished curves say about every student of a plan.

A Gaussian process over ln error. The scales of its parts (`kernel.GROUPS`) are those that make what was
seen most likely, drawn towards what other sweeps showed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from orchestrator.answers.economy.curves import CurveLaw, fit_curves, lowest, on_shares, predict_ends
from orchestrator.answers.economy.kernel import (
    GROUPS,
    MEAN_SLOPE,
    OWN,
    RUN,
    Kernel,
    Latents,
    Parts,
    at_scales,
    latents_of,
    parts_of,
    take,
)
from orchestrator.answers.economy.students import Index, Students
from orchestrator.laws.forms import Array

LEVEL = np.log(6.0)  # ln BPM, where nothing is known
STEPS = (0.6, 1.0, 1.6)  # factors that are tried on each scale in turn
PASSES = 3
LIKELY = 0.7  # standard deviation of ln scale
MOST_SEEN = 160  # observations that scales are chosen by
TINY = 1e-6  # added variance, so that what is known twice is no contradiction


@dataclass(frozen=True)
class Seen:
    """What was observed: rows of the latents (n,), their ln error (n,), covariance of what they're off by."""

    rows: Index
    value: Array
    off: Array


class Belief:
    """The posterior. mean (C,): of f; to_cells (R, C): covariance of every latent with every f; variance
    (R,); both (N,): of a point's validation with its test error. `look` conditions it on a run to come.
    """

    def __init__(self, students: Students, latents: Latents, kernel: Kernel, seen: Seen) -> None:
        self.students, self.latents, self.kernel = students, latents, kernel
        c, n = len(students.cells), len(students)
        cells = take(latents, np.arange(c))
        u = students.cells.u[latents.cell]
        prior = LEVEL + MEAN_SLOPE * u
        self.to_cells = kernel.between(latents, cells)
        own = kernel.run + kernel.own
        met = np.diag(kernel.people) + np.diag(kernel.meets)
        checked = np.diag(kernel.people) + kernel.validation * np.diag(kernel.meets)
        self.variance = np.diag(kernel.truth)[latents.cell].copy()
        self.variance[c : c + n] += checked[students.cell] + own
        self.variance[c + n :] += met[students.cell] + own
        self.both = np.diag(kernel.truth)[students.cell] + kernel.run
        self.mean = prior[:c].copy()
        self._gains = np.zeros((0, len(latents)))  # of what was seen, then of what is looked ahead to
        self._ahead: list[Array] = []
        if len(seen.rows):
            known = take(latents, seen.rows)
            root = np.linalg.cholesky(kernel.between(known, known) + seen.off + TINY * np.eye(len(seen.rows)))
            gains = solve_triangular(root, kernel.between(known, latents), lower=True, check_finite=False)
            white = solve_triangular(root, seen.value - prior[seen.rows], lower=True, check_finite=False)
            self.mean += gains[:, :c].T @ white
            self._gains = gains
            self._subtract(gains)

    def _subtract(self, gains: Array) -> None:
        c, n = len(self.students.cells), len(self.students)
        self.to_cells = self.to_cells - gains.T @ gains[:, :c]
        self.variance = np.maximum(self.variance - (gains**2).sum(0), 0.0)
        self.both = self.both - (gains[:, c : c + n] * gains[:, c + n :]).sum(0)

    def copy(self) -> "Belief":
        """One to look ahead with."""
        other = object.__new__(Belief)
        other.__dict__.update(self.__dict__)  # arrays are replaced, never changed
        other._ahead = list(self._ahead)
        return other

    def look(self, point: int, off: float, finish: bool) -> None:
        """Condition on a run of a point whose outcome is what is expected: its validation error, off by a
        variance, and if it is to be finished, its test error.
        """
        c, n = len(self.students.cells), len(self.students)
        for row, noise in [(c + point, off), (c + n + point, 0.0)][: 2 if finish else 1]:
            one = take(self.latents, np.array([row]))
            cov = self.kernel.between(one, self.latents)[0] - self._gains[:, row] @ self._gains
            for gain in self._ahead:
                cov = cov - gain[row] * gain
            self._ahead.append(cov / np.sqrt(max(cov[row], 0.0) + noise + TINY))
            self._subtract(self._ahead[-1][None])

    @property
    def covariance(self) -> Array:
        """(C, C), of f."""
        return self.to_cells[: len(self.students.cells)]


def believe(
    students: Students,
    curves: Mapping[str, Sequence[float]],
    tested: Mapping[str, float],
    epochs: Mapping[str, int],
) -> tuple[Belief, CurveLaw]:
    """The belief after these curves (validation MAE after each epoch) and finished points' test errors,
    BPM."""
    number = {id: k for k, id in enumerate(students.ids)}
    finished = [k for id, k in number.items() if id in tested]
    ended = [k for k in finished if len(curves.get(students.ids[k], ()))]
    drawn = {k: on_shares(curves[students.ids[k]], len(curves[students.ids[k]])) for k in ended}
    law = fit_curves(students.cells, [(int(students.cell[k]), drawn[k][0]) for k in ended if drawn[k][1]])
    begun = [k for id, k in number.items() if id not in tested and len(curves.get(id, ()))]
    partial = {k: on_shares(curves[students.ids[k]], epochs[students.ids[k]]) for k in begun}
    begun = [k for k in begun if partial[k][1]]
    ends = predict_ends(law, students.cell[begun], [partial[k] for k in begun])
    last = np.array([lowest(curves[students.ids[k]])[-1] for k in ended])
    test = np.log(np.maximum([tested[students.ids[k]] for k in finished], 1e-3))
    c, n = len(students.cells), len(students)
    rows = np.array([c + k for k in begun] + [c + k for k in ended] + [c + n + k for k in finished], np.intp)
    value = np.concatenate([ends.value, last, test])
    off = np.zeros((len(rows), len(rows)))
    off[: len(begun), : len(begun)] = ends.covariance
    whole = np.isfinite(value)  # one that never had a finite error tells nothing here
    seen = Seen(rows[whole], value[whole], off[np.ix_(whole, whole)])
    latents, parts = latents_of(students), parts_of(students.cells)
    kernel = at_scales(parts, likely_scales(parts, latents, students, seen))
    return Belief(students, latents, kernel, seen), law


def likely_scales(parts: Parts, latents: Latents, students: Students, seen: Seen) -> dict[str, float]:
    """The scales with the highest posterior, found one after the other."""
    scales = dict.fromkeys(GROUPS, 1.0)
    if len(seen.rows) < 4:
        return scales
    pick = np.unique(np.linspace(0, len(seen.rows) - 1, min(MOST_SEEN, len(seen.rows))).astype(int))
    known, off = take(latents, seen.rows[pick]), seen.off[np.ix_(pick, pick)]
    y = seen.value[pick] - LEVEL - MEAN_SLOPE * students.cells.u[known.cell]
    at = np.ix_(known.cell, known.cell)
    same = known.fold[:, None] == known.fold[None]
    tests, checks = (same & (known.side[:, None] == side) & (known.side[None] == side) for side in (2, 1))
    run = known.point[:, None] == known.point[None]
    luck = RUN**2 * run + OWN**2 * np.eye(len(pick))
    fixed = parts.free[at] + (tests | checks) * parts.people[at] + off + TINY * np.eye(len(pick))
    group = {"shape": parts.shape[at], "arms": parts.arms[at], "configurations": parts.configurations[at]}
    group |= {"meets": tests * parts.meets[at], "noise": luck}
    checked = checks * parts.meets[at]

    def score(s: Mapping[str, float]) -> float:
        k = fixed + sum(s[name] ** 2 * matrix for name, matrix in group.items())
        k = k + (s["meets"] * s["validation"]) ** 2 * checked
        root = np.linalg.cholesky(k)
        white = solve_triangular(root, y, lower=True, check_finite=False)
        prior = sum(np.log(v) ** 2 for v in s.values()) / LIKELY**2
        return float(-0.5 * (white @ white + prior) - np.log(np.diag(root)).sum())

    best = score(scales)
    for _ in range(PASSES):
        before = best
        for name in GROUPS:
            for factor in STEPS:
                if factor != 1.0 and (found := score(tried := scales | {name: scales[name] * factor})) > best:
                    best, scales = found, tried
        if best - before < 0.05:
            break
    return scales
