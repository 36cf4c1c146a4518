"""What a tracker behind students gives, how sure it is and rightly so, and how fast it follows."""

from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import read_json
from orchestrator.report.plot import Axes, Panel, line, marks, rule, text
from orchestrator.report.sweep import Sweep
from orchestrator.report.tables import Cell, Table, columns, number, size, student

FILE = "tracker.json"  # of a point
ROWS = 100
ALONE, TRACKED = "c-teacher", "c-other"  # colours, of no strategy: single windows, and with the tracker
SHAPES = {ALONE: "scratch", TRACKED: "dkd"}  # and marks


def judged(sweep: Sweep) -> list[tuple[float, float, dict[str, Any]]]:
    """Error without and with the tracker of every student that has both, and its result: the best first."""
    found = [
        (r["alone_bpm"], r["tracked_bpm"], r)
        for r in sweep.results
        if r["role"] == "student" and r.get("tracked_bpm") is not None
    ]
    return sorted(found, key=lambda item: (item[1], str(item[2]["id"])))


def lead(sweep: Sweep) -> list[str]:
    """What it comes to, in sentences."""
    found = judged(sweep)
    gains = sorted(1 - tracked / alone for alone, tracked, _ in found if alone > 0)
    alone, tracked, best = found[0]
    out = [
        f"A tracker carries what is known of the heart rate from window to window. It changes the error of "
        f"{len(found)} students by {-gains[len(gains) // 2]:+.0%} in the median, "
        f"{-gains[-1]:+.0%} at best and {-gains[0]:+.0%} at worst; that of the best from {alone:.2f} to "
        f"{tracked:.2f} BPM.",
    ]
    step = best.get("step_63_s"), best.get("step_5_bpm_s")
    said = [f"{s:g} s" if s is not None else "longer than was looked at" for s in step]
    out.append(
        f"Smoothing costs time: after a sudden step of 40 BPM the best has done 63 % of it in {said[0]} and "
        f"is within 5 BPM in {said[1]}, in the median, plus what its window lags."
    )
    if (inside := best.get("coverage_90_tracked")) is not None:
        out.append(f"Its 90 % intervals hold {inside:.0%} of the test windows' heart rates.")
    return out


def panels(sweep: Sweep) -> list[Panel]:
    """Errors by size, and of the best student reliability, risk and coverage, and the step response."""
    found = judged(sweep)
    if not found:
        return []
    return [_sizes(found), *_curves(sweep, found[0][2])]


def _sizes(found: list[tuple[float, float, dict[str, Any]]]) -> Panel:
    sizes, errors = [r["params"] for _, _, r in found], [e for a, b, _ in found for e in (a, b) if e > 0]
    panel = Panel(
        "Error with the tracker and without",
        f"Test error of {len(found)} students: at best {min(a for a, _, _ in found):.2f} BPM without the "
        f"tracker, {found[0][1]:.2f} with it",
    )
    x, y = (min(sizes) / 1.15, max(sizes) * 1.15), (min(errors) / 1.1, max(errors) * 1.1)
    axes = Axes.on(panel, x, y, ("parameters", "test MAE, BPM"))
    for css in (ALONE, TRACKED):
        errors_of = [(alone if css == ALONE else tracked, r) for alone, tracked, r in found]
        points = [(axes.x(r["params"]), axes.y(error)) for error, r in errors_of if error > 0]
        panel.add(marks(points, SHAPES[css], f"run {css}"))
    return _keyed(panel, axes)


