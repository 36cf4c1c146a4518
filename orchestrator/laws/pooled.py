"""What the arms of one architecture share, and how each differs: partial pooling. numpy only.

ln error of (arm a, configuration c, fold f, seed s) = people of f + shape of c + delta_a(ln size) + noise.
People and shape are crossed with the arms, so neither blurs a difference between arms. delta_a is a free
offset, a slope drawn towards that of all arms, and a smooth rest (integrated Wiener process); how much slopes
and rests differ is what the arms themselves show (their marginal likelihood, on a grid).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.laws.forms import Array

SLOPES = (0.003, 0.01, 0.03, 0.1)  # standard deviations of slopes, per unit of ln size
RESTS = (0.002, 0.006, 0.02, 0.06)  # of the smooth rest, per unit of ln size to the power 1.5
NOISES = tuple(np.geomspace(0.003, 0.12, 8))  # of a cell (arm x configuration)
OFFSET = 4.0  # variance of offsets: free
OUTLIER = 2.5  # a cell this many noises off counts less, by the square
ROUNDS = 12  # of backfitting; the error falls by the share of the arms' own movement in each
GRID = 65
MARGIN = np.log(16.0)  # how far beyond the data the differences are kept
KNOWN_CELL = 0.015, 2.0  # noise of a cell that is assumed, and how many cells' worth of evidence that is


@dataclass(frozen=True)
class Delta:
    """How one arm differs from the shape. grid (G,) of ln size; mean (G,); draws (B, G), of ln error."""

    grid: Array
    mean: Array
    draws: Array

    def at(self, u: Array) -> Array:
        """The mean at ln sizes u, (m,)."""
        return np.interp(u, self.grid, self.mean)

    def draws_at(self, u: Array) -> Array:
        """(B, m)."""
        place = np.clip((u - self.grid[0]) / (self.grid[1] - self.grid[0]), 0, len(self.grid) - 1.000001)
        left = place.astype(int)
        right = place - left
        return np.asarray(self.draws[:, left] * (1 - right) + self.draws[:, left + 1] * right)


@dataclass(frozen=True)
class Cells:
    """Means over folds and seeds of each (arm, configuration), people removed: (n,); u, labels (C,)."""

    arm: np.ndarray
    configuration: np.ndarray
    y: Array
    runs: Array
    u: Array
    labels: tuple[str, ...]
    run_variance: float  # of one run round its cell, from cells of several
    folds: int


@dataclass(frozen=True)
class Pool:
    """shape (C,): ln error of each configuration, over arms. noise: of a cell round shape + delta."""

    cells: Cells
    shape: Array
    deltas: tuple[Delta, ...]
    noise: float

    @property
    def run_noise(self) -> float:
        """Standard deviation of a new configuration's error by one run in every fold, round shape + delta."""
        c = self.cells
        repeats = float(np.median(c.runs)) / c.folds
        again = c.run_variance / c.folds * max(1 - 1 / max(repeats, 1.0), 0.0)
        return float(np.sqrt(self.noise**2 + again))


def without_people(cell: np.ndarray, fold: np.ndarray, z: Array) -> Array:
    """z (n,) less the effect of each fold's people, which all cells share; their mean error stays."""
    n_cells, n_folds = int(cell.max()) + 1, int(fold.max()) + 1
    if n_folds == 1:
        return z
    effect = np.zeros(n_folds)
    for _ in range(60):
        centre = np.bincount(cell, z - effect[fold], n_cells) / np.bincount(cell, minlength=n_cells)
        effect = np.bincount(fold, z - centre[cell], n_folds) / np.bincount(fold, minlength=n_folds)
        effect -= np.log(np.exp(effect).mean())
    return np.asarray(z - effect[fold])


