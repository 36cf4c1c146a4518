"""`kdsweep plan SPACE`: what a search space would run, before it runs."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
import numpy as np

from kd.signals.prepare import Data
from kd.signals.splits import SIDES
from orchestrator.commands import tables
from orchestrator.commands.arguments import SPACE
from orchestrator.commands.echo import echo
from orchestrator.commands.tables import Column
from orchestrator.space.cost import cost_scale, startup, with_startup
from orchestrator.space.plan import Plan, Point
from orchestrator.space.resolve import Opened, open_space
from orchestrator.words import duration

MOST_ROWS = 80


@click.command()
@click.argument("space", type=SPACE)
@click.argument("overrides", nargs=-1)
@click.option("--out", help="The sweep directory.  [default: sweeps/<name of the space>]")
@click.option("--all", "show_all", is_flag=True, help="Show every row.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(space: str, overrides: Sequence[str], out: str | None, show_all: bool, as_json: bool) -> None:
    """Show what SPACE would run: points, sizes, order, cost, and what is already done.

    OVERRIDES change single values: training.max_epochs=5, students.0.width=[4,8].
    """
    opened = open_space(space, overrides, out, lambda text: echo(text, err=True))
    if as_json:
        click.echo(json.dumps(as_dict(opened)))
        return
    print_plan(opened, None if show_all else MOST_ROWS)


def as_dict(opened: Opened) -> dict[str, Any]:
    """The plan as JSON: totals, and a row a point in the order of the plan."""
    done, scale = opened.store.done(), cost_scale(opened.plan, opened.store)
    points = [
        {**asdict(p), "cost_s": round(p.cost_s * scale[0], 3), "done": p.id in done}
        for p in opened.plan.points
    ]
    left = [p for p in points if not p["done"]]
    start = startup(opened.store.ledger())
    return {
        "sweep": opened.plan.name,
        "folder": str(opened.store.path),
        "metric": opened.plan.headline.metric,
        "metric_weights": dict(opened.plan.headline.weights),
        "data_fingerprint": opened.windows.fingerprint,
        "windows": {side: len(getattr(opened.windows, side)) for side in SIDES},
        **_unlabelled(opened.windows),
        "folds": [
            {
                "fold": fold,
                "data_fingerprint": data.fingerprint,
                **{side: len(getattr(data, side)) for side in SIDES},
                "test_subjects": len(np.unique(data.test.subject)),
                **_unlabelled(data),
                **_counts(p for p in points if p["fold"] == fold),
            }
            for fold, data in opened.folds.items()
        ],
        "total": len(points),
        "done": len(points) - len(left),
        "cost_s": round(sum(p["cost_s"] for p in left), 1),
        "cost_from": scale[1],
        "startup_s": round(start[0], 1) if left else 0.0,
        "startup_from": start[1],
        "refused": opened.plan.refused,
        "new": len(opened.new),
        "points": points,
    }


def print_plan(opened: Opened, most: int | None, *, here: bool = True) -> None:
    """A table of the points, then what they come to; here: with what starting on this machine takes."""
    plan, done = opened.plan, opened.store.done()
    scale, source = cost_scale(plan, opened.store)
    console = tables.console()
    missing = tables.show(console, _columns(plan, plan.points[:most], done, scale))
    if missing:
        console.print(
            f"left out at {console.width} columns: {', '.join(missing)}; --json has all", markup=False
        )
    if most is not None and len(plan.points) > most:
        console.print(f"... and {len(plan.points) - most} more: --all shows them")
    left = [p for p in plan.points if p.id not in done]
    kinds = Counter("teachers" if p.role == "teacher" else "students" for p in plan.points)
    n = len(plan.folds)
    over = f", over {n} fold{'s' * (n > 1)}" if n else ""
    console.print(
        f"\n{len(plan.points)} points ({kinds['teachers']} teachers, {kinds['students']} students{over}): "
        f"{len(plan.points) - len(left)} done, {len(left)} to train\n"
        "kB, int8 kB: weights in float32 and int8; act. kB: activation peak of one window, float32\n"
        + (_folds(opened, done, scale) if n else f"windows: {_windows(opened.windows)}\n")
        + f"errors: {plan.headline}\n"
        f"cost: {_cost(sum(p.cost_s for p in left) * scale, source, opened, here)}",
        highlight=False,
    )
    for why in plan.refused:
        console.print(f"refused: {why}", highlight=False, markup=False)


def _folds(opened: Opened, done: set[str], scale: float) -> str:
    """A line a fold: its windows, subjects that are tested, points and cost."""
    said = ""
    for fold, data in opened.folds.items():
        counts = _counts(
            {"role": p.role, "done": p.id in done, "cost_s": p.cost_s * scale}
            for p in opened.plan.points
            if p.fold == fold
        )
        said += (
            f"fold {fold}: {_windows(data)} ({len(np.unique(data.test.subject))} subjects); "
            f"{counts['teachers']} teachers, {counts['students']} students, {counts['done']} done, "
            f"{duration(counts['cost_s'])} to train\n"
        )
    return said


def _unlabelled(data: Data) -> dict[str, Any]:
    """Windows without labels, where there are any: trained on, and left out."""
    if data.unlabelled is None:
        return {}
    said = {"windows": len(data.unlabelled.windows), "left_out": dict(data.unlabelled.left_out)}
    return {"unlabelled": {**said, "share_seen": data.unlabelled.sure}}


def _windows(data: Data) -> str:
    more = data.unlabelled
    said = f"{len(data.train):,} train, {len(data.val):,} validation, {len(data.test):,} test"
    if more is None:
        return said
    out = [f"{n:,} left out: {why}" for why, n in more.left_out.items() if n]
    if more.sure < 1:
        out.append(f"students see the {more.sure:.0%} that their teacher is surest of")
    return f"{said}, {len(more.windows):,} without labels" + (f" ({'; '.join(out)})" if out else "")


def _counts(points: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Teachers, students, those done, and the cost of the others."""
    points = list(points)
    teachers = sum(p["role"] == "teacher" for p in points)
    return {
        "teachers": teachers,
        "students": len(points) - teachers,
        "done": sum(p["done"] for p in points),
        "cost_s": round(sum(p["cost_s"] for p in points if not p["done"]), 1),
    }


