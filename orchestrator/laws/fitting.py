"""Fitting the forms to one curve: noise, multi-start fits that must agree, wild cluster bootstrap. numpy only.

Works in centred logs (see `forms`): u = ln size, z = ln error, both (n,), sorted by size.
"""

from dataclasses import dataclass

import numpy as np

from orchestrator.laws.forms import FORMS, Array, Form
from orchestrator.laws.solve import solve

NOISE_GUESS = 0.02  # relative seed-to-seed noise assumed when a curve has no spare points to measure it
NOISE_GUESS_WEIGHT = 1.0  # ... and how many residuals that guess counts for
NOISE_FLOOR = 1e-7  # below it a fit is exact and the scale only keeps the arithmetic finite
WINSOR = 2.5  # residuals beyond this many noise units do not raise the noise scale: diverged runs
AGREE = 1e-3  # starts agree when the runner-up's curve is within this of the best (ln error) at every size
WEBB = np.sqrt([1.5, 1.0, 0.5])


@dataclass(frozen=True)
class Fit:
    """One form fitted to one curve. theta (P,); residuals (n,) = z - f; leverage (n,)."""

    form: Form
    theta: Array
    cost: float
    residuals: Array
    leverage: Array
    starts: int
    starts_agree: float  # share of starts that reached the best cost within 1 %


def fit_form(form: Form, u: Array, z: Array, noise: float, theta: Array | None = None) -> Fit:
    """Fit one form from all its starts, or from `theta` (S, P) alone."""
    box = form.box(u, z)
    first = form.starts(u, z) if theta is None else theta
    thetas, costs = solve(form.curve, first.copy(), u, z, noise, box)
    best = int(np.argmin(costs))
    f, jac = form.curve(thetas[best : best + 1], u)
    residuals = z - f[0]
    agree = float(np.mean(costs <= costs[best] * 1.01 + 1e-6))
    return Fit(form, thetas[best], float(costs[best]), residuals, _leverage(jac[0]), len(first), agree)


def _leverage(jac: Array) -> Array:
    """Diagonal of the hat matrix, (n,), of a (n, P) Jacobian that may be short of rank."""
    left, singular, _ = np.linalg.svd(jac, full_matrices=False)
    kept = singular > 1e-8 * singular[0] if singular[0] > 0 else np.zeros(len(singular), bool)
    return np.clip((left[:, kept] ** 2).sum(1), 0.0, 1.0)


def noise_scale(residuals: Array, n_params: float) -> float:
    """Noise of ln error: a winsorised standard deviation, shrunk to `NOISE_GUESS` when few are spare."""
    n = len(residuals)
    spare = max(n - n_params, 0.0)
    size = np.abs(residuals)
    scale = 1.4826 * float(np.median(size)) + 1e-12
    for _ in range(10):
        winsorised = np.minimum(size, WINSOR * scale) ** 2
        scale = float(np.sqrt(winsorised.mean())) + 1e-12
    guess = NOISE_GUESS_WEIGHT / (1 + spare)  # fades as real evidence arrives
    total = scale**2 * n + guess * NOISE_GUESS**2
    return max(float(np.sqrt(total / (spare + guess))), NOISE_FLOOR)


def fit_forms(u: Array, z: Array, forms: list[Form]) -> tuple[list[Fit], float]:
    """All forms, and the noise of ln error, found together: the loss needs the noise, it the residuals."""
    noise = 0.05
    fits: list[Fit] = []
    for _ in range(3):
        fits = [
            fit_form(form, u, z, noise, None if not fits else _restart(form, fits, u, z)) for form in forms
        ]
        best = min((f for f in fits if f.form.in_ensemble), key=lambda f: f.cost)
        updated = noise_scale(best.residuals, best.form.n_params)
        if abs(np.log(updated / noise)) < 0.05:
            break
        noise = updated
    return fits, noise


def _restart(form: Form, fits: list[Fit], u: Array, z: Array) -> Array:
    previous = next(f.theta for f in fits if f.form is form)
    return np.vstack([previous, form.starts(u, z)])


def webb(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Webb's six-point multipliers: mean 0, variance 1."""
    return rng.choice(np.concatenate([WEBB, -WEBB]), size=shape)


def bootstrap(fit: Fit, u: Array, z: Array, noise: float, multipliers: Array, jitter: Array) -> Array:
    """Refit `fit` to wild-cluster copies of the data: theta (B, P).

    multipliers (B, n): one draw per cluster, already spread over its points. jitter (B, n): standard
    normal, used only where the residuals are too small to carry the noise (few spare points).
    """
    r = fit.residuals / np.sqrt(np.maximum(1 - fit.leverage, 0.1))  # HC2
    r = np.clip(r, -4 * noise, 4 * noise)
    missing = max(noise**2 - float(np.mean(r**2)), 0.0)
    copies = (z - fit.residuals) + multipliers * r + np.sqrt(missing) * jitter
    start = np.repeat(fit.theta[None], len(multipliers), 0)
    theta, _ = solve(
        fit.form.curve, start, u, copies, noise, fit.form.box(u, z), iterations=40, tolerance=1e-6
    )
    return theta


def eligible(n_sizes: int) -> list[Form]:
    """The forms that this many distinct sizes can carry."""
    return [form for form in FORMS.values() if n_sizes >= form.min_sizes]
