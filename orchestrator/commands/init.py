"""`kdsweep init DIR`: the shipped search spaces and site profiles, for who has no checkout."""

import os
from collections.abc import Iterator
from pathlib import Path

import click

from orchestrator.commands.echo import echo
from orchestrator.commands.schema import SITE_FILE, SPACE_FILE, schema_text
from orchestrator.words import quoted
from slurm.site import EXAMPLES as SITES

# Beside this package, in a checkout and in an installed wheel alike: see pyproject.toml
SPACES = Path(__file__).resolve().parents[2] / "search_spaces"


@click.command()
@click.argument("dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
def init(dir: Path, dry_run: bool) -> None:
    """Write the shipped search spaces, Slurm site profiles and their JSON schemas into DIR.

    They lie there as in a checkout: search_spaces, slurm/sites and docs. A file that exists is left as it is.
    """
    for name, text in _files():
        path = dir / name
        try:
            if not dry_run:
                _write_new(path, text)
            elif os.path.lexists(path):
                raise FileExistsError
        except FileExistsError:
            echo(f"exists, left as it is: {path}", err=True)
        else:
            echo(str(path))
    if not dry_run:
        echo(f"next: kdsweep plan {quoted(dir / 'search_spaces' / 'quickstart.yaml')}", err=True)


def _files() -> Iterator[tuple[str, str]]:
    """Name below DIR, and text."""
    for folder, below in ((SPACES, "search_spaces"), (SITES, "slurm/sites")):
        for path in sorted(folder.glob("*.yaml")):
            yield f"{below}/{path.name}", path.read_text(encoding="utf-8")
    yield f"docs/{SPACE_FILE}", schema_text(site=False)
    yield f"docs/{SITE_FILE}", schema_text(site=True)


def _write_new(path: Path, text: str) -> None:
    """Write a file that must not be there yet: FileExistsError, also for a link that leads nowhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
