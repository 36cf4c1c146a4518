"""The forms a law can take: error against size, each a pure function with its derivatives. numpy only.

Everything is in logs, so that a fit minimises relative error: u = ln(size / reference), (n,), and
f = ln(error / reference), (S, n) for a stack of S parameter vectors theta (S, P). Positive quantities are
carried as their logs, so no constraint is ever needed beyond a box.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

EXPONENTS = (0.1, 0.3, 0.7, 1.5)  # starts for exponents: the range that published laws span
FLOORS = (0.02, 0.5, 0.9)  # starts for the floor E as a share of the smallest error


@dataclass(frozen=True)
class Form:
    """One form. `curve(theta (S, P), u (n,)) -> f (S, n), derivatives (S, n, P)`.

    starts(u, z) -> (S, P) first guesses for z = ln error; box(u, z) -> (lower (P,), upper (P,)).
    prior(u, z) -> (centre (P,), spread (P,)) of a normal one, or None.
    natural(theta (P,), u0, z0) -> the named parameters in the caller's units, where u0 = ln of the
    reference size and z0 = ln of the reference error.
    min_sizes: fewest distinct sizes that may carry it (notes: 3, and 4 for four parameters).
    """

    name: str
    title: str
    formula: str
    min_sizes: int
    in_ensemble: bool
    curve: Callable[[Array, Array], tuple[Array, Array]]
    starts: Callable[[Array, Array], Array]
    box: Callable[[Array, Array], tuple[Array, Array]]
    prior: Callable[[Array, Array], tuple[Array, Array] | None]
    natural: Callable[[Array, float, float], dict[str, float]]

    @property
    def n_params(self) -> int:
        return int(self.box(np.array([-1.0, 0.0, 1.0]), np.array([1.0, 0.0, -1.0]))[0].size)


def _stack(*columns: Array) -> Array:
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _columns(theta: Array) -> list[Array]:
    return [theta[:, j, None] for j in range(theta.shape[1])]


def _amplitude(z: Array, floor: float, slope_term: Array) -> float:
    """ln A such that E + A exp(slope_term) passes through the middle of the data."""
    excess = np.log(np.maximum(np.exp(z) - floor, 0.02 * np.exp(z)))
    return float(np.mean(excess - slope_term))


def _floor_box(z: Array) -> tuple[float, float]:
    return float(z.min() - 7), float(z.max() + 1)


def _no_prior(u: Array, z: Array) -> None:
    return None


# Four parameters are more than a few sizes can hold down. These priors do; chosen on simulated
# and real learning curves, see CALIBRATION.md.
FLOOR_PRIOR = (-0.7, 1.0)  # ln of the floor's share of the smallest error: half of it, within a factor 2.7
EXPONENT_PRIOR = (float(np.log(0.4)), 0.8)  # ln of the exponent
FREE = 1e3  # spread of a parameter without prior


KAPPA = (float(np.log(0.01)), float(np.log(6.0)))  # exponents between 0.01 and 6


# --- saturating power: the paper's exponential on a log-size axis, a exp(-b ln N) + c ---------------------


def _power_curve(theta: Array, u: Array) -> tuple[Array, Array]:
    e, a, kappa = _columns(theta)
    decay = np.exp(kappa) * u
    f = np.logaddexp(e, a - decay)
    share = np.exp(a - decay - f)
    return f, _stack(1 - share, share, -share * decay)


def _power_starts(u: Array, z: Array) -> Array:
    low = float(np.exp(z.min()))
    return np.array(
        [
            (np.log(floor * low), _amplitude(z, floor * low, -alpha * u), np.log(alpha))
            for alpha, floor in product(EXPONENTS, FLOORS)
        ]
    )


def _power_box(u: Array, z: Array) -> tuple[Array, Array]:
    bottom, top = _floor_box(z)
    return np.array([bottom, z.min() - 20, KAPPA[0]]), np.array([top, z.max() + 20, KAPPA[1]])


def _power_natural(theta: Array, u0: float, z0: float) -> dict[str, float]:
    alpha = float(np.exp(theta[2]))
    return {
        "c": float(np.exp(theta[0] + z0)),
        "A": float(np.exp(theta[1] + z0)),
        "N_mid": float(np.exp(u0)),
        "b": alpha,
    }


# --- bounded power (M3 of Alabdulmohsin et al. 2022; Bansal et al. 2022) ----------------------------------


def _bounded_curve(theta: Array, u: Array) -> tuple[Array, Array]:
    b, gamma, kappa = _columns(theta)
    c = np.exp(kappa)
    level = np.logaddexp(-u, gamma)
    return b + c * level, _stack(np.ones_like(level), c * np.exp(gamma - level), c * level)


def _bounded_starts(u: Array, z: Array) -> Array:
    rows = []
    for c, gamma in product(EXPONENTS, (-u.max() - 3, -u.max(), -float(np.median(u)))):
        rows.append((float(np.mean(z - c * np.logaddexp(-u, gamma))), gamma, np.log(c)))
    return np.array(rows)


def _bounded_box(u: Array, z: Array) -> tuple[Array, Array]:
    return (
        np.array([z.min() - 40, -u.max() - 7, KAPPA[0]]),
        np.array([z.max() + 40, -u.min() + 3, KAPPA[1]]),
    )


def _bounded_natural(theta: Array, u0: float, z0: float) -> dict[str, float]:
    c = float(np.exp(theta[2]))
    return {
        "b": float(np.exp(theta[0] + z0)),
        "N_mid": float(np.exp(u0)),
        "g": float(np.exp(theta[1])),
        "c": c,
    }


# --- shifted power (Zhai et al. 2022): bends the small end -------------------------------------------------


def _shifted_curve(theta: Array, u: Array) -> tuple[Array, Array]:
    e, a, sigma, kappa = _columns(theta)
    alpha = np.exp(kappa)
    level = np.logaddexp(u, sigma)
    f = np.logaddexp(e, a - alpha * level)
    share = np.exp(a - alpha * level - f)
    return f, _stack(1 - share, share, -share * alpha * np.exp(sigma - level), -share * alpha * level)


def _shifted_starts(u: Array, z: Array) -> Array:
    low = float(np.exp(z.min()))
    rows = []
    for alpha, floor, sigma in product(EXPONENTS, FLOORS, (u.min() - 2, float(np.median(u)))):
        slope_term = -alpha * np.logaddexp(u, sigma)
        rows.append((np.log(floor * low), _amplitude(z, floor * low, slope_term), sigma, np.log(alpha)))
    return np.array(rows)


def _shifted_box(u: Array, z: Array) -> tuple[Array, Array]:
    bottom, top = _floor_box(z)
    return (
        np.array([bottom, z.min() - 20, u.min() - 4, KAPPA[0]]),
        np.array([top, z.max() + 40, u.max() + 1, KAPPA[1]]),
    )


def _four_prior(u: Array, z: Array) -> tuple[Array, Array]:
    """For (floor, ., ., exponent)."""
    centre = np.array([z.min() + FLOOR_PRIOR[0], 0.0, 0.0, EXPONENT_PRIOR[0]])
    return centre, np.array([FLOOR_PRIOR[1], FREE, FREE, EXPONENT_PRIOR[1]])


def _shifted_natural(theta: Array, u0: float, z0: float) -> dict[str, float]:
    alpha = float(np.exp(theta[3]))
    return {
        "E": float(np.exp(theta[0] + z0)),
        "A": float(np.exp(theta[1] + z0)),
        "N_mid": float(np.exp(u0)),
        "s": float(np.exp(theta[2] + u0)),
        "a": alpha,
    }


# --- sigmoid in log size: from a plateau I down to a floor E ------------------------------------------------


def _sigmoid_curve(theta: Array, u: Array) -> tuple[Array, Array]:
    e, i, middle, kappa = _columns(theta)
    k = np.exp(kappa)
    q = k * (u - middle)
    top = np.logaddexp(e + q, i)
    share = np.exp(e + q - top)
    f = top - np.logaddexp(q, 0.0)
    slope = share - np.exp(q - np.logaddexp(q, 0.0))
    return f, _stack(share, 1 - share, -k * slope, q * slope)


def _sigmoid_starts(u: Array, z: Array) -> Array:
    low, high = float(np.exp(z.min())), float(np.exp(z.max()))
    rows = []
    for k, floor, place in product(EXPONENTS, FLOORS, (-0.5, 0.3, 0.8)):
        middle = u.min() + place * (u.max() - u.min())
        reach = 1 + np.exp(k * (u.min() - middle))
        top = floor * low + (high - floor * low) * reach
        rows.append((np.log(floor * low), np.log(top), middle, np.log(k)))
    return np.array(rows)


def _sigmoid_box(u: Array, z: Array) -> tuple[Array, Array]:
    bottom, top = _floor_box(z)
    return (
        np.array([bottom, z.min() - 1, u.min() - 6, KAPPA[0]]),
        np.array([top, z.max() + 6, u.max() + 6, KAPPA[1]]),
    )


def _sigmoid_natural(theta: Array, u0: float, z0: float) -> dict[str, float]:
    return {
        "E": float(np.exp(theta[0] + z0)),
        "I": float(np.exp(theta[1] + z0)),
        "N0": float(np.exp(theta[2] + u0)),
        "k": float(np.exp(theta[3])),
    }


# --- exponential in the size itself ---------------------------------------------------------------------


def _exponential_curve(theta: Array, u: Array) -> tuple[Array, Array]:
    e, a, kappa = _columns(theta)
    decay = np.exp(kappa + u)
    f = np.logaddexp(e, a - decay)
    share = np.exp(a - decay - f)
    return f, _stack(1 - share, share, -share * decay)


def _exponential_starts(u: Array, z: Array) -> Array:
    low = float(np.exp(z.min()))
    rows = []
    for floor, place in product(FLOORS, (0.2, 0.5, 0.8)):
        rate = 1 / float(np.exp(np.quantile(u, place)))
        slope_term = -rate * np.exp(u)
        rows.append((np.log(floor * low), _amplitude(z, floor * low, slope_term), np.log(rate)))
    return np.array(rows)


def _exponential_box(u: Array, z: Array) -> tuple[Array, Array]:
    bottom, top = _floor_box(z)
    return np.array([bottom, z.min() - 20, -u.max() - 5]), np.array([top, z.max() + 20, -u.min() + 3])


def _exponential_natural(theta: Array, u0: float, z0: float) -> dict[str, float]:
    return {
        "c": float(np.exp(theta[0] + z0)),
        "A": float(np.exp(theta[1] - np.exp(theta[2]) + z0)),
        "N_mid": float(np.exp(u0)),
        "b": float(np.exp(theta[2])),
    }


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form(
            "log_exponential",
            "exponential on a log-size axis (saturating power)",
            "c + A (N / N_mid)^-b",
            3,
            True,
            _power_curve,
            _power_starts,
            _power_box,
            _no_prior,
            _power_natural,
        ),
        Form(
            "bounded_power",
            "bounded power (M3)",
            "b (N_mid / N + g)^c",
            3,
            True,
            _bounded_curve,
            _bounded_starts,
            _bounded_box,
            _no_prior,
            _bounded_natural,
        ),
        Form(
            "shifted_power",
            "shifted power",
            "E + A ((N + s) / N_mid)^-a",
            4,
            True,
            _shifted_curve,
            _shifted_starts,
            _shifted_box,
            _four_prior,
            _shifted_natural,
        ),
        Form(
            "sigmoid",
            "sigmoid in log size",
            "E + (I - E) / (1 + (N / N0)^k)",
            4,
            True,
            _sigmoid_curve,
            _sigmoid_starts,
            _sigmoid_box,
            _four_prior,
            _sigmoid_natural,
        ),
        Form(
            "exponential",
            "exponential in size",
            "c + A exp(-b (N / N_mid - 1))",
            3,
            False,
            _exponential_curve,
            _exponential_starts,
            _exponential_box,
            _no_prior,
            _exponential_natural,
        ),
    )
}
