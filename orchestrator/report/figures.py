"""Laws with every run, and Pareto fronts. Each function gives the panels of one figure."""

from typing import Any

import numpy as np

from orchestrator.answers.candidates import LIMITS
from orchestrator.laws.forms import Array
from orchestrator.laws.packing import unpack
from orchestrator.report.fronts import BEYOND, measured
from orchestrator.report.plot import (
    Axes,
    Panel,
    Point,
    apart,
    band,
    box,
    css_class,
    cut,
    line,
    marks,
    si,
    text,
)
from orchestrator.report.sweep import Sweep, full_label

ORDER = ("scratch", "hard", "soft", "dkd", "feature")  # of strategies, everywhere
OUTLIER = 1.6  # a run this many times worse than 19 of 20 is drawn at the edge, not to scale


def by_strategy(strategy: str) -> tuple[int, str]:
    """Sort key: the usual order, then by name."""
    return (ORDER.index(strategy) if strategy in ORDER else len(ORDER), strategy)


def laws(sweep: Sweep) -> list[Panel]:
    """One panel for each architecture and strategy: runs, law and band, the others' laws in grey."""
    out = []
    for name, group in sweep.groups():
        errors = np.array([r["mae_bpm"] for arm in group for r in arm["runs"]])
        top = min(errors.max(), OUTLIER * float(np.quantile(errors, 0.95)))
        strategies = sorted({arm["strategy"] for arm in group}, key=by_strategy)
        x = (
            min(arm["smallest"] for arm in group) / 1.15,
            max(arm["largest"] * min(BEYOND, max(arm["reach"], 1.15)) for arm in group),
        )
        y = (_least(sweep, group, float(errors.min()), x) * 0.93, top * 1.06)
        if len(strategies) > 1 and any(arm["reach"] > 0 for arm in group):
            out.append(_overview(sweep, name, group, strategies, x, y))
        for strategy in strategies:
            own = [arm for arm in group if arm["strategy"] == strategy]
            others = [arm for arm in group if arm["strategy"] != strategy]
            out.append(_law_panel(sweep, name, strategy, own, others, x, y))
    return out


def _least(sweep: Sweep, group: list[dict[str, Any]], least: float, x: tuple[float, float]) -> float:
    """The least error that a run or a law shows, but no law may squeeze the runs into half a panel."""
    for arm in group:
        if arm["reach"] > 0:
            shown = _knots(sweep, arm) <= min(x[1], arm["largest"] * min(arm["reach"], BEYOND))
            least = min(least, max(float(np.exp(unpack(arm["median"])[shown]).min()), 0.6 * least))
    return least


def _overview(
    sweep: Sweep,
    name: str,
    group: list[dict[str, Any]],
    strategies: list[str],
    x: tuple[float, float],
    y: tuple[float, float],
) -> Panel:
    """All laws of a group in one panel, named at their ends."""
    speaking = [arm for arm in group if arm["reach"] > 0]
    panel = Panel(
        "all laws",
        f"The laws of all strategies, {name}: "
        + "; ".join(f"{arm['strategy']} {_said(sweep, arm)}" for arm in speaking),
        group=name,
    )
    axes = Axes.on(panel, x, y, ("parameters", "test MAE, BPM"), right=56.0, tick=(si, lambda v: f"{v:g}"))
    _beyond(panel, axes, max(arm["largest"] for arm in group))
    ends: dict[str, float] = {}
    for arm in sorted(speaking, key=lambda a: by_strategy(a["strategy"])):
        points = _median(sweep, arm, axes, x)
        ends.setdefault(arm["strategy"], points[-1][1])
        panel.add(line(points, f"law2 {css_class(arm['strategy'])}"))
    heights = apart(list(ends.values()), 12.5, axes.y.end, axes.y.start - 2)
    for strategy, (wanted, height) in zip(ends, zip(ends.values(), heights, strict=True), strict=True):
        panel.add(
            marks([(axes.x.end, wanted)], strategy, f"dot {css_class(strategy)}", 3.2),
            text(axes.x.end + 7, height + 3.5, cut(strategy, 9)),
        )
    return panel


def _beyond(panel: Panel, axes: Axes, largest: float) -> None:
    """Shading over sizes that were not trained."""
    edge = max(axes.x(largest), axes.x.start)
    panel.add(box(edge, axes.y.end, axes.x.end - edge, axes.y.start - axes.y.end, "beyond"))
    if axes.x.end - edge > 60:
        panel.add(text(axes.x.end - 4, axes.y.end + 11, "extrapolated", "t-note", "end"))


