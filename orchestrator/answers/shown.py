"""Answers as objects that show themselves: as text on a terminal, as a table in a notebook."""

import difflib
import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from kd.errors import InputError
from orchestrator.answers.ask import expectation, train_in_words
from orchestrator.answers.candidates import Budget
from orchestrator.laws.arms import strategy_label
from orchestrator.store.metric import METRICS

Row = Sequence[str]
RUN = "another training run, these people"
NEW = "new people like these"


@dataclass(frozen=True, repr=False)
class Answer:
    """What `kdsweep query --json` prints, field by field; `verdict` is "ok" or "refuse" with `why`.

    decided: whether the evidence tells `best` from its `contenders`; else it is `measured`, the best measured
    student, and `train` says what would tell. intervals: of `best`, see README.md.
    """

    sweep: str
    budget: dict[str, float]
    verdict: str
    why: str
    best: dict[str, Any] | None
    runner_up: dict[str, Any] | None
    extrapolation: dict[str, Any] | None
    binding: dict[str, Any] | None
    decided: bool
    measured: dict[str, Any] | None
    contenders: Sequence[dict[str, Any]]
    train: Sequence[str]
    intervals: dict[str, Any] | None
    metric: str | None
    calibration: dict[str, Any]
    memory: str
    precision: str
    device: str | None
    int8: dict[str, Any] | None
    left_out: Sequence[dict[str, str]] = ()
    chip: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `kdsweep query --json`; of left_out and chip only what there is."""
        return {key: value for key, value in asdict(self).items() if key not in ("left_out", "chip") or value}

    def __repr__(self) -> str:
        return in_words(self.as_dict())

    def _repr_html_(self) -> str:
        if self.best is None:
            more = f" {meanwhile(self.measured)}" if self.measured else ""
            return f"<p>refused: {html.escape(self.why)}.{html.escape(more)}</p>"
        names = ("", "student", "params", "strategy", "teacher", "MAE, BPM", RUN, NEW, "trained")
        found = (("best" if self.decided else "best measured", self.best), ("runner-up", self.runner_up))
        caption = "; ".join(f"{name} {limit:g}" for name, limit in self.budget.items())
        return table_html(names, [_student_row(name, s) for name, s in found if s], caption, self.why)


@dataclass(frozen=True, repr=False)
class Suggested:
    """What `kdsweep suggest --json` prints. file: the search space to train; command: how.

    untrained: points of the sweep that aren't trained, which that command trains, too.
    """

    sweep: str
    gpu_hours: float
    budget: dict[str, float]
    cost_gpu_hours: float
    regret_bpm: float
    regret_after_bpm: float
    picks: Sequence[dict[str, Any]]
    untrained: int
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
        new_people(s)[1],
        f"point {s['point']}" if s["trained"] else "not yet",
    ]


def in_words(result: dict[str, Any]) -> str:
    """The answer as text."""
    if result["verdict"] == "refuse":
        more = f"\n{meanwhile(result['measured'])}" if result["measured"] else ""
        return f"refused: {result['why']}{more}"
    best, metric = result["best"], metric_words(result.get("metric"))
    name = "best      " if result["decided"] else "measured  "
    lines = [] if result["decided"] else [line for line in _undecided(result)]
    lines += [f"{name}{student(best, metric)}", *(f"          {line}" for line in intervals(best))]
    lines.append(f"          {_where(best)}")
    if "p_reaches" in best:
        lines.append(f"          reaches {result['budget']['max_mae']:g} BPM with P {best['p_reaches']:.2f}")
    else:
        lines.append(
            f"          P(best) {best['p_best']:.2f}, "
            f"P(within 0.1 BPM of the best) {best['p_within_0.1_bpm']:.2f}"
        )
    lines += [f"cost      {line}" for line in _costs(result)]
    if result["runner_up"]:
        lines.append(f"runner-up {student(result['runner_up'], metric)}")
    if result["binding"]:
        lines.append(f"budget    {result['binding']['text']}")
    reach = result["extrapolation"]
    lines.append(
        f"range     measured from {reach['smallest_measured']:,} to {reach['largest_measured']:,} params; "
        + ("inside" if reach["distance"] == 1 else f"extrapolation factor {reach['distance']:g}")
    )
    lines.append(f"coverage  {result['calibration']['text']}")
    notes = result["why"].split("; ")
    lines += [f"note      {note}" for note in notes if note and note not in " ".join(lines[:1])]
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
    if chip := result.get("chip"):
        lines += _on_chip(cost, chip)
    if int8 := result["int8"]:
        lines.append(
            f"errors are for float32; int8 changed them by {int8['mae_change_mean_bpm']:+.3f} BPM "
            f"on average, {int8['mae_change_most_bpm']:+.3f} at most, on {int8['points']} students"
        )
        if (own := cost.get("int8_costs_bpm")) is not None:
            lines[-1] += f", and those of this shape by {own:+.3f}"
    elif chip and result["precision"] == "int8":
        lines.append(
            "errors are for float32; what int8 changes was measured on no student: kdsweep profile "
            f"--target {chip['core']} --precision int8"
        )
    return lines


def _on_chip(cost: dict[str, Any], chip: dict[str, Any]) -> list[str]:
    """Instructions and energy on a microcontroller, what they are, and where its numbers are from."""
    if (count := cost["instructions"]) is None:
        lines = [f"instructions on {chip['core']} are unknown: no law computes them for this architecture"]
    else:
        lines = [f"{count:,} instructions a window on {chip['core']}, {cost['instructions_are']}"]
    if "uj" in cost:
        lines.append(f"{cost['uj']:,.1f} µJ a heart rate on {chip['name']}, {cost['uj_is']}")
    if chip["clock_mhz"] is not None:
        said = "; ".join(f"{key} {chip[key]:g}: {source}" for key, source in chip["sources"].items())
        lines.append(f"{chip['name']}: {said}")
    return [*lines, chip["about"]]


def _undecided(result: dict[str, Any]) -> list[str]:
    """The first line of an answer that can't decide: between what, and what to train."""
    doubt = next(note for note in result["why"].split("; ") if note.startswith("cannot decide"))
    return [f"{doubt}; {train_in_words(result['train'])}"]


