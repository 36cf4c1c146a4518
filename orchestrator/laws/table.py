"""The laws as a table on the terminal. Knows laws.json only."""

from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.words import escaped

WIDE = 160  # columns, where there is no terminal to fit


def print_table(document: dict[str, Any]) -> None:
    """One row an arm."""
    table = Table(title=escaped(f"{document['sweep']}: error against parameters"))
    for name in ("arm", "runs", "params", "a exp(-b ln N) + c", "a exp(-b N) + c", "verdict"):
        table.add_column(name)
    for arm in document["arms"]:
        forms = {form["name"]: form for form in arm["forms"]}
        row = [
            arm["key"],
            str(len(arm["runs"])),
            f"{arm['smallest']:,}-{arm['largest']:,}",
            *(_form(forms.get(name)) for name in ("log_exponential", "exponential")),
            arm["verdict"] if arm["verdict"] == "ok" else f"refuse: {arm['why']}",
        ]
        table.add_row(*map(escaped, row))
    console = Console(markup=False)
    (console if console.is_terminal else Console(width=WIDE, markup=False)).print(table)


def _form(form: dict[str, Any] | None) -> str:
    if form is None:
        return "-"
    params = " ".join(f"{k} {'huge' if v is None else format(v, '.3g')}" for k, v in form["params"].items())
    text = f"{params}, off {100 * form['fit_error']:.1f} %"
    return f"{text}; {form['note']}" if form["note"] else text
