"""The laws as a table on the terminal. Knows laws.json only."""

from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.words import escaped

WIDE = 200  # columns, where there is no terminal to fit
MEASURED = ("sizes x seeds x folds", "params", "measured (BPM)", "exponent", "at x2 (BPM)", "left out")
COLUMNS = ("arm", *MEASURED, "verdict")


def print_table(document: dict[str, Any], formulas: bool = False) -> None:
    """One row an arm. formulas: of the two exponentials, too."""
    table = Table(title=escaped(f"{document['sweep']}: error against parameters"))
    shown = {"log_exponential": "c + A (N / N_mid)^-b", "exponential": "c + A exp(-b (N / N_mid - 1))"}
    for name in (*COLUMNS, *(shown.values() if formulas else ())):
        table.add_column(name)
    for arm in document["arms"]:
        forms = {form["name"]: form for form in arm["forms"]}
        row = [
            arm["key"],
            *_measured(arm),
            arm["verdict"] if arm["verdict"] == "ok" else f"{arm['verdict']}: {arm['why']}",
            *(_form(forms.get(name)) for name in shown if formulas),
        ]
        table.add_row(*map(escaped, row))
    console = Console(markup=False)
    (console if console.is_terminal else Console(width=WIDE, markup=False)).print(table)


def _measured(arm: dict[str, Any]) -> list[str]:
    """What was measured and what follows from it; laws of earlier versions keep less."""
    params = f"{arm['smallest']:,}-{arm['largest']:,}"
    s = arm.get("summary")
    if s is None:
        return [str(len(arm["runs"])), params, "-", "-", "-", "-"]
    first, last = ("-" if v is None else f"{v:.2f}" for v in s["measured_bpm"])
    e, x2, left_out = s["exponent"], s["at_x2"], s["left_out_error"]
    exponent = "-"
    if e:
        span = f"{e['median']:.2f} [{e['low']:.2f}, {e['high']:.2f}]"
        exponent = span if e["determined"] else f"not determined by {s['sizes']} sizes: train 2 more"
    return [
        f"{s['sizes']} x {s['seeds']} x {s['folds']}",
        params,
        f"{first} to {last}",
        exponent,
        f"{x2['median']:.2f} [{x2['low']:.2f}, {x2['high']:.2f}]" if x2 else "-",
        "-" if left_out is None else f"{100 * left_out:+.1f} %",
    ]


def _form(form: dict[str, Any] | None) -> str:
    if form is None:
        return "-"
    if None in form["params"].values():
        return "not determined: train 2 more sizes"
    params = " ".join(f"{k} {v:.3g}" for k, v in form["params"].items())
    text = f"{params}, off {100 * form['fit_error']:.1f} %"
    return f"{text}; {form['note']}" if form["note"] else text
