"""Leave-largest-out: what the law predicts for the largest sizes when they are held out. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import NormalDist

import numpy as np

from orchestrator.laws.bootstrap import Stream, bootstrap
from orchestrator.laws.fitting import NOISE_GUESS, eligible, fit_place, rival
from orchestrator.laws.forms import Array
from orchestrator.laws.law import BEND, DISSENT, DRIFT
from orchestrator.laws.refuse import MIN_SIZES

STEP = log(1.9)  # of a long curve, one "size" left out is everything within this factor of the largest
DRAWS = 80
CALIBRATED = 8.0  # trials' worth of a calibrated law that the observed ones are pooled with
ALIKE = 0.5  # correlation assumed of trials that share an architecture's configurations
FAR = 3.0  # a trial farther off counts as this many standard deviations
ENOUGH = 50  # trials; with fewer, a true 80 % passes for 90 % more often than not
LEVEL = 0.9
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Holdout:
    """One leave-largest-out trial. All in ln error, at the largest size."""

    left_out: int  # 1 or 2 sizes (or factors of STEP)
    distance: float  # ln of largest size over largest seen
    error: float  # observed mean over seeds minus prediction
    spread: float  # predicted standard deviation of that difference
    form_errors: dict[str, Array]  # of every form, at all sizes left out

    @property
    def score(self) -> float:
        """Error in units of the 90 % half-width."""
        return abs(self.error) / (Z * self.spread)

    @property
    def hit(self) -> bool:
        """Whether the 90 % interval held it."""
        return self.score <= 1


def leave_largest_out(u: Array, z: Array, stream: Stream, guess: float = NOISE_GUESS) -> list[Holdout]:
    """Up to two trials: the largest size left out, the two largest left out. u, z (n,), sorted by u."""
    sizes = np.unique(u)
    out: list[Holdout] = []
    for left_out in (1, 2):
        seen = min(np.searchsorted(sizes, sizes[-1] - left_out * STEP, side="right"), len(sizes) - left_out)
        if seen >= MIN_SIZES:
            out.append(_trial(left_out, u, z, sizes, int(seen), stream, guess))
    return out


def _trial(
    left_out: int, u: Array, z: Array, sizes: Array, seen: int, stream: Stream, guess: float
) -> Holdout:
    last = sizes[seen - 1]
    n = int((u <= last).sum())
    fits = fit_place("large", u[:n], z[:n], eligible(seen), guess=guess)
    members = [f for f in fits if f.form.in_ensemble]
    noise = min(f.noise for f in members)
    rest = sizes[seen:]
    observed = np.array([np.median(z[u == size]) for size in rest])
    multipliers, jitter = stream.head(n).multipliers(DRAWS), stream.head(n).jitter(DRAWS)
    curves = np.array([f.form.curve(f.theta[None], rest)[0][0] for f in members])
    variance = 0.0
    for j, f in enumerate(members):
        rows = slice(j, None, len(members))
        thetas = bootstrap(f, "large", u[:n], z[:n], noise, multipliers[rows], jitter[rows])
        variance += float(f.form.curve(thetas, rest[-1:])[0].var()) / len(members)
    distance = float(rest[-1] - last)
    step = np.array([last - 0.1, last])
    slope = float(np.mean([np.diff(f.form.curve(f.theta[None], step)[0][0]) for f in members])) / 0.1
    dissent = float(curves[:, -1].std())
    variance += (DRIFT * distance) ** 2 + (BEND * slope * distance) ** 2 + (1 + DISSENT**2) * dissent**2
    outsider, weight = rival(fits)
    said = float(outsider.form.curve(outsider.theta[None], rest[-1:])[0][0, 0])
    variance += weight * (said - float(curves[:, -1].mean())) ** 2
    variance += noise**2 / int((u == rest[-1]).sum())
    return Holdout(
        left_out,
        distance,
        float(observed[-1] - curves[:, -1].mean()),
        sqrt(variance),
        {f.form.name: observed - f.form.curve(f.theta[None], rest)[0][0] for f in fits},
    )


def conformal_factor(records: Sequence[Sequence[Holdout]], groups: Sequence[str]) -> float:
    """How much wider intervals must be, from all trials: their root mean square error in predicted units.

    groups: what a curve shares configurations with, and so the luck of its trials: n of them weigh as
    n / (1 + (n - 1) * `ALIKE`). Pooled with `CALIBRATED` trials of a law that needs no correction. Never
    below 1 with fewer than `ENOUGH` trials: that a few fell near the middle says little.
    """
    squares: dict[str, list[float]] = {}
    for record, group in zip(records, groups, strict=True):
        squares.setdefault(group, []).extend(min(abs(t.error) / t.spread, FAR) ** 2 for t in record)
    total = worth = CALIBRATED
    for values in squares.values():
        weight = 1 / (1 + ALIKE * max(len(values) - 1, 0))
        worth += weight * len(values)
        total += weight * sum(values)
    least = 0.8 if sum(map(len, squares.values())) >= ENOUGH else 1.0
    return float(np.clip(sqrt(total / worth), least, 3.0))
