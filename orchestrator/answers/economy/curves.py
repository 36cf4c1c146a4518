"""The law of validation error against epochs, and what an unfinished curve says of its end. numpy only.

ln of the lowest validation error so far, above that of the whole training, at G shares of the epochs, is
normal: a mean that depends on the architecture, the size and, drawn towards these, the arm (partial
pooling), and a covariance that finished curves and a guess tell together. The end of an unfinished curve then
is generalised least squares; what is not known of an arm's mean is an error that its points share.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.answers.economy.students import Cells, Index
from orchestrator.laws.forms import Array

SHARES = np.geomspace(0.03, 1.0, 18)  # of the whole training; the last one is its end
# A guess, for while no curve is finished: the mean falls as 0.3 (x^-1/2 - 1), with a spread of its size and
# some more early on; neighbours move together. It counts as much as so many finished curves.
FALL, SPREAD, EARLY, TOGETHER, WORTH = 0.3, 0.6, 0.06, 0.7, 2.0
FLOOR = 0.01  # ln error that no curve tells of its end, before that
# Precisions of an architecture's, a size's and an arm's share of the mean, in units of one curve's.
ARCH, SIZE, ARM = 0.5, 2.0, 2.0


@dataclass(frozen=True)
class CurveLaw:
    """mean (C, G): of each cell; covariance (G, G) of a curve round it; leverage (C, C): what isn't known of
    the means, in units of that covariance.
    """

    mean: Array
    covariance: Array
    leverage: Array

    def weights(self, reached: int) -> tuple[Array, float]:
        """How a curve known at the first `reached` shares tells its end: weights (G,), and the variance.

        The end is weights @ (curve - mean); reached = G: it is the end itself.
        """
        out = np.zeros(len(SHARES))
        if reached >= len(SHARES):
            out[-1] = 1.0
            return out, 0.0
        known = self.covariance[:reached, :reached] + FLOOR**2 * np.eye(reached)
        solved = np.linalg.solve(known, np.ones(reached))
        out[:reached] = solved / solved.sum()
        return out, float(1 / solved.sum())


@dataclass(frozen=True)
class Ends:
    """What unfinished curves say of their end: ln error (n,) and covariance (n, n) of what they are off
    by."""

    value: Array
    covariance: Array


def lowest(curve: Sequence[float]) -> Array:
    """ln of the lowest error so far after each epoch; epochs without a finite one keep what was before."""
    values = np.asarray(curve, float)
    values = np.where(np.isfinite(values) & (values > 0), values, np.inf)
    return np.asarray(np.log(np.minimum.accumulate(values)))


def on_shares(curve: Sequence[float], epochs: int) -> tuple[Array, int]:
    """A curve's ln lowest error at SHARES (G,), and how many of them it has reached (0: none).

    Between epochs along ln of the share; before the first epoch, the first epoch's.
    """
    low = lowest(curve)
    share = np.arange(1, len(low) + 1) / max(epochs, len(low), 1)
    usable = np.isfinite(low)
    if not usable.any():
        return np.zeros(len(SHARES)), 0
    reached = reached_by(len(low), epochs)
    return np.interp(np.log(SHARES), np.log(share[usable]), low[usable]), reached


def reached_by(epoch: int, epochs: int) -> int:
    """How many of SHARES a curve of so many epochs tells; none before the first epoch."""
    return 0 if epoch < 1 else int((epoch / max(epochs, epoch) + 1e-9 >= SHARES).sum())


def guess() -> tuple[Array, Array]:
    """Mean (G,) and covariance (G, G) of a curve above its end, before any is known."""
    mean = FALL * (SHARES**-0.5 - 1)
    spread = SPREAD * mean + EARLY * (1 - SHARES)
    apart = np.abs(np.log(SHARES)[:, None] - np.log(SHARES)[None])
    return mean, np.outer(spread, spread) * np.exp(-apart / TOGETHER)


def fit_curves(cells: Cells, finished: Sequence[tuple[int, Array]]) -> CurveLaw:
    """The law, from finished curves: (cell, ln lowest error at SHARES)."""
    mean, covariance = guess()
    z, precision = _regressors(cells)
    rows = np.array([cell for cell, _ in finished], dtype=np.intp)
    if not len(rows):
        unknown = z @ (z / precision).T
        return CurveLaw(np.broadcast_to(mean, (len(cells), len(mean))), covariance, unknown)
    above = np.stack([curve - curve[-1] for _, curve in finished]) - mean
    design = z[rows]
    inverse = np.linalg.inv(design.T @ design + np.diag(precision))
    effects = inverse @ (design.T @ above)
    left = above - design @ effects
    # the penalty on effects counts, too: what they took from the residuals
    scatter = left.T @ left + effects.T @ (precision[:, None] * effects)
    covariance = (WORTH * covariance + scatter) / (WORTH + len(rows))
    return CurveLaw(mean + z @ effects, covariance, z @ inverse @ z.T)


def _regressors(cells: Cells) -> tuple[Array, Array]:
    """(C, k) and the precisions (k,) of what cells' means depend on."""
    arch = np.eye(int(cells.arch.max()) + 1)[cells.arch]
    arm = np.eye(int(cells.arm.max()) + 1)[cells.arm]
    taught = (cells.teacher >= 0).astype(float)[:, None]
    z = np.concatenate([arch, taught, arch * cells.u[:, None], arm], axis=1)
    k = arch.shape[1]
    return z, np.concatenate([np.full(k, ARCH), [1.0], np.full(k, SIZE), np.full(arm.shape[1], ARM)])


def predict_ends(law: CurveLaw, cell: Index, curves: Sequence[tuple[Array, int]]) -> Ends:
    """The ends of curves (ln lowest at SHARES, how many of them are reached) of these cells."""
    weights = {reached: law.weights(reached)[0] for _, reached in curves}
    w = np.stack([weights[reached] for _, reached in curves]) if curves else np.zeros((0, len(SHARES)))
    seen = np.stack([curve for curve, _ in curves]) if curves else w
    value = (w * (seen - law.mean[cell])).sum(1)
    inside = law.covariance + FLOOR**2 * np.eye(len(SHARES))
    shared = law.leverage[np.ix_(cell, cell)] + np.eye(len(cell))
    return Ends(value, (w @ inside @ w.T) * shared)
