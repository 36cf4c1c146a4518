"""`kdsweep cancel SWEEP`: stop its jobs without losing work."""

import os
import signal
import socket
import sys
from pathlib import Path

import click

from kd.errors import InputError
from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.hosted import Hosted
from orchestrator.run import jobs, submission
from orchestrator.run.status import is_running
from orchestrator.store.find import sweep_folder
from orchestrator.store.store import Store
from slurm import chain
from slurm.command import Slurm
from slurm.errors import Away, Refused


@click.command(cls=Hosted)
@click.argument("sweep", type=SWEEP)
@click.option(
    "--now", is_flag=True, help="Don't wait for checkpoints; epochs since the last checkpoint are lost."
)
@click.option("--dry-run", is_flag=True, help="Print what would be stopped, and stop nothing.")
def cancel(sweep: str, now: bool, dry_run: bool) -> None:
    """Stop SWEEP: running points checkpoint, and `kdsweep submit` or `run` resumes them later."""
    folder = sweep_folder(sweep)
    try:
        ended = _cancel(folder, now, dry_run)
    except Refused as error:
        say(f"error: {error}")
        sys.exit(1)
    except Away as error:
        say(f"{error}\nSlurm doesn't answer: try again later")
        sys.exit(75)
    if not ended and not _local(folder, dry_run):
        say("nothing of this sweep is queued or running")


def _cancel(folder: Path, now: bool, dry_run: bool) -> bool:
    """Whether there were jobs. What waits is cancelled; the driver is asked to stop, and ends its workers."""
    here = submission.latest(folder)
    if here is None:
        return False
    record = submission.Record.load(here)
    slurm = Slurm(cluster=record.cluster)
    rows = jobs.rows_of(here, record, jobs.queue_of(here, slurm))
    active = [(role, row) for role, found in rows.items() for row in found if row.active]
    if not active:
        return False
    # What has waited longest for an end goes first, so that nothing starts in between.
    active.sort(key=lambda pair: pair[1].state == "RUNNING")
    for role, row in active:
        ask = row.state == "RUNNING" and not now
        say(f"job {row.id} ({role}): {'asked to checkpoint and stop' if ask else 'cancelled'}")
        if dry_run:
            continue
        signal_ = ["--signal=USR1", "--batch"] if ask else []
        slurm.run("scancel", "--quiet", *signal_, row.id)
        # Slurm agrees that this user may; no link follows now, whatever happens to the jobs below.
        (here / chain.CANCELLED).touch()
    return True


def _local(folder: Path, dry_run: bool) -> bool:
    """Stop a driver that runs on this machine, without Slurm; whether there was one."""
    beat = Store(folder).progress()
    if beat is None or not is_running(beat):
        return False
    if beat["host"] != socket.gethostname():
        raise InputError(f"{folder} is run by process {beat['pid']} on {beat['host']}: stop it there")
    say(f"process {beat['pid']}: asked to checkpoint and stop")
    if not dry_run:
        os.kill(beat["pid"], signal.SIGTERM)
    return True


def say(text: str) -> None:
    """A message."""
    echo(text, err=True)
