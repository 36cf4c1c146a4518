"""When the answer settled, and where the compute went, of a sweep that was trained for one question."""

from orchestrator.report.comparisons import hours
from orchestrator.report.costs import costs
from orchestrator.report.plot import Axes, Panel, box, css_class, line, marks, rule, text
from orchestrator.report.sweep import Sweep
from orchestrator.report.tables import Cell, Table, columns, number, size
from orchestrator.run.belief import ADVISED, P_BEST, PROBABILITY, REGRET, verdict

ROWS = 30  # of decisions in the table: the last ones
LEAST = 1e-3  # BPM: smaller regrets are drawn at that


def unit(sweep: Sweep) -> tuple[float, str]:
    """Hours of what a slot-hour is, and what they are of."""
    gpus = float(sweep.decisions[-1]["gpus_per_slot"])
    return (gpus, "GPU-hours") if gpus else (1.0, "slot-hours")


def lead(sweep: Sweep) -> list[str]:
    """How it ended, in sentences."""
    last, done = sweep.decisions[-1], len(sweep.results)
    question = ", ".join(f"{name.replace('_', ' ')} {limit:g}" for name, limit in last["question"].items())
    said = verdict(last["belief"], last["stop"], last["until_regret"], last["gpus_per_slot"])
    begun = done + len(sweep.paused)
    return [
        f"The sweep was trained for one question ({question}): {said}.",
        f"Of {max(len(sweep.plan), begun)} points {done} are finished, {len(sweep.paused)} paused, "
        f"{max(len(sweep.plan) - begun, 0)} were not begun or failed, by {len(sweep.decisions)} decisions.",
    ]


def settling(sweep: Sweep) -> list[Panel]:
    """Believed regret against hours spent, and hours by kind of point; nothing without decisions."""
    if not sweep.decisions:
        return []
    return [*_regret(sweep), _went(sweep)]


def _regret(sweep: Sweep) -> list[Panel]:
    scale, what = unit(sweep)
    at = [
        (d["spent_s"] / 3600 * scale, max(float(d["belief"][REGRET]), LEAST))
        for d in sweep.decisions
        if d["belief"].get(REGRET) is not None
    ]
    if not at or at[-1][0] <= 0:
        return []
    target = sweep.decisions[-1]["until_regret"]
    values = [y for _, y in at] + ([max(target, LEAST)] if target else [])
    panel = Panel(
        f"Regret, at most with probability {PROBABILITY}",
        f"Believed regret fell from {at[0][1]:.2g} to {at[-1][1]:.2g} BPM over {hours(at[-1][0])} {what}",
    )
    axes = Axes.on(
        panel,
        (0.0, at[-1][0]),
        (min(values) / 1.3, max(values) * 1.3),
        (what, "BPM"),
        log=(False, True),
    )
    points = [(axes.x(x), axes.y(y)) for x, y in at]
    if target:
        y = axes.y(max(target, LEAST))
        panel.add(
            rule(axes.x.start, y, axes.x.end, y, "guide"),
            text(axes.x.start + 4, y - 4, f"asked for: {target:g}", "t-note t-halo"),
        )
    panel.add(line(points, "front"), marks(points[-1:], "scratch", "crossdot", 3.6))
    return [panel]


def _went(sweep: Sweep) -> Panel:
    """Hours of finished points, and, lighter, of paused ones."""
    scale, what = unit(sweep)
    finished: dict[str, float] = {}
    for c in costs(sweep):
        finished[c.what] = finished.get(c.what, 0.0) + c.hours * scale
    waiting: dict[str, float] = {}
    for id, where in sweep.paused.items():
        p = sweep.plan.get(id)
        kind = "unknown" if p is None else "teachers" if p.role == "teacher" else p.strategy
        waiting[kind] = waiting.get(kind, 0.0) + where["train_seconds"] / 3600 * scale
    kinds = list(dict.fromkeys([*finished, *waiting]))
    total = {kind: finished.get(kind, 0.0) + waiting.get(kind, 0.0) for kind in kinds}
    step, top, most = 28.0, 34.0, max(total.values(), default=0.0)
    panel = Panel(
        f"Where {hours(sum(total.values()))} {what} went",
        f"{what}: " + "; ".join(f"{kind} {hours(total[kind])}" for kind in kinds),
        height=top + step * len(kinds) + 22,
    )
    for i, kind in enumerate(kinds):
        y, css = top + step * i, "c-teacher" if kind == "teachers" else css_class(kind)
        own, rest = (150 * of.get(kind, 0.0) / most if most else 0.0 for of in (finished, waiting))
        panel.add(
            text(0, y + 12, kind),
            box(96, y + 1, own, 15, f"bar {css}"),
            box(96 + own, y + 1, rest, 15, f"faint {css}"),
            text(96 + own + rest + 6, y + 12, hours(total[kind]), "t-strong"),
        )
    panel.add(text(0, panel.height - 6, "lighter: points that are paused", "t-note"))
    return panel


def decisions(sweep: Sweep) -> Table:
    """The last decisions: what was spent and believed, and how many points were named."""
    scale, what = unit(sweep)
    rows = [
        [
            size(d["number"]),
            number(d["spent_s"] / 3600 * scale, ".3g"),
            Cell(str(d["belief"].get(ADVISED) or "–")),
            number(d["belief"].get(P_BEST), ".2f"),
            number(d["belief"].get(REGRET), ".3g"),
            size(d["named"]),
            Cell(d["stop"] or ""),
        ]
        for d in sweep.decisions[-ROWS:]
    ]
    few = f", the last {ROWS} of {len(sweep.decisions)}" if len(sweep.decisions) > ROWS else ""
    return Table(
        f"Decisions{few}",
        columns(f"#decision, #{what}, advised, #P(best), #regret BPM, #points named, stopped"),
        rows,
    )
