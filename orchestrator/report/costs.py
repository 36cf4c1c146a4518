"""Hours, and what inits are worth at equal epochs and at equal compute. Numbers only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.report.sweep import Sweep


@dataclass(frozen=True)
class Cost:
    """Training of one kind of points on one kind of device."""

    stage: str  # teacher | student
    what: str  # "teachers", or the strategy
    kind: str  # CPU | GPU
    points: int
    epochs: int
    seconds: float

    @property
    def hours(self) -> float:
        """Of one slot."""
        return self.seconds / 3600


def costs(sweep: Sweep) -> list[Cost]:
    """Trained points by stage, strategy and device; teachers first."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for r in sweep.results:
        what = "teachers" if r["role"] == "teacher" else r["strategy"]
        found.setdefault((r["role"], what, kind(r)), []).append(r)
    rows = [
        Cost(
            stage,
            what,
            device,
            len(runs),
            sum(int(r.get("epochs") or 0) for r in runs),
            sum(float(r["train_seconds"]) for r in runs),
        )
        for (stage, what, device), runs in found.items()
    ]
    return sorted(rows, key=lambda c: (c.stage != "teacher", -c.seconds, c.what))


def kind(result: dict[str, Any]) -> str:
    """CPU or GPU: a result's device is "cpu", or what the GPU calls itself."""
    return "CPU" if (result.get("device") or "cpu") == "cpu" else "GPU"


@dataclass(frozen=True)
class Inits:
    """One student shape under one strategy, with two inits. MAE in BPM, means over seeds; None: unknown."""

    arch: str
    depth: int
    width: int
    strategy: str
    init: str
    pairs: int
    test: tuple[float, float]  # random, other: test error of the finished models
    epochs: int | None
    at_epochs: tuple[float, float] | None  # best validation error after equally many student epochs
    total_s: float | None
    at_total: tuple[float, float] | None  # ... after equally much compute, the teacher's share included


def inits(sweep: Sweep) -> list[Inits]:
    """Random inits against each other kind, wherever both were trained with everything else equal."""
    students = [r for r in sweep.results if r["role"] == "student"]
    by: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for r in students:
        keys = ("arch", "depth", "width", "strategy", "strategy_args", "seed")
        teacher = (
            str(r.get("teacher")) if r["strategy"] != "scratch" else ""
        )  # a pruned scratch student has one, to start from
        by.setdefault((*(str(r.get(k)) for k in keys), teacher), {})[r.get("init") or "random"] = r
    groups: dict[tuple[str, int, int, str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for found in by.values():
        one = found.get("random")
        for init, other in found.items():
            if one and init != "random":
                key = (one["arch"], one["depth"], one["width"], one["strategy"], init)
                groups.setdefault(key, []).append((one, other))
    return [_inits(sweep, key, pairs) for key, pairs in sorted(groups.items())]


def _inits(
    sweep: Sweep,
    key: tuple[str, int, int, str, str],
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]],
) -> Inits:
    curves = [tuple(_Curve(sweep, r) for r in pair) for pair in pairs]
    known = [(a, b) for a, b in curves if a.rows and b.rows]
    epochs = total = None
    at_epochs = at_total = None
    if known:
        epochs = min(len(c.rows) for pair in known for c in pair)
        at_epochs = _means([tuple(c.after_epochs(epochs) for c in pair) for pair in known])
        budgets = [min(c.total for c in pair) for pair in known]
        total = float(np.mean(budgets))
        reached = [tuple(c.after_seconds(s) for c in pair) for pair, s in zip(known, budgets, strict=True)]
        if all(v is not None for pair in reached for v in pair):
            at_total = _means(reached)
    test = _means([tuple(float(r["mae_bpm"]) for r in pair) for pair in pairs])
    return Inits(*key, len(pairs), test, epochs, at_epochs, total, at_total)


def _means(pairs: Sequence[tuple[Any, ...]]) -> tuple[float, float]:
    first, second = np.mean(np.array(pairs, dtype=float), axis=0)
    return float(first), float(second)


class _Curve:
    """Best validation error so far, against epochs and against compute."""

    def __init__(self, sweep: Sweep, result: dict[str, Any]) -> None:
        self.rows = sweep.history(str(result["id"]))
        self.total = float(result.get("total_seconds") or result["train_seconds"])
        self.before = self.total - float(result["train_seconds"])  # the teacher's share

    def after_epochs(self, n: int) -> float:
        return min(row["val_mae_bpm"] for row in self.rows[:n])

    def after_seconds(self, seconds: float) -> float | None:
        held = [r["val_mae_bpm"] for r in self.rows if self.before + r["train_seconds"] <= seconds + 1e-6]
        return min(held) if held else None
