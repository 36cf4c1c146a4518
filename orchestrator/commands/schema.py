"""`kdsweep schema`: what a search space, or a site profile, may say, as a JSON schema for editors."""

import json
from typing import Any

import click

SPACE_FILE, SITE_FILE = "search_space.schema.json", "site.schema.json"  # as they are published in docs/


@click.command()
@click.option("--site", is_flag=True, help="Of a Slurm site profile instead.")
def schema(site: bool) -> None:
    """Print the JSON schema of a search space: keys, strategies with their arguments, known names.

    An editor with a YAML language server reads it from a file's first line:
    # yaml-language-server: $schema=search_space.schema.json
    """
    click.echo(schema_text(site), nl=False)


def schema_text(site: bool) -> str:
    """The schema as text: what `kdsweep schema` prints, what docs/ holds, what `kdsweep init` writes."""
    return json.dumps(_site() if site else _space(), indent=2, ensure_ascii=False) + "\n"


def _space() -> dict[str, Any]:
    from orchestrator.space.json_schema import space_json_schema

    return space_json_schema()


def _site() -> dict[str, Any]:
    from slurm.site import Site

    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **Site.model_json_schema(), "title": "kdsweep site profile"}
