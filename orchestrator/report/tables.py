"""The tables behind the pictures: every number in rows that sort. No HTML here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report import fronts
from orchestrator.report.plot import si
from orchestrator.report.sweep import Sweep, full_label


@dataclass(frozen=True)
class Cell:
    """What is read, and what is sorted by when that differs."""

    text: str
    value: float | str | None = None
    strategy: str | None = None  # shown with its marker


@dataclass(frozen=True)
class Table:
    """Columns are (name, whether numbers stand in it)."""

    title: str
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    open: bool = False  # whether it shows without a click


def columns(names: str) -> list[tuple[str, bool]]:
    """From "arm, #runs": # marks columns of numbers."""
    return [(n.strip().removeprefix("#"), n.strip().startswith("#")) for n in names.split(",")]


def number(value: float | None, form: str = ".2f", factor: float = 1.0) -> Cell:
    """A number, a dash where there is none."""
    return Cell("–", None) if value is None else Cell(format(value * factor, form), value)


def size(value: float) -> Cell:
    """A whole number with its thousands apart."""
    return Cell(f"{value:,.0f}", value)


def span(i: dict[str, float], form: str = ".2f", factor: float = 1.0) -> Cell:
    """Median and interval."""
    median, low, high = (format(factor * i[k], form) for k in ("median", "low", "high"))
    return Cell(f"{median} [{low}, {high}]", i["median"])


def strategy(arm: dict[str, Any]) -> Cell:
    """A strategy, and what is unusual about it."""
    return Cell(full_label(arm), None, arm["strategy"])


def laws(sweep: Sweep) -> Table:
    """One row an arm: the two exponentials, and whether its law may be used."""
    rows = []
    for arm in sweep.document["arms"]:
        forms = {f["name"]: f for f in arm["forms"]}
        verdict = "ok" if arm["verdict"] == "ok" else f"refused: {arm['why']}"
        rows.append(
            [
                Cell(arm["arch"] + ("" if arm["init"] == "random" else f", {arm['init']}")),
                strategy(arm),
                Cell(sweep.teacher(arm["teacher"])),
                size(len(arm["runs"])),
                Cell(f"{si(arm['smallest'])} – {si(arm['largest'])}", arm["largest"]),
                *_form(forms.get("log_exponential")),
                *_form(forms.get("exponential")),
                Cell(verdict),
            ]
        )
    names = (
        "architecture, strategy, teacher, #runs, #parameters, a exp(−b ln N) + c, #fit error %, "
        "#held-out error %, a exp(−b N) + c, #fit error %, #held-out error %, verdict"
    )
    return Table("All laws", columns(names), rows)


def _form(form: dict[str, Any] | None) -> list[Cell]:
    if form is None:
        return [Cell("–"), Cell("–"), Cell("–")]
    p = form["params"]
    values = " · ".join(f"{k} {v:.3g}" if v is not None else f"{k} –" for k, v in p.items())
    return [Cell(values), number(form["fit_error"], ".1f", 100), number(form["holdout_error"], ".1f", 100)]


def forms(sweep: Sweep) -> Table:
    """Which form of law the data prefer."""
    rows = [
        [
            Cell(f["title"]),
            number(f["aicc"], ".1f"),
            number(f["fit_error"], ".2f", 100),
            number(f["holdout_error"], ".2f", 100),
            Cell("yes" if f["in_ensemble"] else "drawn, compared"),
        ]
        for f in sweep.document["prefers"]["forms"]
    ]
    names = "form, #ΔAICc, #fit error %, #error on held-out largest sizes %, in the ensemble"
    return Table("Forms of law, over all arms", columns(names), rows)


def measured(sweep: Sweep) -> Table:
    """The measured front."""
    rows = [
        [
            *student(sweep, r),
            size(r["params"]),
            number(r["activation_bytes"], ",.1f", 1e-3),
            size(r["macs"]),
            number(r["mae_bpm"]),
            size(r["seeds"]),
        ]
        for r in fronts.measured(sweep.results, "params")[1]
    ]
    names = "student, strategy, teacher, #parameters, #memory kB, #MACs, #MAE BPM, #seeds"
    return Table("Measured front by parameters", columns(names), rows)


def predicted(sweep: Sweep) -> Table:
    """The predicted front."""
    rows = [
        [
            *student(sweep, b),
            size(b["params"]),
            number(b["activation_bytes"], ",.1f", 1e-3),
            size(b["macs"]),
            span(b["mae_bpm"]),
            number(b["p_best"], ".0%"),
            Cell("trained" if b["trained"] else "not yet" + (", extrapolated" if b["outside"] else "")),
        ]
        for b in sweep.fronts["max_params"]
    ]
    names = "student, strategy, teacher, #parameters, #memory kB, #MACs, #MAE of a new run, #P(best), trained"
    return Table("Predicted front by parameters", columns(names), rows)


def student(sweep: Sweep, r: dict[str, Any]) -> list[Cell]:
    """The cells that name a student: shape, strategy, teacher."""
    init = "" if (r.get("init") or "random") == "random" else f", {r['init']}"
    return [
        Cell(f"{r['arch']} {r['depth']}×{r['width']}{init}", f"{r['arch']} {r['depth']:4} {r['width']:6}"),
        strategy(r),
        Cell(sweep.teacher(r.get("teacher"))),
    ]


