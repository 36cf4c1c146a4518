"""Strategies, teachers, predictions and hours, compared. Each function gives the panels of one figure."""

from typing import Any

import numpy as np

from orchestrator.answers.claims import OURS
from orchestrator.report.costs import Cost, costs
from orchestrator.report.figures import by_strategy
from orchestrator.report.plot import (
    Axes,
    Panel,
    Scale,
    apart,
    band,
    box,
    css_class,
    cut,
    line,
    marks,
    rule,
    si,
    text,
)
from orchestrator.report.sweep import Sweep, group_name, group_order

ROWS = 12  # of crossovers in one panel, the most informative; the table has them all
PANELS = 12  # of gains; the table has them all


def gains(sweep: Sweep) -> list[Panel]:
    """What each strategy gains over scratch, by size: a panel for each architecture and teacher."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sweep.document["gains"]["arms"]:
        teacher = f" · teacher {sweep.teacher(row['teacher'])}" if row["teacher"] else ""
        groups.setdefault(group_name(row) + teacher, []).append(row)
    ends = [
        100 * s[k] for rows in groups.values() for r in rows for s in r["by_size"] for k in ("low", "high")
    ]
    if not ends:
        return []
    y = (min(*ends, 0.0) - 1, max(*ends, 0.0) + 1)
    ordered = sorted(groups.items(), key=lambda item: group_order(item[0]))
    return [_gain_panel(sweep, name, rows, y) for name, rows in ordered[:PANELS]]


def _gain_panel(sweep: Sweep, name: str, rows: list[dict[str, Any]], y: tuple[float, float]) -> Panel:
    arms = {a["key"]: a for a in sweep.document["arms"]}
    rows = sorted(rows, key=lambda r: by_strategy(r["strategy"]))
    sizes = [s["params"] for r in rows for s in r["by_size"]]
    panel = Panel(
        name,
        f"Gain over scratch, {name}: "
        + "; ".join(
            f"{r['strategy']} {100 * r['mean']['median']:.1f} % [{100 * r['mean']['low']:.1f}, "
            f"{100 * r['mean']['high']:.1f}]"
            for r in rows
        ),
    )
    axes = Axes.on(
        panel,
        (min(sizes) / 1.1, max(sizes) * 1.1),
        y,
        ("parameters", "error reduction over scratch, %"),
        log=(True, False),
        right=64.0,
        tick=(si, lambda v: f"{v:+g}" if v else "0"),
    )
    panel.add(rule(axes.x.start, axes.y(0), axes.x.end, axes.y(0), "zero"))
    ends = []
    for row in rows:
        css = css_class(row["strategy"])
        at = {
            k: [(axes.x(s["params"]), axes.y(100 * s[k])) for s in row["by_size"]]
            for k in ("low", "median", "high")
        }
        panel.add(
            band(at["low"], at["high"], f"band {css}"),
            line(at["median"], f"law {css}"),
            marks(at["median"], row["strategy"], f"dot {css}", 3.4),
        )
        ends.append(at["median"][-1][1])
    wanted = [*ends, axes.y(0)]
    names = [*(cut(sweep.label(arms[r["arm"]]), 12) for r in rows), "scratch"]
    for words, height in zip(names, apart(wanted, 12.5, axes.y.end, axes.y.start - 2), strict=True):
        panel.add(text(axes.x.end + 7, height + 3.5, words, "t-strong" if words != "scratch" else "t-note"))
    return panel


def crossovers(sweep: Sweep) -> list[Panel]:
    """For pairs of strategies: which is better at which size, and where they cross."""
    arms = {a["key"]: a for a in sweep.document["arms"]}
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sweep.document["crossovers"]:
        groups.setdefault(group_name(row), []).append(row)
    out = []
    for name, rows in sorted(groups.items(), key=lambda item: group_order(item[0])):
        rows = sorted(rows, key=lambda r: (r["crossing"] is None, not _throughout(r), _undecided(r)))[:ROWS]
        out.append(_crossover_panel(sweep, name, rows, arms))
    return out


def _undecided(row: dict[str, Any]) -> bool:
    return not (_sure(row["p_a_better_at_smallest"]) and _sure(row["p_a_better_at_largest"]))


def _sure(p: float) -> bool:
    return max(p, 1 - p) >= 0.9


def _crossover_panel(
    sweep: Sweep, name: str, rows: list[dict[str, Any]], arms: dict[str, dict[str, Any]]
) -> Panel:
    step, top = 30.0, 52.0
    panel = Panel(
        name,
        f"Which strategy is better at which size, {name}: " + "; ".join(r["text"] for r in rows),
        height=top + step * len(rows) + 30,
    )
    low, high = min(r["smallest"] for r in rows), max(r["largest"] for r in rows)
    x = Scale(low / 1.05, high * 1.05, 4, panel.width - 4, log=True)
    bottom = panel.height - 30
    panel.add(
        rule(x.start, bottom, x.end, bottom, "axis"),
        text(x.end, panel.height - 2, "parameters", "t-axis", "end"),
    )
    panel.add(text(0, 31, "colour: the better one, where 90 % of draws agree; grey: undecided", "t-axis"))
    for v in x.ticks():
        panel.add(
            rule(x(v), top - 8, x(v), bottom, "grid"), text(x(v), bottom + 14, si(v), "t-tick", "middle")
        )
    several = len({arms[r[k]]["teacher"] for r in rows for k in "ab"} - {None}) > 1
    for i, row in enumerate(rows):
        y = top + step * i + 14
        a, b = arms[row["a"]], arms[row["b"]]
        teacher = f", {sweep.teacher(row['teacher'])}" if several and row["teacher"] else ""
        panel.add(text(x.start, y - 7, f"{sweep.label(a)} – {sweep.label(b)}{teacher}", "t-halo"))
        start, end, crossing = x(row["smallest"]), x(row["largest"]), row["crossing"]
        if crossing:
            turn = x(crossing["low"]), x(crossing["high"])
        elif _throughout(row):
            turn = end, end
        else:  # the ends say little about the middle
            turn = start + 0.15 * (end - start), end - 0.15 * (end - start)
        panel.add(rule(start, y, end, y, "track-none"))
        panel.add(
            rule(start, y, turn[0], y, _winner(row["p_a_better_at_smallest"], a, b)),
            rule(turn[1], y, end, y, _winner(row["p_a_better_at_largest"], a, b)),
        )
        if crossing:
            panel.add(
                rule(turn[0], y, turn[1], y, "cross"),
                marks([(x(crossing["median"]), y)], "scratch", "crossdot", 4),
                text(x.end, y - 7, f"crosses at {si(crossing['median'])}", "t-strong t-halo", "end"),
            )
        else:
            panel.add(text(x.end, y - 7, _verdict(sweep, row, a, b), "t-note t-halo", "end"))
    return panel


def _winner(p: float, a: dict[str, Any], b: dict[str, Any]) -> str:
    if not _sure(p):
        return "track-none"
    return f"track {css_class((a if p > 0.5 else b)['strategy'])}"


def _verdict(sweep: Sweep, row: dict[str, Any], a: dict[str, Any], b: dict[str, Any]) -> str:
    if _throughout(row):
        return f"{cut(sweep.label(a if row['p_a_better_at_smallest'] > 0.5 else b), 16)} throughout"
    return "not established"


def _throughout(row: dict[str, Any]) -> bool:
    """Whether 90 % of the draws have one of the two better at every size; laws.json has it as text only."""
    return str(row["text"]).endswith("at every measured size")


VERDICTS = {  # their colours
    "supported": "c-feature",
    "contradicted": "c-dkd",
    "equivalent": "c-scratch",
    "undecided": "c-teacher",
}


def claims(sweep: Sweep) -> list[Panel]:
    """A forest plot of paired comparisons: the paper's claims, and general questions."""
    parts: dict[str, list[dict[str, Any]]] = {"The paper's claims": [], "General questions": []}
    for row in sweep.claims:
        if row["effect_percent"]:
            parts["General questions" if row["source"] == OURS else "The paper's claims"].append(row)
    known = [row for rows in parts.values() for row in rows]
    told = [_furthest(row) for row in known if row["p"] is not None]  # few people's intervals may go anywhere
    reach = min(1.1 * max(told or map(_furthest, known), default=0.0) + 0.5, 100.0)
    return [_forest(title, rows, reach) for title, rows in parts.items() if rows]


