"""From laws and a budget to the best student. numpy only; knows laws.json, nothing of fitting or training."""

from dataclasses import replace
from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.answers.candidates import (
    NEAR_BPM,
    Budget,
    Candidates,
    Rows,
    Shares,
    allowed_rows,
    blank,
    candidates,
    describe,
    evaluate,
    extrapolation,
    limits,
    nothing_fits,
    reaches_beyond,
    refuse_unmeasured,
    refused_arms,
    trained_rows,
    usable_arms,
    within_reach,
)
from orchestrator.laws.forms import Array

MORE = 1.1  # the binding limit is raised by 10 %


def answer(document: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """The best student within a budget, as a JSON-ready dict; `verdict` is "ok" or "refuse" with `why`.

    Raises InputError for a budget without limits, or on a quantity that was not measured.
    """
    if not budget.given:
        raise InputError("give at least one limit, for example --max-params 20000")
    refuse_unmeasured(document, budget)
    out = blank(document, budget.given)
    usable, why = usable_arms(document)
    if not usable:
        return out | {"why": why}
    allowed = {arch: allowed_rows(document, arch, budget) for arch in document["architectures"]}
    near = {j: allowed[document["arms"][j]["arch"]] & within_reach(document, j) for j in usable}
    if not any(rows.any() for rows in near.values()):
        return out | {"why": nothing_fits(document, allowed, budget)}
    if beyond := reaches_beyond(document, allowed, usable):
        return out | {"why": beyond}
    c = candidates(document, near)
    mean = np.exp(c.draws).mean(0)
    best_of_draw = np.exp(c.draws).min(1)
    winner = c.draws.argmin(1)
    order = np.argsort(mean, kind="stable")
    predicted = int(order[0])
    best, note = _prefer_trained(document, c, near, predicted, best_of_draw)
    share = Shares(np.bincount(winner, minlength=len(mean)) / len(winner), best_of_draw)
    out["best"] = describe(document, *best, share, winner_of=predicted if best[1] != predicted else None)
    others = [int(k) for k in order if c.arm[k] != best[0].arm[best[1]]]
    if others:
        out["runner_up"] = describe(document, c, others[0], share)
    arm = document["arms"][best[0].arm[best[1]]]
    out["extrapolation"] = extrapolation(arm, out["best"]["params"])
    out["binding"] = binding(document, budget, near, usable, out["best"])
    out |= {"verdict": "ok", "why": "; ".join(t for t in (note, out["extrapolation"]["warning"]) if t)}
    if left_out := refused_arms(document):
        out["left_out"] = left_out
    return out


def _prefer_trained(
    document: dict[str, Any],
    c: Candidates,
    near: dict[int, Rows],
    predicted: int,
    best_of_draw: Array,
) -> tuple[tuple[Candidates, int], str]:
    """The trained student with the lowest expected MAE if it is as good as the predicted one, else that."""
    arms, rows = trained_rows(document, near)
    if not len(arms):
        return (c, predicted), ""
    trained = evaluate(document, arms, rows)
    mean = np.exp(trained.draws).mean(0)
    leader = int(mean.argmin())
    shape = (int(trained.arm[leader]), int(trained.row[leader]))
    if shape == (int(c.arm[predicted]), int(c.row[predicted])):
        return (c, predicted), ""
    gap = float(mean[leader] - np.exp(c.draws[:, predicted]).mean())
    if gap > NEAR_BPM:
        return (c, predicted), (
            f"the best trained student within the budget is expected to be {gap:.2f} BPM worse than this one"
        )
    return (trained, leader), (
        f"already trained and as good: an untrained student would gain {max(gap, 0.0):.3f} BPM, "
        f"less than {NEAR_BPM:g}"
    )


def binding(
    document: dict[str, Any],
    budget: Budget,
    near: dict[int, Rows],
    usable: list[int],
    best: dict[str, Any],
) -> dict[str, Any] | None:
    """The binding limit and the gain from raising it by 10 %: {budget, gain_bpm {...}, text}."""
    now = _best_draws(document, near)
    buys: dict[str, Array] = {}
    for name, limit in budget.given.items():
        changed: dict[str, Any] = {name: limit * MORE}
        more = replace(budget, **changed)
        wider = {
            j: allowed_rows(document, document["arms"][j]["arch"], more) & within_reach(document, j)
            for j in usable
        }
        buys[name] = now - _best_draws(document, wider)
    name = max(buys, key=lambda n: float(buys[n].mean()))
    low, median, high = (float(v) for v in np.quantile(buys[name], [0.05, 0.5, 0.95]))
    if abs(median) < 5e-4 and abs(high) < 5e-4:
        return {
            "budget": None,
            "gain_bpm": None,
            "text": "no limit is binding: raising any by 10 % gains nothing",
        }
    what = limits(document, budget.precision)[name][2]
    limit = budget.given[name]
    return {
        "budget": name,
        "gain_bpm": {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4)},
        "text": f"{name} is binding: {limit * (MORE - 1):,.4g} more {what} gain "
        f"{median:.3f} BPM [{low:.3f}, {high:.3f}]",
    }


def _best_draws(document: dict[str, Any], near: dict[int, Rows]) -> Array:
    """MAE, per draw, of the student with the lowest expected MAE."""
    mae = np.exp(candidates(document, near).draws)
    return np.asarray(mae[:, mae.mean(0).argmin()])
