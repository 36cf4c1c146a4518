"""What the laws say of each other: crossovers between strategies, and what distillation gains. numpy only.

All differences are taken draw by draw, so what two arms share (configurations, forms) cancels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from orchestrator.laws.arms import Arm
from orchestrator.laws.forms import Array
from orchestrator.laws.law import Law

SURE = 0.9  # share of draws that must agree before a sentence is said
POINTS = 65  # sizes at which differences are looked at
GAIN_SIZES = 5


@dataclass(frozen=True)
class Fitted:
    """An arm with its law."""

    arm: Arm
    law: Law


def crossovers(fitted: list[Fitted]) -> list[dict[str, Any]]:
    """For each pair of arms that differ in strategy alone: who is better where, and where they cross.

    Sizes from the smallest to the largest that both have measured. crossing: size at which `a` stops being
    the better one, {median, low, high} at 90 %, or None when fewer than 90 % of the draws have
    one such place.
    """
    return [_crossover(a, b) for a, b in _pairs(fitted) if _common(a, b) is not None]


def _pairs(fitted: list[Fitted]) -> Iterator[tuple[Fitted, Fitted]]:
    for a, b in combinations([f for f in fitted if f.law.reach > 0], 2):
        one, two = a.arm, b.arm
        alone = "scratch" in (one.strategy, two.strategy)
        same = (one.arch, one.birth) == (two.arch, two.birth)
        if same and one.strategy != two.strategy and (one.teacher == two.teacher or alone):
            yield a, b


def _common(a: Fitted, b: Fitted) -> Array | None:
    low = max(a.law.smallest, b.law.smallest)
    high = min(a.law.largest, b.law.largest)
    return np.geomspace(low, high, POINTS) if high > low else None


def _crossover(a: Fitted, b: Fitted) -> dict[str, Any]:
    sizes = _common(a, b)
    assert sizes is not None
    better = (a.law.draws(sizes) - b.law.draws(sizes)) < 0  # (B, m): a is better
    small, large = float(better[:, 0].mean()), float(better[:, -1].mean())
    if small < large:  # say it the other way round, so that a is the one for small sizes
        a, b, better, small, large = b, a, ~better, 1 - small, 1 - large
    changes = better[:, 1:] != better[:, :-1]
    once = (changes.sum(1) == 1) & better[:, 0]
    places = np.sqrt(sizes[:-1] * sizes[1:])[changes[once].argmax(1)] if once.any() else np.empty(0)
    crossing = None
    if once.mean() >= SURE:
        low, median, high = (float(v) for v in np.quantile(places, [0.05, 0.5, 0.95]))
        crossing = {"median": round(median), "low": round(low), "high": round(high), "level": 0.9}
    first, second = _name(a.arm, b.arm), _name(b.arm, a.arm)
    if crossing:
        text = (
            f"{first} beats {second} below {_si(crossing['median'])} "
            f"[{_si(crossing['low'])}, {_si(crossing['high'])}] parameters"
        )
    elif better.all(1).mean() >= SURE:
        text = f"{first} beats {second} at every measured size"
    elif (~better).all(1).mean() >= SURE:
        text = f"{second} beats {first} at every measured size"
    else:
        text = f"no crossover established between {first} and {second}"
    return {
        "arch": a.arm.arch,
        "birth": a.arm.birth,
        "teacher": a.arm.teacher or b.arm.teacher,
        "a": a.arm.key,
        "b": b.arm.key,
        "smallest": float(sizes[0]),
        "largest": float(sizes[-1]),
        "p_a_better_at_smallest": round(small, 4),
        "p_a_better_at_largest": round(large, 4),
        "p_one_crossing": round(float(once.mean()), 4),
        "crossing": crossing,
        "text": f"{a.arm.arch}: {text}",
    }


def gains(fitted: list[Fitted]) -> dict[str, Any]:
    """What each distilled arm gains over scratch, by size, and which architecture gains more.

    A gain is 1 - MAE(arm) / MAE(scratch), as {median, low, high} at 90 %, of means over runs.
    """
    rows, draws = [], {}
    for f in fitted:
        base = _scratch(f, fitted)
        sizes = _common(f, base) if base else None
        if base is None or sizes is None:
            continue
        picked = np.geomspace(sizes[0], sizes[-1], GAIN_SIZES)
        gain = 1 - np.exp(f.law.draws(picked) - base.law.draws(picked))
        whole = (1 - np.exp(f.law.draws(sizes) - base.law.draws(sizes))).mean(1)
        draws[f.arm.key] = whole
        rows.append(
            {
                "arm": f.arm.key,
                "arch": f.arm.arch,
                "birth": f.arm.birth,
                "strategy": f.arm.strategy,
                "teacher": f.arm.teacher,
                "by_size": [
                    {"params": round(float(n)), **_interval(gain[:, j])} for j, n in enumerate(picked)
                ],
                "mean": _interval(whole),
                "p_better": round(float((whole > 0).mean()), 4),
            }
        )
    return {"arms": rows, "architectures": _architectures(fitted, draws)}


def _scratch(f: Fitted, fitted: list[Fitted]) -> Fitted | None:
    if f.arm.strategy == "scratch" or f.law.reach == 0:
        return None
    for other in fitted:
        same = (other.arm.arch, other.arm.birth) == (f.arm.arch, f.arm.birth)
        if same and other.arm.strategy == "scratch" and other.law.reach > 0:
            return other
    return None


def _architectures(fitted: list[Fitted], draws: dict[str, Array]) -> list[dict[str, Any]]:
    """Mean gain of one architecture minus another's, over the strategies and teachers that both have."""
    by: dict[str, dict[tuple[Any, ...], Array]] = {}
    for f in fitted:
        if f.arm.key in draws:
            same = (f.arm.birth, f.arm.strategy, f.arm.strategy_args, f.arm.teacher)
            by.setdefault(f.arm.arch, {})[same] = draws[f.arm.key]
    out = []
    for one, two in combinations(sorted(by, reverse=True), 2):
        both = sorted(by[one].keys() & by[two].keys(), key=str)
        if not both:
            continue
        difference = np.mean([by[one][k] - by[two][k] for k in both], axis=0)
        p = float((difference > 0).mean())
        if max(p, 1 - p) >= SURE:
            more, less = (one, two) if p > 0.5 else (two, one)
            text = f"{more} gains more from distillation than {less}"
        else:
            text = f"no difference established between what {one} and {two} gain from distillation"
        out.append(
            {
                "a": one,
                "b": two,
                "pairs": len(both),
                "difference": _interval(difference),
                "p_a_gains_more": round(p, 4),
                "text": f"{text} (mean gain {one} minus {two}: {100 * np.median(difference):.1f} points)",
            }
        )
    return out


def _interval(values: Array) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {
        "median": round(float(median), 5),
        "low": round(float(low), 5),
        "high": round(float(high), 5),
        "level": 0.9,
    }


def _name(arm: Arm, other: Arm) -> str:
    """Strategy, with its arguments where the other arm does not make them clear."""
    return arm.strategy if arm.strategy_args == "{}" else f"{arm.strategy} {arm.strategy_args}"


def _si(number: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