def _law_panel(
    sweep: Sweep,
    name: str,
    strategy: str,
    own: list[dict[str, Any]],
    others: list[dict[str, Any]],
    x: tuple[float, float],
    y: tuple[float, float],
) -> Panel:
    runs = sum(len(arm["runs"]) for arm in own)
    low, high = min(a["smallest"] for a in own), max(a["largest"] for a in own)
    panel = Panel(
        strategy,
        f"Test error of {runs} {name} students trained with {strategy}, {low:,} to {high:,} parameters, and "
        f"the law with its {sweep.document['level']:.0%} band: " + "; ".join(_said(sweep, a) for a in own),
    )
    several = len(own) > 1
    panel.group = name
    axes = Axes.on(
        panel,
        x,
        y,
        ("parameters", "test MAE, BPM"),
        right=92.0 if several else 12.0,
        tick=(si, lambda v: f"{v:g}"),
    )
    panel.data = {
        "arms": " ".join(str(k) for k, a in enumerate(sweep.document["arms"]) if a in own),
        "x": f"{x[0]} {x[1]} {axes.x.start} {axes.x.end}",
        "y": f"{y[0]} {y[1]} {axes.y.start} {axes.y.end}",
    }
    _beyond(panel, axes, high)
    for arm in others:
        if arm["reach"] > 0:
            panel.add(line(_median(sweep, arm, axes, x), "others"))
    css = css_class(strategy)
    ends = []
    for arm in own:
        if arm["reach"] > 0:
            _draw_law(sweep, panel, axes, arm, css, x, len(own))
            ends.append((arm, _median(sweep, arm, axes, x)[-1][1]))
    for arm in own:
        points = [(axes.x(r["params"]), max(axes.y(r["mae_bpm"]), axes.y.end - 4)) for r in arm["runs"]]
        panel.add(marks(points, strategy, f"run {css}", 3.0 if runs < 200 else 2.0))
    if several:
        for (arm, _), at in zip(
            ends, apart([e[1] for e in ends], 12, axes.y.end + 4, axes.y.start), strict=True
        ):
            panel.add(text(axes.x.end + 4, at + 3.5, _short(sweep, arm, own), "t-note"))
    for k, arm in enumerate([a for a in own if a["verdict"] != "ok"][:2]):
        name = f"{_short(sweep, arm, own)}: " if several else ""
        words = name + ("no law: " if arm["reach"] == 0 else "not beyond the data: ") + arm["why"]
        panel.add(text(axes.x.start + 4, axes.y.start - 8 - 12 * k, cut(words, 54), "t-note t-halo"))
    return panel


def _said(sweep: Sweep, arm: dict[str, Any]) -> str:
    if arm["reach"] == 0:
        return f"no law ({arm['why']})"
    knots = _knots(sweep, arm)
    median = np.exp(
        np.interp(np.log([arm["smallest"], arm["largest"]]), np.log(knots), unpack(arm["median"]))
    )
    return f"from {median[0]:.2f} to {median[1]:.2f} BPM"


def _knots(sweep: Sweep, arm: dict[str, Any]) -> Array:
    return np.exp(np.array(sweep.document["architectures"][arm["arch"]]["knots_ln_params"]))


def _median(sweep: Sweep, arm: dict[str, Any], axes: Axes, x: tuple[float, float]) -> list[Point]:
    return _path(axes, _knots(sweep, arm), np.exp(unpack(arm["median"])), arm, x)


def _path(
    axes: Axes, sizes: Array, values: Array, arm: dict[str, Any], x: tuple[float, float]
) -> list[Point]:
    """Where the law may be used and the panel shows it; ends fall on the ends, not on knots."""
    first = max(arm["smallest"] / min(arm["reach"], 1.15), x[0])
    last = min(arm["largest"] * min(arm["reach"], BEYOND), x[1])
    grid = np.concatenate([[first], sizes[(sizes > first * 1.001) & (sizes < last / 1.001)], [last]])
    inside = np.exp(np.interp(np.log(grid), np.log(sizes), np.log(values)))
    return [(axes.x(float(n)), _held(axes, float(v))) for n, v in zip(grid, inside, strict=True)]


def _held(axes: Axes, value: float) -> float:
    return min(max(axes.y(value), axes.y.end - 2), axes.y.start)


def _draw_law(
    sweep: Sweep, panel: Panel, axes: Axes, arm: dict[str, Any], css: str, x: tuple[float, float], laws: int
) -> None:
    knots, level = _knots(sweep, arm), sweep.document["level"]
    draws = unpack(arm["draws"]) + unpack(arm["noise"]) * unpack(sweep.document["run_noise"])[:, None]
    low, high = np.exp(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0))
    panel.add(
        band(_path(axes, knots, low, arm, x), _path(axes, knots, high, arm, x), f"band {css}"),
        line(_median(sweep, arm, axes, x), f"{'law' if laws == 1 else 'law2'} {css}"),
    )
    styles = [("log_exponential", "paper-law"), ("exponential", "rival-law")]
    for name, style in styles if laws <= 2 else styles[:1]:  # more lines than that hide each other
        p = next((f["params"] for f in arm["forms"] if f["name"] == name), None)
        if p and "N_mid" in p and None not in p.values():  # earlier laws have other parameters
            n = knots / p["N_mid"]
            falls = n ** -p["b"] if name == "log_exponential" else np.exp(-p["b"] * (n - 1))
            values = p["c"] + p["A"] * falls
            if (values > 0).all():
                points = _path(axes, knots, values, arm, x)
                panel.add(line([p for p in points if p[1] < axes.y.start], f"{style} {css}"))


