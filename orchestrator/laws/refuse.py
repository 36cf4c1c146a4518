"""When a law must not predict, and what to train so that it may. numpy only."""

import warnings

import numpy as np

from orchestrator.laws.forms import Array

MIN_SIZES = 3
WARN_FACTOR = 4.0
REFUSE_FACTOR = 8.0


class ExtrapolationWarning(UserWarning):
    """A prediction far outside the measured sizes."""


def bad_curve(sizes: Array, errors: Array) -> str:
    """Why no law can be fitted to this curve, with the remedy; "" if one can."""
    if len(sizes) == 0:
        return "there are no runs: train at least 3 distinct sizes"
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        return "a size is not a positive number: sizes are parameter counts"
    for bad, what in (
        (~np.isfinite(errors), "not a number"),
        (errors < 0, "negative"),
        (errors == 0, "zero"),
    ):
        if bad.any():
            return (
                f"{int(bad.sum())} of {len(errors)} errors are {what} (first at size {sizes[bad][0]:g}): "
                f"drop or retrain those runs; a law of error needs positive errors"
            )
    distinct = np.unique(sizes)
    if len(distinct) == 1:
        return (
            f"all {len(sizes)} runs have one size, {distinct[0]:g}: train at least 2 more sizes, "
            f"spread over a factor of 10 or more"
        )
    if len(distinct) < MIN_SIZES:
        return f"only {len(distinct)} distinct sizes: train at least {MIN_SIZES - len(distinct)} more"
    return ""


def far_away(distance: Array, smallest: float, largest: float) -> np.ndarray:
    """Which sizes are refused, (m,) bool; warns loudly about those between 4 and 8 times outside the data."""
    refused = distance > REFUSE_FACTOR * (1 + 1e-9)
    loud = (distance > WARN_FACTOR * (1 + 1e-9)) & ~refused
    if refused.any():
        warnings.warn(
            f"refused: extrapolation factor {distance.max():.3g} from the measured sizes "
            f"{smallest:g} to {largest:g}; train a size within a factor of {REFUSE_FACTOR:g} of it",
            ExtrapolationWarning,
            stacklevel=3,
        )
    if loud.any():
        warnings.warn(
            f"extrapolation factor {distance[loud].max():.3g} from the measured sizes {smallest:g} to "
            f"{largest:g}: expect errors of 25 % and more; train a size nearer to it",
            ExtrapolationWarning,
            stacklevel=3,
        )
    return refused


def rising_exponent(u: Array, z: Array, noise: float, largest: float) -> str:
    """Why a law whose error falls ever faster with size is refused, with the remedy; "" if it does not.

    Looks at the upper half of the range, at least 4 sizes: a robust parabola in ln error against ln size.
    u, z (n,) sorted by u; noise: of ln error.
    """
    sizes = np.unique(u)
    if len(sizes) < 4:
        return ""
    start = min((sizes[0] + sizes[-1]) / 2, sizes[-4])
    a, b = u[u >= start], z[u >= start]
    a = a - a.mean()
    basis = np.stack([np.ones_like(a), a, a**2], axis=1)
    w = np.ones_like(a)
    for _ in range(10):
        root = np.sqrt(w)
        slope = np.linalg.lstsq(basis * root[:, None], b * root, rcond=None)[0]
        r = b - basis @ slope
        w = np.minimum(1.0, 1.345 * noise / np.maximum(np.abs(r), 1e-300))
    scale = max(noise, float(np.sqrt((w * r**2).sum() / max(len(a) - 3, 1))))
    error = scale * float(np.sqrt(np.linalg.pinv(basis.T @ (basis * w[:, None]))[2, 2]))
    middle, top = -slope[1], -slope[1] - 2 * slope[2] * a.max()
    if -slope[2] < 2.5 * error or top < 1.25 * max(middle, 0.0) or top < 0.02:
        return ""
    return (
        f"the local exponent still rises with size (from {middle:.2f} to {top:.2f} at the largest size) and "
        f"no form predicts where that ends; train sizes beyond {largest:g}, up to {4 * largest:.3g} or "
        f"more, and fit again"
    )