def make_cells(
    sizes: Sequence[Array],
    errors: Sequence[Array],
    labels: Sequence[Sequence[str]],
    folds: Sequence[Sequence[str]],
) -> Cells:
    """One entry an arm: its runs' sizes, errors, configurations and folds, (n,) each."""
    names = sorted({c for arm in labels for c in arm})
    number = {name: i for i, name in enumerate(names)}
    people = {name: i for i, name in enumerate(sorted({f for arm in folds for f in arm}))}
    arm = np.repeat(np.arange(len(sizes)), [len(s) for s in sizes])
    configuration = np.array([number[c] for one in labels for c in one])
    keys, cell = np.unique(arm * len(names) + configuration, return_inverse=True)
    fold = np.array([people[f] for one in folds for f in one])
    z = without_people(cell, fold, np.log(np.concatenate(errors)))
    u = np.zeros(len(names))
    u[configuration] = np.log(np.concatenate(sizes))
    middle = np.array([np.median(z[cell == k]) for k in range(len(keys))])
    away = np.abs(z - middle[cell])
    scale = 1.4826 * float(np.median(away)) + 1e-9
    weight = (
        np.minimum(1.0, OUTLIER * scale / np.maximum(away, 1e-12)) if (away > 0).any() else np.ones(len(z))
    )
    runs: Array = np.bincount(cell, weight).astype(float)
    y = np.bincount(cell, weight * z) / runs
    spare = len(z) - len(keys)
    variance = float((weight * (z - y[cell]) ** 2).sum() / spare) if spare else 0.0
    return Cells(keys // len(names), keys % len(names), y, runs, u, tuple(names), variance, len(people))


def kernels(u: Array, v: Array) -> tuple[Array, Array]:
    """Covariances (len(u), len(v)) of a line through 0 and of an integrated Wiener process from 0."""
    a, b = np.abs(u)[:, None], np.abs(v)[None]
    low, high = np.minimum(a, b), np.maximum(a, b)
    same = u[:, None] * v[None] > 0
    return u[:, None] * v[None], np.where(same, low**2 * (3 * high - low) / 6, 0.0)


def pool(cells: Cells, rng: np.random.Generator, draws: int) -> Pool:
    """Fit the hierarchical model; `draws` joint draws of every arm's difference."""
    arms = int(cells.arm.max()) + 1
    middle = float(cells.u[cells.configuration].mean())
    where = [np.flatnonzero(cells.arm == a) for a in range(arms)]
    u = [cells.u[cells.configuration[rows]] - middle for rows in where]
    spread = np.median(cells.runs) / cells.runs  # of cells' variances, for runs that are missing
    grid = np.linspace(cells.u.min() - MARGIN, cells.u.max() + MARGIN, GRID)
    slope, rest, noise = 0.03, 0.006, 0.02
    shape = np.zeros(len(cells.u))
    posterior = np.ones((1, 1, 1))
    for _ in range(3):
        shape = _backfit(cells, where, u, shape, (slope, rest, noise), spread)
        apart = [cells.y[rows] - shape[cells.configuration[rows]] for rows in where]
        posterior = _evidence(u, apart, [spread[rows] for rows in where], arms)
        mean = [
            float(np.exp((posterior.sum(axes) * np.log(values)).sum()))
            for axes, values in (((1, 2), SLOPES), ((0, 2), RESTS), ((0, 1), NOISES))
        ]
        slope, rest, noise = mean
        left = np.zeros(len(cells.y))
        for rows, place, values in zip(where, u, apart, strict=True):
            fit, _ = _posterior(place, values, spread[rows], (slope, rest, noise), place)
            left[rows] = values - fit
        spread = np.median(cells.runs) / cells.runs * np.maximum(1.0, np.abs(left) / (OUTLIER * noise)) ** 2
    shape = _backfit(cells, where, u, shape, (slope, rest, noise), spread)
    deltas = _draw(cells, where, u, shape, spread, posterior, grid, middle, rng, draws)
    centred = np.mean([d.mean for d in deltas], 0), np.mean([d.draws for d in deltas], 0)
    deltas = [Delta(grid, d.mean - centred[0], d.draws - centred[1]) for d in deltas]
    fitted = np.concatenate([d.at(v + middle) for d, v in zip(deltas, u, strict=True)])
    order = np.concatenate(where)
    shape = _weighted(cells.configuration[order], (cells.y[order] - fitted), 1 / spread[order], len(cells.u))
    return Pool(cells, shape, tuple(deltas), noise)


def _weighted(group: np.ndarray, values: Array, weight: Array, n: int) -> Array:
    return np.asarray(np.bincount(group, weight * values, n) / np.bincount(group, weight, n))


def _covariance(u: Array, v: Array, slope: float, rest: float) -> Array:
    line, wiener = kernels(u, v)
    return np.asarray(OFFSET + slope**2 * line + rest**2 * wiener)


def _posterior(
    u: Array, y: Array, spread: Array, scales: tuple[float, float, float], v: Array
) -> tuple[Array, Array]:
    """Mean and covariance at v of one arm's difference, given y at u."""
    slope, rest, noise = scales
    known = _covariance(u, u, slope, rest) + np.diag(noise**2 * spread)
    across = _covariance(v, u, slope, rest)
    gain = np.linalg.solve(known, across.T).T
    return gain @ y, _covariance(v, v, slope, rest) - gain @ across.T


def _backfit(
    cells: Cells,
    where: list[np.ndarray],
    u: list[Array],
    shape: Array,
    scales: tuple[float, float, float],
    spread: Array,
) -> Array:
    gains = []
    for rows, place in zip(where, u, strict=True):
        known = _covariance(place, place, *scales[:2])
        gains.append(np.linalg.solve(known + np.diag(scales[2] ** 2 * spread[rows]), known).T)
    for _ in range(ROUNDS):
        rest = cells.y.copy()
        for rows, gain in zip(where, gains, strict=True):
            rest[rows] -= gain @ (cells.y[rows] - shape[cells.configuration[rows]])
        shape = _weighted(cells.configuration, rest, 1 / spread, len(shape))
    return shape


def _evidence(u: list[Array], apart: list[Array], spread: list[Array], arms: int) -> Array:
    """Posterior (slopes, rests, noises) of the scales, flat on the grid but for what is known of noise."""
    correction = arms / max(arms - 1, 1)  # the shape took a share of every difference
    guess, worth = KNOWN_CELL
    slope, rest, noise = (v.ravel()[:, None, None] for v in np.meshgrid(SLOPES, RESTS, NOISES, indexing="ij"))
    out = -0.5 * worth * ((guess / noise) ** 2 + 2 * np.log(noise / guess)).ravel()
    for place, values, s in zip(u, apart, spread, strict=True):
        line, wiener = kernels(place, place)
        root = np.linalg.cholesky(OFFSET + slope**2 * line + rest**2 * wiener + noise**2 * np.diag(s))
        white = np.linalg.solve(root, np.broadcast_to(values[:, None], (len(out), len(values), 1)))[..., 0]
        logs = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        out -= 0.5 * (white**2).sum(1) + logs / correction
    out = out.reshape(len(SLOPES), len(RESTS), len(NOISES))
    out = np.exp(out - out.max())
    return np.asarray(out / out.sum())


def _draw(
    cells: Cells,
    where: list[np.ndarray],
    u: list[Array],
    shape: Array,
    spread: Array,
    posterior: Array,
    grid: Array,
    middle: float,
    rng: np.random.Generator,
    draws: int,
) -> list[Delta]:
    flat = posterior.ravel()
    flat = np.where(flat > 0.01, flat, 0.0)
    share = np.floor(np.cumsum(flat / flat.sum()) * draws + 0.5).astype(int)
    counts = np.diff(share, prepend=0)
    order = rng.permutation(draws)  # the same scales for every arm in a draw
    out = []
    for rows, place in zip(where, u, strict=True):
        values = cells.y[rows] - shape[cells.configuration[rows]]
        mean, sample = np.zeros(len(grid)), np.empty((draws, len(grid)))
        for number in np.flatnonzero(counts):
            i, j, k = np.unravel_index(number, posterior.shape)
            scales = SLOPES[i], RESTS[j], float(NOISES[k])
            m, cov = _posterior(place, values, spread[rows], scales, grid - middle)
            root = np.linalg.cholesky(cov + 1e-9 * np.eye(len(grid)))
            here = order[share[number] - counts[number] : share[number]]
            sample[here] = m + rng.standard_normal((counts[number], len(grid))) @ root.T
            mean += counts[number] / draws * m
        out.append(Delta(grid, mean, sample))
    return out