def _furthest(row: dict[str, Any]) -> float:
    return max(abs(float(row["effect_percent"][key])) for key in ("low", "high"))


def _forest(title: str, rows: list[dict[str, Any]], reach: float) -> Panel:
    step, top = 32.0, 44.0
    panel = Panel(
        title,
        f"{title}: by how much the first's error is lower, with 90 % intervals. "
        + "; ".join(
            f"{r['text']}: {r['effect_percent']['median']:+.1f} % [{r['effect_percent']['low']:+.1f}, "
            f"{r['effect_percent']['high']:+.1f}], {r['verdict']}"
            for r in rows
        ),
        height=top + step * len(rows) + 36,
    )
    x = Scale(-reach, reach, 8, panel.width - 8)
    bottom = panel.height - 36
    panel.add(
        text(0, 31, "mean difference and 90 % interval, for new people and new runs", "t-axis"),
        rule(x.start, bottom, x.end, bottom, "axis"),
        text(x.start, panel.height - 6, "← worse", "t-axis"),
        text(x.end, panel.height - 6, "error lower by, % →", "t-axis", "end"),
    )
    for v in x.ticks(6):
        panel.add(
            rule(x(v), top, x(v), bottom, "grid" if v else "zero"),
            text(x(v), bottom + 14, f"{v:+g}" if v else "0", "t-tick", "middle"),
        )
    for i, row in enumerate(rows):
        y = top + step * i + 22
        css = VERDICTS[row["verdict"]]
        low, median, high = (
            x(float(np.clip(row["effect_percent"][key], -reach, reach))) for key in ("low", "median", "high")
        )
        style = "ring" if row["verdict"] == "undecided" else "dot"
        panel.add(
            text(0, y - 8, row["text"], "t-halo"),
            text(
                panel.width,
                y - 8,
                row["verdict"],
                "t-strong t-halo" if style == "dot" else "t-note t-halo",
                "end",
            ),
            rule(low, y, high, y, f"whisker {css}"),
            marks([(median, y)], "scratch", f"{style} {css}", 4),
        )
    return panel