def _short(sweep: Sweep, arm: dict[str, Any], own: list[dict[str, Any]]) -> str:
    """What tells an arm from the others of its panel."""
    parts = []
    if len({a["teacher"] for a in own}) > 1:
        parts.append(sweep.teacher(arm["teacher"]) or "no teacher")
    if len({full_label(a) for a in own}) > 1:
        parts.append(full_label(arm).partition(" ")[2] or "published")
    return cut(" ".join(parts), 14)


def pareto(sweep: Sweep) -> list[Panel]:
    """Error against parameters, memory and compute: measured, and predicted by the laws."""
    out = []
    for limit, best in sweep.fronts.items():
        column, unit, what = LIMITS[limit]
        means, kept = measured(sweep.results, column)
        if means:
            out.append(_front_panel(what, column, unit, means, kept, best))
    return out


def _front_panel(
    what: str,
    column: str,
    unit: float,
    means: list[dict[str, Any]],
    kept: list[dict[str, Any]],
    best: list[dict[str, Any]],
) -> Panel:
    short = what.split(" (")[0]
    xs = [r[column] / unit for r in means] + [b[column] / unit for b in best]
    errors = np.array([r["mae_bpm"] for r in means])
    lows = [b["mae_bpm"]["low"] for b in best]
    top = min(errors.max(), OUTLIER * float(np.quantile(errors, 0.95)))
    top = max([top, *(b["mae_bpm"]["high"] for b in best if b["mae_bpm"]["high"] < 1.3 * top)])
    panel = Panel(
        f"Error against {short.split(' of ')[-1]}",
        f"Pareto fronts of test error against {short}. Measured: "
        + ", ".join(f"{r['mae_bpm']:.2f} BPM at {si(r[column] / unit)}" for r in kept)
        + (
            f". Predicted: {best[0]['mae_bpm']['median']:.2f} BPM at {si(best[0][column] / unit)} to "
            f"{best[-1]['mae_bpm']['median']:.2f} BPM at {si(best[-1][column] / unit)}."
            if best
            else ". No law may be used."
        ),
        height=310.0,
    )
    axes = Axes.on(
        panel,
        (min(xs) / 1.12, max(xs) * 1.12),
        (min([errors.min(), *lows]) * 0.96, top * 1.03),
        (short, "test MAE, BPM"),
        tick=(si, lambda v: f"{v:g}"),
    )

    def at(b: dict[str, Any], key: str) -> Point:
        return axes.x(b[column] / unit), _held(axes, b["mae_bpm"][key])

    if best:
        panel.add(
            band([at(b, "low") for b in best], [at(b, "high") for b in best], "predicted-band"),
            line([at(b, "median") for b in best], "predicted"),
        )
    for strategy in sorted({r["strategy"] for r in means}, key=by_strategy):
        points = [
            (axes.x(r[column] / unit), max(axes.y(r["mae_bpm"]), axes.y.end - 4))
            for r in means
            if r["strategy"] == strategy
        ]
        panel.add(marks(points, strategy, f"run {css_class(strategy)}", 2.4))
    steps: list[Point] = []
    for r in kept:
        x, y = axes.x(r[column] / unit), axes.y(r["mae_bpm"])
        steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
    if steps:
        panel.add(line([*steps, (axes.x(max(r[column] for r in means) / unit), steps[-1][1])], "front"))
    for r in kept:
        point = [(axes.x(r[column] / unit), axes.y(r["mae_bpm"]))]
        panel.add(marks(point, r["strategy"], f"dot {css_class(r['strategy'])}", 4.2))
    _label_fronts(panel, axes, steps, [at(b, "median") for b in best])
    return panel


def _label_fronts(panel: Panel, axes: Axes, steps: list[Point], predicted: list[Point]) -> None:
    """Names beside the lines: above the measured one, below the predicted one, away from their ends."""
    middle = (axes.x.start + axes.x.end) / 2
    if steps:
        x, y = min(steps, key=lambda p: abs(p[0] - middle))
        panel.add(text(x + 7, y - 10, "measured", "t-strong t-halo"))
    if predicted:
        x, y = min(predicted, key=lambda p: abs(p[0] - middle))
        panel.add(text(x - 4, min(y + 24, axes.y.start - 6), "predicted", "t-strong t-halo", "end"))
