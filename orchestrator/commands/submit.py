"""`kdsweep submit SPACE --site SITE`: the sweep as Slurm jobs. Returns at once, leaves no process behind."""

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from kd.errors import InputError
from orchestrator.commands.arguments import SITE, SPACE, question_options
from orchestrator.commands.echo import echo
from orchestrator.commands.hosted import Hosted
from orchestrator.run import jobs, submission
from orchestrator.run.status import is_running
from orchestrator.space.cost import with_startup
from orchestrator.space.resolve import Opened, open_space
from orchestrator.words import quoted
from slurm import chain
from slurm.check import partitions, refusals
from slurm.command import Slurm, on_cluster
from slurm.errors import Away, Refused, SiteError
from slurm.site import Site, load_site
from slurm.states import JobState


@click.command(cls=Hosted)
@click.argument("space", type=SPACE)
@click.argument("overrides", nargs=-1)
@click.option(
    "--site",
    "site_name",
    type=SITE,
    required=True,
    help="Site profile: a YAML file, or the name of an example.",
)
@click.option("--out", help="The sweep directory.  [default: sweeps/<name of the space>]")
@click.option("--nodes", type=click.IntRange(min=1), help="Nodes (gang), or worker jobs (elastic).")
@click.option("--time", "time_", help="Time limit of a job: minutes, HH:MM:SS, D-HH:MM:SS.")
@click.option(
    "--elastic/--gang", "elastic", default=None, help="A head job with workers that come and go, or one job."
)
@click.option(
    "--max-links", type=click.IntRange(min=1), help="Maximum number of runs of the job, the first included."
)
@question_options
@click.option("--dry-run", is_flag=True, help="Print scripts, points and hours; submit nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def submit(
    space: str,
    overrides: Sequence[str],
    site_name: str,
    out: str | None,
    nodes: int | None,
    time_: str | None,
    elastic: bool | None,
    max_links: int | None,
    answer: str | None,
    until_regret: float | None,
    gpu_hours: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run SPACE on Slurm. Finished points are kept; a sweep that is already queued is not queued again.

    OVERRIDES change single values: training.max_epochs=5, students.0.width=[4,8].
    """
    options = _question(answer, until_regret, gpu_hours)
    mode = None if elastic is None else "elastic" if elastic else "gang"
    try:
        site = load_site(site_name, nodes=nodes, time=time_, mode=mode, max_links=max_links)
        opened = open_space(space, overrides, out, say)
        if dry_run:
            _dry_run(opened, site, as_json, options)
            return
        with submission.alone(opened.store.path):
            said = _submit(opened, site, site_name, options)
    except SiteError as error:
        raise InputError(str(error)) from None
    except Refused as error:
        say(f"error: {error}\nnothing stays submitted; try kdsweep doctor --site {quoted(site_name)}")
        sys.exit(1)
    except Away as error:
        say(f"{error}\nSlurm doesn't answer. Nothing will be submitted twice: try again later")
        sys.exit(75)
    click.echo(json.dumps(said) if as_json else "\n".join(said["jobs"]))


def _question(answer: str | None, until_regret: float | None, gpu_hours: float | None) -> tuple[str, ...]:
    """What the jobs' `kdsweep run` is told of a question. Raises InputError for one that can't be asked."""
    from orchestrator.answers.asked import asked

    if asked(answer, until_regret, gpu_hours) is None:
        return ()
    options = [f"--answer={answer}"]
    options += [f"--until-regret={until_regret!r}"] if until_regret is not None else []
    return (*options, *([f"--gpu-hours={gpu_hours!r}"] if gpu_hours is not None else []))


def _submit(opened: Opened, site: Site, site_name: str, options: tuple[str, ...]) -> dict[str, Any]:
    """Submit, unless it is submitted, running or done; the answer as JSON has it. options: of the driver."""
    folder = opened.store.path
    here = submission.latest(folder)
    if here is not None:
        record = submission.Record.load(here)
        slurm = Slurm(site.patience_s, cluster=record.cluster)  # where its jobs are, whatever is wanted now
        ended = any(link["verdict"] in ("done", "stop") for link in chain.read_links(here))
        if (
            not ended
            and not (here / chain.CANCELLED).exists()
            and any(r.job is None for r in record.requests)
        ):
            say(f"resuming the interrupted submission {record.id}")
            submission.send(here, record, slurm, again=True)
            return _said(record, "submitted", folder)
        active = jobs.active_rows(here, record, jobs.queue_of(here, slurm))
        if active and not any(jobs.is_driver(row) for row in active):
            say(f"the job with the driver has ended; its {len(active)} other jobs are cancelled")
            slurm.run("scancel", "--quiet", *(row.base for row in active))
        elif active:
            if added := _top_up(opened, site, slurm, here, record, active):
                say(f"already submitted; workers that were missing: job {', '.join(added)}")
                return _said(record, "submitted", folder)
            states = ", ".join(f"{r.id} {r.state}{f' ({r.reason})' if r.reason else ''}" for r in active)
            say(f"already submitted, nothing to do: {states}")
            return _said(record, "already", folder)
    beat = opened.store.progress()
    ours = {link["host"] for link in chain.read_links(here)} if here else set()
    if beat and beat["host"] not in ours and is_running(beat):  # of our own jobs Slurm has just told
        raise InputError(f"{folder} is being run by process {beat['pid']} on {beat['host']}: wait for it")
    left = len(opened.plan.points) - len(opened.store.done() & {p.id for p in opened.plan.points})
    if not left:
        say(f"{len(opened.plan.points)} of {len(opened.plan.points)} points already done: nothing to submit")
        return {"submission": None, "state": "done", "jobs": []}
    if forgotten := jobs.excluded_nodes(folder):
        say(f"nodes that were excluded may be used again: {', '.join(forgotten)}")
    for why in opened.plan.refused:
        say(f"refused: {why}")
    _refuse_what_slurm_would(site)
    slurm = Slurm(site.patience_s, cluster=site.clusters)
    job = submission.job_of(opened, site, options)
    max_array = site.max_array or (slurm.max_array() if site.mode == "elastic" else 1001)
    record = submission.write_intent(opened, job, site_name, max_array)
    submission.send(job.here, record, slurm, again=False)
    say(_hours(submission.estimate(opened, site)))
    return _said(record, "submitted", folder)


def _refuse_what_slurm_would(site: Site) -> None:
    """Raise Refused before anything is written. If Slurm doesn't answer, sending will say so."""
    slurm = Slurm(patience_s=0, cluster=site.clusters)
    with contextlib.suppress(Away):
        found = [*partitions(slurm, site).values(), *refusals(slurm, site).values()]
        if any(found):
            raise Refused("\n".join(text for text in found if text))


def _top_up(
    opened: Opened, site: Site, slurm: Slurm, here: Path, record: submission.Record, active: list[JobState]
) -> list[str]:
    """Replace workers that were lost, or add those that the profile asks for now; ids of the new jobs."""
    missing = site.nodes - jobs.live_workers(active)
    moved = record.cluster != site.clusters  # workers belong where their head is
    if record.mode != "elastic" or (here / chain.CANCELLED).exists() or missing <= 0 or moved:
        return []
    job = replace(submission.job_of(opened, site), id=record.id, here=here)
    return submission.top_up(here, record, slurm, job, missing, site.max_array or slurm.max_array())


def _said(record: submission.Record, state: str, folder: Any) -> dict[str, Any]:
    say(f"follow it: kdsweep status {quoted(folder)} --watch; end it: kdsweep cancel {quoted(folder)}")
    return {"submission": record.id, "state": state, "jobs": [r.job for r in record.requests if r.job]}


def _dry_run(opened: Opened, site: Site, as_json: bool, options: tuple[str, ...]) -> None:
    """The exact scripts, the points, and the hours."""
    from orchestrator.commands.plan import MOST_ROWS, print_plan
    from slurm.job import requests, scripts

    job = submission.job_of(opened, site, options)
    texts, hours = scripts(job), submission.estimate(opened, site)
    calls = [
        on_cluster(
            ["sbatch", "--parsable", f"--comment={job.comment}/{r.role}", *r.args, r.script], site.clusters
        )
        for r in requests(job, site.max_array or 1001)
    ]
    if as_json:
        done = opened.store.done()
        points = [p.id for p in opened.plan.points if p.id not in done]
        click.echo(json.dumps({"scripts": texts, "sbatch": calls, "points": points, "hours": hours}))
        return
    for name, text in texts.items():
        echo(f"### {name}\n{text}")
    echo("### in " + str(job.here))
    for call in calls:
        echo(" ".join(call))
    echo("\n### points")
    print_plan(opened, MOST_ROWS, here=False)
    echo(_hours(hours))


def _hours(hours: dict[str, Any]) -> str:
    """Estimated against requested."""
    text = (
        f"{hours['points']} of {hours['total']} points to train in {hours['slots']} slots: "
        f"{with_startup(hours['wall_hours'] * 3600, hours['startup_s'])}, "
        f"{hours['estimated_hours']:.2f} {hours['unit']}-hours, "
        f"estimated from {hours['estimated_from']} (start-up {hours['startup_from']}); "
        f"requested: {hours['requested_hours']:.2f} {hours['unit']}-hours"
    )
    if hours["links"] > 1:
        text += f"; {hours['links']} links of the chain"
    return text


def say(text: str) -> None:
    """A message."""
    echo(text, err=True)