def student(s: dict[str, Any], metric: str = "") -> str:
    """One student in a line, with the interval for new people where it is known."""
    teacher = f" from teacher {s['teacher']}" if s["teacher"] else ""
    init = f", {s['init']}" if s["init"] != "random" else ""
    whose, interval = new_people(s)
    if not interval:
        whose, interval = RUN, f"{s['mae_bpm']['low']:.2f} to {s['mae_bpm']['high']:.2f}"
    of = f" ({metric})" if metric else ""
    return (
        f"{s['arch']} depth {s['depth']} width {s['width']} ({s['params']:,} parameters{init}), "
        f"{strategy_label(s['strategy'], s['strategy_args'])}{teacher}: "
        f"{s['mae_bpm']['median']:.2f} BPM{of} [{interval}], {s['mae_bpm']['level']:.0%} for {whose}"
    )


def metric_words(metric: str | None) -> str:
    """What an error is a mean of; "" where the laws don't say."""
    return METRICS.get(metric, metric) if metric else ""


def new_people(s: dict[str, Any]) -> tuple[str, str]:
    """Whose error the second interval is of, and the interval; "" where subjects aren't known."""
    if not (p := (s.get("intervals") or {}).get("people")):
        return NEW, ""
    return f"{NEW} ({p['n_people']} wearers)", f"{p['low']:.2f} to {p['high']:.2f}"


def intervals(s: dict[str, Any]) -> list[str]:
    """Both intervals, told apart; what the first line doesn't say of them."""
    if not (p := s["intervals"]["people"]):
        return []
    return [
        f"{RUN}: {s['mae_bpm']['low']:.2f} to {s['mae_bpm']['high']:.2f} BPM",
        f"{new_people(s)[0]}: {p['low']:.2f} to {p['high']:.2f} BPM; "
        f"1 wearer in 10 has more than {p['p90_wearer_bpm']:.1f} BPM",
    ]


def meanwhile(m: dict[str, Any]) -> str:
    """The best measured student and its evidence."""
    return (
        f"meanwhile the best measured student: {m['arm']} depth {m['depth']} width {m['width']} "
        f"({m['params']:,} parameters), {m['error']:.2f} BPM, {evidence(m)} (point {m['point']})"
    )


def evidence(m: dict[str, Any]) -> str:
    """How many runs stand behind a measured error."""
    runs = f"{m['n_runs']} run{'s' if m['n_runs'] != 1 else ''}"
    return f"mean of {runs} in {m['n_folds']} folds" if m["n_folds"] > 1 else f"mean of {runs}"


def _where(s: dict[str, Any]) -> str:
    if s["trained"]:
        return (
            f"trained: point {s['point']}, measured {s['measured_mae_bpm']:.2f} BPM; "
            f"{evidence(s)} {s['measured_mean_bpm']:.2f} BPM"
        )
    return "not trained yet"
