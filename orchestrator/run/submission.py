"""A sweep and its Slurm jobs: what was asked for, whether it was sent, what became of it. No torch, no Ray.

`<sweep>/slurm/<id>/` is one submission: scripts, space.yaml, submission.json (the intent, written before
sbatch and completed with job ids after it), the jobs' outputs, links.jsonl and head.json, which they write.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd.errors import InputError
from kd.files import write_json, write_text
from orchestrator.store.lock import DRIVER, SweepLock
from slurm import chain
from slurm.command import Slurm
from slurm.errors import Away, Refused
from slurm.node import read_head
from slurm.states import UNKNOWN, JobState

if TYPE_CHECKING:
    from orchestrator.space.plan import Plan
    from orchestrator.space.resolve import Opened
    from slurm.job import Job
    from slurm.site import Site

DRIVERS = ("gang", "head")  # roles of the jobs that hold the driver


@dataclass
class Request:
    """One call of sbatch, meant or made. job: the id Slurm gave it; None: not known to be made."""

    role: str
    script: str
    args: list[str]
    comment: str
    job: str | None = None


@dataclass
class Record:
    """submission.json."""

    id: str
    sweep: str
    mode: str
    site: str
    worker_name: str
    max_links: int
    created: float
    requests: list[Request] = field(default_factory=list)

    @classmethod
    def load(cls, here: Path) -> "Record":
        """Raises InputError when it is damaged."""
        try:
            content = json.loads((here / chain.RECORD).read_text())
            return cls(**{**content, "requests": [Request(**r) for r in content["requests"]]})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{here / chain.RECORD}: not readable ({error!r}): delete {here}") from error

    def save(self, here: Path) -> None:
        """Whole or not at all."""
        content = {**self.__dict__, "requests": [r.__dict__ for r in self.requests]}
        write_json(here / chain.RECORD, content, indent=1)


def latest(folder: Path) -> Path | None:
    """The folder of a sweep's last submission; ids sort by time."""
    found = sorted(path.parent for path in (folder / "slurm").glob(f"*/{chain.RECORD}"))
    return found[-1] if found else None


def job_of(opened: "Opened", site: "Site") -> "Job":
    """A new submission of a sweep. Raises InputError when no pack fits on a node of the site."""
    from slurm.job import Job

    id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    sweep = opened.store.path.absolute()
    here = sweep / "slurm" / id
    fit_on(opened, site)
    python = (*site.container, site.python or _python())
    driver = (
        *python,
        "-P",
        "-m",
        "orchestrator.commands.main",
        "run",
        str(here / "space.yaml"),
        "--out",
        str(sweep),
    )
    return Job(id=id, sweep=opened.plan.name, here=here, site=site, driver=driver)


def fit_on(opened: "Opened", site: "Site") -> tuple[float, int]:
    """(GPUs of a pack, packs that a node of the site runs at once). Raises InputError when that is 0."""
    slot = opened.space.resources.slot(site.gpus > 0)
    packs = slot.fit_in({"CPU": site.cpus, "GPU": site.gpus})
    if not packs:
        raise InputError(
            f"no point fits on a node of this site: one takes {slot.cpus:g} CPUs and {slot.gpus:g} GPUs "
            "(resources), "
            f"a node has {site.cpus} and {site.gpus}: change resources.cpus, resources.gpus or the site"
        )
    return slot.gpus, packs


def estimate(opened: "Opened", site: "Site") -> dict[str, Any]:
    """Hours that the points left will hold, and hours asked for: of GPUs, or of CPUs where there are none."""
    from orchestrator.space.cost import cost_scale
    from slurm.job import node_hours

    _, packs = fit_on(opened, site)
    scale, source = cost_scale(opened.plan, opened.store)
    left = _left(opened.plan, opened.store.done())
    slot_hours = sum(p.cost_s for p in left) * scale / 3600
    unit, per_node = ("GPU", site.gpus) if site.gpus else ("CPU", site.cpus)
    return {
        "points": len(left),
        "total": len(opened.plan.points),
        "slots": packs * site.nodes,
        "unit": unit,
        "estimated_hours": slot_hours / packs * per_node,
        "requested_hours": node_hours(site) * per_node,
        "wall_hours": slot_hours / (packs * site.nodes),
        "estimated_from": source,
    }


def _left(plan: "Plan", done: set[str]) -> list[Any]:
    return [p for p in plan.points if p.id not in done]


def write_intent(opened: "Opened", job: "Job", site_name: str, max_array: int) -> Record:
    """Make the submission's folder; after this, `send` may be interrupted at any moment."""
    from orchestrator.space.schema import space_text
    from slurm.job import requests, scripts

    texts = scripts(job)
    record = Record(
        id=job.id,
        sweep=job.sweep,
        mode=job.site.mode,
        site=site_name,
        worker_name=job.worker_name,
        max_links=job.site.max_links,
        created=time.time(),
        requests=[
            Request(r.role, r.script, list(r.args), f"{job.comment}/{r.role}")
            for r in requests(job, max_array)
        ],
    )
    lock = SweepLock(opened.store.path)
    try:
        if not lock.take(DRIVER):
            raise InputError(f"{opened.store.path} is being run by another process; wait for it")
        opened.keep().save(opened.store.path / "plan.json")
    finally:
        lock.close()
    job.here.mkdir(parents=True)
    gpus, _ = fit_on(opened, job.site)  # said here, since an elastic head sees no GPU
    resources = opened.space.resources.model_copy(update={"gpus": gpus})
    text = space_text(opened.space.model_copy(update={"resources": resources}))
    write_text(job.here / "space.yaml", text)
    for name, script in texts.items():
        write_text(job.here / name, script)
    record.save(job.here)
    return record


