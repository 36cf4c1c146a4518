"""What a sweep can't say: laws that decide nothing, exponents not determined, rising errors. numpy only."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from orchestrator.laws.arms import Arm
from orchestrator.laws.forms import Array
from orchestrator.laws.holdout import Holdout
from orchestrator.laws.law import Law

ENOUGH_SIZES = 6
WIDE = 4.0  # an exponent whose interval spans this factor, or reaches 0, is not determined
SURE = 2.0  # Student's t beyond which errors are said to rise


def sound(arms: Sequence[Arm]) -> tuple[list[Arm], list[str]]:
    """The arms without runs whose error is no positive number, and a note on each arm that lost some.

    An arm of nothing else keeps its runs, and its law refuses.
    """
    out, notes = [], []
    for arm in arms:
        good = [r for r in arm.runs if np.isfinite(r["mae_bpm"]) and r["mae_bpm"] > 0]
        if good and len(good) < len(arm.runs):
            bad = next(r for r in arm.runs if r not in good)
            notes.append(
                f"{arm.key}: {len(arm.runs) - len(good)} of {len(arm.runs)} runs are left out, as "
                f"their error is no positive number (first {bad['id']}): train them again"
            )
            arm = replace(arm, runs=good)
        out.append(arm)
    return out, notes


def rising(arms: Sequence[Arm]) -> bool:
    """Whether the largest students of an architecture are worse than the best smaller ones.

    A paired test across arms: ln error at the largest size less the least at an earlier one; of one arm
    alone, across its folds and seeds.
    """
    steps = [s for arm in arms if (s := _step(arm.runs)) is not None]
    if len(arms) == 1:
        repeats: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
        for r in arms[0].runs:
            repeats.setdefault((r.get("fold"), r.get("seed")), []).append(r)
        steps = [s for runs in repeats.values() if (s := _step(runs)) is not None]
    if len(steps) < 3:
        return False
    mean, error = float(np.mean(steps)), float(np.std(steps, ddof=1)) / np.sqrt(len(steps))
    return mean > 0 and mean > SURE * error


def _step(runs: Sequence[dict[str, Any]]) -> float | None:
    means = sized(runs)
    return float(means[-1] - means[:-1].min()) if len(means) >= 3 else None


def sized(runs: Sequence[dict[str, Any]]) -> Array:
    """Mean ln error of each size, smallest first."""
    sizes = sorted({r["params"] for r in runs})
    return np.array([np.mean([np.log(r["mae_bpm"]) for r in runs if r["params"] == s]) for s in sizes])


def judged(arms: Sequence[Arm], laws: Sequence[Law]) -> list[Law]:
    """The laws with their verdict "weak" where one can't decide alone, and `rises`."""
    out = []
    for arm, law in zip(arms, laws, strict=True):
        if law.reach == 0:
            out.append(law)
            continue
        kin = [a for a, other in zip(arms, laws, strict=True) if a.arch == arm.arch and other.reach > 0]
        whys = []
        if rises := rising(kin):
            whys.append(
                f"errors rise with size: the largest {arm.arch} students are worse than smaller ones; take a "
                f"smaller one, or train with more data or regularisation"
            )
        n = len({r["params"] for r in arm.runs})
        if n < ENOUGH_SIZES:
            whys.append(f"provisional: {n} sizes; train {ENOUGH_SIZES - n} more")
        elif not determined(exponent(law)):
            whys.append(f"exponent not determined by {n} sizes: train 2 more, or more seeds")
        if law.verdict == "ok" and whys:
            law = replace(law, verdict="weak", why="; ".join(whys))
        out.append(replace(law, rises=rises))
    return out


def exponent(law: Law) -> dict[str, float]:
    """The mean exponent between the smallest and the largest size, -d ln error / d ln size, at 90 %."""
    ends = law.draws(np.array([law.smallest, law.largest]))
    slopes = (ends[:, 0] - ends[:, 1]) / np.log(law.largest / law.smallest)
    low, median, high = np.quantile(slopes, [0.05, 0.5, 0.95])
    return {"median": round(float(median), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def determined(found: dict[str, float]) -> bool:
    """Whether an interval says what the exponent is, within a factor of `WIDE`."""
    low, high = sorted((abs(found["low"]), abs(found["high"])))
    return found["low"] * found["high"] > 0 and high <= WIDE * low


def summary(arm: Arm, law: Law, record: Sequence[Holdout]) -> dict[str, Any]:
    """What was measured and what little follows from it, for the table of an arm with few sizes.

    measured_bpm: mean error at the smallest and the largest size. exponent, at_x2: None without a law.
    left_out_error: of the law at the largest size, held out, as a share.
    """
    sizes = sorted({r["params"] for r in arm.runs})
    ends = [
        float(np.mean([r["mae_bpm"] for r in arm.runs if r["params"] == s])) for s in (sizes[0], sizes[-1])
    ]
    out: dict[str, Any] = {
        "sizes": len(sizes),
        "seeds": len({r.get("seed") for r in arm.runs}),
        "folds": len({r.get("fold") for r in arm.runs}),
        "measured_bpm": [round(e, 4) if np.isfinite(e) else None for e in ends],
        "exponent": None,
        "at_x2": None,
        "left_out_error": next((round(float(np.expm1(h.error)), 4) for h in record if h.left_out == 1), None),
    }
    if law.reach > 0:
        found = exponent(law)
        out["exponent"] = found | {"determined": determined(found)}
    if law.reach >= 2:
        at = law.predict([2 * law.largest])
        out["at_x2"] = {k: round(float(getattr(at, k)[0]), 4) for k in ("median", "low", "high")}
    return out
