"""From a sweep to one HTML file, and to its figures as SVG files. All markup is in page.html.j2."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from kd.errors import InputError
from orchestrator.answers.candidates import limits
from orchestrator.answers.claims import LEAST_PERCENT, dataset_weights
from orchestrator.edge.latency import PRECISIONS
from orchestrator.laws.document import SCHEMA
from orchestrator.laws.paired import ALPHA
from orchestrator.report import comparisons, economy, records, tables, tracked, words
from orchestrator.report import figures as pictures
from orchestrator.report.embed import embed
from orchestrator.report.plot import CLASSES, Panel, marks, sheet
from orchestrator.report.sweep import Sweep
from orchestrator.report.tables import Table
from orchestrator.words import UNSEEN

MOST_BYTES = 3_000_000  # what a mailed report may weigh


@dataclass(frozen=True)
class Section:
    """One part of the page. nav: its name where there is little room; lead: sentences before the pictures."""

    id: str
    title: str
    nav: str
    lead: list[str]
    panels: list[Panel] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    key: str = ""  # which legend is shown above the panels

    @property
    def groups(self) -> list[tuple[str, list[Panel]]]:
        """Panels under their group's name, in the order they come."""
        return [(name, list(panels)) for name, panels in groupby(self.panels, lambda p: p.group)]


@dataclass(frozen=True)
class Control:
    """One budget of the explorer: a number to type, a slider to drag, on a logarithmic scale."""

    name: str
    label: str
    of: str
    unit: str
    low: float
    high: float
    start: float


# how the explorer names the limits of `query`
LABELS = {
    "max_params": ("Parameters", "", ""),
    "max_memory_kb": ("Memory", "activation peak", "kB"),
    "max_flash_kb": ("Flash", "weights", "kB"),
    "max_macs": ("Compute", "a window", "MACs"),
    "max_latency_ms": ("Latency", "a window", "ms"),
}
# what they are where a microcontroller's runtime was asked
MEASURED = {"max_memory_kb": "arena, else peak", "max_flash_kb": ".tflite, else weights"}
FIGURES: dict[str, tuple[str, Callable[[Sweep], list[Panel]]]] = {
    "laws": ("Error against size: every run, and the laws", pictures.laws),
    "pareto": ("Measured and predicted Pareto fronts", pictures.pareto),
    "gains": ("What distillation gains over training from scratch", comparisons.gains),
    "crossovers": ("Which strategy is better at which size", comparisons.crossovers),
    "claims": ("Claims, judged in comparisons of pairs", comparisons.claims),
    "teachers": ("Effect of teacher size", comparisons.teachers),
    "calibration": ("Held-out largest sizes inside their prediction intervals", comparisons.calibration),
    "cost": ("Hours of training by strategy", comparisons.cost),
    "tracker": ("What a tracker behind students gives", tracked.panels),
    "settling": ("When the answer settled, and where the compute went", economy.settling),
}


def render(sweep: Sweep) -> str:
    """The page. Raises InputError if it would be too large to mail, which takes hundreds of arms."""
    for rows in (records.RUNS, 50):
        text = _render(sweep, rows)
        if len(text.encode()) < MOST_BYTES:
            return text
    raise InputError(
        f"{sweep.name}: a report of {len(sweep.document['arms'])} arms takes {len(text) / 1e6:.1f} MB, over "
        f"{MOST_BYTES / 1e6:g} MB: split the search space into several sweeps"
    )


def figures(
    document: dict[str, Any], results: list[dict[str, Any]], folder: Path = Path()
) -> dict[str, bytes]:
    """The pictures alone, as SVG files by name; those with nothing to show are left out."""
    return sheets(Sweep(folder, document, results, {}, {}, ""))


def sheets(sweep: Sweep) -> dict[str, bytes]:
    """As `figures`, from a sweep that was read."""
    drawn = {name: (title, make(sweep)) for name, (title, make) in FIGURES.items()}
    css, key = _file("figures.css"), _strategies(sweep)
    return {
        f"{name}.svg": sheet(f"{sweep.name}: {title}", panels, css, key)
        for name, (title, panels) in drawn.items()
        if panels
    }