def teachers(sweep: Sweep) -> list[Panel]:
    """Error of a student under one teacher relative to its mean under all: the effect of teacher size."""
    params = {r["id"]: r["params"] for r in sweep.results if r["role"] == "teacher" and r["params"]}
    cells: dict[tuple[str, ...], dict[str, list[float]]] = {}
    sizes: dict[tuple[str, ...], tuple[str, str, float]] = {}
    for r in sweep.results:
        if r["role"] == "student" and r.get("teacher") in params:
            key = tuple(
                str(r.get(k)) for k in ("arch", "depth", "width", "init", "strategy", "strategy_args")
            )
            cells.setdefault(key, {}).setdefault(r["teacher"], []).append(float(np.log(r["mae_bpm"])))
            sizes[key] = (r["arch"], r["strategy"], r["params"])
    rows: dict[str, list[tuple[float, float, str]]] = {}  # arch -> (teacher's size, deviation in %, strategy)
    for key, by in cells.items():
        if len(by) < 2:
            continue
        arch, strategy, _ = sizes[key]
        means = {t: float(np.mean(v)) for t, v in by.items()}
        centre = float(np.mean(list(means.values())))
        rows.setdefault(arch, []).extend(
            (params[t], 100 * float(np.expm1(m - centre)), strategy) for t, m in means.items()
        )
    return [_teacher_panel(sweep, arch, found) for arch, found in sorted(rows.items(), reverse=True)]


def _teacher_panel(sweep: Sweep, arch: str, found: list[tuple[float, float, str]]) -> Panel:
    said = next((t["text"] for t in sweep.document["teachers"] if t["arch"] == arch), "")
    panel = Panel(
        f"{arch} students",
        f"Error of {arch} students under each teacher, relative to their mean under all teachers. {said}",
    )
    xs, ys = [f[0] for f in found], [f[1] for f in found]
    reach = float(np.quantile(np.abs(ys), 0.98)) * 1.15 + 0.5
    axes = Axes.on(
        panel,
        (min(xs) / 1.4, max(xs) * 1.4),
        (-reach, reach),
        ("teacher's parameters", "student's error vs. its mean, %"),
        log=(True, False),
        tick=(si, lambda v: f"{v:+g}" if v else "0"),
    )
    panel.add(rule(axes.x.start, axes.y(0), axes.x.end, axes.y(0), "zero"))
    for strategy in sorted({f[2] for f in found}, key=by_strategy):
        shift = 5.0 * (by_strategy(strategy)[0] - 3)
        points = [
            (axes.x(n) + shift, axes.y(float(np.clip(d, -reach, reach))))
            for n, d, s in found
            if s == strategy
        ]
        panel.add(marks(points, strategy, f"faint {css_class(strategy)}", 2.4))
    means = [(n, float(np.mean([d for m, d, _ in found if m == n]))) for n in sorted(set(xs))]
    at = [(axes.x(n), axes.y(d)) for n, d in means]
    panel.add(line(at, "front"), marks(at, "scratch", "crossdot", 4.5))
    panel.add(text(at[-1][0], at[-1][1] - 9, "mean", "t-strong t-halo", "middle"))
    return panel


