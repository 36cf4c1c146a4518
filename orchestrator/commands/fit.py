"""`kdsweep fit SWEEP`: laws.json, a table and one picture."""

import json

import click

from orchestrator.laws.source import model_shape, read_results, sweep_folder


@click.command()
@click.argument("sweep")
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print laws.json instead of the table.")
def fit(sweep: str, seed: int, as_json: bool) -> None:
    """Fit the laws of SWEEP: writes laws.json and laws.png into it, prints a table."""
    from kd.files import write_atomically
    from orchestrator.laws.document import make_document
    from orchestrator.laws.picture import draw
    from orchestrator.laws.table import print_table

    folder = sweep_folder(sweep)
    document = make_document(folder.resolve().name, read_results(folder), model_shape(folder), rng=seed)
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    write_atomically(folder / "laws.json", lambda path: path.write_text(text))
    write_atomically(folder / "laws.png", lambda path: draw(document, path))
    if as_json:
        click.echo(text)
    else:
        print_table(document)
        click.echo(f"{folder / 'laws.json'} and {folder / 'laws.png'} written", err=True)
