"""Two sweeps, point by point: what both trained alike, and how their errors differ. Knows results only."""

import json
import math
from collections.abc import Iterable
from statistics import mean, median
from typing import Any

from orchestrator.laws.arms import canonical
from orchestrator.store.store import Store
from orchestrator.words import pretrained, seeing

Key = tuple[Any, ...]
Points = dict[Key, list[dict[str, Any]]]
KEYS = ("role", "arch", "depth", "width", "init", "strategy", "strategy_args", "teacher", "seed")


def compare(first: Store, second: Store) -> dict[str, Any]:
    """What `kdsweep compare --json` prints; all errors are test MAE in BPM.

    Two points are the same when role, architecture, shape, init, strategy with its arguments, shape of the
    teacher and seed are; data and recipe may differ. Where a sweep has several such points (teachers of one
    shape and other seeds), their errors are averaged.
    """
    ours, theirs = _points(first.results()), _points(second.results())
    common = sorted(ours.keys() & theirs.keys(), key=_order)
    both = [_described(key) | _pair(ours[key], theirs[key]) for key in common]
    differences = [row["difference_bpm"] for row in both]
    return {
        "sweeps": [str(first.path), str(second.path)],
        "same_data": _fingerprints(first) == _fingerprints(second),
        "both": both,
        "only_first": _rest(ours, theirs),
        "only_second": _rest(theirs, ours),
        "mean_difference_bpm": round(mean(differences), 4) if differences else None,
        "median_difference_bpm": round(median(differences), 4) if differences else None,
        "second_better": sum(d < 0 for d in differences),
    }


def _points(results: Iterable[dict[str, Any]]) -> Points:
    """Results by identity."""
    found = list(results)
    by_id = {
        r["id"]: f"{r['arch']} {r['depth']}x{r['width']}"
        + pretrained(r.get("strategy_args") or {})
        + seeing(r.get("recipe") or {})
        for r in found
    }
    points: Points = {}
    for r in found:
        teacher = by_id.get(r["teacher"], "unknown") if r.get("teacher") else None
        key = (
            *(r["role"], r["arch"] + seeing(r.get("recipe") or {}), r["depth"], r["width"]),
            *(r.get("init") or "random", r["strategy"]),
            *(canonical(r["strategy"], r.get("strategy_args")), teacher, r["seed"]),
        )
        points.setdefault(key, []).append(r)
    return points


def _described(key: Key) -> dict[str, Any]:
    described = dict(zip(KEYS, key, strict=True))
    return described | {"strategy_args": json.loads(described["strategy_args"])}


def _pair(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [math.fsum(r["mae_bpm"] for r in side) / len(side) for side in (ours, theirs)]
    return {
        "params": [ours[0]["params"], theirs[0]["params"]],
        "points": [[r["id"] for r in ours], [r["id"] for r in theirs]],
        "mae_bpm": [round(e, 4) for e in errors],
        "difference_bpm": round(errors[1] - errors[0], 4),
    }


def _rest(points: Points, others: Points) -> list[dict[str, Any]]:
    """The points of one sweep that the other has not."""
    return [_described(key) | _alone(points[key]) for key in sorted(points.keys() - others, key=_order)]


def _order(key: Key) -> list[tuple[int, Any]]:
    """Students first, then by architecture and shape; None before text, numbers as numbers."""
    return [(0, "") if part is None else (1, part) for part in key]


def _alone(points: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "params": points[0]["params"],
        "points": [r["id"] for r in points],
        "mae_bpm": round(math.fsum(r["mae_bpm"] for r in points) / len(points), 4),
    }


def _fingerprints(store: Store) -> set[Any]:
    return {r.get("data_fingerprint") for r in store.figures()}
