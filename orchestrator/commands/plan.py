"""`kdsweep plan SPACE`: what a search space would run, before it runs."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import click
import numpy as np

from kd.errors import InputError
from kd.signals.prepare import Data
from kd.signals.splits import SIDES
from kd.signals.windows import LEAD, WindowSet
from kd.teachers.source import source_of
from orchestrator.answers.answerable import TARGET, answerable, lines, noise_of
from orchestrator.answers.candidates import Budget
from orchestrator.answers.design import question
from orchestrator.commands import tables
from orchestrator.commands.arguments import SPACE, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.tables import Column
from orchestrator.laws.noise import Noise
from orchestrator.space.cost import cost_scale, startup, with_startup
from orchestrator.space.plan import Plan, Point
from orchestrator.space.resolve import Opened, open_space
from orchestrator.space.stems import Saved, saved
from orchestrator.store.find import sweep_folder
from orchestrator.words import UNSEEN, duration, plural

MOST_ROWS = 80


@click.command()
@click.argument("space", type=SPACE)
@click.argument("overrides", nargs=-1)
@click.option("--out", help="The sweep directory.  [default: sweeps/<name of the space>]")
@click.option(
    "--answer",
    metavar="LIMITS",
    help='Predict what the results could answer: "max-params=60000", limits as query takes them.',
)
@click.option(
    "--target",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="With --answer: how often the best should be named rightly.  [default: 0.8]",
)
@click.option(
    "--noise", type=SWEEP, help="With --answer: the sweep whose noise to expect.  [default: typical]"
)
@click.option("--all", "show_all", is_flag=True, help="Show every row.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    space: str,
    overrides: Sequence[str],
    out: str | None,
    answer: str | None,
    target: float | None,
    noise: str | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """Show what SPACE would run: points, sizes, order, cost, and what is already done.

    OVERRIDES change single values: training.max_epochs=5, students.0.width=[4,8].
    """
    if answer is None and (target is not None or noise is not None):
        raise InputError('--target and --noise need --answer: for example --answer "max-params=60000"')
    asked = None if answer is None else question(answer)
    expected = noise_of(sweep_folder(noise) if noise else None)
    opened = open_space(space, overrides, out, lambda text: echo(text, err=True))
    found = None if asked is None else _answerable(opened, asked, expected, target or TARGET)
    if as_json:
        click.echo(json.dumps(as_dict(opened) | ({} if found is None else {"answerable": found})))
        return
    print_plan(opened, None if show_all else MOST_ROWS)
    for line in lines(found) if found else []:
        echo(line)


def _answerable(opened: Opened, asked: Budget, expected: tuple[Noise, str], target: float) -> dict[str, Any]:
    """What the plan could answer, from its windows' shape and tested subjects."""
    seen = {str(p.recipe.get("channels", "")) for p in opened.plan.points if p.role == "student"}
    windows = opened.windows.seen_by(seen.pop() if len(seen) == 1 else "")
    channels, samples = windows.train.x.shape[1:]
    shape = {"channels": channels, "samples": samples, "classes": opened.windows.classes}
    split = list(opened.folds.values()) or [opened.windows]
    tested = {person for data in split for person in _people(data.test)}
    everybody = {person for side in SIDES for person in _people(getattr(split[0], side))}
    scale, _ = cost_scale(opened.plan, opened.store)
    return answerable(opened.plan, shape, tested, everybody, asked, expected, target, scale)


def _people(windows: WindowSet) -> set[tuple[str, str]]:
    return {(str(d), str(s)) for d, s in zip(windows.dataset, windows.subject, strict=True)}


