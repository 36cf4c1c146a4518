"""Answers as objects that show themselves: as text on a terminal, as a table in a notebook."""

import difflib
import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from kd.errors import InputError
from orchestrator.answers.ask import expectation
from orchestrator.answers.candidates import Budget
from orchestrator.laws.arms import strategy_label

Row = Sequence[str]


@dataclass(frozen=True, repr=False)
class Answer:
    """What `kdsweep query --json` prints, field by field; `verdict` is "ok" or "refuse" with `why`."""

    sweep: str
    budget: dict[str, float]
    verdict: str
    why: str
    best: dict[str, Any] | None
    runner_up: dict[str, Any] | None
    extrapolation: dict[str, Any] | None
    binding: dict[str, Any] | None
    calibration: dict[str, Any]
    memory: str
    precision: str
    device: str | None
    int8: dict[str, Any] | None
    left_out: Sequence[dict[str, str]] = ()

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `kdsweep query --json`."""
        return {key: value for key, value in asdict(self).items() if key != "left_out" or value}

    def __repr__(self) -> str:
        return in_words(self.as_dict())

    def _repr_html_(self) -> str:
        if self.best is None:
            return f"<p>refused: {html.escape(self.why)}</p>"
        share = f"{self.best['mae_bpm']['level']:.0%} of new runs"
        names = ("", "student", "params", "strategy", "teacher", "MAE, BPM", share, "trained")
        found = (("best", self.best), ("runner-up", self.runner_up))
        caption = "; ".join(f"{name} {limit:g}" for name, limit in self.budget.items())
        return table_html(names, [_student_row(name, s) for name, s in found if s], caption, self.why)


@dataclass(frozen=True, repr=False)
class Suggested:
    """What `kdsweep suggest --json` prints. file: the search space to train; command: how."""

    sweep: str
    gpu_hours: float
    budget: dict[str, float]
    cost_gpu_hours: float
    regret_bpm: float
    regret_after_bpm: float
    picks: Sequence[dict[str, Any]]
    file: str
    command: str

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `kdsweep suggest --json`."""
        return asdict(self)

    def __repr__(self) -> str:
        rows = [PICK, *(pick_row(p) for p in self.picks)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(PICK))]
        lines = ["  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([expectation(self.as_dict()), *lines, self.command])

    def _repr_html_(self) -> str:
        return table_html(PICK, [pick_row(p) for p in self.picks], expectation(self.as_dict()), self.command)


PICK = ("student", "params", "strategy", "teacher", "seed", "GPU-hours", "gain, BPM", "why")


def pick_row(p: dict[str, Any]) -> list[str]:
    """One suggested point as the cells of PICK."""
    init = "" if p["init"] == "random" else f", {p['init']}"
    return [
        f"{p['arch']}-{p['depth']}x{p['width']}{init}",
        f"{p['params']:,}",
        p["label"],
        p["teacher"] or "-",
        str(p["seed"]),
        f"{p['gpu_hours']:.3g}",
        f"{p['gain_bpm']:.4f}",
        p["why"],
    ]


def budget_of(limits: dict[str, Any]) -> Budget:
    """A Budget of these limits. Raises InputError, with the nearest name, for a limit there is none of."""
    known = [f.name for f in fields(Budget)]
    for name in limits:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"no limit {name!r}: {hint}")
    return Budget(**limits)


def table_html(names: Row, rows: Sequence[Row], caption: str = "", note: str = "") -> str:
    """A plain table; every cell escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    said = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<table><caption>{html.escape(caption)}</caption><tr>{head}</tr>{body}</table>{said}"


def _student_row(name: str, s: dict[str, Any]) -> list[str]:
    mae = s["mae_bpm"]
    init = f", {s['init']}" if s["init"] != "random" else ""
    return [
        name,
        f"{s['arch']} depth {s['depth']} width {s['width']}{init}",
        f"{s['params']:,}",
        strategy_label(s["strategy"], s["strategy_args"]),
        s["teacher"] or "-",
        f"{mae['median']:.2f}",
        f"{mae['low']:.2f} to {mae['high']:.2f}",
        f"point {s['point']}" if s["trained"] else "not yet",
    ]


def in_words(result: dict[str, Any]) -> str:
    """The answer as text."""
    if result["verdict"] == "refuse":
        return f"refused: {result['why']}"
    best = result["best"]
    lines = [f"best      {student(best)}", f"          {_where(best)}"]
    if "p_reaches" in best:
        lines.append(f"          reaches {result['budget']['max_mae']:g} BPM with P {best['p_reaches']:.2f}")
    else:
        lines.append(
            f"          P(best) {best['p_best']:.2f}, "
            f"P(within 0.1 BPM of the best) {best['p_within_0.1_bpm']:.2f}"
        )
    lines += [f"cost      {line}" for line in _costs(result)]
    if result["runner_up"]:
        lines.append(f"runner-up {student(result['runner_up'])}")
    if result["binding"]:
        lines.append(f"budget    {result['binding']['text']}")
    reach = result["extrapolation"]
    lines.append(
        f"range     measured from {reach['smallest_measured']:,} to {reach['largest_measured']:,} params; "
        + ("inside" if reach["distance"] == 1 else f"extrapolation factor {reach['distance']:g}")
    )
    lines.append(f"coverage  {result['calibration']['text']}")
    lines += [f"note      {note}" for note in result["why"].split("; ") if note]
    lines += [f"excluded  {arm['arm']}: {arm['why']}" for arm in result.get("left_out", [])]
    return "\n".join(lines)


def _costs(result: dict[str, Any]) -> list[str]:
    """Cost of the best student, and whether each figure is measured or computed."""
    cost = result["best"]["cost"]
    lines = [
        f"{result['precision']}: flash {cost['flash_bytes'] / 1000:.1f} kB ({cost['flash_is']}), "
        f"memory {cost['memory_bytes'] / 1000:.1f} kB ({cost['memory_is']})"
    ]
    if "latency_ms" in cost:
        text = f"{cost['latency_ms']:.3f} ms on {result['device']}, {cost['latency_is']}"
        if "max_latency_ms" in result["budget"]:
            text += f"; meets the limit with P {result['best']['p_feasible']:.2f}"
        lines.append(text)
    if int8 := result["int8"]:
        lines.append(
            f"errors are for float32; int8 changed them by {int8['mae_change_mean_bpm']:+.3f} BPM "
            f"on average, {int8['mae_change_most_bpm']:+.3f} at most, on {int8['points']} students"
        )
    return lines


def student(s: dict[str, Any]) -> str:
    """One student in a line."""
    mae = s["mae_bpm"]
    teacher = f" from teacher {s['teacher']}" if s["teacher"] else ""
    init = f", {s['init']}" if s["init"] != "random" else ""
    return (
        f"{s['arch']} depth {s['depth']} width {s['width']} ({s['params']:,} parameters{init}), "
        f"{strategy_label(s['strategy'], s['strategy_args'])}{teacher}: {mae['median']:.2f} BPM "
        f"[{mae['low']:.2f}, {mae['high']:.2f}] for {mae['level']:.0%} of new runs"
    )


def _where(s: dict[str, Any]) -> str:
    if s["trained"]:
        return f"trained: point {s['point']}, measured {s['measured_mae_bpm']:.2f} BPM"
    return "not trained yet"
