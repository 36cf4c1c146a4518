"""Prints text for people: what workers, files and servers said can't move the cursor. Knows no command."""

import click

from orchestrator.words import escaped_lines


def echo(text: str = "", *, err: bool = False) -> None:
    """Lines on stdout or stderr, control characters named."""
    click.echo(escaped_lines(text), err=err)
