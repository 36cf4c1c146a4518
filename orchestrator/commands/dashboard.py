"""`kdsweep dashboard SWEEP`: how to reach the Ray dashboard of a running sweep."""

import getpass
import json
import socket
from urllib.parse import urlsplit

import click

from kd.errors import InputError
from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.run.status import is_running
from orchestrator.store.find import sweep_folder
from orchestrator.store.store import Store


@click.command()
@click.argument("sweep", type=SWEEP)
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
def dashboard(sweep: str, as_json: bool) -> None:
    """Print the address of SWEEP's Ray dashboard, its token and the `ssh -L` line that reaches it."""
    store = Store(sweep_folder(sweep))
    beat = store.progress()
    if not is_running(beat):
        raise InputError(f"{store.path} is not running: start it with kdsweep run")
    assert beat is not None
    url, token = beat["ray"]["dashboard"], beat["ray"]["token"]
    if not url:
        raise InputError(f"{store.path} runs without a dashboard: run it without --no-dashboard")
    where = urlsplit(url)
    ssh = f"ssh -N -L {where.port}:{where.hostname}:{where.port} {getpass.getuser()}@{beat['host']}"
    if as_json:
        click.echo(json.dumps({"url": url, "token_path": token, "host": beat["host"], "ssh": ssh}))
        return
    echo(f"dashboard  {url}  (Jobs shows the sweep's progress, log and points)")
    echo(f"token      cat {token}")
    if beat["host"] != socket.gethostname():
        echo(f"on         {beat['host']}")
    echo(f"tunnel     {ssh}")