def send(here: Path, record: Record, slurm: Slurm, *, again: bool) -> None:
    """Submit what is not known to be. again: an earlier call may have submitted more than it recorded.

    Raises Away: call it again later. Raises Refused: what was submitted is cancelled.
    """
    began = {link["job"] for link in chain.read_links(here)} if again else set()
    for request in record.requests:
        if request.job is not None:
            continue
        if again:
            request.job = slurm.submitted(request.comment)
            if request.job is None and request.role in DRIVERS and began:
                request.job = min(began, key=int)
        if request.job is None:
            try:
                request.job = slurm.sbatch([*request.args, request.script], comment=request.comment, cwd=here)
            except Refused:
                (here / chain.CANCELLED).touch()
                for sent in record.requests:
                    if sent.job is not None:
                        slurm.run("scancel", sent.job)
                raise
        record.save(here)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One submit or cancel of a sweep at a time. Raises InputError if there is another."""
    (folder / "slurm").mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / "slurm" / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another kdsweep submit or cancel is running; wait for it") from None
        yield
    finally:
        os.close(fd)


def rows_of(here: Path, record: Record, queue: list[JobState]) -> dict[str, list[JobState]]:
    """The queue's rows of a submission by role, successors included; a role it doesn't mention has none."""
    rows: dict[str, list[JobState]] = {}
    known = set()
    for request in record.requests:
        mine = [r for r in queue if r.comment == request.comment or (request.job and r.base == request.job)]
        rows[request.role] = mine
        known |= {r.id for r in mine}
    extra = [
        r for r in queue if r.id not in known and r.comment.startswith(f"kdsweep/{record.id}/")
    ]  # submitted by the jobs themselves
    if extra:
        rows["successor"] = extra
    return rows


def active_rows(here: Path, record: Record, queue: list[JobState]) -> list[JobState]:
    """The submission's jobs that wait or run."""
    return [row for rows in rows_of(here, record, queue).values() for row in rows if row.active]


def jobs_of(folder: Path, slurm: Slurm | None = None) -> list[dict[str, Any]]:
    """The jobs of a sweep's last submission, for `status`: id, kind, state, reason, active and more.

    active is None when unknown. A job that Slurm doesn't mention is UNKNOWN, unless accounting or the
    sweep's own record knows how it ended.
    """
    here = latest(folder)
    if here is None:
        return []
    record = Record.load(here)
    slurm = slurm or Slurm(patience_s=0, limit_s=10)
    links = chain.read_links(here)
    try:
        rows, away = rows_of(here, record, slurm.queue(retry=False)), ""
    except (Away, Refused) as error:
        rows, away = {}, str(error)
    missing = [r.job for r in record.requests if r.job and not rows.get(r.role)] if not away else []
    accounted = {row.base: row for row in slurm.accounted(missing)}
    jobs = []
    for request in record.requests:
        mine = rows.get(request.role, [])
        if not mine:
            mine = [_absent(request, accounted, links, away)]
        jobs += [_as_dict(row, request.role, links, away) for row in mine]
    jobs += [_as_dict(row, "successor", links, "") for row in rows.get("successor", [])]
    return jobs


def ray_nodes(folder: Path) -> list[str]:
    """Hosts in the Ray cluster of a sweep's Slurm jobs, the head first; empty when there is none."""
    here = latest(folder)
    head = read_head(here) if here else None
    if here is None or head is None or head["state"] != "up":
        return []
    prefix = f"joined-{head['link']}-"
    others = sorted(path.name.removeprefix(prefix) for path in here.glob(f"{prefix}*"))
    return list(dict.fromkeys([head["host"], *others]))


def _absent(
    request: Request, accounted: Mapping[str, JobState], links: list[dict[str, Any]], away: str
) -> JobState:
    """What can be said of a job that the queue doesn't mention."""
    job = request.job
    if job is None:
        return JobState(
            "-", "-", UNKNOWN, "submission was interrupted; run kdsweep submit again to resume it"
        )
    if away:
        return JobState(job, job, UNKNOWN, away)
    if job in accounted:
        return accounted[job]
    mine = [link for link in links if link["job"] == job]
    if mine and mine[-1]["verdict"] in ("done", "stop"):
        return JobState(job, job, "ENDED", f"{mine[-1]['why']} (the sweep's own record)")
    return JobState(job, job, UNKNOWN, "no longer in the queue")


def _as_dict(row: JobState, role: str, links: list[dict[str, Any]], away: str) -> dict[str, Any]:
    mine = [link for link in links if link["job"] == row.base]
    return {
        "id": row.id,
        "kind": "workers" if role.startswith("workers") else role,
        "state": row.state,
        "reason": row.reason,
        "active": None if away else row.active,
        "nodes": row.nodes,
        "start": row.start,
        "end": row.end,
        "restarts": row.restarts,
        "links": len(mine),
    }


def output_of(folder: Path, job: str) -> Path:
    """What a job printed. Raises InputError when there is no such output."""
    found = sorted((folder / "slurm").glob(f"*/*-{glob_safe(job)}.out"))
    if not found:
        raise InputError(f"{folder}: no output of job {job}; see kdsweep status for the jobs")
    return found[-1]


def glob_safe(job: str) -> str:
    """A job id, of digits and an underscore; InputError for anything else."""
    if not job.replace("_", "").isdigit():
        raise InputError(f"job {job!r}: a job id has digits only, as kdsweep status shows it")
    return job


def _python() -> str:
    import sys

    return sys.executable
