"""From runs to laws: `fit_law` takes one curve, `fit_laws` several that share configurations. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.laws.bootstrap import Stream, bootstrap, default_clusters
from orchestrator.laws.fitting import NOISE_GUESS, PLACES, Fit, eligible, fit_place, rival
from orchestrator.laws.forms import Array, Form
from orchestrator.laws.holdout import Holdout, conformal_factor, leave_largest_out
from orchestrator.laws.law import Law, Member
from orchestrator.laws.pooled import Cells, Pool, make_cells, pool
from orchestrator.laws.refuse import MIN_SIZES, bad_curve, rising_exponent
from orchestrator.laws.solve import huber_cost

DRAWS = 400
HELD_DRAWS = 80  # of a pool whose largest sizes are held out
COMMON = 0.015  # noise that all arms of a configuration share, as long as few sizes tell
BOUND = 0.05  # an exponent within 5 % of the bound of its box is the bound's
HUGE = 1e9  # no number of a law is as large; one that is shows that nothing determines it
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
    pool: str = ""  # curves of one pool share their shape; alone if empty
    folds: tuple[str, ...] = ()  # (n,), whose people tested each run; () = the same


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
    fitted: dict[int, tuple[Law, list[Holdout]]] = {}
    pools: dict[str, list[int]] = {}
    for i, curve in enumerate(curves):
        if curve.pool and not bad_curve(curve.sizes, curve.errors):
            pools.setdefault(curve.pool, []).append(i)
    for members in pools.values():
        if len(members) > 1:
            together = fit_pool([curves[i] for i in members], rng, draws)
            fitted |= dict(zip(members, together, strict=True))
    for i, curve in enumerate(curves):
        if i not in fitted:
            fitted[i] = fit_alone(curve, rng, draws)
    groups = [curve.pool or curve.family or str(i) for i, curve in enumerate(curves)]
    factor = conformal_factor([fitted[i][1] for i in range(len(curves))], groups)
    return [replace(fitted[i][0], factor=factor) for i in range(len(curves))], [
        fitted[i][1] for i in range(len(curves))
    ]


def fit_pool(curves: Sequence[Curve], rng: int, draws: int) -> list[tuple[Law, list[Holdout]]]:
    """Laws of arms that share a shape (`pooled`): the ensemble of forms is fitted to their common curve."""
    names = [curve.name for curve in curves]
    cells = _cells(curves)
    pooled, shape, held = _pool(cells, curves[0], rng, draws)
    records: list[list[Holdout]] = [[] for _ in curves]
    for left_out in (1, 2):
        sizes = np.unique(cells.u)
        if len(sizes) - left_out < MIN_SIZES:
            continue
        for a, trial in _pool_trial(cells, sizes, left_out, curves[0], rng).items():
            records[a].append(replace(trial, form_errors=held.get(left_out, {})))
    out = []
    for a, curve in enumerate(curves):
        own = np.flatnonzero(cells.arm == a)  # its forms are shown, not used
        u, z = cells.u[cells.configuration[own]], cells.y[own]
        order = np.argsort(u, kind="stable")
        origin = float(u.mean()), float(z.mean())
        u, z = u[order] - origin[0], z[order] - origin[1]
        fits = fit_place("whole", u, z, eligible(len(np.unique(u))))
        noise = min(f.noise for f in fits if f.form.in_ensemble)
        law = replace(
            shape,
            forms=tuple(_describe(fit, origin, noise, records[a]) for fit in fits),
            smallest=float(curve.sizes.min()),
            largest=float(curve.sizes.max()),
            _members=(),
            _rival=None,
            _noise={p: float(np.hypot(pooled.run_noise, n)) for p, n in shape._noise.items()},
            _normals=(shape._normals[0], Stream(rng, [], names[a]).normal("run", draws)),
            _shape=shape,
            _delta=pooled.deltas[a],
        )
        out.append((law, records[a]))
    return out


def _cells(curves: Sequence[Curve]) -> Cells:
    return make_cells(
        [c.sizes for c in curves],
        [c.errors for c in curves],
        [c.clusters for c in curves],
        [c.folds or ("",) * len(c.sizes) for c in curves],
    )


def _pool(cells: Cells, first: Curve, rng: int, draws: int) -> tuple[Pool, Law, dict[int, dict[str, Array]]]:
    """The pooled model, the law of its shape, and the forms' errors on its largest sizes when left out."""
    pooled = pool(cells, np.random.default_rng([rng, 15]), draws)
    per_shape = np.bincount(cells.configuration).clip(1)
    guess = max(COMMON, pooled.noise / float(np.sqrt(np.median(per_shape))))
    curve = Curve(np.exp(cells.u), np.exp(pooled.shape), cells.labels, f"{first.pool} shape", first.family)
    law, record = fit_alone(curve, rng, draws, guess)
    return pooled, law, {h.left_out: h.form_errors for h in record}


