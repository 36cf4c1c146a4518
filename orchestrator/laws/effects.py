"""Laws compared: crossovers between strategies, and what distillation gains. numpy only.

All differences are taken draw by draw, so what two arms share (configurations, forms) cancels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from orchestrator.laws.arms import Arm
from orchestrator.laws.forms import Array
from orchestrator.laws.law import Law

SURE = 0.95  # share of draws that must agree before a finding is reported: then the 90 % interval excludes 0
ONCE = 0.9  # share of draws that must cross exactly once before a crossover is reported
POINTS = 65  # sizes at which differences are looked at
GAIN_SIZES = 5


@dataclass(frozen=True)
class Fitted:
    """An arm with its law."""

    arm: Arm
    law: Law
    _seen: dict[bytes, Array] = field(default_factory=dict, compare=False, repr=False)

    def draws(self, sizes: Array) -> Array:
        """The law's draws of ln MAE, (B, m), kept: arms are compared with many others."""
        key = sizes.tobytes()
        if key not in self._seen:
            self._seen[key] = self.law.draws(sizes)
        return self._seen[key]


def log_ratio(a: Fitted, b: Fitted, sizes: Array) -> Array:
    """ln MAE(a) - ln MAE(b), draw by draw, (B, m)."""
    return a.draws(sizes) - b.draws(sizes)


def crossovers(fitted: list[Fitted]) -> list[dict[str, Any]]:
    """For each pair of arms that differ in strategy alone: who is better where, and where they cross.

    Sizes from the smallest to the largest that both have measured. Of a strategy with a grid of arguments,
    the published and the best setting are compared. crossing: size at which `a` stops being the better one,
    {median, low, high} at 90 %, or None when fewer than 90 % of the draws have one such place.
    """
    return [_crossover(a, b, sizes) for a, b in _pairs(fitted) if (sizes := common_sizes(a, b)) is not None]


def _pairs(fitted: list[Fitted]) -> Iterator[tuple[Fitted, Fitted]]:
    for a, b in combinations(_spokesmen(fitted), 2):
        one, two = a.arm, b.arm
        same = (one.arch, one.init) == (two.arch, two.init)
        if same and one.strategy != two.strategy and _same_teacher(one, two):
            yield a, b


def _same_teacher(one: Arm, two: Arm) -> bool:
    """Whether two arms have one teacher, or one of them needs none."""
    free = (one.strategy == "scratch" and one.teacher is None) or (
        two.strategy == "scratch" and two.teacher is None
    )
    return free or one.teacher == two.teacher


def _spokesmen(fitted: list[Fitted]) -> list[Fitted]:
    """Of each strategy in one place: the published setting and the one with the lowest error."""
    places: dict[tuple[Any, ...], list[Fitted]] = {}
    for f in fitted:
        if f.law.reach > 0:
            places.setdefault((f.arm.arch, f.arm.init, f.arm.teacher, f.arm.strategy), []).append(f)
    out = []
    for group in places.values():
        ends = [float(np.median([getattr(f.law, end) for f in group])) for end in ("smallest", "largest")]
        sizes = np.geomspace(ends[0], ends[1], 9)
        best = min(group, key=lambda f: float(f.law.centre(sizes).mean()))
        out += [f for f in group if f is best or f.arm.published]
    return out


def common_sizes(a: Fitted, b: Fitted) -> Array | None:
    """Sizes, (POINTS,), from the smallest to the largest that both have measured; None if there are none."""
    if not (a.law.reach > 0 and b.law.reach > 0):
        return None
    low = max(a.law.smallest, b.law.smallest)
    high = min(a.law.largest, b.law.largest)
    return np.geomspace(low, high, POINTS) if high > low else None


def _crossover(a: Fitted, b: Fitted, sizes: Array) -> dict[str, Any]:
    better = log_ratio(a, b, sizes) < 0  # (B, m): a is better
    small, large = float(better[:, 0].mean()), float(better[:, -1].mean())
    if small < large:  # swap them, so that a is the one for small sizes
        a, b, better, small, large = b, a, ~better, 1 - small, 1 - large
    changes = better[:, 1:] != better[:, :-1]
    once = (changes.sum(1) == 1) & better[:, 0]
    places = np.sqrt(sizes[:-1] * sizes[1:])[changes[once].argmax(1)] if once.any() else np.empty(0)
    crossing = None
    if once.mean() >= ONCE:
        low, median, high = (float(v) for v in np.quantile(places, [0.05, 0.5, 0.95]))
        crossing = {"median": round(median), "low": round(low), "high": round(high), "level": 0.9}
    first, second = a.arm.label, b.arm.label
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
        "init": a.arm.init,
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
        sizes = common_sizes(f, base) if base else None
        if base is None or sizes is None:
            continue
        picked = np.geomspace(sizes[0], sizes[-1], GAIN_SIZES)
        gain = 1 - np.exp(log_ratio(f, base, picked))
        whole = (1 - np.exp(log_ratio(f, base, sizes))).mean(1)
        draws[f.arm.key] = whole
        rows.append(
            {
                "arm": f.arm.key,
                "arch": f.arm.arch,
                "init": f.arm.init,
                "strategy": f.arm.strategy,
                "teacher": f.arm.teacher,
                "by_size": [
                    {"params": round(float(n)), **interval(gain[:, j])} for j, n in enumerate(picked)
                ],
                "mean": interval(whole),
                "p_better": round(float((whole > 0).mean()), 4),
            }
        )
    return {"arms": rows, "architectures": _architectures(fitted, draws)}


def _scratch(f: Fitted, fitted: list[Fitted]) -> Fitted | None:
    if f.arm.strategy == "scratch" or f.law.reach == 0:
        return None
    for other in fitted:
        same = (other.arm.arch, other.arm.init) == (f.arm.arch, f.arm.init)
        if same and other.arm.strategy == "scratch" and _same_teacher(f.arm, other.arm):
            return other
    return None


def _architectures(fitted: list[Fitted], draws: dict[str, Array]) -> list[dict[str, Any]]:
    """Mean gain of one architecture minus another's, over the strategies and teachers that both have."""
    by: dict[str, dict[tuple[Any, ...], Array]] = {}
    for f in fitted:
        if f.arm.key in draws:
            same = (f.arm.init, f.arm.strategy, f.arm.strategy_args, f.arm.teacher)
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
                "difference": interval(difference),
                "p_a_gains_more": round(p, 4),
                "text": f"{text} (mean gain {one} minus {two}: {100 * np.median(difference):.1f} points)",
            }
        )
    return out


def interval(values: Array) -> dict[str, float]:
    """Median and 90 % interval of draws (B,)."""
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {
        "median": round(float(median), 5),
        "low": round(float(low), 5),
        "high": round(float(high), 5),
        "level": 0.9,
    }


def _si(number: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
