"""From runs to laws: `fit_law` takes one curve, `fit_laws` several that share configurations. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.laws.bootstrap import Stream, bootstrap, default_clusters
from orchestrator.laws.fitting import PLACES, Fit, eligible, fit_place, rival
from orchestrator.laws.forms import Array, Form
from orchestrator.laws.holdout import Holdout, conformal_factor, leave_largest_out
from orchestrator.laws.law import Law, Member
from orchestrator.laws.refuse import bad_curve, rising_exponent
from orchestrator.laws.solve import huber_cost

DRAWS = 400
AGREE = 0.3  # of the starts; with fewer, the best fit may not have been found


@dataclass(frozen=True)
class Curve:
    """Runs of one law: sizes (n,), errors (n,), labels of their configurations (n,).

    What no form predicts is half shared by the curves of a family, half each curve's own.
    """

    sizes: Array
    errors: Array
    clusters: tuple[str, ...]
    name: str = ""
    family: str = ""


def fit_law(
    sizes: npt.ArrayLike, errors: npt.ArrayLike, *, clusters: npt.ArrayLike | None = None, rng: int = 0
) -> Law:
    """Fit the law of one curve.

    sizes (n,) > 0; errors (n,) > 0 in any one unit; clusters (n,): which runs belong to one configuration
    (its seeds), by default those of equal size; rng: seed of the bootstrap. Bad values give a law that
    refuses; arrays that do not fit together raise ValueError.
    """
    x = np.asarray(sizes, dtype=float)
    y = np.asarray(errors, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"sizes and errors must be two arrays of one length, not {x.shape} and {y.shape}")
    if clusters is None:
        labels = default_clusters(x)
    else:
        labels = tuple(str(c) for c in np.asarray(clusters).tolist())
        if len(labels) != len(x):
            raise ValueError(f"{len(labels)} cluster labels for {len(x)} runs")
    return fit_laws([Curve(x, y, labels)], rng=rng)[0][0]


def fit_laws(
    curves: Sequence[Curve], *, rng: int = 0, draws: int = DRAWS
) -> tuple[list[Law], list[list[Holdout]]]:
    """Fit several laws with paired draws: a shared configuration moves in all of them together.

    Also returns each curve's leave-largest-out records; together they set the one conformal factor of all.
    """
    laws, records = [], []
    for curve in curves:
        law, record = _fit(curve, rng, draws)
        laws.append(law)
        records.append(record)
    factor = conformal_factor(records)
    return [replace(law, factor=factor) for law in laws], records


def _fit(curve: Curve, rng: int, draws: int) -> tuple[Law, list[Holdout]]:
    if why := bad_curve(curve.sizes, curve.errors):
        return Law("refuse", why), []
    order = np.lexsort((curve.errors, curve.sizes))
    x, y = curve.sizes[order], curve.errors[order]
    labels = [curve.clusters[i] for i in order]
    origin = float(np.log(x).mean()), float(np.log(y).mean())
    u, z = np.log(x) - origin[0], np.log(y) - origin[1]
    forms = eligible(len(np.unique(x)))
    stream = Stream(rng, labels, curve.name)
    fits = {place: fit_place(place, u, z, forms) for place in PLACES}
    noise = {p: min(f.noise for f in fits[p] if f.form.in_ensemble) for p in PLACES}
    holdouts = leave_largest_out(u, z, stream)
    members = _members(fits, noise, u, z, stream, draws)
    why = rising_exponent(u, z, noise["large"], float(x[-1]))
    described = tuple(_describe(fit, origin, noise["whole"], holdouts) for fit in fits["whole"])
    law = Law(
        verdict="refuse" if why else "ok",
        why=why,
        forms=described,
        smallest=float(x[0]),
        largest=float(x[-1]),
        _origin=origin,
        _ends=(float(u[0]), float(u[-1])),
        _members=members,
        _rival=rival(fits["large"]),
        _noise=noise,
        _normals=(_discrepancy(stream, curve, draws), stream.normal("run", draws)),
    )
    return law, holdouts


def _discrepancy(stream: Stream, curve: Curve, draws: int) -> Array:
    shared = stream.normal(f"family {curve.family}", draws)
    return np.asarray(np.sqrt(0.5) * (shared + stream.normal(f"curve {curve.name}", draws)))


def _members(
    fits: dict[str, list[Fit]],
    noise: dict[str, float],
    u: Array,
    z: Array,
    stream: Stream,
    draws: int,
) -> tuple[dict[str, Member], ...]:
    """The ensemble's forms; draw b belongs to form b modulo the number of forms, at every place alike."""
    forms: list[Form] = [f.form for f in fits["whole"] if f.form.in_ensemble]
    multipliers, jitter = stream.multipliers(draws), stream.jitter(draws)
    members = []
    for j, form in enumerate(forms):
        rows = slice(j, None, len(forms))
        places = {}
        for place in PLACES:
            fit = next(f for f in fits[place] if f.form is form)
            thetas = bootstrap(fit, place, u, z, noise[place], multipliers[rows], jitter[rows])
            places[place] = Member(fit, thetas)
        members.append(places)
    return tuple(members)


def _describe(fit: Fit, origin: tuple[float, float], noise: float, holdouts: list[Holdout]) -> dict[str, Any]:
    held = [h.form_errors[fit.form.name] for h in holdouts if fit.form.name in h.form_errors]
    n, k = len(fit.residuals), fit.form.n_params
    return {
        "name": fit.form.name,
        "title": fit.form.title,
        "formula": fit.form.formula,
        "params": fit.form.natural(fit.theta, *origin),
        "fit_error": float(np.sqrt(np.mean(fit.residuals**2))),
        "holdout_error": float(np.sqrt(np.mean(np.concatenate(held) ** 2))) if held else None,
        "aicc": 2 * float(huber_cost(fit.residuals / noise).sum()) + 2 * k * n / max(n - k - 1, 0.5),
        "starts_agree": fit.starts_agree,
        "note": "" if fit.starts_agree >= AGREE else f"only {fit.starts_agree:.0%} of its starts agree",
        "in_ensemble": fit.form.in_ensemble,
    }
