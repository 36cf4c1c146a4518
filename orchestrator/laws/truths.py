"""Laws of nature for simulations: random members of families inside and outside the fitted one. numpy only.

Each family draws a truth: sizes (n,) -> mean error (n,), for sizes of about 1e3 to 1e7. All of
FAMILIES fall; those of RISING turn inside a sweep of small students.
"""

from collections.abc import Callable

import numpy as np

from orchestrator.laws.forms import Array

Truth = Callable[[Array], Array]
Family = Callable[[np.random.Generator], Truth]


def saturating_power(rng: np.random.Generator) -> Truth:
    """E + A n^-a: in the family."""
    exponent, floor = rng.uniform(0.2, 0.6), rng.uniform(2, 5)
    return lambda n: floor + 8 * (n / 3e3) ** -exponent


def exponential(rng: np.random.Generator) -> Truth:
    """E + A exp(-n / n0): fitted and shown, but in no ensemble."""
    floor, scale = rng.uniform(4, 7), np.exp(rng.uniform(np.log(5e4), np.log(5e5)))
    return lambda n: floor + 6 * np.exp(-n / scale)


def broken_power(rng: np.random.Generator) -> Truth:
    """One smooth break to another exponent (BNSL, arXiv 2210.14891): outside."""
    place = np.exp(rng.uniform(np.log(1e4), np.log(5e5)))
    first, second, width = rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.5), rng.uniform(0.2, 1.0)
    return lambda n: (
        1.0 + 10 * (n / 3e3) ** -first * (1 + (n / place) ** (1 / width)) ** (-(second - first) * width)
    )


def slow_sigmoid(rng: np.random.Generator) -> Truth:
    """M4 of arXiv 2209.06640, (y - E) / (I - y)^k = b n^-c with k other than 1: outside."""
    k, c, floor, top = rng.choice([0.5, 2.0]), rng.uniform(0.25, 0.7), rng.uniform(2, 4), rng.uniform(12, 16)
    b = rng.uniform(0.5, 3) * (top - floor) ** (1 - k) * 2e4**c

    def truth(n: Array) -> Array:
        low, high = np.full(n.shape, floor), np.full(n.shape, top)
        for _ in range(60):
            middle = (low + high) / 2
            too_high = (middle - floor) > b * n**-c * (top - middle) ** k
            low, high = np.where(too_high, low, middle), np.where(too_high, middle, high)
        return (low + high) / 2

    return truth


FAMILIES: dict[str, Family] = {
    "power": saturating_power,
    "exp(N)": exponential,
    "broken": broken_power,
    "M4": slow_sigmoid,
}


def overfitting(rng: np.random.Generator) -> Truth:
    """A saturating power until students become too large for their data, and then up: outside."""
    falling, place = saturating_power(rng), np.exp(rng.uniform(np.log(8e3), np.log(3e4)))
    rate = rng.uniform(0.3, 0.7)
    return lambda n: falling(n) * (1 + (n / place) ** 2) ** (rate / 2)


RISING: dict[str, Family] = {"overfit": overfitting}
