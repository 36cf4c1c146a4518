"""The wild cluster bootstrap of a fit, and the random numbers that curves share. numpy only."""

import hashlib
from collections.abc import Sequence

import numpy as np

from orchestrator.laws.fitting import Fit, weights_for
from orchestrator.laws.forms import Array
from orchestrator.laws.solve import solve

SHARED = (
    0.25  # correlation of the noise of two arms' runs of one configuration, where the data don't determine it
)
BLOCKS = 16  # a long curve is resampled in runs of neighbours: its residuals are not independent
WEBB = np.sqrt([1.5, 1.0, 0.5])


def default_clusters(sizes: Array) -> tuple[str, ...]:
    """Runs of one size belong together; on long curves, neighbours too."""
    distinct, place = np.unique(sizes, return_inverse=True)
    if len(distinct) > BLOCKS:
        place = place * BLOCKS // len(distinct)
    return tuple(str(p) for p in place)


def webb(rng: np.random.Generator, n: int) -> Array:
    """Webb's six-point multipliers, (n,): mean 0, variance 1."""
    return rng.choice(np.concatenate([WEBB, -WEBB]), size=n)


def bootstrap(
    fit: Fit, place: str, u: Array, z: Array, noise: float, multipliers: Array, jitter: Array
) -> Array:
    """Refit `fit` to wild-cluster copies of the data: theta (B, P).

    multipliers (B, n): one draw per cluster, already spread over its points. jitter (B, n): standard normal.
    A fit pulls its curve to the data and shrinks the variance of residuals to the share 1 - leverage; the
    rest, which the multipliers can't give back where a curve passes through its points, comes from jitter.
    """
    w = weights_for(place, fit.form, u)
    pull = np.array([fit.leverage[u == size].sum() for size in u])  # of all runs of one size together
    copies = (z - fit.residuals) + multipliers * fit.residuals + np.sqrt(np.minimum(pull, 1)) * noise * jitter
    start = np.repeat(fit.theta[None], len(multipliers), 0)
    theta, _ = solve(
        fit.form.curve,
        start,
        u,
        copies,
        noise,
        fit.form.box(u, z),
        weights=w,
        prior=fit.form.prior(u, z),
        iterations=40,
        tolerance=1e-6,
    )
    return theta


class Stream:
    """The random numbers of one curve. They depend on the seed and on labels only, so curves share them."""

    def __init__(self, rng: int, labels: Sequence[str], name: str = "") -> None:
        self.rng, self.labels, self.name = rng, list(labels), name

    def generator(self, label: str) -> np.random.Generator:
        """A generator of its own for every label."""
        digest = hashlib.blake2b(f"{self.rng}/{label}".encode(), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(digest, "big"))

    def head(self, n: int) -> "Stream":
        """The stream of the first n runs alone."""
        return Stream(self.rng, self.labels[:n], self.name)

    def multipliers(self, draws: int) -> Array:
        """Webb's multipliers (draws, n), the same for all runs of a configuration, in every curve."""
        of = {label: webb(self.generator(f"cluster {label}"), draws) for label in set(self.labels)}
        return np.stack([of[label] for label in self.labels], axis=1)

    def jitter(self, draws: int) -> Array:
        """Standard normal numbers (draws, n), one a run: in part the same for a configuration's n-th run in
        every curve, in part this curve's own.
        """
        own = self.generator(f"jitter {self.name}").standard_normal((draws, len(self.labels)))
        seen: dict[str, int] = {}
        for i, label in enumerate(self.labels):
            seen[label] = seen.get(label, -1) + 1
            same = self.generator(f"jitter {label} {seen[label]}").standard_normal(draws)
            own[:, i] = np.sqrt(SHARED) * same + np.sqrt(1 - SHARED) * own[:, i]
        return own

    def normal(self, name: str, draws: int) -> Array:
        """Standard normal numbers (draws,), with mean 0 and variance 1 exactly."""
        values = self.generator(name).standard_normal(draws)
        return np.asarray((values - values.mean()) / values.std())