def gains(sweep: Sweep) -> Table:
    """What each arm gains over scratch."""
    arms = {a["key"]: a for a in sweep.document["arms"]}
    rows = [
        [
            Cell(r["arch"] + ("" if r["init"] == "random" else f", {r['init']}")),
            strategy(arms[r["arm"]]),
            Cell(sweep.teacher(r["teacher"])),
            span(r["mean"], ".1f", 100),
            span(r["by_size"][0], ".1f", 100),
            span(r["by_size"][-1], ".1f", 100),
            number(r["p_better"], ".2f"),
        ]
        for r in sweep.document["gains"]["arms"]
    ]
    names = "architecture, strategy, teacher, #mean gain %, #at the smallest, #at the largest, #P(better)"
    return Table("Gain over scratch, in mean error over runs", columns(names), rows)


def soft_against_dkd(sweep: Sweep) -> Table:
    """Is decoupling better, or only weighted more?"""
    found = sweep.document["soft_against_dkd"]
    rows = [
        [
            Cell(kind),
            Cell(c["arch"] + ("" if c["init"] == "random" else f", {c['init']}")),
            Cell(sweep.teacher(c["teacher"])),
            number(c["soft_weight"], ".3g"),
            number(c["dkd_weight"], ".3g"),
            span(c["gain"], ".1f", 100),
            number(c["p_dkd_better"], ".2f"),
        ]
        for kind, key in (("as published", "as_published"), ("matched weight", "matched"))
        for c in found[key]
    ]
    names = "setting, architecture, teacher, #weight of soft, #weight of dkd, #gain of dkd %, #P(dkd better)"
    return Table("Soft against DKD, as published and at matched weight", columns(names), rows)


def claims(sweep: Sweep) -> Table:
    """Claims with what they rest on."""
    rows = [
        [
            Cell(r["text"]),
            Cell(r["verdict"]),
            span(r["effect_percent"], ".1f") if r["effect_percent"] else Cell("–"),
            span(r["effect_bpm"]) if r["effect_bpm"] else Cell("–"),
            number(r["p_holm"], ".3f"),
            size(r["n"]["subjects"]),
            size(r["n"]["cells"]),
            size(r["n"]["sizes"]),
            size(r["n"]["folds"]),
            size(r["n"]["seeds"]),
            Cell(r["why"]),
            Cell(r["source"]),
        ]
        for r in sweep.claims
    ]
    names = (
        "claim, verdict, #error lower by %, #by BPM, #p (Holm), #subjects, #pairs of runs, #sizes, #folds, "
        "#seeds, why, who claims it"
    )
    return Table("Claims, judged in pairs", columns(names), rows, open=True)


def crossovers(sweep: Sweep) -> Table:
    """All pairs of strategies."""
    rows = [
        [
            Cell(r["text"]),
            Cell(sweep.teacher(r["teacher"])),
            size(r["smallest"]),
            size(r["largest"]),
            Cell("–")
            if r["crossing"] is None
            else Cell(
                f"{si(r['crossing']['median'])} [{si(r['crossing']['low'])}, {si(r['crossing']['high'])}]",
                r["crossing"]["median"],
            ),
            number(r["p_one_crossing"], ".2f"),
        ]
        for r in sweep.document["crossovers"]
    ]
    names = "finding, teacher, #from, #to, #crossover at, #P(one crossover)"
    return Table("All pairs of strategies", columns(names), rows)


def teachers(sweep: Sweep) -> Table:
    """The teachers themselves."""
    rows = [
        [
            Cell(sweep.teacher(r["id"])),
            size(r["params"]) if r["params"] else Cell("unknown"),
            size(r["macs"]) if r.get("macs") else Cell("unknown"),
            number(r["mae_bpm"]),
            size(sum(s.get("teacher") == r["id"] for s in sweep.results)),
        ]
        for r in sorted(sweep.results, key=lambda r: (r["params"], r["id"]))
        if r["role"] == "teacher"
    ]
    return Table("Teachers", columns("teacher, #parameters, #MACs, #MAE BPM, #students"), rows, open=True)


def calibration(sweep: Sweep) -> Table:
    """Hits, with limits."""
    rows = [
        [
            Cell("the largest" if t["left_out"] == 1 else f"the {t['left_out']} largest"),
            Cell(f"{t['hits']} of {t['groups']}", t["hits"] / t["groups"]),
            Cell(f"{t['low']:.0%} to {t['high']:.0%}", t["low"]),
            number(t["mean_abs_error_ln"], ".1f", 100),
            number(t.get("bias_ln"), "+.1f", 100),
        ]
        for t in sweep.document["calibration"]["trials"]
    ]
    names = "sizes held out, #inside the interval, #95 % Clopper-Pearson limits, #mean error %, "
    names += "#measured - predicted %"
    return Table("Coverage of the prediction intervals", columns(names), rows, open=True)