def as_dict(opened: Opened) -> dict[str, Any]:
    """The plan as JSON: totals, and a row a point in the order of the plan."""
    done, scale = opened.store.done(), cost_scale(opened.plan, opened.store)
    less = saved(opened.plan.points, opened.store)
    points = [
        {**asdict(p), "cost_s": round(p.cost_s * scale[0], 3), "done": p.id in done}
        for p in _shortened(opened.plan, less)
    ]
    for row in points:
        if by := less.get(row["id"]):
            row |= {"continued_epochs": by.epochs, "saved_s": round(by.cost_s * scale[0], 3)}
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
        "saved_s": round(sum(by.cost_s for by in less.values()) * scale[0], 1),
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
    less = saved(plan.points, opened.store)
    plan = replace(plan, points=_shortened(plan, less))
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
        f"\n{len(plan.points)} points ({plural(kinds['teachers'], 'teacher')}, "
        f"{plural(kinds['students'], 'student')}{over}): "
        f"{len(plan.points) - len(left)} done, {len(left)} to train\n"
        "kB, int8 kB: weights in float32 and int8; act. kB: activation peak of one window, float32\n"
        + (_folds(opened, plan, done, scale) if n else f"windows: {_windows(opened.windows)}\n")
        + f"errors: {plan.headline}\n"
        f"cost: {_cost(sum(p.cost_s for p in left) * scale, source, opened, here)}",
        highlight=False,
    )
    if less:
        console.print(_going_on(less, scale), highlight=False)
    if lead := opened.windows.dropped.by_reason.get(LEAD):
        console.print(f"{lead:,} windows dropped for all: {LEAD}", highlight=False)
    for line in _brought(plan):
        console.print(line, highlight=False, markup=False)
    for why in plan.refused:
        console.print(f"refused: {why}", highlight=False, markup=False)


def _shortened(plan: Plan, less: Mapping[str, Saved]) -> list[Point]:
    """The points, at the cost that is left of those that go on from shorter ones."""
    return [replace(p, cost_s=p.cost_s - less[p.id].cost_s) if p.id in less else p for p in plan.points]


def _going_on(less: Mapping[str, Saved], scale: float) -> str:
    """What those save, in words."""
    epochs = sorted({by.epochs for by in less.values()})
    after = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    them = "goes on from a shorter one" if len(less) == 1 else "go on from shorter ones"
    saves = duration(sum(by.cost_s for by in less.values()) * scale)
    return f"{plural(len(less), 'point')} {them}, after {after} epochs: {saves} saved"


def _brought(plan: Plan) -> list[str]:
    """A line a brought teacher: what it is and what its pass takes; then what can't be known of them."""
    found: dict[str, list[Point]] = {}
    for point in plan.points:
        if point.brought:
            found.setdefault(point.brought["group"], []).append(point)
    lines = []
    for points in found.values():
        one = points[0]
        code = f"; the code of {', '.join(of)} runs" if (of := source_of(one.brought).runs_code) else ""
        takes = duration(sum(p.cost_s for p in points))
        lines.append(
            f"brought: {one.name} ({one.brought['kind']}), {_known(one.params)} parameters, "
            f"{_known(one.macs)} MACs; its pass over all windows takes about {takes} of one core{code}"
        )
    if any(not point.brought["same_split"] for point in plan.points if point.brought):
        lines.append(UNSEEN)
    return lines


def _known(number: int) -> str:
    return f"{number:,}" if number else "unknown"


def _folds(opened: Opened, plan: Plan, done: set[str], scale: float) -> str:
    """A line a fold: its windows, subjects that are tested, points and cost."""
    said = ""
    for fold, data in opened.folds.items():
        counts = _counts(
            {"role": p.role, "done": p.id in done, "cost_s": p.cost_s * scale}
            for p in plan.points
            if p.fold == fold
        )
        said += (
            f"fold {fold}: {_windows(data)} ({len(np.unique(data.test.subject))} subjects); "
            f"{plural(counts['teachers'], 'teacher')}, {plural(counts['students'], 'student')}, "
            f"{counts['done']} done, "
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
        Column(name, [f"{n / 1000:,.1f}" if n else "" for n in sizes], needed, right=True)
        for (name, sizes), needed in zip(kilo.items(), (6, 9, 10), strict=True)
    )
    arguments = [_differing(p) for p in points]
    return [
        Column("point", [p.id for p in points]),
        Column("strategy", ["teacher" if p.role == "teacher" else p.strategy for p in points]),
        Column("architecture", [p.name for p in points]),
        Column("init", [p.init for p in points], 3 if len({p.init for p in points}) > 1 else 11),
        Column("arguments", arguments, 4 if any(arguments) else 12),
        Column("waits for", [", ".join(names.get(id, id) for id in p.needs) for p in points], 2),
        *([Column("fold", ["" if p.fold is None else str(p.fold) for p in points], 1)] if plan.folds else []),
        Column("seed", [str(p.seed) for p in points], 1 if len({p.seed for p in points}) > 1 else 8),
        Column("params", [_known(p.params) for p in points], right=True),
        Column("MACs", [_known(p.macs) for p in points], 7, right=True),
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
    return " ".join(f"{k}={v:g}" for k, v in p.strategy_args.items() if v != usual.get(k))
