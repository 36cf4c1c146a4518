"""From laws and an error to reach to the smallest student. numpy only; knows laws.json."""

from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.answers.candidates import (
    Budget,
    Candidates,
    Shares,
    allowed_rows,
    blank,
    describe,
    evaluate,
    extrapolation,
    near_rows,
    refuse_unmeasured,
    refused_arms,
    usable_arms,
)
from orchestrator.answers.decide import best_measured
from orchestrator.laws.packing import unpack

SELECTED = 2.0  # the smallest of many is one whose law is too good: it fails this often as its draws say


def smallest(
    document: dict[str, Any], max_mae: float, confidence: float, budget: Budget | None = None
) -> dict[str, Any]:
    """The smallest student of which a new run has MAE <= max_mae with P >= confidence.

    The shape is that of `best.answer`; runner_up is the smallest of another arm, P(best) is between the two,
    and `decided` is False where the law of the smallest is weak and it isn't trained. Raises InputError for a
    bad error or confidence.
    """
    budget = budget or Budget()
    if not max_mae > 0:
        raise InputError(f"--max-mae {max_mae}: give a positive error in BPM")
    if not 0 < confidence < 1:
        raise InputError(f"--confidence {confidence}: give a probability between 0 and 1")
    refuse_unmeasured(document, budget)
    out = blank(document, {"max_mae": max_mae, "confidence": confidence, **budget.given})
    allowed = {arch: allowed_rows(document, arch, budget) for arch in document["architectures"]}
    out["measured"] = best_measured(document, allowed)
    usable, why = usable_arms(document)
    if not usable:
        return out | {"why": why}
    near = near_rows(document, allowed)
    noise = unpack(document["run_noise"])[:, None]
    found: list[tuple[int, int, int, float]] = []  # params, arm, configuration, P
    closest = 0.0
    for j, inside in near.items():
        rows = np.flatnonzero(inside)
        if not len(rows):
            continue
        c = evaluate(document, np.full(len(rows), j), rows)
        p = 1 - SELECTED * (np.exp(c.draws + noise * c.noise) > max_mae).mean(0)
        p = np.clip(p, 0, 1)
        closest = max(closest, float(p.max()))
        good = np.flatnonzero(p >= confidence)
        if len(good):
            params = document["architectures"][document["arms"][j]["arch"]]["configurations"]["params"]
            first = min(good.tolist(), key=lambda k: (params[rows[k]], -p[k]))
            found.append((params[rows[first]], j, int(rows[first]), float(p[first])))
    if not found:
        return out | {
            "why": f"no student within the range of the laws reaches {max_mae:g} BPM with "
            f"P >= {confidence:g} (at most {closest:.2f}); allow more error, or train larger students"
        }
    found.sort(key=lambda f: (f[0], -f[3], f[1]))
    both = found[:2]
    c = evaluate(document, np.array([f[1] for f in both]), np.array([f[2] for f in both]))
    out["best"] = _described(document, c, 0, both[0][3])
    if len(both) > 1:
        out["runner_up"] = _described(document, c, 1, both[1][3])
    out["extrapolation"] = extrapolation(document["arms"][both[0][1]], out["best"]["params"])
    out["intervals"] = out["best"]["intervals"]
    law = document["arms"][both[0][1]]
    out["decided"] = law["verdict"] != "weak" or out["best"]["trained"]
    weak = "" if out["decided"] else f"cannot decide: the law of {law['key']} is weak ({law['why']})"
    why = "; ".join(t for t in (weak, out["extrapolation"]["warning"]) if t)
    out |= {"verdict": "ok", "why": why}
    if left_out := refused_arms(document):
        out["left_out"] = left_out
    return out


def _described(document: dict[str, Any], c: Candidates, k: int, p: float) -> dict[str, Any]:
    return describe(document, c, k, Shares.of(c)) | {"p_reaches": round(p, 4)}