def _pool_trial(cells: Cells, sizes: Array, left_out: int, first: Curve, rng: int) -> dict[int, Holdout]:
    """The largest sizes of all arms left out: for each arm that has the very largest, a trial."""
    seen = sizes[-1 - left_out]
    rows = cells.u[cells.configuration] <= seen
    arms = [a for a in np.unique(cells.arm) if (rows & (cells.arm == a)).sum() >= 2]
    if len(arms) < 2:
        return {}
    keep = rows & np.isin(cells.arm, arms)
    names, configuration = np.unique(cells.configuration[keep], return_inverse=True)
    rest = replace(
        cells,
        arm=np.searchsorted(arms, cells.arm[keep]),
        configuration=configuration,
        y=cells.y[keep],
        runs=cells.runs[keep],
        u=cells.u[names],
        labels=tuple(cells.labels[i] for i in names),
    )
    pooled, shape, _ = _pool(rest, first, rng, HELD_DRAWS)
    target = np.exp(sizes[-1:])
    common, draws = float(shape.centre(target)[0]), shape._free_draws(target)[:, 0]
    out = {}
    for j, a in enumerate(arms):
        here = np.flatnonzero((cells.arm == a) & (cells.u[cells.configuration] == sizes[-1]))
        if len(here):
            delta = pooled.deltas[j]
            said = common + float(delta.at(np.log(target))[0])
            spread = (draws + delta.draws_at(np.log(target))[:, 0]).var() + pooled.noise**2
            spread += float(shape.noise(target)[0]) ** 2
            error = float(cells.y[here].mean()) - said
            out[int(a)] = Holdout(left_out, float(sizes[-1] - seen), error, float(np.sqrt(spread)), {})
    return out


def fit_alone(curve: Curve, rng: int, draws: int, guess: float = NOISE_GUESS) -> tuple[Law, list[Holdout]]:
    """The law of one curve from its own runs, and its holdouts. guess: of its noise, while few runs tell."""
    if why := bad_curve(curve.sizes, curve.errors):
        return Law("refuse", why), []
    order = np.lexsort((curve.errors, curve.sizes))
    x, y = curve.sizes[order], curve.errors[order]
    labels = [curve.clusters[i] for i in order]
    origin = float(np.log(x).mean()), float(np.log(y).mean())
    u, z = np.log(x) - origin[0], np.log(y) - origin[1]
    forms = eligible(len(np.unique(x)))
    stream = Stream(rng, labels, curve.name)
    fits = {place: fit_place(place, u, z, forms, guess=guess) for place in PLACES}
    noise = {p: min(f.noise for f in fits[p] if f.form.in_ensemble) for p in PLACES}
    holdouts = leave_largest_out(u, z, stream, guess)
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


def _params(fit: Fit, origin: tuple[float, float]) -> dict[str, float | None]:
    """A form's parameters in the caller's units; None for all of them where one lies at a bound of its box.

    An exponent at its bound is the box's number and not the data's. The floor is free to vanish.
    """
    named: dict[str, float | None] = dict(fit.form.natural(fit.theta, *origin))
    lower, upper = fit.form.box(np.array([-1.0, 0.0, 1.0]), np.array([1.0, 0.0, -1.0]))
    at_bound = fit.theta[-1] <= lower[-1] + BOUND or fit.theta[-1] >= upper[-1] - BOUND
    huge = any(v is not None and (not np.isfinite(v) or abs(v) > HUGE) for v in named.values())
    return dict.fromkeys(named) if huge or (at_bound and fit.form.in_ensemble) else named


def _describe(fit: Fit, origin: tuple[float, float], noise: float, holdouts: list[Holdout]) -> dict[str, Any]:
    held = [h.form_errors[fit.form.name] for h in holdouts if fit.form.name in h.form_errors]
    n, k = len(fit.residuals), fit.form.n_params
    return {
        "name": fit.form.name,
        "title": fit.form.title,
        "formula": fit.form.formula,
        "params": _params(fit, origin),
        "fit_error": float(np.sqrt(np.mean(fit.residuals**2))),
        "holdout_error": float(np.sqrt(np.mean(np.concatenate(held) ** 2))) if held else None,
        "aicc": 2 * float(huber_cost(fit.residuals / noise).sum()) + 2 * k * n / max(n - k - 1, 0.5),
        "starts_agree": fit.starts_agree,
        "note": "" if fit.starts_agree >= AGREE else f"only {fit.starts_agree:.0%} of its starts agree",
        "in_ensemble": fit.form.in_ensemble,
    }
