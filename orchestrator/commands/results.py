"""`kdsweep results SWEEP`: every trained point, as a table, CSV, Parquet or JSON."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.store.find import sweep_folder
from orchestrator.store.metric import Headline, headline
from orchestrator.store.parts import many_objects
from orchestrator.store.store import Store
from orchestrator.store.table import (
    COLUMNS,
    GROUPS,
    HEADLINE,
    check_column,
    columns_by,
    frame,
    keep,
    ordered,
    rows_by,
    rows_of,
)
from orchestrator.words import model_name

# of the table; the first of SPARE are left out first where the terminal is narrow
SHOWN = {
    "point": "point",
    "role": "role",
    "model": "model",
    "init": "init",
    "strategy": "strategy",
    "teacher": "teacher",
    "fold": "fold",
    "seed": "seed",
    "params": "params",
    "error_bpm": "error",
    "mae_bpm": "MAE",
    "mae_bpm_tracked": "tracked",
    "rmse_bpm": "RMSE",
    "within_5_bpm": "within 5",
    "train_seconds": "train s",
}
BY_SUBJECT = {"point": "point", "subject": "subject", "mae_bpm": "MAE", "rmse_bpm": "RMSE"}
BY_SUBJECT |= {"mae_bpm_tracked": "tracked", "within_5_bpm": "within 5", "windows": "windows"}
SPARE = ("MAE", "tracked", "RMSE", "train s", "within 5", "role", "init", "seed", "teacher")
FORMS = {"params": ",", "windows": ",", "within_5_bpm": ".0%", "train_seconds": ".1f"}
FORMS |= dict.fromkeys(("error_bpm", "mae_bpm", "mae_bpm_tracked", "rmse_bpm"), ".2f")
NUMBERS = ("fold", "seed", "params", "error", "MAE", "tracked", "RMSE", "within 5", "train s", "windows")


@click.command()
@click.argument("sweep", type=SWEEP)
@click.option("--by", type=click.Choice(GROUPS), help="A row a point and test subject, or data set.")
@click.option("--sort", help="Column; -COLUMN: largest first.  [default: error_bpm; with --by mae_bpm]")
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
    by: str | None,
    sort: str | None,
    conditions: Sequence[str],
    csv_file: str | None,
    parquet: Path | None,
    as_json: bool,
) -> None:
    """List the trained points of SWEEP, sorted and filtered by any column that --csv or --json shows.

    Strategy arguments are columns like args.temperature; the training recipe, like recipe.lr.
    """
    folder = sweep_folder(sweep)
    judge = headline(folder)
    with many_objects():
        found = Store(folder).results()
        rows = rows_by(found, by) if by else rows_of(found, judge)
    columns = columns_by(by) if by else tuple(COLUMNS)
    sort = sort or ("mae_bpm" if by else HEADLINE)
    rows = ordered(keep(rows, conditions), sort) if rows else _none(conditions, sort, columns)
    if parquet:
        frame(rows, columns).to_parquet(parquet, index=False)
        echo(f"{parquet} written: {len(rows)} {'rows' if by else 'points'}", err=True)
    if csv_file == "-":
        _write_csv(sys.stdout, rows, columns)
    elif csv_file:
        with open(csv_file, "w", newline="", encoding="utf-8") as file:
            _write_csv(file, rows, columns)
        echo(f"{csv_file} written: {len(rows)} {'rows' if by else 'points'}", err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif not parquet and not csv_file:
        _print(rows, judge, by)


def _none(conditions: Sequence[str], sort: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """No row, but columns are still checked."""
    check_column(sort.removeprefix("-"), list(columns))
    return keep([], conditions, columns)


def _write_csv(file: Any, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    writer = csv.DictWriter(file, list(rows[0]) if rows else list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _print(rows: Sequence[dict[str, Any]], judge: Headline, by: str | None) -> None:
    from orchestrator.commands.tables import print_table

    if not rows:
        echo("no trained point", err=True)
        return
    if by:
        names = BY_SUBJECT if by == "subject" else {"point": "point", by: by, "mae_bpm": "MAE"}
        if all(row.get("mae_bpm_tracked") is None for row in rows):
            names = {key: name for key, name in names.items() if key != "mae_bpm_tracked"}
        cells = [[_cell(row, key) for key in names] for row in rows]
        print_table(list(names.values()), cells, numbers=NUMBERS)
        return
    without = {key for key in ("fold", "mae_bpm_tracked") if all(row[key] is None for row in rows)}
    shown = {key: name for key, name in SHOWN.items() if key not in without}
    print_table(list(shown.values()), [_cells(row, shown) for row in rows], numbers=NUMBERS, spare=SPARE)
    echo(f"error: BPM, {judge}; MAE and tracked: BPM, mean over windows")


def _cells(row: dict[str, Any], names: Iterable[str]) -> list[str]:
    from orchestrator.laws.arms import strategy_label

    args = {k.removeprefix("args."): v for k, v in row.items() if k.startswith("args.") and v is not None}
    shown = {
        "model": model_name(row["arch"], row["depth"], row["width"]),
        "strategy": "teacher" if row["role"] == "teacher" else strategy_label(row["strategy"], args),
    }
    return [shown[key] if key in shown else _cell(row, key) for key in names]


def _cell(row: dict[str, Any], key: str) -> str:
    return "" if row[key] is None else format(row[key], FORMS.get(key, ""))