def calibration(sweep: Sweep) -> list[Panel]:
    """Where the measured error lay in the prediction interval for held-out largest sizes."""
    groups = [(name, [a for a in arms if a["holdouts"]]) for name, arms in sweep.groups()]
    return [_calibration_panel(sweep, name, arms) for name, arms in groups if arms]


def _calibration_panel(sweep: Sweep, name: str, arms: list[dict[str, Any]]) -> Panel:
    strategies = sorted({a["strategy"] for a in arms}, key=by_strategy)
    level = f"{sweep.document['calibration']['level']:.0%}"
    trials = [h for a in arms for h in a["holdouts"]]
    hits = sum(h["score"] <= 1 for h in trials)
    step, top = 26.0, 54.0
    panel = Panel(
        name,
        f"Held-out largest sizes, {name}: {hits} of {len(trials)} in the {level} prediction interval.",
        height=top + step * len(strategies) + 36,
    )
    reach = max(1.6, *(h["score"] * 1.08 for h in trials))
    x = Scale(-reach, reach, 66, panel.width - 8)
    bottom = panel.height - 36
    panel.add(
        box(x(-1), top - 10, x(1) - x(-1), bottom - top + 10, "inside"),
        text((x(-1) + x(1)) / 2, top - 15, f"{level} interval", "t-note", "middle"),
        rule(x(0), top - 10, x(0), bottom, "guide"),
        rule(x.start, bottom, x.end, bottom, "axis"),
    )
    for v in x.ticks(5):
        panel.add(text(x(v), bottom + 14, f"{v:+g}" if v else "0", "t-tick", "middle"))
    panel.add(
        text(x.start, panel.height - 6, "← better than predicted", "t-axis"),
        text(x.end, panel.height - 6, "worse than predicted →", "t-axis", "end"),
    )
    for i, strategy in enumerate(strategies):
        y = top + step * (i + 0.5)
        css = css_class(strategy)
        panel.add(text(0, y + 4, strategy))
        held = [h for a in arms if a["strategy"] == strategy for h in a["holdouts"]]
        for left_out, style, dy in ((1, "dot", -4.0), (2, "ring", 4.0)):
            points = [
                (x(float(np.copysign(h["score"], h["error_ln"]))), y + dy)
                for h in held
                if h["left_out"] == left_out
            ]
            panel.add(marks(points, strategy, f"{style} {css}", 3.6))
    return panel


def cost(sweep: Sweep) -> list[Panel]:
    """Hours of training by stage and strategy, a panel for each kind of device."""
    by_kind: dict[str, list[Cost]] = {}
    for c in costs(sweep):
        by_kind.setdefault(c.kind, []).append(c)
    return [_cost_panel(kind, rows) for kind, rows in sorted(by_kind.items(), reverse=True)]


def _cost_panel(kind: str, rows: list[Cost]) -> Panel:
    step, top = 28.0, 34.0
    total, most = sum(c.hours for c in rows), max(c.hours for c in rows)
    panel = Panel(
        f"{hours(total)} {kind}-hours",
        f"{kind}-hours of training: "
        + "; ".join(f"{c.what} {hours(c.hours)} for {c.points} points" for c in rows),
        height=top + step * len(rows) + 6,
    )
    for i, c in enumerate(rows):
        y = top + step * i
        length = 150 * c.hours / most if most else 0
        panel.add(
            text(0, y + 12, c.what),
            box(
                96,
                y + 1,
                max(length, 1.0),
                15,
                f"bar {'c-teacher' if c.stage == 'teacher' else css_class(c.what)}",
            ),
            text(96 + length + 6, y + 12, hours(c.hours), "t-strong"),
            text(panel.width, y + 12, f"{c.points} point{'s' if c.points != 1 else ''}", "t-note", "end"),
        )
    return panel


def hours(value: float) -> str:
    """Hours with three digits, whatever their size."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
