"""From laws and a budget to the best student. numpy only; knows laws.json, nothing of fitting or training."""

from dataclasses import replace
from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.answers.candidates import (
    Budget,
    Candidates,
    Shares,
    allowed_rows,
    blank,
    candidates,
    describe,
    extrapolation,
    limits,
    near_rows,
    nothing_fits,
    reaches_beyond,
    refuse_unmeasured,
    refused_arms,
    usable_arms,
)
from orchestrator.answers.decide import best_measured, choose, contenders, doubt, told, trained_winner
from orchestrator.laws.forms import Array

MORE = 1.1  # the binding limit is raised by 10 %


def answer(document: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """The best student within a budget, as a JSON-ready dict; `verdict` is "ok" or "refuse" with `why`.

    `measured` is the best trained student within it, with its evidence. Where the evidence can't decide
    between students (`decided` is False; `contenders`), it is `best` as well. Raises InputError for a budget
    without limits, or on a quantity that was not measured.
    """
    if not budget.given:
        raise InputError("give at least one limit, for example --max-params 20000")
    refuse_unmeasured(document, budget)
    out = blank(document, budget.given)
    allowed = {arch: allowed_rows(document, arch, budget) for arch in document["architectures"]}
    out["measured"] = best_measured(document, allowed)
    usable, why = usable_arms(document)
    if not usable:
        return out | {"why": why}
    near = near_rows(document, allowed)
    if not any(rows.any() for rows in near.values()):
        return out | {"why": nothing_fits(document, allowed, budget)}
    if beyond := reaches_beyond(document, allowed, usable):
        return out | {"why": beyond}
    c = candidates(document, near)
    share = Shares.of(c)
    leader, best, note = choose(document, c)
    unsure = doubt(document, c, leader, best, share)
    measured = trained_winner(document, c)
    if measured is not None:
        out["measured"] = told(document, c, measured)
    if unsure:
        out["contenders"] = contenders(document, c)
        note = unsure
        if measured is not None:
            best = leader = measured
            note += "; until then, the answer is the best measured student"
    out["decided"] = not unsure
    out["best"] = describe(document, c, best, share, winner_of=leader)
    out["intervals"] = out["best"]["intervals"]
    others = [int(k) for k in np.argsort(c.score, kind="stable") if c.arm[k] != c.arm[best]]
    if others:
        out["runner_up"] = describe(document, c, others[0], share)
        note = "; ".join(t for t in (note, _order(out["best"], out["runner_up"])) if t)
    out["extrapolation"] = extrapolation(document["arms"][c.arm[best]], out["best"]["params"])
    out["binding"] = None if unsure else binding(document, budget, c)
    out |= {"verdict": "ok", "why": "; ".join(t for t in (note, out["extrapolation"]["warning"]) if t)}
    if left_out := refused_arms(document):
        out["left_out"] = left_out
    return out


def _order(best: dict[str, Any], other: dict[str, Any]) -> str:
    """Why a runner-up whose median is lower is not the best; "" if it is not lower."""
    gap = best["mae_bpm"]["median"] - other["mae_bpm"]["median"]
    if gap <= 0:
        return ""
    why = (
        "trained students go first where the evidence can't tell"
        if best["trained"] and not other["trained"]
        else "students are ranked by what was measured and one power law, which chooses better"
    )
    return f"the runner-up's median is {gap:.2f} BPM lower: {why}"


def binding(document: dict[str, Any], budget: Budget, c: Candidates) -> dict[str, Any] | None:
    """The binding limit and the gain from raising it by 10 %: {budget, gain_bpm {...}, text}."""
    now = _best_draws(c)
    buys: dict[str, Array] = {}
    for name, limit in budget.given.items():
        changed: dict[str, Any] = {name: limit * MORE}
        more = replace(budget, **changed)
        wider = near_rows(document, {a: allowed_rows(document, a, more) for a in document["architectures"]})
        buys[name] = now - _best_draws(candidates(document, wider))
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


def _best_draws(c: Candidates) -> Array:
    """MAE, per draw, of the student that is ranked first."""
    return np.asarray(np.exp(c.draws[:, c.score.argmin()]))
