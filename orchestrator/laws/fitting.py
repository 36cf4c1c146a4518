"""Fitting the forms to one curve: noise, starts that must agree. numpy only.

Works in centred logs (see `forms`): u = ln size, z = ln error, both (n,), sorted by size.
"""

from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np

from orchestrator.laws.forms import FORMS, Array, Form
from orchestrator.laws.solve import solve

NOISE_GUESS = 0.02  # relative seed-to-seed noise assumed when a curve has no spare points to measure it
NOISE_FLOOR = 1e-7  # below it a fit is exact and the scale only keeps the arithmetic finite
WINSOR = 2.5  # residuals beyond this many noise units do not raise the noise scale: diverged runs
REACH = {3: 0.7, 4: 1.5}  # ln size over which a point loses 1/e of its weight, by parameters of the form
REACH_GAPS = 1.0  # ... but never less than the gap between neighbouring sizes
RIVAL = 0.1  # on public curves an exponential in size extrapolates worst of all forms
FEW = 4  # of the starts, those that go on when the noise is known better
PLACES = ("small", "whole", "large")


@dataclass(frozen=True)
class Fit:
    """One form fitted to one curve, with weights for one place of it.

    theta (P,); residuals (n,) = z - f; leverage (n,); noise: of ln error, as this fit sees it.
    """

    form: Form
    theta: Array
    cost: float
    residuals: Array
    leverage: Array
    noise: float
    starts_agree: float  # share of starts whose cost is the best one's within 1 %
    ends: Array  # where the best few starts ended, (few, P)


def weights_for(place: str, form: Form, u: Array) -> Array:
    """How much each point counts, (n,): all alike, or fading away from the small or the large end.

    No form is right over the whole range; near the end that is extrapolated from, each is nearly so.
    """
    if place == "whole":
        return np.ones_like(u)
    distance = u.max() - u if place == "large" else u - u.min()
    gap = float(np.median(np.diff(np.unique(u))))
    return np.exp(-distance / max(REACH[form.n_params], REACH_GAPS * gap))


def blend(u: Array, low: float, high: float) -> dict[str, Array]:
    """The weight of each place's fit at u, (m,) each: the ends count at their ends, `whole` midway."""
    t = np.clip((u - low) / (high - low), 0.0, 1.0)
    small, large = np.clip(1 - 2 * t, 0, 1), np.clip(2 * t - 1, 0, 1)
    return {"small": small, "whole": 1 - small - large, "large": large}


def fit_form(
    form: Form, u: Array, z: Array, noise: float, w: Array, first: Array, guess: float = NOISE_GUESS
) -> Fit:
    """Fit one form from the starts `first` (S, P), with weights w (n,)."""
    thetas, costs = solve(
        form.curve, first.copy(), u, z, noise, form.box(u, z), weights=w, prior=form.prior(u, z)
    )
    best = int(np.argmin(costs))
    f, jac = form.curve(thetas[best : best + 1], u)
    residuals = z - f[0]
    agree = float(np.mean(costs <= costs[best] * 1.01 + 1e-6))
    ends = thetas[np.argsort(costs)[:FEW]]
    seen = noise_scale(residuals, w, form.n_params, guess)
    leverage = _leverage(jac[0] * np.sqrt(w)[:, None])
    return Fit(form, thetas[best], float(costs[best]), residuals, leverage, seen, agree, ends)


def _leverage(jac: Array) -> Array:
    """Diagonal of the hat matrix, (n,), of a (n, P) Jacobian that may be short of rank."""
    left, singular, _ = np.linalg.svd(jac, full_matrices=False)
    kept = singular > 1e-8 * max(singular[0], 1e-300)
    return np.clip((left[:, kept] ** 2).sum(1), 0.0, 1.0)


def noise_scale(residuals: Array, w: Array, n_params: int, guess: float) -> float:
    """Noise of ln error: a weighted, winsorised standard deviation, near `guess` when few are spare."""
    share = w / w.sum()
    n = 1 / float((share**2).sum())  # effective number of points (Kish 1965)
    spare = max(n - n_params, 0.0)
    size = np.abs(residuals)
    scale = 1.4826 * _weighted_median(size, share) + 1e-12
    for _ in range(10):
        scale = float(np.sqrt((share * np.minimum(size, WINSOR * scale) ** 2).sum())) + 1e-12
    trust = 1 / (1 + spare)  # the guess fades as real evidence arrives
    return max(float(np.sqrt((scale**2 * n + trust * guess**2) / (spare + trust))), NOISE_FLOOR)


def _weighted_median(values: Array, share: Array) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(share[order]), 0.5)])


def fit_place(
    place: str, u: Array, z: Array, forms: list[Form], noise: float = 0.05, guess: float = NOISE_GUESS
) -> list[Fit]:
    """All forms at one place; noise and fits are found together, as the loss needs the noise."""
    fits: list[Fit] = []
    for _ in range(3):
        first = [f.ends for f in fits] or [form.starts(u, z) for form in forms]
        agree = [f.starts_agree for f in fits]
        weights = [weights_for(place, form, u) for form in forms]
        fits = [
            fit_form(*each)
            for each in zip(forms, repeat(u), repeat(z), repeat(noise), weights, first, repeat(guess))
        ]
        if agree:  # from the first round, which tried every start
            fits = [replace(f, starts_agree=a) for f, a in zip(fits, agree, strict=True)]
        seen = min(f.noise for f in fits if f.form.in_ensemble)
        if abs(np.log(seen / noise)) < 0.05:
            break
        noise = seen
    return fits


def rival(fits: list[Fit]) -> tuple[Fit, float]:
    """The exponential in size, which is in no ensemble, and the evidence for it at one place, 0 to 1.

    It flattens abruptly where the others keep falling, so where it fits best they are too sure. Weight of
    evidence: Akaike's, against the best form of the ensemble, from odds of RIVAL to 1.
    """
    aic = {f.form.name: f.cost + f.form.n_params for f in fits}
    outsider = next(f for f in fits if not f.form.in_ensemble)
    best = min(aic[f.form.name] for f in fits if f.form.in_ensemble)
    against = np.exp(np.clip(aic[outsider.form.name] - best, -50, 50)) / RIVAL
    return outsider, float(1 / (1 + against))


def eligible(n_sizes: int) -> list[Form]:
    """The forms that this many distinct sizes can carry."""
    return [form for form in FORMS.values() if n_sizes >= form.min_sizes]
