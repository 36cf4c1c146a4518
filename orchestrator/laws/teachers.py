"""Does the size of the teacher matter, and is there a best one? Kept only if two tests agree. numpy only."""

from typing import Any

import numpy as np

from orchestrator.laws.forms import Array

MIN_TEACHERS = 4  # leaving one out must leave three to hold a parabola
BOOTSTRAPS = 400
MODELS = ("none", "linear", "quadratic")


def teacher_effect(results: list[dict[str, Any]], rng: int = 0) -> list[dict[str, Any]]:
    """One entry an architecture: ln MAE against ln(teacher size / student size), with a mean for every cell.

    A cell is one student configuration under one strategy, so that only teachers are compared. `kept` names
    the model that both AICc and leave-one-teacher-out prefer, else "none". optimum: the ratio of sizes with
    the least error and its 90 % interval, when `quadratic` is kept and the optimum lies in the swept range.
    """
    params = {r["id"]: r["params"] for r in results if r["role"] == "teacher" and r["params"]}
    students = [r for r in results if r["role"] == "student" and r.get("teacher") in params]
    params |= {r["teacher_group"]: params[r["teacher"]] for r in students if r.get("teacher_group")}
    students = [{**r, "teacher": r.get("teacher_group") or r["teacher"]} for r in students]  # all folds' one
    return [
        _effect(arch, [r for r in students if r["arch"] == arch], params, rng)
        for arch in sorted({r["arch"] for r in students})
    ]


def _effect(arch: str, runs: list[dict[str, Any]], params: dict[str, float], rng: int) -> dict[str, Any]:
    cells: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for r in runs:
        key = (r["depth"], r["width"], r.get("init"), r["strategy"], str(r.get("strategy_args")))
        cells.setdefault(key, {}).setdefault(r["teacher"], []).append(float(np.log(r["mae_bpm"])))
    sizes = {(r["depth"], r["width"]): float(r["params"]) for r in runs}
    table = [
        (i, teacher, float(np.log(params[teacher] / sizes[key[:2]])), float(np.mean(values)))
        for i, (key, by) in enumerate(sorted(cells.items(), key=lambda item: str(item[0])))
        if len(by) > 1
        for teacher, values in sorted(by.items())
    ]
    distinct = {params[r["teacher"]] for r in runs}
    out: dict[str, Any] = {
        "arch": arch,
        "teachers": len(distinct),
        "kept": "none",
        "optimum": None,
    }
    if len(distinct) < MIN_TEACHERS:
        out["text"] = (
            f"{arch}: too few teacher sizes ({len(distinct)}) to find an optimum; "
            f"train {MIN_TEACHERS} or more"
        )
        return out
    cell = np.array([t[0] for t in table])
    teacher = np.array([t[1] for t in table])
    x, y = np.array([t[2] for t in table]), np.array([t[3] for t in table])
    x = x - (centre := float(x.mean()))
    aicc = {m: _aicc(m, cell, x, y) for m in MODELS}
    left_out = {m: _leave_teacher_out(m, cell, teacher, x, y) for m in MODELS}
    best = min(MODELS, key=lambda m: aicc[m])
    agreed = best == min(MODELS, key=lambda m: left_out[m])
    out |= {"aicc": aicc, "left_out_error": left_out, "kept": best if agreed else "none"}
    if out["kept"] == "none":
        out["text"] = f"{arch}: no effect of teacher size that both tests confirm"
        return out
    slope = _fit(best, cell, x, y)
    if best == "linear":
        word = "larger" if slope[0] < 0 else "smaller"
        out["text"] = f"{arch}: {word} teachers are better throughout; no optimum inside the swept range"
        return out
    optima = _optima(cell, x, y, rng)
    low, median, high = (float(np.exp(v + centre)) for v in np.quantile(optima, [0.05, 0.5, 0.95]))
    inside = x.min() < np.log(median) - centre < x.max() and slope[1] > 0
    if inside:
        out["optimum"] = {"ratio": median, "low": low, "high": high, "level": 0.9}
        out["text"] = (
            f"{arch}: the best teacher is {median:.3g} [{low:.3g}, {high:.3g}] times the student's size"
        )
    else:
        out["text"] = f"{arch}: no optimum inside the swept range"
    return out


def _basis(model: str, x: Array) -> Array:
    return np.stack([x, x**2], axis=1)[:, : MODELS.index(model)]


def _within(cell: Array, values: Array) -> Array:
    """Values minus their cell's mean."""
    n = np.bincount(cell)
    if values.ndim == 1:
        return values - (np.bincount(cell, values) / np.maximum(n, 1))[cell]
    return np.stack([_within(cell, v) for v in values.T], axis=1) if values.shape[1] else values


def _fit(model: str, cell: Array, x: Array, y: Array) -> Array:
    basis = _within(cell, _basis(model, x))
    if not basis.shape[1]:
        return np.empty(0)
    return np.asarray(np.linalg.lstsq(basis, _within(cell, y), rcond=None)[0])


def _aicc(model: str, cell: Array, x: Array, y: Array) -> float:
    slope = _fit(model, cell, x, y)
    r = _within(cell, y) - _within(cell, _basis(model, x)) @ slope
    n, k = len(y) - len(np.unique(cell)), len(slope) + 1  # cell means are differenced away
    if n - k - 1 <= 0:
        return float("inf")
    return float(n * np.log(max((r**2).sum() / n, 1e-12)) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _leave_teacher_out(model: str, cell: Array, teacher: Array, x: Array, y: Array) -> float:
    """Root mean square error of ln MAE of a teacher's students, its cells known from the other teachers."""
    errors = []
    for left in np.unique(teacher):
        seen = teacher != left
        slope = _fit(model, cell[seen], x[seen], y[seen])
        level = y - _basis(model, x) @ slope
        for i in np.flatnonzero(~seen):
            peers = seen & (cell == cell[i])
            if peers.any():
                errors.append(level[i] - level[peers].mean())
    return float(np.sqrt(np.mean(np.square(errors))))


def _optima(cell: Array, x: Array, y: Array, rng: int) -> Array:
    """Optimum of the parabola over bootstrap samples of cells; only those that open upwards."""
    generator = np.random.default_rng(rng)
    rows = [np.flatnonzero(cell == c) for c in np.unique(cell)]
    out = []
    for _ in range(BOOTSTRAPS):
        picked = generator.integers(0, len(rows), len(rows))
        again = np.concatenate([rows[i] for i in picked])
        label = np.concatenate([np.full(len(rows[i]), j) for j, i in enumerate(picked)])
        slope = _fit("quadratic", label, x[again], y[again])
        if slope[1] > 0:
            out.append(float(np.clip(-slope[0] / (2 * slope[1]), x.min() - 3, x.max() + 3)))
    return np.array(out or [np.nan])