def _render(sweep: Sweep, runs: int) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["mark"] = _mark
    scripts = [_file("explorer.js"), _file("page.js")]
    script = "\n".join(scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(_file("page.html.j2")).render(
        sweep=sweep,
        schema=SCHEMA,
        made=sweep.document["made"],
        headline=words.headline(sweep),
        summary=words.summary(sweep),
        lead=words.lead(sweep),
        facts=words.facts(sweep),
        controls=_controls(sweep),
        sections=_sections(sweep, runs),
        reproduce=records.reproduce(sweep),
        strategies=_strategies(sweep),
        css=Markup(_file("figures.css") + _file("page.css")),
        script=Markup(script),
        script_digest=digest,
        data=embed(sweep),
    )


def _strategies(sweep: Sweep) -> list[str]:
    return sorted({arm["strategy"] for arm in sweep.document["arms"]}, key=pictures.by_strategy)


def _file(name: str) -> str:
    return files("orchestrator.report").joinpath(name).read_text(encoding="utf-8")


def _mark(strategy: str) -> Markup:
    """A strategy's marker, as in every figure."""
    css = CLASSES.get(strategy, "c-other")
    path = marks([(6, 6)], strategy, f"dot {css}", 4)
    return Markup('<svg class="mark" viewBox="0 0 12 12" aria-hidden="true">' + path + "</svg>")


def _controls(sweep: Sweep) -> list[Control]:
    """One for each quantity that this sweep knows, from minimum to maximum at any precision."""
    arena = sweep.document["profile"]["measured"]["arena"]
    out = []
    for name, (label, of, measure) in LABELS.items():
        known = [_known(sweep, *limits(sweep.document, precision)[name][:2]) for precision in PRECISIONS]
        values = [v for shapes in known for v in shapes.values()]
        if values:
            seen = [known[0][shape] for shape in sweep.trained if shape in known[0]]
            start = max(seen) if seen else sorted(values)[len(values) // 2]
            if name == "max_params" and (best := words.recommended(sweep)["best"]):
                start = best["params"]
            of = MEASURED.get(name, of) if arena else of
            out.append(Control(name, label, of, measure, min(values), max(values), start))
    return out


def _known(sweep: Sweep, column: str, unit: float) -> dict[tuple[str, int, int], float]:
    """A column of the configurations by architecture, depth and width, without its gaps."""
    return {
        (arch, depth, width): v / unit
        for arch, data in sweep.document["architectures"].items()
        for depth, width, v in zip(
            *(data["configurations"][key] for key in ("depth", "width", column)), strict=True
        )
        if v is not None
    }


def _sections(sweep: Sweep, runs: int) -> list[Section]:
    document = sweep.document
    drawn = {name: make(sweep) for name, (_, make) in FIGURES.items()}
    few = [t["text"] for t in document["teachers"]]
    turns = [c["text"] for c in document["crossovers"] if c["crossing"]]
    trouble, compared = records.trouble(sweep), records.inits_compared(sweep)
    sections = [
        Section(
            "laws",
            "How error falls with size",
            "Laws",
            [_sentence(document["prefers"]["text"])],
            drawn["laws"],
            [tables.laws(sweep), tables.forms(sweep)],
            "laws",
        ),
        Section(
            "pareto",
            "Best error at each size",
            "Pareto",
            [
                "Dots are means over seeds. The stepped line is the measured Pareto front; "
                "the purple line and band are the best student that the laws predict for each budget, "
                "trained or not."
            ],
            drawn["pareto"],
            [tables.measured(sweep), tables.predicted(sweep)],
            "strategies",
        ),
        Section(
            "gains",
            "What distillation gains over scratch",
            "Gains",
            _gains(document),
            drawn["gains"],
            [t for t in (tables.gains(sweep), tables.soft_against_dkd(sweep)) if t.rows],
        ),
        Section(
            "crossovers",
            "Where one strategy overtakes another",
            "Crossovers",
            [_sentence(t) for t in turns[:6]] or ["No crossover was established within the measured sizes."],
            drawn["crossovers"],
            [tables.crossovers(sweep)] if document["crossovers"] else [],
        ),
        *_claims(sweep, drawn["claims"]),
        Section(
            "teachers",
            "Effect of teacher size",
            "Teachers",
            ([_sentence(t) for t in few] or ["No student was distilled."])
            + _brought(sweep)
            + _unlabelled(sweep),
            drawn["teachers"],
            [tables.teachers(sweep)],
            "strategies" if drawn["teachers"] else "",
        ),
        Section(
            "calibration",
            "How far to trust the intervals",
            "Calibration",
            [_sentence(document["calibration"]["text"])],
            drawn["calibration"],
            [tables.calibration(sweep)] if document["calibration"]["trials"] else [],
            "calibration" if drawn["calibration"] else "",
        ),
        Section(
            "trouble", "What failed", "Failures", _trouble(sweep), tables=[trouble] if trouble.rows else []
        ),
        *_tracker(sweep, drawn["tracker"]),
        *_settling(sweep, drawn["settling"]),
        Section(
            "cost",
            "What it cost",
            "Cost",
            _cost(compared),
            drawn["cost"],
            [records.cost(sweep), *([compared] if compared else [])],
        ),
        Section("runs", "Every run", "Runs", [], tables=[records.runs(sweep, runs)]),
    ]
    return sections


def _brought(sweep: Sweep) -> list[str]:
    """What can't be known of teachers that were not trained here."""
    from_elsewhere = [r for r in sweep.results if r.get("brought") and not r["brought"]["same_split"]]
    names = sorted({sweep.teacher(r["id"]) for r in from_elsewhere})
    return [_sentence(f"{', '.join(names)}: {UNSEEN}")] if names else []


def _unlabelled(sweep: Sweep) -> list[str]:
    """How many students learnt from windows without labels."""
    learnt = [r["unlabelled_windows"] for r in sweep.results if r.get("unlabelled_windows")]
    if not learnt:
        return []
    few, most = min(learnt), max(learnt)
    windows = f"{few:,}" if few == most else f"{few:,} to {most:,}"
    return [
        f"{len(learnt)} students also learnt from {windows} windows without labels, by the terms that need "
        "only their teacher."
    ]


def _claims(sweep: Sweep, panels: list[Panel]) -> list[Section]:
    """The section of claims, where anything is paired."""
    if not sweep.claims:
        return []
    lead = [
        "Each claim compares students that differ in it alone, on the same people, sizes, folds and seeds. "
        "Intervals hold for new people like these and new training runs with the same teachers; data sets "
        f"count {'as weighted' if dataset_weights(sweep.folder) else 'alike'}. A verdict takes p < {ALPHA:g} "
        "after Holm's correction over all claims; equivalent says that the interval lies within "
        f"{LEAST_PERCENT:g} %, a difference that doesn't matter."
    ]
    return [Section("claims", "Which claims hold", "Claims", lead, panels, [tables.claims(sweep)])]


def _tracker(sweep: Sweep, panels: list[Panel]) -> list[Section]:
    """The section of the tracker, where results have one."""
    if not tracked.judged(sweep):
        return []
    title, lead = "What a memory gives, and how sure it is", tracked.lead(sweep)
    return [Section("tracker", title, "Tracker", lead, panels, [tracked.table(sweep)])]


def _settling(sweep: Sweep, panels: list[Panel]) -> list[Section]:
    """The section of decisions, where a run was for one question."""
    if not sweep.decisions:
        return []
    title, lead = "When the answer settled", economy.lead(sweep)
    return [Section("settling", title, "Settling", lead, panels, [economy.decisions(sweep)])]


def _gains(document: dict[str, Any]) -> list[str]:
    if not document["gains"]["arms"]:
        return ["No architecture has both a scratch law and a distilled law over common sizes."]
    said = [_sentence(a["text"]) for a in document["gains"]["architectures"]]
    if words_ := document["soft_against_dkd"]["text"]:
        said.append(f"DKD against soft distillation: {words_}.")
    return said


def _cost(compared: Table | None) -> list[str]:
    out = ["Slot-hours of training, measured per point; queueing and start-up are not included."]
    if compared is None:
        out.append("All students have random init; there are no pruned inits to compare.")
    return out


def _trouble(sweep: Sweep) -> list[str]:
    n, blocked = len(sweep.errors), len(sweep.blocked)
    if not n and not blocked:
        return ["No point failed or is blocked."]
    failed = f"{n} point{'s' if n != 1 else ''} failed"
    return [f"{failed} and {blocked} cannot be trained because their teacher failed."]


def _sentence(text: str) -> str:
    """With a full stop, and a capital unless it starts with a name such as "mlp:"."""
    first = text.split(" ", 1)[0]
    return (text if first.endswith(":") else text[:1].upper() + text[1:]).rstrip(".") + "."