def _curves(sweep: Sweep, best: dict[str, Any]) -> list[Panel]:
    kept = _kept(sweep.folder / "points" / str(best["id"]) / FILE)
    if not kept:
        return []
    name = f"the best student, {best['arch']} {best['depth']}×{best['width']}"
    two = ((ALONE, kept["window"]), (TRACKED, kept["tracked"]))
    sure = Panel("Chance of 5 BPM or less, said and seen", f"Reliability of {name}: what it says, what comes")
    axes = Axes.on(sure, (0, 100), (0, 100), ("said, %", "seen, % of windows"), log=(False, False))
    sure.add(rule(axes.x(0), axes.y(0), axes.x(100), axes.y(100), "guide"))
    for css, of in two:
        points = [(axes.x(100 * said), axes.y(100 * seen)) for said, seen, _ in of["within_5"]]
        sure.add(line(points, f"law2 {css}"), marks(points, SHAPES[css], f"run {css}"))
    out = [_keyed(sure, axes)]
    top = 1.1 * max(max(error for _, error in of["risk"]) for _, of in two)
    risk = Panel("Error of the windows it is surest of", f"Risk and coverage of {name}")
    axes = Axes.on(risk, (0, 100), (0, top), ("windows answered, %", "MAE, BPM"), log=(False, False))
    for css, of in two:
        risk.add(line([(axes.x(100 * n), axes.y(e)) for n, e in of["risk"]], f"law {css}"))
    if (unsure := kept["tracked"].get("unsure")) is not None:
        x = axes.x(100 * (1 - unsure))
        risk.add(
            rule(x, axes.y.start, x, axes.y.end, "guide"),
            text(x - 4, axes.y.end + 11, "unsure beyond", "t-note", "end"),
        )
    out.append(_keyed(risk, axes))
    if kept.get("step"):
        done = kept["step"]["done"]
        step = Panel("After a step of 40 BPM", f"Step response of {name}, median of {kept['step']['pieces']}")
        high = 100 * max(1.05, *(share for _, share in done))
        low = 100 * min(0.0, *(share for _, share in done))
        axes = Axes.on(step, (0, done[-1][0]), (low, high), ("seconds", "% of the step"), log=(False, False))
        step.add(rule(axes.x.start, axes.y(63), axes.x.end, axes.y(63), "guide"))
        step.add(line([(axes.x(t), axes.y(100 * share)) for t, share in done], f"law {TRACKED}"))
        out.append(step)
    return out


def _keyed(panel: Panel, axes: Axes) -> Panel:
    """With what its two colours mean."""
    for i, (css, words) in enumerate(((ALONE, "single windows"), (TRACKED, "tracked"))):
        x = axes.x.end - 156 + 104 * i
        panel.add(marks([(x, 28)], SHAPES[css], f"dot {css}", 3.2), text(x + 7, 31.5, words))
    return panel


def _kept(path: Path) -> dict[str, Any]:
    """A point's tracker.json; {} where it can't be read, as then all else is shown."""
    try:
        found = read_json(path)
        return found if {"window", "tracked", "step"} <= found.keys() else {}
    except (OSError, InputError):
        return {}


def table(sweep: Sweep) -> Table:
    """Every student with a tracker, the best first."""
    found = judged(sweep)
    rows = [
        [
            *student(sweep, r),
            size(r["params"]),
            number(alone),
            number(tracked),
            number(r.get("mae_bpm_smoothed")),
            number(r.get("step_63_s"), "g"),
            number(r.get("step_5_bpm_s"), "g"),
            number(r.get("coverage_90"), ".0%"),
            number(r.get("coverage_90_tracked"), ".0%"),
            number(r.get("unsure"), ".0%"),
            Cell(str(r["id"])),
        ]
        for alone, tracked, r in found[:ROWS]
    ]
    names = (
        "student, strategy, teacher, #parameters, #error BPM, #tracked BPM, #smoothed BPM, "
        "#63 % of a step s, #within 5 BPM s, #in 90 % interval, #in it tracked, #unsure, point"
    )
    note = (
        "Smoothed: with the windows that come after, too, over windows. A dash for seconds: longer "
        "than was looked at. Unsure: windows that the threshold leaves unanswered."
    )
    few = f"the best {ROWS} of {len(found)}" if len(found) > ROWS else f"{len(found)} students"
    return Table(f"With a tracker: {few}", columns(names), rows, note)
