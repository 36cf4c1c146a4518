"""`kdsweep fit SWEEP`: laws.json, a table and one picture."""

from pathlib import Path

import click

from kd.errors import InputError
from orchestrator.commands.arguments import RECIPE, SWEEP, TRACKED
from orchestrator.commands.echo import echo
from orchestrator.store.find import sweep_folder
from orchestrator.tracking.reader import Source, from_folder, from_mlflow


@click.command()
@click.argument("sweep", type=SWEEP, required=False)
@click.option("--tracking-uri", help="Read the results from this MLflow server instead of a directory.")
@click.option("--experiment", help="With --tracking-uri: experiment of the sweep.")
@click.option("--sweep-id", help="With --tracking-uri: id of the sweep, if the experiment holds several.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Output directory.  [default: SWEEP; with --tracking-uri sweeps/EXPERIMENT]",
)
@RECIPE
@TRACKED
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--formulas", is_flag=True, help="Show the two exponentials' parameters, too.")
@click.option("--json", "as_json", is_flag=True, help="Print laws.json instead of the table.")
def fit(
    sweep: str | None,
    tracking_uri: str | None,
    experiment: str | None,
    sweep_id: str | None,
    out: Path | None,
    recipe: str | None,
    tracked: bool | None,
    seed: int,
    formulas: bool,
    as_json: bool,
) -> None:
    """Fit the scaling laws of SWEEP, or of a sweep in MLflow; write laws.json and laws.png, print a table."""
    from orchestrator.laws.document import laws_file
    from orchestrator.laws.table import print_table
    from orchestrator.laws.write import write_laws
    from orchestrator.space.spaces import write_documents

    source, folder = _source(sweep, tracking_uri, experiment, sweep_id)
    folder = out or folder
    folder.mkdir(parents=True, exist_ok=True)
    # `query` and `suggest` find all they need beside laws.json; a directory with points has its own spaces
    if (out or not sweep) and not (folder / "points").is_dir():
        write_documents(folder, source.space)
    document = write_laws(source, folder, seed, recipe, tracked)
    file = laws_file(folder, source.headline, tracked)
    if as_json:
        click.echo(file.read_text(encoding="utf-8"))
    else:
        print_table(document, formulas)
    for note in document["notes"]:
        echo(f"note: {note}", err=True)
    echo(f"{file} and {file.with_suffix('.png')} written", err=True)


def _source(
    sweep: str | None, uri: str | None, experiment: str | None, sweep_id: str | None
) -> tuple[Source, Path]:
    """The results, and where laws.json goes by default."""
    if sweep and uri is None and experiment is None and sweep_id is None:
        folder = sweep_folder(sweep)
        return from_folder(folder), folder
    if sweep or not (uri and experiment):
        raise InputError("give a sweep's directory, or --tracking-uri and --experiment for a sweep in MLflow")
    name = experiment.replace("/", "_")  # on a server it is no path
    folder = Path("sweeps") / (f"_{name}" if name.startswith(".") else name)
    return from_mlflow(uri, experiment, sweep_id), folder
