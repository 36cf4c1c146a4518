"""Pareto fronts: the lowest error for each budget, measured and predicted. Numbers only."""

import math
from typing import Any

import numpy as np

from orchestrator.answers.candidates import (
    LIMITS,
    Budget,
    Shares,
    allowed_rows,
    candidates,
    describe,
    extrapolation,
    usable_arms,
    within_reach,
)

BUDGETS = 28  # at which the predicted front is asked for
BEYOND = 4.0  # fronts and laws are drawn to this many times the largest measured size: where warnings begin
SAME = ("arch", "depth", "width", "init", "strategy", "strategy_args")


def predicted(document: dict[str, Any], results: list[dict[str, Any]], limit: str) -> list[dict[str, Any]]:
    """The student that is ranked first for each of many budgets, as `best.answer` describes them.

    Smallest budget first, each student once; `outside` says that it lies beyond its arm's measured sizes. []
    when no law may be used, or the sweep has not measured the quantity.
    """
    column, unit, _ = LIMITS[limit]
    columns = [a["configurations"].get(column) or [] for a in document["architectures"].values()]
    values = [v for values_ in columns for v in values_ if v is not None]
    shown = [r[column] for r in results if r["role"] == "student" and r.get(column)]
    usable, _ = usable_arms(document)
    if not values or not shown or not usable:
        return []
    low, high = max(min(values), min(shown) / BEYOND), min(max(values), max(shown) * BEYOND)
    found: list[dict[str, Any]] = []
    for most in np.geomspace(low, high, BUDGETS) / unit:
        asked: dict[str, Any] = {limit: float(most) * (1 + 1e-12)}
        budget = Budget(**asked)
        near = {
            j: allowed_rows(document, document["arms"][j]["arch"], budget) & within_reach(document, j)
            for j in usable
        }
        if not any(rows.any() for rows in near.values()):
            continue
        c = candidates(document, near)
        k = int(c.score.argmin())
        best = describe(document, c, k, Shares.of(c))
        arm = document["arms"][c.arm[k]]
        best["outside"] = extrapolation(arm, best["params"])["distance"] > 1
        if not found or (best["params"], best["macs"]) != (found[-1]["params"], found[-1]["macs"]):
            found.append(best)
    return found


def measured(results: list[dict[str, Any]], column: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mean error of every trained student over its seeds, and their Pareto front."""
    cells: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for r in results:
        if r["role"] == "student" and r.get(column) is not None:
            teacher = str(r.get("teacher_group") or r.get("teacher"))
            cells.setdefault((*(str(r.get(k)) for k in SAME), teacher), []).append(r)
    means = [
        {**runs[0], "mae_bpm": float(np.mean([r["mae_bpm"] for r in runs])), "seeds": len(runs)}
        for runs in cells.values()
    ]
    means.sort(key=lambda r: (r[column], r["mae_bpm"]))
    best, kept = math.inf, []
    for r in means:
        if r["mae_bpm"] < best:
            best = r["mae_bpm"]
            kept.append(r)
    return means, kept
