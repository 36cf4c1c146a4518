"""From laws and a budget to the best student. numpy only; knows laws.json, nothing of fitting or training."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.laws.forms import Array
from orchestrator.laws.packing import unpack
from orchestrator.laws.refuse import REFUSE_FACTOR, WARN_FACTOR


@dataclass(frozen=True)
class Budget:
    """Upper limits a student must keep; None = no limit. KB are 1000 bytes."""

    max_params: float | None = None
    max_memory_kb: float | None = None  # peak of the activations of one window, float32
    max_flash_kb: float | None = None  # the weights, float32
    max_macs: float | None = None
    max_latency_ms: float | None = None


LIMITS = {  # budget -> (column of the configurations, units of the column per unit of the budget)
    "max_params": ("params", 1.0),
    "max_memory_kb": ("activation_bytes", 1000.0),
    "max_flash_kb": ("weight_bytes", 1000.0),
    "max_macs": ("macs", 1.0),
}


@dataclass(frozen=True)
class Candidates:
    """Students that may be best, one row each: arm, configuration and draws of ln MAE (B, m)."""

    arm: np.ndarray  # (m,) index into the document's arms
    row: np.ndarray  # (m,) index into the arm's architecture's configurations
    draws: Array


def answer(document: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """The best student within a budget, as a JSON-ready dict; `verdict` is "ok" or "refuse"."""
    if not any(v is not None for v in asdict(budget).values()):
        raise InputError("give at least one limit, for example --max-params 20000")
    if budget.max_latency_ms is not None:
        raise InputError(
            f"the sweep has measured no latency, so --max-latency-ms cannot be answered: "
            f"measure it with `kdsweep profile {document['sweep']}`"
        )
    out: dict[str, Any] = {
        "sweep": document["sweep"],
        "budget": {k: v for k, v in asdict(budget).items() if v is not None},
        "verdict": "refuse",
        "why": "",
        "best": None,
        "runner_up": None,
        "extrapolation": None,
    }
    usable = [j for j, arm in enumerate(document["arms"]) if arm["verdict"] == "ok"]
    if not usable:
        out["why"] = "no law can be trusted: " + document["arms"][0]["why"]
        return out
    candidates = feasible(document, budget, usable)
    if not len(candidates.arm):
        out["why"] = "no student of this space fits this budget"
        return out
    noise = unpack(document["run_noise"])
    winner = candidates.draws.argmin(1)
    mean = np.exp(candidates.draws).mean(0)
    p_best = np.bincount(winner, minlength=len(mean)) / len(winner)
    order = np.argsort(mean, kind="stable")
    best = int(order[0])
    described = describe(document, candidates, best, noise, float(p_best[best]))
    out["best"] = described
    others = [k for k in order if candidates.arm[k] != candidates.arm[best]]
    if others:
        out["runner_up"] = describe(document, candidates, int(others[0]), noise, float(p_best[others[0]]))
    arm = document["arms"][candidates.arm[best]]
    distance = max(described["params"] / arm["largest"], arm["smallest"] / described["params"], 1.0)
    out["extrapolation"] = {
        "distance": round(distance, 3),
        "smallest_measured": arm["smallest"],
        "largest_measured": arm["largest"],
    }
    out["verdict"] = "ok"
    if distance > WARN_FACTOR:
        out["why"] = (
            f"WARNING: {distance:.1f} times outside the measured sizes; train a size nearer to the budget"
        )
    return out


def feasible(document: dict[str, Any], budget: Budget, usable: list[int]) -> Candidates:
    """The students within the budget that can be best in some draw.

    Draws are linear between knots, so of all configurations between two knots only the outermost two can win.
    """
    arms, rows, draws = [], [], []
    for arch, data in document["architectures"].items():
        columns = data["configurations"]
        allowed = np.ones(len(columns["params"]), dtype=bool)
        for name, limit in asdict(budget).items():
            if limit is not None and name in LIMITS:
                column, unit = LIMITS[name]
                allowed &= np.array(columns[column], dtype=float) <= limit * unit
        params = np.array(columns["params"], dtype=float)
        position = np.array(columns["position"])
        for j in usable:
            arm = document["arms"][j]
            if arm["arch"] != arch:
                continue
            near = (params <= arm["largest"] * REFUSE_FACTOR) & (params >= arm["smallest"] / REFUSE_FACTOR)
            kept = np.flatnonzero(allowed & near)
            if not len(kept):
                continue
            interval = np.floor(position[kept]).astype(int)
            first = np.flatnonzero(np.diff(interval, prepend=-1))
            last = np.append(first[1:], len(kept)) - 1
            chosen = kept[np.union1d(first, last)]
            arms.append(np.full(len(chosen), j))
            rows.append(chosen)
            draws.append(at(unpack(arm["draws"]), position[chosen]))
    if not arms:
        return Candidates(np.empty(0, int), np.empty(0, int), np.empty((0, 0)))
    return Candidates(np.concatenate(arms), np.concatenate(rows), np.concatenate(draws, axis=1))


def at(values: Array, position: Array) -> Array:
    """Linear interpolation along the last axis at fractional indices (m,)."""
    left = np.clip(np.floor(position).astype(int), 0, values.shape[-1] - 2)
    weight = position - left
    return values[..., left] * (1 - weight) + values[..., left + 1] * weight


def describe(document: dict[str, Any], c: Candidates, k: int, noise: Array, p_best: float) -> dict[str, Any]:
    """One student, as `best` and `runner_up` show it."""
    arm = document["arms"][c.arm[k]]
    columns = document["architectures"][arm["arch"]]["configurations"]
    row = int(c.row[k])
    depth, width = columns["depth"][row], columns["width"][row]
    trained = [r for r in arm["runs"] if (r["depth"], r["width"]) == (depth, width)]
    level = document["level"]
    runs = c.draws[:, k] + noise * arm["noise_ln"]
    median = at(unpack(arm["median"]), np.array([columns["position"][row]]))[0]
    low, high = np.quantile(runs, [(1 - level) / 2, (1 + level) / 2])
    return {
        "arch": arm["arch"],
        "depth": depth,
        "width": width,
        "birth": arm["birth"],
        "strategy": arm["strategy"],
        "strategy_args": arm["strategy_args"],
        "teacher": arm["teacher"],
        "params": columns["params"][row],
        "trained": bool(trained),
        "point": min(trained, key=lambda r: r["mae_bpm"])["id"] if trained else None,
        "mae_bpm": {
            "median": round(float(np.exp(median)), 4),
            "low": round(float(np.exp(min(low, median))), 4),
            "high": round(float(np.exp(max(high, median))), 4),
            "level": level,
        },
        "p_best": round(p_best, 4),
    }
