"""`kdsweep fetch SWEEP --host HOST`: a sweep's results, from a login node to here."""

import sys
from pathlib import Path, PurePosixPath

import click

from kd.errors import InputError
from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.hosted import HOST
from orchestrator.words import quoted


@click.command(params=[HOST])
@click.argument("sweep", type=SWEEP)
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory here.  [default: sweeps/<its name>]",
)
@click.option("--models", is_flag=True, help="Also the weights of all points.")
@click.option("--point", "points", multiple=True, help="Also the weights of a point, by id or its beginning.")
@click.option("--all", "everything", is_flag=True, help="Also checkpoints and whatever else points have.")
@click.option("--dry-run", is_flag=True, help="Only say how much there is to fetch.")
def fetch(
    host: str | None,
    sweep: str,
    out: Path | None,
    models: bool,
    points: tuple[str, ...],
    everything: bool,
    dry_run: bool,
) -> None:
    """Copy what `fit`, `query`, `report` and `results` need of a SWEEP on a login node, over ssh.

    Only what differs is sent; after a broken connection the same command goes on. The sweep may be running.
    """
    from orchestrator.run.fetch import MODEL, SMALL, Fetched
    from orchestrator.run.fetch import fetch as copy
    from orchestrator.run.remote import Host

    if not host:
        raise InputError("fetch from where? say --host [USER@]HOST[:DIR], or set KDSWEEP_HOST")
    name = PurePosixPath(sweep).name
    if out is None and name in ("", ".."):
        raise InputError(f"{sweep}: no name for a directory here: choose one with -o")
    if bad := [point for point in points if not point.isalnum()]:
        raise InputError(f"--point {bad[0]!r}: give an id or its beginning; kdsweep status --all lists them")
    folder = out or Path("sweeps") / name
    some = [f"./points/{point}*/{MODEL}" for point in points]
    patterns = ["*"] if everything else [*SMALL, *([MODEL] if models else some)]
    shown = sys.stderr.isatty() and not dry_run
    with click.progressbar(length=1, file=sys.stderr, label=str(folder), hidden=not shown) as bar:

        def progress(now: Fetched) -> None:
            bar.length = max(now.wanted_bytes, now.bytes, 1)
            bar.update(now.bytes - bar.pos)

        fetched = copy(Host.parse(host), sweep, folder, patterns, dry_run=dry_run, progress=progress)
    if fetched is None:
        sys.exit(2)
    if (gone := fetched.wanted - fetched.files) and not dry_run:
        echo(f"{gone:,} files were removed there meanwhile, or can't be read", err=True)
    count, size = (fetched.wanted, fetched.wanted_bytes) if dry_run else (fetched.files, fetched.bytes)
    said = (
        f"{count:,} of {fetched.listed:,} files {'to fetch' if dry_run else 'fetched'}, {size / 1e6:.1f} MB"
    )
    echo(f"{quoted(folder)}: {said}")
