"""Robust least squares for a stack of small problems: Levenberg-Marquardt, Huber loss. numpy only."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from orchestrator.laws.forms import Array

HUBER = 1.345  # in noise units: 95 % efficient for normal noise (Huber 1981)


def huber_cost(r: Array) -> Array:
    """Huber's rho of residuals in noise units, same shape."""
    size = np.abs(r)
    return np.where(size <= HUBER, 0.5 * r**2, HUBER * (size - 0.5 * HUBER))


def solve(
    curve: Callable[[Array, Array], tuple[Array, Array]],
    theta: Array,
    u: Array,
    z: Array,
    noise: float,
    box: tuple[Array, Array],
    *,
    weights: Array | None = None,
    prior: tuple[Array, Array] | None = None,
    iterations: int = 100,
    tolerance: float = 1e-10,
) -> tuple[Array, Array]:
    """Minimise mean Huber((z - f) / noise) for S starts or S data sets at once.

    theta (S, P) starts; u (n,); z (n,) or (S, n); weights (n,) or (S, n); prior = (centre (P,), spread (P,)),
    a normal one that enters with the weight of one point in noise units. Returns (theta (S, P), cost (S,));
    the cost is a sum in noise units, so it is O(1) per point whatever the unit of the data.
    """
    lower, upper = box
    w0 = np.ones_like(u) if weights is None else weights
    precision = np.zeros(theta.shape[1]) if prior is None else prior[1] ** -2
    centre = np.zeros(theta.shape[1]) if prior is None else prior[0]

    def evaluate(t: Array, rows: npt.NDArray[np.int_] | slice) -> tuple[Array, Array, Array]:
        f, jac = curve(t, u)
        r = ((z if z.ndim == 1 else z[rows]) - f) / noise
        w = w0 if w0.ndim == 1 else w0[rows]
        cost = (w * huber_cost(r)).sum(1) + 0.5 * ((t - centre) ** 2 * precision).sum(1)
        return r, jac / noise, cost

    theta = np.clip(theta, lower, upper)
    active = np.arange(len(theta))
    r, jac, cost = evaluate(theta, slice(None))
    final = cost.copy()
    damping = np.full(len(theta), 1e-3)
    current = theta
    diagonal = np.arange(theta.shape[1])
    for _ in range(iterations):
        w = w0 if w0.ndim == 1 else w0[active]
        w = w * np.minimum(1.0, HUBER / np.maximum(np.abs(r), 1e-300))
        scaled = jac * w[..., None]
        hessian = np.einsum("snp,snq->spq", scaled, jac)
        gradient = np.einsum("snp,sn->sp", scaled, r) - (current - centre) * precision
        hessian[:, diagonal, diagonal] += precision
        # a parameter held by its bound takes no part in the step
        held = ((current <= lower) & (gradient < 0)) | ((current >= upper) & (gradient > 0))
        gradient = np.where(held, 0.0, gradient)
        scale = hessian[:, diagonal, diagonal]
        free = ~held
        hessian = hessian * (free[:, :, None] & free[:, None, :])
        hessian[:, diagonal, diagonal] += np.where(held, 1.0, damping[:, None] * scale + 1e-12)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        step = np.clip(step, -2.0, 2.0)  # logs: never more than a factor e^2 a step
        candidate = np.clip(current + step, lower, upper)
        r_new, jac_new, cost_new = evaluate(candidate, active)
        better = cost_new <= cost
        gain = cost - cost_new
        done = (better & (gain <= tolerance * (1e-3 + cost))) | (damping > 1e8)
        damping = np.where(better, np.maximum(damping * 0.2, 1e-12), damping * 5)
        take = better[:, None]
        current = np.where(take, candidate, current)
        r = np.where(take, r_new, r)
        jac = np.where(take[..., None], jac_new, jac)
        cost = np.where(better, cost_new, cost)
        theta[active] = current
        final[active] = cost
        if done.any():
            keep = ~done
            active, current, r, jac = active[keep], current[keep], r[keep], jac[keep]
            cost, damping = cost[keep], damping[keep]
            if not len(active):
                break
    return theta, final
