"""`kdsweep results SWEEP`: every trained point, as a table, CSV, Parquet or JSON."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.store.find import sweep_folder
from orchestrator.store.parts import many_objects
from orchestrator.store.store import Store
from orchestrator.store.table import COLUMNS, check_column, frame, keep, ordered, rows_of

# of the table; the first of SPARE are left out first where the terminal is narrow
SHOWN = {
    "point": "point",
    "role": "role",
    "model": "model",
    "init": "init",
    "strategy": "strategy",
    "teacher": "teacher",
    "seed": "seed",
    "params": "params",
    "mae_bpm": "MAE",
    "rmse_bpm": "RMSE",
    "within_5_bpm": "within 5",
    "train_seconds": "train s",
}
SPARE = ("RMSE", "train s", "within 5", "role", "init", "seed", "teacher")
NUMBERS = ("seed", "params", "MAE", "RMSE", "within 5", "train s")


@click.command()
@click.argument("sweep", type=SWEEP)
@click.option("--sort", default="mae_bpm", show_default=True, help="Column; -COLUMN: largest first.")
@click.option(
    "--filter",
    "conditions",
    multiple=True,
    metavar="EXPR",
    help="Keep points like arch=mlp or 'params<20000' (= != < <= > >=); may be repeated.",
)
@click.option("--csv", "csv_file", metavar="FILE", help="Write all columns as CSV; - for stdout.")
@click.option("--parquet", type=click.Path(dir_okay=False, path_type=Path), help="Write them as Parquet.")
@click.option("--json", "as_json", is_flag=True, help="Print all columns as JSON.")
def results(
    sweep: str,
    sort: str,
    conditions: Sequence[str],
    csv_file: str | None,
    parquet: Path | None,
    as_json: bool,
) -> None:
    """List the trained points of SWEEP, sorted and filtered by any column that --csv or --json shows.

    Strategy arguments are columns like args.temperature; the training recipe, like recipe.lr.
    """
    with many_objects():
        rows = rows_of(Store(sweep_folder(sweep)).results())
    rows = ordered(keep(rows, conditions), sort) if rows else _none(conditions, sort)
    if parquet:
        frame(rows).to_parquet(parquet, index=False)
        echo(f"{parquet} written: {len(rows)} points", err=True)
    if csv_file == "-":
        _write_csv(sys.stdout, rows)
    elif csv_file:
        with open(csv_file, "w", newline="", encoding="utf-8") as file:
            _write_csv(file, rows)
        echo(f"{csv_file} written: {len(rows)} points", err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif not parquet and not csv_file:
        _print(rows)


def _none(conditions: Sequence[str], sort: str) -> list[dict[str, Any]]:
    """No row, but columns are still checked."""
    check_column(sort.removeprefix("-"), list(COLUMNS))
    return keep([], conditions)


def _write_csv(file: Any, rows: Sequence[dict[str, Any]]) -> None:
    writer = csv.DictWriter(file, list(rows[0]) if rows else list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _print(rows: Sequence[dict[str, Any]]) -> None:
    from orchestrator.commands.tables import print_table

    if not rows:
        echo("no trained point", err=True)
        return
    print_table(list(SHOWN.values()), [_cells(row) for row in rows], numbers=NUMBERS, spare=SPARE)


def _cells(row: dict[str, Any]) -> list[str]:
    from orchestrator.laws.arms import strategy_label

    args = {k.removeprefix("args."): v for k, v in row.items() if k.startswith("args.") and v is not None}
    shown = {
        **row,
        "model": f"{row['arch']}-{row['depth']}x{row['width']}",
        "strategy": "teacher" if row["role"] == "teacher" else strategy_label(row["strategy"], args),
        "params": f"{row['params']:,}",
        **{key: _number(row[key], ".2f") for key in ("mae_bpm", "rmse_bpm")},
        "within_5_bpm": _number(row["within_5_bpm"], ".0%"),
        "train_seconds": _number(row["train_seconds"], ".1f"),
    }
    return ["" if shown[key] is None else str(shown[key]) for key in SHOWN]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
