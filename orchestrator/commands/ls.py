"""`kdsweep ls [DIR]`: the sweeps in a directory."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from orchestrator.commands.echo import echo
from orchestrator.commands.hosted import Hosted
from orchestrator.run.sweeps import sweeps_in
from orchestrator.words import escaped

NAMES = ("sweep", "state", "done", "failed", "blocked", "total", "best error", "point", "last activity")


@click.command(cls=Hosted)
@click.argument("folder", metavar="[DIR]", default="sweeps", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def ls(folder: Path, as_json: bool) -> None:
    """List the sweeps in DIR (default: sweeps), last active first: points done, failed, best test error."""
    from orchestrator.commands.tables import print_table

    found = sweeps_in(folder)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    if not found:
        echo(f"no sweep in {folder}", err=True)
        return
    print_table(
        NAMES,
        [_row(sweep) for sweep in found],
        numbers=("done", "failed", "blocked", "total", "best error"),
        spare=("blocked", "point", "last activity", "state"),
    )
    for sweep in found:
        if sweep["why"]:
            echo(escaped(f"{sweep['sweep']}: {sweep['why']}"), err=True)


def _row(sweep: dict[str, Any]) -> list[str]:
    best = sweep["best"]
    counts = ("" if sweep[key] is None else str(sweep[key]) for key in ("done", "failed", "blocked", "total"))
    return [
        sweep["sweep"],
        sweep["state"],
        *counts,
        f"{best['error_bpm']:.2f}" if best else "",
        best["id"] if best else "",
        ago(sweep["last_activity"]),
    ]


def ago(when: str | None) -> str:
    """How long ago an ISO time is, roughly: 40 s, 5 min, 3 h, 12 days."""
    if when is None:
        return ""
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds(), 0.0)
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
