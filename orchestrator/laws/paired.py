"""Is one thing better than another, over the same people, sizes, folds and seeds? numpy and scipy only.

A comparison is a table of subjects by cells. A cell is one configuration of a student (architecture, size,
fold, seed), in which both sides were trained; its entry is the difference of their errors on one subject.
Two things vary by chance: people, and training runs. So the interval is a bootstrap over subjects, widened
by what differs from cell to cell over all its subjects.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from orchestrator.laws.forms import Array

DRAWS = 2000
LEVEL = 0.9
ALPHA = 0.05
POWER = 0.8
# With 5 people even five equal signs come by chance once in 16 times, with 6 once in 32 (two-sided); a single
# run, or two, say nothing of how much runs differ.
LEAST_SUBJECTS, LEAST_CELLS = 6, 3


@dataclass(frozen=True)
class Effect:
    """A mean difference with its uncertainty. draws: of its deviation from the truth, (DRAWS,), scaled."""

    mean: float
    error: float  # standard error
    df: float
    draws: Array

    def interval(self) -> tuple[float, float]:
        """Its interval at LEVEL."""
        low, high = np.quantile(self.draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return self.mean + float(low), self.mean + float(high)

    def p(self) -> float:
        """Two-sided: how often chance alone goes as far from 0."""
        beyond = int((np.abs(self.draws) >= abs(self.mean)).sum())
        return (1 + beyond) / (1 + len(self.draws))


def effect(
    values: Array,
    strata: Array,
    sides: Array | None = None,
    weights: Mapping[str, float] | None = None,
    rng: int = 0,
) -> Effect | None:
    """The mean of a table (subjects, cells), NaN where a subject was not tested in a cell.

    The mean over a subject's cells, then over the subjects of a stratum, then over strata.
    strata: (subjects,) names of data sets; weights: theirs, by default equal. sides: (cells,) of +1 and -1,
    for the mean of the one kind of cells less that of the other. None when no subject has all that it takes.

    Standard error: two-way clustered by subject and by cell (Cameron, Gelbach and Miller 2011), with the
    degrees of freedom of Satterthwaite. Its shape is that of a bootstrap which draws subjects within strata
    and keeps all their entries; small numbers widen it as they widen Student's t.
    """
    signs = np.ones(values.shape[1]) if sides is None else np.asarray(sides, float)
    kinds = [np.flatnonzero(signs == s) for s in np.unique(signs)]
    known = np.isfinite(values)
    counts = np.stack([known[:, k].sum(1) for k in kinds])
    whole = (counts > 0).all(0)
    if not whole.any():
        return None
    values, known, counts = values[whole], known[whole], counts[:, whole]
    codes, weight = _strata(strata[whole], weights)
    share = weight[codes] / np.bincount(codes)[codes]  # (subjects,), of the mean
    filled = np.where(known, values, 0.0)
    per, centred = np.zeros_like(filled), filled.copy()
    for kind, count in zip(kinds, counts, strict=True):
        per[:, kind] = signs[kind[0]] * known[:, kind] / count[:, None]
        centre = filled[:, kind].sum(1) / count
        centred[:, kind] -= _by_stratum(centre, codes)[codes][:, None]
    own = (per * filled).sum(1)  # a subject's mean over its cells
    mean = float(share @ own)
    pull = share[:, None] * per * centred
    people, df_people = _variance_of_people(own, codes, weight)
    busy, both, runs = int((per != 0).any(0).sum()), 0.0, 0.0
    if busy > len(kinds):
        both = float((pull.sum(0) ** 2).sum()) * busy / (busy - len(kinds))
        runs = max(both - float((pull**2).sum()), 0.0)
    variance = people + runs
    if variance <= 0:
        return Effect(mean, 0.0, np.inf, np.zeros(DRAWS))
    # `runs` is a difference of two estimates: it is known no better than the larger one, `both`
    df = variance**2 / (people**2 / df_people + both**2 / max(busy - len(kinds), 1))
    error = float(np.sqrt(variance))
    return Effect(mean, error, float(df), error * _shape(own, codes, weight, df, rng))


def _shape(own: Array, codes: npt.NDArray[np.intp], weight: Array, df: float, rng: int) -> Array:
    """Deviations of a subject bootstrap, (DRAWS,), to unit variance, with the tails of `df`."""
    generator = np.random.default_rng(rng)
    deviations = np.zeros(DRAWS)
    for code in np.unique(codes):
        group = own[codes == code]
        drawn = generator.integers(len(group), size=(DRAWS, len(group)))
        deviations += weight[code] * (group[drawn].mean(1) - group.mean())
    spread = deviations.std()
    shape = deviations / spread if spread > 0 else generator.standard_normal(DRAWS)
    return np.asarray(shape * np.sqrt(df / generator.chisquare(df, DRAWS)))


def _strata(names: Array, weights: Mapping[str, float] | None) -> tuple[npt.NDArray[np.intp], Array]:
    """Codes from 0, and the weights of the strata, which add up to 1.

    All are one stratum when none has two subjects, since nothing could be told of their spread.
    """
    known, inverse = np.unique(names, return_inverse=True)
    codes = np.asarray(inverse)
    if (np.bincount(codes) < 2).all():
        return np.zeros_like(codes), np.ones(1)
    weight = np.array([1.0 if weights is None else weights.get(str(name), 1.0) for name in known])
    return codes, weight / weight.sum()


def _by_stratum(values: Array, codes: npt.NDArray[np.intp]) -> Array:
    return np.asarray(np.bincount(codes, values) / np.bincount(codes))


def _variance_of_people(own: Array, codes: npt.NDArray[np.intp], weight: Array) -> tuple[float, float]:
    """Variance of the mean over strata, and its degrees of freedom; a lone subject has the others' spread."""
    sizes = np.bincount(codes)
    squares = np.bincount(codes, (own - _by_stratum(own, codes)[codes]) ** 2)
    free = sizes - 1
    if not free.sum():
        return 0.0, 1.0
    pooled = squares.sum() / free.sum()
    each = np.where(free > 0, squares / np.maximum(free, 1), pooled) / sizes
    parts = each * weight**2
    total = float(parts.sum())
    if total <= 0:
        return 0.0, float(free.sum())
    return total, float(total**2 / (parts**2 / np.where(free > 0, free, free.sum())).sum())


def holm(ps: list[float]) -> list[float]:
    """Holm's adjusted p values: the chance of any false finding among these is at most that level."""
    order = np.argsort(ps)
    adjusted, worst = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = worst
    return adjusted


def needed(found: Effect) -> float | None:
    """How many times these subjects and cells would decide, with probability POWER, an effect of this size.

    By one claim alone, at ALPHA. None where the effect is 0.
    """
    if found.mean == 0:
        return None
    reach = float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))
    return (reach * found.error / found.mean) ** 2
