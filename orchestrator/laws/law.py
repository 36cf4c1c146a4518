"""A fitted law: error against size, as an equal-weight ensemble of forms with its interval. numpy only."""

import warnings
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.laws.fitting import Fit, blend
from orchestrator.laws.forms import Array
from orchestrator.laws.people import People
from orchestrator.laws.pooled import Delta
from orchestrator.laws.refuse import REFUSE_FACTOR, ExtrapolationWarning, far_away

# What no form predicts, as standard deviations of ln error that add in square: per unit of ln distance from
# the data; per unit of ln distance and of local exponent; per spread between the forms. Chosen together on
# simulated and real learning curves for coverage near 90 % and the least Winkler score, see CALIBRATION.md.
DRIFT = 0.025
BEND = 0.1
DISSENT = 1.5


class Prediction(NamedTuple):
    """What a new run of each size will show, in the unit of the errors: arrays (m,)."""

    median: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Member:
    """One form of the ensemble at one place: its fit and its share of the bootstrap, (B / forms, P)."""

    fit: Fit
    thetas: Array


@dataclass(frozen=True)
class Law:
    """A fitted law.

    forms: one dict a form: name, title, formula, params, fit_error and holdout_error (rms of ln error, the
    latter None where too few sizes are left), aicc, starts_agree (a share; `note` says when it is small),
    in_ensemble.
    verdict: "ok"; "weak" when the law alone can't decide; "refuse" when it must not be used; `why` gives the
    reason and what to train to lift it. A law that could be fitted still predicts then; one that could not
    answers NaN.
    reach: largest extrapolation factor at which it may be used to decide: 8; 1 when its exponent still rises
    (between measured sizes it is sound); 0 when it could not be fitted.
    """

    verdict: str
    why: str
    forms: tuple[dict[str, Any], ...] = ()
    smallest: float = np.nan
    largest: float = np.nan
    factor: float = 1.0  # conformal: how much wider the intervals are than the ensemble alone gives
    _origin: tuple[float, float] = (0.0, 0.0)  # ln of the sizes' and errors' references
    _ends: tuple[float, float] = (0.0, 0.0)  # ln of smallest and largest size, from the reference
    _members: tuple[dict[str, Member], ...] = ()  # a form in the ensemble: its fit at each place
    _rival: tuple[Fit, float] | None = None  # the exponential in size at the large end, its weight
    _noise: dict[str, float] = field(default_factory=dict)  # of one run, in ln error, at each place
    _normals: tuple[Array, Array] = (np.empty(0), np.empty(0))  # (B,) for the discrepancy, for a run's noise
    people: People | None = None  # None where no subjects are known
    rises: bool = False  # larger students are worse: nothing may be said beyond the data
    _shape: "Law | None" = None  # of the arms pooled with this one, whose members it then has, not its own
    _delta: Delta | None = None  # how it differs from that

    @property
    def fitted(self) -> bool:
        """Whether it can predict at all."""
        return bool(self._members) or self._shape is not None

    @property
    def reach(self) -> float:
        """The largest extrapolation factor at which this law may be used to decide."""
        if not self.fitted:
            return 0.0
        return 1.0 if self.verdict == "refuse" or self.rises else REFUSE_FACTOR

    def form_curves(self, sizes: Array) -> Array:
        """ln error of each form in the ensemble, (forms, m)."""
        if self._shape is not None and self._delta is not None:
            return self._shape.form_curves(sizes) + self._delta.at(np.log(sizes))
        u = np.log(sizes) - self._origin[0]
        share = blend(u, *self._ends)
        curves = [
            sum(share[p] * m.fit.form.curve(m.fit.theta[None], u)[0][0] for p, m in places.items())
            for places in self._members
        ]
        return self._origin[1] + np.asarray(curves)

    def centre(self, sizes: Array) -> Array:
        """ln error of the ensemble's mean curve, (m,)."""
        return self.form_curves(sizes).mean(0)

    def draws(self, sizes: Array) -> Array:
        """ln error of the mean over runs, as (B, m) joint draws: form, bootstrap and discrepancy.

        Below the smallest size no draw is better than at the smallest: a steep law leaves that end so open
        that some unmeasured tiny model would else be the best of many draws.
        """
        free = self._free_draws(np.append(sizes, self.smallest))
        edge, draws = free[:, -1:], free[:, :-1]
        return np.where(sizes < self.smallest, np.maximum(draws, edge), draws)

    def _free_draws(self, sizes: Array) -> Array:
        if self._shape is not None and self._delta is not None:
            shape = replace(self._shape, factor=self.factor)._free_draws(sizes)
            mean, draws = self._delta.at(np.log(sizes)), self._delta.draws_at(np.log(sizes))
            return shape + mean + self.factor * (draws - mean)
        u = np.log(sizes) - self._origin[0]
        share = blend(u, *self._ends)
        out = np.zeros((len(self._normals[0]), len(u)))
        for j, places in enumerate(self._members):
            for place, member in places.items():
                curve = member.fit.form.curve(member.thetas, u)[0]
                out[j :: len(self._members)] += share[place] * curve
        centre = self.centre(sizes)
        away = self._origin[1] + out - centre + self._normals[0][:, None] * self.discrepancy(sizes)
        return centre + self.factor * away

    def discrepancy(self, sizes: Array) -> Array:
        """Standard deviation of what no form predicts, in ln error, (m,); 0 inside the data."""
        away = np.log(self.distance(sizes))
        dissent = np.where(away > 0, self.form_curves(sizes).std(0), 0.0)
        bend = np.where(sizes > self.largest, self.exponent(self.largest), self.exponent(self.smallest))
        known = (DRIFT * away) ** 2 + (BEND * bend * away) ** 2 + (DISSENT * dissent) ** 2
        return np.sqrt(known + self._rival_gap(sizes))

    def _rival_gap(self, sizes: Array) -> Array:
        """What the exponential in size gives beyond the largest size, squared, by the evidence for it."""
        if self._rival is None:
            return np.zeros(sizes.shape)
        fit, weight = self._rival
        said = self._origin[1] + fit.form.curve(fit.theta[None], np.log(sizes) - self._origin[0])[0][0]
        return np.where(sizes > self.largest, weight * (said - self.centre(sizes)) ** 2, 0.0)

    def exponent(self, size: float) -> float:
        """Local exponent -d ln error / d ln size of the mean curve."""
        step = 0.05
        near = self.centre(size * np.exp([-step, step]))
        return float(near[0] - near[1]) / (2 * step)

    def noise(self, sizes: Array) -> Array:
        """Standard deviation of one run round the mean over runs, in ln error, (m,)."""
        share = blend(np.log(sizes) - self._origin[0], *self._ends)
        return np.asarray(sum(share[place] * noise for place, noise in self._noise.items()))

    def distance(self, sizes: Array) -> Array:
        """How many times beyond the largest (or below the smallest) size; 1 inside the data. (m,)"""
        return np.maximum(np.maximum(sizes / self.largest, self.smallest / sizes), 1.0)

    def predict_people(self, sizes: npt.ArrayLike, level: float = 0.9) -> Prediction:
        """As `predict`, of a new run on `people.n_people` new people like these; NaN where none are known."""
        return self._predict(sizes, level, self.people.sample if self.people else np.array([np.nan]))

    def predict(self, sizes: npt.ArrayLike, level: float = 0.9) -> Prediction:
        """Median and `level` interval of a new run at each size, on the people of the sweep.

        Beyond 8 times the largest or below 1/8 of the smallest size the answer is NaN; beyond 4 times it
        comes with an ExtrapolationWarning. A law that could not be fitted (see `why`) answers NaN everywhere.
        """
        return self._predict(sizes, level, np.zeros(1))

    def _predict(self, sizes: npt.ArrayLike, level: float, others: Array) -> Prediction:
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, not {level}")
        x = np.atleast_1d(np.asarray(sizes, dtype=float))
        if not self.fitted:
            warnings.warn(f"no law: {self.why}", ExtrapolationWarning, stacklevel=2)
            return Prediction(*(np.full(x.shape, np.nan) for _ in range(3)))
        if not (np.isfinite(x).all() and (x > 0).all()):
            raise ValueError("sizes to predict must be positive numbers")
        refused = far_away(self.distance(x), self.smallest, self.largest)
        runs = self.draws(x) + self._normals[1][:, None] * self.noise(x) + others[:, None]
        median = self.centre(x) + np.median(others)
        low, high = np.quantile(runs, [(1 - level) / 2, (1 + level) / 2], axis=0)
        answer = (median, np.minimum(low, median), np.maximum(high, median))
        return Prediction(*(np.where(refused, np.nan, np.exp(v)) for v in answer))
