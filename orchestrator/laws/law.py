"""One law: error against size, as an equal-weight ensemble of forms with an honest interval. numpy only.

`fit_law` takes one curve; `fit_laws` several that share configurations, so that their draws are paired.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.laws.fitting import Fit, bootstrap, eligible, fit_forms, webb
from orchestrator.laws.forms import Array
from orchestrator.laws.refuse import ExtrapolationWarning, bad_curve, far_away

DRAWS = 400
BLOCKS = (
    16  # a long curve is resampled in this many runs of neighbouring sizes: its residuals are not independent
)
DISCREPANCY = 0.03


class Prediction(NamedTuple):
    """What a new run of each size will show, in the unit of the errors: arrays (m,)."""

    median: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Curve:
    """Runs of one law: sizes (n,), errors (n,), labels of their configurations (n,)."""

    sizes: Array
    errors: Array
    clusters: tuple[str, ...]


@dataclass(frozen=True)
class Law:
    """A fitted law.

    forms: one dict a form: name, title, formula, params, fit_error and holdout_error (rms of ln
    error), starts_agree, in_ensemble. verdict: "ok", or "refuse" when the law must not be used to decide; `why`
    says the reason and what to train to lift it.
    """

    verdict: str
    why: str
    forms: tuple[dict[str, Any], ...] = ()
    smallest: float = np.nan
    largest: float = np.nan
    noise: float = np.nan  # of one run, in ln error
    _origin: tuple[float, float] = (0.0, 0.0)  # ln of the sizes' and errors' references
    _fits: tuple[tuple[Fit, Array], ...] = ()  # each form in the ensemble with its bootstrap (B, P)
    _normals: tuple[Array, Array] = (np.empty(0), np.empty(0))  # (B,) for the discrepancy, for a run's noise

    def centre(self, sizes: Array) -> Array:
        """ln error of the ensemble's mean curve, (m,)."""
        u = np.log(sizes) - self._origin[0]
        curves = [fit.form.curve(fit.theta[None], u)[0][0] for fit, _ in self._fits]
        return self._origin[1] + np.mean(curves, axis=0)

    def draws(self, sizes: Array) -> Array:
        """ln error of the mean over runs, as (B, m) joint draws: form, bootstrap and discrepancy."""
        u = np.log(sizes) - self._origin[0]
        out = np.empty((len(self._normals[0]), len(u)))
        for j, (fit, thetas) in enumerate(self._fits):
            rows = slice(j, None, len(self._fits))
            out[rows] = fit.form.curve(thetas[rows], u)[0]
        return self._origin[1] + out + self._normals[0][:, None] * self.discrepancy(sizes)

    def discrepancy(self, sizes: Array) -> Array:
        """Standard deviation of what no form foresees, in ln error, (m,)."""
        return DISCREPANCY * np.abs(np.log(self.distance(sizes)))

    def distance(self, sizes: Array) -> Array:
        """How many times beyond the largest (or below the smallest) size; 1 inside the data. (m,)"""
        return np.maximum(np.maximum(sizes / self.largest, self.smallest / sizes), 1.0)

    def predict(self, sizes: npt.ArrayLike, level: float = 0.9) -> Prediction:
        """Median and `level` interval of a new run at each size.

        Beyond 8 times the largest or below 1/8 of the smallest size the answer is NaN; beyond 4 times it
        comes with an ExtrapolationWarning. A law without forms (see `why`) answers NaN everywhere.
        """
        x = np.atleast_1d(np.asarray(sizes, dtype=float))
        if not self._fits:
            warnings.warn(f"no law: {self.why}", ExtrapolationWarning, stacklevel=2)
            return Prediction(*(np.full(x.shape, np.nan) for _ in range(3)))
        refused = far_away(self.distance(x), self.smallest, self.largest)
        runs = self.draws(x) + self._normals[1][:, None] * self.noise
        median = self.centre(x)
        low, high = np.quantile(runs, [(1 - level) / 2, (1 + level) / 2], axis=0)
        answer = (median, np.minimum(low, median), np.maximum(high, median))
        return Prediction(*(np.where(refused, np.nan, np.exp(v)) for v in answer))