def _cost(seconds: float, source: str, opened: Opened, here: bool) -> str:
    """What training takes in one slot, and with the start before it, in words."""
    alone = f"{duration(seconds)} of one slot, estimated from {source}"
    if not seconds or not here:
        return alone
    start, measured = startup(opened.store.ledger())
    return f"{alone}; with the start of a run {with_startup(seconds + start, start)} ({measured})"


def _columns(plan: Plan, points: Sequence[Point], done: set[str], scale: float) -> list[Column]:
    names = {p.id: f"{p.name} s{p.seed}" for p in plan.points if p.role == "teacher"}
    kilo = {
        "kB": [p.weight_bytes for p in points],
        "int8 kB": [p.weight_bytes_int8 for p in points],
        "act. kB": [p.activation_bytes for p in points],
    }
    kB, int8, activation = (
        Column(name, [f"{n / 1000:,.1f}" for n in sizes], needed, right=True)
        for (name, sizes), needed in zip(kilo.items(), (6, 9, 10), strict=True)
    )
    arguments = [_differing(p) for p in points]
    return [
        Column("point", [p.id for p in points]),
        Column("strategy", ["teacher" if p.role == "teacher" else p.strategy for p in points]),
        Column("architecture", [p.name for p in points]),
        Column("init", [p.init for p in points], 3 if len({p.init for p in points}) > 1 else 11),
        Column("arguments", arguments, 4 if any(arguments) else 12),
        Column("waits for", [names.get(p.teacher or "", "") for p in points], 2),
        *([Column("fold", ["" if p.fold is None else str(p.fold) for p in points], 1)] if plan.folds else []),
        Column("seed", [str(p.seed) for p in points], 1 if len({p.seed for p in points}) > 1 else 8),
        Column("params", [f"{p.params:,}" for p in points], right=True),
        Column("MACs", [f"{p.macs:,}" for p in points], 7, right=True),
        kB,
        int8,
        activation,
        Column("cost s", [f"{p.cost_s * scale:.1f}" for p in points], 5, right=True),
        Column("state", ["done" if p.id in done else "" for p in points], 0 if done else 12),
    ]


def _differing(p: Point) -> str:
    """Strategy arguments that aren't the defaults."""
    from kd.training.strategies import defaults

    usual = defaults(p.strategy, unlabelled=True)
    return " ".join(f"{k}={v:g}" for k, v in p.strategy_args.items() if v != usual[k])
