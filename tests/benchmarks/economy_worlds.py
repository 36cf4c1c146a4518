"""Worlds for `economy.py`: finished grids, simulated or a sweep's, with every epoch and its cost.

A simulated world is a plan like the quickstart's: two architectures, nine arms of each, two teachers a fold.
Its people are heavy-tailed and take differently to architectures, arms and sizes; its curves of size come
from families inside and outside those fitted, and cross; in a third of the worlds the arms that end best
begin slowest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from kd.models.sizes import size
from orchestrator.answers.design import TYPICAL
from orchestrator.laws.crossed import difficulty
from orchestrator.laws.truths import FAMILIES, RISING
from orchestrator.space.plan import Plan, Point
from orchestrator.store.metric import headline
from orchestrator.store.store import Store

KINDS = ("alike", "crossing", "late-crossing")
STRATEGIES = ("scratch", "hard", "soft", "dkd", "feature")
WIDTHS = {"resnet1d": (4, (4, 6, 10, 16, 26)), "mlp": (2, (8, 16, 32, 64, 128))}
TEACHERS = ((6, 16), (6, 28))
EPOCHS = {"student": 14, "teacher": 24}
BUDGETS = (8_000, 20_000, 60_000)


@dataclass(frozen=True)
class World:
    """A finished grid. curves, tests: by point id. truth: ln of the true error in BPM, by cell
    (`cell_of`)."""

    name: str
    points: list[Point]
    epochs: Mapping[str, int]
    seconds_per_epoch: Mapping[str, float]
    curves: Mapping[str, list[float]]
    results: Mapping[str, dict[str, Any]]
    truth: Mapping[tuple[Any, ...], float]
    question: Mapping[str, float]

    @property
    def grid_s(self) -> float:
        """What all of it costs."""
        return float(sum(self.seconds_per_epoch[p.id] * self.epochs[p.id] for p in self.points))


def cell_of(p: Point | Mapping[str, Any]) -> tuple[Any, ...]:
    """The student that a point or a result is a run of: the same for all folds and seeds."""
    get = p.get if isinstance(p, Mapping) else lambda name: getattr(p, name)
    args = sorted((get("strategy_args") or {}).items())
    group = get("teacher_group") or get("teacher")
    return (get("arch"), get("depth"), get("width"), get("init"), get("strategy"), str(args), group)


def simulated(seed: int) -> World:
    """World number `seed`; its kind, family, folds and question follow from that."""
    g = np.random.default_rng([seed, 717])
    kind = KINDS[seed % 3]
    families = list(FAMILIES | RISING)
    folds = int(g.choice([2, 3, 4]))
    points = [p for fold in range(folds) for p in _points(fold)]
    truths = {a: (FAMILIES | RISING)[families[int(g.integers(len(families)))]](g) for a in WIDTHS}
    # at 8,000 parameters as wrist.yaml's students on real recordings (`design.TYPICAL`), give or take
    typical = np.log(TYPICAL.level_bpm) + g.normal(0, 0.15)
    above = {a: typical - float(np.log(t(np.array([TYPICAL.level_params]))[0])) for a, t in truths.items()}
    above["mlp"] += float(g.normal(0.12, 0.12))
    tilt = 0.05 if kind == "crossing" else 0.015
    gain = float(g.normal(-0.06, 0.03))
    cells = {cell_of(p): p for p in points if p.role == "student"}
    middle = {a: np.mean([np.log(size(a, d, w).params) for w in ws]) for a, (d, ws) in WIDTHS.items()}
    arms: dict[Any, tuple[float, float, float]] = {}
    strategies = {s: g.normal(0, 0.03) for s in STRATEGIES}
    teachers = {f"T{d}x{w}": g.normal(0, 0.012) + 0.01 * k for k, (d, w) in enumerate(TEACHERS)}
    common: dict[Any, float] = {}
    truth: dict[tuple[Any, ...], float] = {}
    slow: dict[Any, float] = {}
    for key, p in cells.items():
        arm = (p.arch, p.strategy, p.teacher_group)
        if arm not in arms:
            taught = gain + teachers[str(p.teacher_group)] if p.teacher_group else 0.0
            arms[arm] = (
                float(strategies[p.strategy] + taught + g.normal(0, 0.025)),
                float(g.normal(0, tilt)),
                0.0,
            )
            late = kind == "late-crossing"
            slow[arm] = float(g.normal(0, 0.2)) + (-8.0 * arms[arm][0] if late else 0.0)
        shape = (p.arch, p.width)
        common.setdefault(shape, float(g.normal(0, 0.015)))
        away = np.log(p.params) - middle[p.arch]
        level = float(np.log(truths[p.arch](np.array([float(p.params)]))[0])) + above[p.arch]
        truth[key] = level + arms[arm][0] + arms[arm][1] * away + common[shape] + float(g.normal(0, 0.008))
    people = _People(g, folds, cells)
    curves, results, pace = {}, {}, {}
    for p in points:
        pace[p.id] = (0.15 + p.macs / 4e5) * float(np.exp(0.05 * g.standard_normal()))
        if p.role == "teacher":
            curves[p.id] = [5.0] * EPOCHS["teacher"]
            results[p.id] = p.fields | {"mae_bpm": 5.0, "train_seconds": pace[p.id] * EPOCHS["teacher"]}
            continue
        luck = 0.03 * g.standard_normal()
        tested, checked = people.errors(g, p, truth[cell_of(p)] + luck)
        arm = (p.arch, p.strategy, p.teacher_group)
        curves[p.id] = _curve(g, checked, slow[arm], np.log(p.params) - middle[p.arch])
        results[p.id] = p.fields | {"mae_bpm": tested, "train_seconds": pace[p.id] * EPOCHS["student"]}
    question = {"max_params": float(g.choice(BUDGETS))}
    epochs = {p.id: EPOCHS[p.role] for p in points}
    return World(f"{seed} {kind}", points, epochs, pace, curves, results, truth, question)


class _People:
    """Who tests and who validates each fold, and how they take to what they wear."""

    def __init__(self, g: np.random.Generator, folds: int, cells: Mapping[Any, Point]) -> None:
        n = 14 * folds
        self.hard = difficulty(g, 0.35, n)
        order = g.permutation(n)
        self.test = [order[k::folds] for k in range(folds)]
        self.check = [g.choice(np.setdiff1d(order, t), 8, replace=False) for t in self.test]
        shapes = {(p.arch, p.width) for p in cells.values()}
        arms = {(p.arch, p.strategy, p.teacher_group) for p in cells.values()}
        self.arch = {a: 0.12 * g.standard_normal(n) for a in WIDTHS}
        self.shape = {s: 0.06 * g.standard_normal(n) for s in sorted(shapes)}
        self.arm = {a: 0.06 * g.standard_normal(n) for a in sorted(arms, key=str)}
        # the mean of exp() over all people, in ln: the truth is of them
        many = difficulty(np.random.default_rng(0), 0.35, 100_000)
        self.factor = float(np.log(np.exp(many).mean()) + (0.12**2 + 3 * 0.06**2) / 2)

    def errors(self, g: np.random.Generator, p: Point, level: float) -> tuple[float, float]:
        """(test, validation) error of a run of this ln level, BPM."""
        likes = self.hard + self.arch[p.arch] + self.shape[p.arch, p.width]
        likes = likes + self.arm[p.arch, p.strategy, p.teacher_group] + 0.06 * g.standard_normal(len(likes))
        likes = likes - self.factor
        of = [np.exp(level + likes[who[p.fold or 0]]).mean() for who in (self.test, self.check)]
        return float(of[0]), float(of[1])


def _curve(g: np.random.Generator, last: float, slow: float, away: float) -> list[float]:
    """Validation error after each epoch, down to about `last`."""
    x = np.arange(1, EPOCHS["student"] + 1) / EPOCHS["student"]
    high = float(np.exp(slow + 0.08 * away + 0.15 * g.standard_normal()))
    bend = float(np.exp(0.2 * g.standard_normal()))
    fall = high * (0.22 * (x**-0.6 - 1) + 0.12 * bend * (1 - x))
    noise = g.standard_normal(len(x)) * (0.01 + 0.05 * (1 - x))
    return list(np.exp(np.log(last) + fall + noise))


def _points(fold: int) -> list[Point]:
    """A fold of the plan: teachers first."""
    out = []
    for depth, width in TEACHERS:
        out.append(_point("teacher", "resnet1d", depth, width, "scratch", None, fold))
    for arch, (depth, widths) in WIDTHS.items():
        for width in widths:
            for strategy in STRATEGIES:
                teachers = [None] if strategy == "scratch" else [f"T{d}x{w}" for d, w in TEACHERS]
                out += [_point("student", arch, depth, width, strategy, t, fold) for t in teachers]
    return out


def _point(
    role: str, arch: str, depth: int, width: int, strategy: str, teacher: str | None, fold: int
) -> Point:
    s = size(arch, depth, width)
    id = f"T{depth}x{width}" if role == "teacher" else f"{arch}-{depth}x{width}-{strategy}-{teacher}"
    return Point(
        id=f"{id}-{fold}",
        role=role,
        arch=arch,
        depth=depth,
        width=width,
        init="random",
        strategy=strategy,
        strategy_args={},
        teacher=f"{teacher}-{fold}" if teacher else None,
        seed=0,
        recipe={"max_epochs": EPOCHS[role]},
        data_fingerprint=f"simulated {fold}",
        params=s.params,
        macs=s.macs,
        activation_bytes=s.activation_bytes,
        weight_bytes=s.weight_bytes,
        weight_bytes_int8=s.weight_bytes // 4,
        cost_s=1.0,
        fold=fold,
        data_group="simulated",
        teacher_group=f"T{depth}x{width}" if role == "teacher" else teacher,
    )


def recorded(
    folder: Path, question: Mapping[str, float], folds: int | None = None, planned: bool = False
) -> list[World]:
    """A finished sweep as worlds: one of every choice of so many of its folds (default: all of them).

    The truth of a student is the mean of its errors over all folds and seeds of the sweep, whatever folds the
    world has. Points without a result are left out, and those that learn from them. planned: costs are those
    of the plan instead of the seconds that training took, which say little of a machine that was busy.
    """
    plan, store, metric = Plan.load(folder / "plan.json"), Store(folder), headline(folder)
    results = {r["id"]: metric.judged(r) for r in store.results()}
    points = [p for p in plan.points if p.id in results and (not p.teacher or p.teacher in results)]
    curves = {p.id: [float(row["val_mae_bpm"]) for row in store.history(p.id)] for p in points}
    by_cell: dict[tuple[Any, ...], dict[Any, list[float]]] = {}
    for p in points:
        if p.role == "student":
            error = float(np.log(results[p.id]["mae_bpm"]))
            by_cell.setdefault(cell_of(p), {}).setdefault(p.fold, []).append(error)
    truth = {
        key: float(np.log(np.mean([np.exp(v).mean() for v in of.values()]))) for key, of in by_cell.items()
    }
    epochs = {p.id: max(len(curves[p.id]), 1) for p in points}
    took = {p.id: p.cost_s if planned else float(results[p.id]["train_seconds"]) for p in points}
    pace = {id: max(seconds, 1e-3) / epochs[id] for id, seconds in took.items()}
    whole = World(folder.name, points, epochs, pace, curves, results, truth, question)
    every = sorted({p.fold for p in points if p.fold is not None})
    if not folds or folds >= len(every):
        return [whole]
    return [
        replace(
            whole,
            name=f"{folder.name} folds {','.join(map(str, kept))}",
            points=[p for p in points if p.fold in kept],
        )
        for kept in combinations(every, folds)
    ]