def fit_law(
    sizes: npt.ArrayLike, errors: npt.ArrayLike, *, clusters: npt.ArrayLike | None = None, rng: int = 0
) -> Law:
    """Fit the law of one curve.

    sizes (n,) > 0; errors (n,) > 0 in any one unit; clusters (n,): which runs belong to one configuration
    (its seeds), by default those of equal size; rng: seed of the bootstrap. Bad values give a law that refuses;
    arrays that do not fit together raise ValueError.
    """
    x = np.asarray(sizes, dtype=float)
    y = np.asarray(errors, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"sizes and errors must be two arrays of one length, not {x.shape} and {y.shape}")
    if clusters is None:
        labels = _default_clusters(x)
    else:
        labels = tuple(str(c) for c in np.asarray(clusters).tolist())
        if len(labels) != len(x):
            raise ValueError(f"{len(labels)} cluster labels for {len(x)} runs")
    return fit_laws([Curve(x, y, labels)], rng=rng)[0]


def _default_clusters(sizes: Array) -> tuple[str, ...]:
    distinct, place = np.unique(sizes, return_inverse=True)
    if len(distinct) > BLOCKS:
        place = place * BLOCKS // len(distinct)
    return tuple(str(p) for p in place)


def fit_laws(curves: Sequence[Curve], *, rng: int = 0, draws: int = DRAWS) -> list[Law]:
    """Fit several laws with paired draws: a shared configuration moves in all of them together."""
    return [_fit(curve, rng, draws) for curve in curves]


def _fit(curve: Curve, rng: int, draws: int) -> Law:
    if why := bad_curve(curve.sizes, curve.errors):
        return Law("refuse", why)
    order = np.lexsort((curve.errors, curve.sizes))
    x, y = curve.sizes[order], curve.errors[order]
    labels = [curve.clusters[i] for i in order]
    origin = float(np.log(x).mean()), float(np.log(y).mean())
    u, z = np.log(x) - origin[0], np.log(y) - origin[1]
    fits, noise = fit_forms(u, z, eligible(len(np.unique(x))))
    multipliers = {label: _stream(rng, label, draws) for label in set(labels)}
    spread = np.stack([multipliers[label] for label in labels], axis=1)
    jitter = _generator(rng, "jitter").standard_normal((draws, len(u)))
    members = tuple(
        (fit, bootstrap(fit, u, z, noise, spread, jitter)) for fit in fits if fit.form.in_ensemble
    )
    normals = tuple(_normal_scores(_generator(rng, name), draws) for name in ("discrepancy", "run"))
    forms = tuple(
        {
            "name": fit.form.name,
            "title": fit.form.title,
            "formula": fit.form.formula,
            "params": fit.form.natural(fit.theta, *origin),
            "fit_error": float(np.sqrt(np.mean(fit.residuals**2))),
            "holdout_error": None,
            "starts_agree": fit.starts_agree,
            "in_ensemble": fit.form.in_ensemble,
        }
        for fit in fits
    )
    return Law("ok", "", forms, float(x[0]), float(x[-1]), noise, origin, members, (normals[0], normals[1]))


def _generator(rng: int, label: str) -> np.random.Generator:
    """A stream that depends on the seed and the label only, so that curves share it."""
    digest = hashlib.blake2b(f"{rng}/{label}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _stream(rng: int, label: str, draws: int) -> Array:
    return webb(_generator(rng, label), (draws, 1))[:, 0]


def _normal_scores(generator: np.random.Generator, draws: int) -> Array:
    """Standard normal draws, standardised."""
    values = generator.standard_normal(draws)
    return (values - values.mean()) / values.std()
