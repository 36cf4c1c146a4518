"""A sweep and its Slurm jobs: what was asked for, whether it was sent, what became of it. No torch, no Ray.

`<sweep>/slurm/<id>/` is one submission: scripts, space.yaml, submission.json (the intent, written before
sbatch and completed with job ids after it), the jobs' outputs, links.jsonl and head.json, which they write.
"""

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd.errors import InputError
from kd.files import read_json, write_json, write_text
from orchestrator.store.lock import DRIVER, UNSUPPORTED, SweepLock
from orchestrator.store.records import NUMBER, WHOLE, problem
from slurm import chain
from slurm.command import Slurm
from slurm.errors import Away, Refused
from slurm.head import read_head
from slurm.pending import why
from slurm.states import UNKNOWN, JobState, task_numbers, tasks

if TYPE_CHECKING:
    from orchestrator.space.plan import Plan
    from orchestrator.space.resolve import Opened
    from slurm.job import Job
    from slurm.site import Site

DRIVERS = ("gang", "head")  # roles of the jobs that hold the driver
POLL_S = 30.0  # between two questions to Slurm; slurmctld serves a whole site
MANY = 20  # tasks of an array that no one remembers are one row, if they are more


@dataclass
class Request:
    """One call of sbatch, meant or made. job: the id Slurm gave it; None: not known to be made."""

    role: str
    script: str
    args: list[str]
    comment: str
    job: str | None = None


_REQUEST = {"role": str, "script": str, "args": [str], "comment": str, "job?": str}
RECORD = {
    **dict.fromkeys(("id", "sweep", "mode", "site", "worker_name"), str),
    "max_links": WHOLE,
    "created": NUMBER,
    "requests": [_REQUEST],
}


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
            content = read_json(here / chain.RECORD, f"delete {here}")
            if why := problem(content, RECORD):
                raise InputError(f"{here / chain.RECORD}: {why}: delete {here}")
            return cls(**{**content, "requests": [Request(**r) for r in content["requests"]]})
        except (OSError, TypeError) as error:  # TypeError: a key that isn't known
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

    texts = scripts(job, max_array)
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
            args, head = list(request.args), record.requests[0]
            if request.role.startswith("workers") and head.job:
                args.append(f"--dependency=after:{head.job}")  # nobody holds a node before there is a head
            try:
                request.job = slurm.sbatch([*args, request.script], comment=request.comment, cwd=here)
            except Refused as error:
                (here / chain.CANCELLED).touch()
                sent = [r.job for r in record.requests if r.job is not None]
                for job in sent:
                    slurm.run("scancel", job)
                undone = f"\ncancelled again: job {', '.join(sent)} of this submission" if sent else ""
                raise Refused(f"{error}{undone}") from None
        record.save(here)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One submit or cancel of a sweep at a time. Raises InputError if there is another."""
    (folder / "slurm").mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / "slurm" / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise InputError(
                    f"{folder}: another kdsweep submit or cancel is running; wait for it"
                ) from None
            if error.errno not in UNSUPPORTED:  # a file system without locks: nothing keeps two apart there
                raise
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


def queue_of(here: Path, slurm: Slurm, *, retry: bool = True) -> list[JobState]:
    """The queue of whoever made the submission, so that colleagues see it, too. Raises Away, Refused."""
    return slurm.queue(user=str(here.stat().st_uid), retry=retry)


def active_rows(here: Path, record: Record, queue: list[JobState]) -> list[JobState]:
    """The submission's jobs that wait or run."""
    return [row for rows in rows_of(here, record, queue).values() for row in rows if row.active]


def is_driver(row: JobState) -> bool:
    """Whether this is a job that holds, or will hold, the driver."""
    return row.comment.rpartition("/")[2] in DRIVERS


def live_workers(rows: Iterable[JobState]) -> int:
    """How many worker jobs wait or run; tasks of an array that still wait are one row."""
    return sum(tasks(row.id) for row in rows if row.active and not is_driver(row))


def top_up(here: Path, record: Record, slurm: Slurm, job: "Job", missing: int, max_array: int) -> list[str]:
    """Submit so many more workers to a head that waits or runs; the ids of their arrays."""
    from slurm.job import workers

    first = sum(r.role.startswith("workers") for r in record.requests)
    added = [
        Request(r.role, r.script, list(r.args), f"kdsweep/{record.id}/{r.role}")
        for r in workers(job, missing, max_array, first)
    ]
    record.requests += added
    record.save(here)
    send(here, record, slurm, again=False)
    return [r.job for r in added if r.job]


class Jobs:
    """The jobs of a sweep as Slurm said lately: asked again after 30 s, while all wait after a minute."""

    def __init__(self, folder: Path, slurm: Slurm | None = None) -> None:
        self.folder, self.slurm = folder, slurm
        self._said: list[dict[str, Any]] = []
        self._until = 0.0
        self._ended: dict[str, JobState] = {}

    def __call__(self) -> list[dict[str, Any]]:
        """As `jobs_of`."""
        if time.monotonic() >= self._until:
            self._said = jobs_of(self.folder, self.slurm, self._ended)
            runs = any(job["state"] == "RUNNING" for job in self._said)
            self._until = time.monotonic() + (POLL_S if runs else 2 * POLL_S)
        return self._said


def jobs_of(
    folder: Path, slurm: Slurm | None = None, ended: dict[str, JobState] | None = None
) -> list[dict[str, Any]]:
    """The jobs of a sweep's last submission, for `status`: id, kind, state, reason, active and more.

    active is None when unknown. A job that Slurm doesn't mention is UNKNOWN, unless accounting or the
    sweep's own record knows how it ended. ended: what accounting said before, by id; kept by the caller.
    """
    ended = {} if ended is None else ended
    here = latest(folder)
    if here is None:
        return []
    record = Record.load(here)
    slurm = slurm or Slurm(patience_s=0, limit_s=10)
    links = chain.read_links(here)
    try:
        rows, away = rows_of(here, record, queue_of(here, slurm, retry=False)), ""
    except (Away, Refused) as error:
        rows, away = {}, str(error)
    missing = {id: r for r in record.requests for id in _unmentioned(r, rows.get(r.role, []))}
    if not away and (unknown := sorted({id.partition("_")[0] for id in missing.keys() - ended.keys()})):
        ended |= {row.id: row for row in slurm.accounted(unknown)}
    jobs = []
    for request in record.requests:
        mine = list(rows.get(request.role, []))
        mine += [_absent(id, r, ended, links, away) for id, r in missing.items() if r is request]
        if request.job is None and not mine:
            mine = [_absent("-", request, ended, links, away)]
        jobs += [_as_dict(row, request.role, links, away) for row in mine]
    jobs += [_as_dict(row, "successor", links, "") for row in rows.get("successor", [])]
    return jobs


def _unmentioned(request: Request, rows: list[JobState]) -> list[str]:
    """Ids of a request's jobs that aren't among the rows: the job, or tasks of the array."""
    if request.job is None:
        return []
    array = next((arg for arg in request.args if arg.startswith("--array=0-")), None)
    if array is None:
        return [] if rows else [request.job]
    size = int(array.removeprefix("--array=0-").partition("%")[0]) + 1
    if sum(tasks(row.id) for row in rows) >= size:
        return []
    if not rows:
        return [request.job] if size > MANY else [f"{request.job}_{i}" for i in range(size)]
    waiting = {i for row in rows for i in task_numbers(row.id)}
    return [f"{request.job}_{i}" for i in range(size) if i not in waiting]


def last_link(folder: Path) -> dict[str, Any] | None:
    """How the last link of a sweep's chain ended: its code, the verdict (done, again, stop), and why."""
    here = latest(folder)
    links = chain.read_links(here) if here else []
    return {key: links[-1].get(key) for key in ("code", "verdict", "why")} if links else None


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
    id: str, request: Request, ended: Mapping[str, JobState], links: list[dict[str, Any]], away: str
) -> JobState:
    """What can be said of a job that the queue doesn't mention."""
    job = request.job
    if job is None:
        return JobState(
            "-", "-", UNKNOWN, "submission was interrupted; run kdsweep submit again to resume it"
        )
    if away:
        return JobState(id, job, UNKNOWN, away)
    if id in ended:
        return ended[id]
    mine = [link for link in links if link["job"] == job]
    if mine and mine[-1]["verdict"] in ("done", "stop"):
        return JobState(id, job, "ENDED", f"{mine[-1]['why']} (the sweep's own record)")
    return JobState(id, job, UNKNOWN, "no longer in the queue")


def _as_dict(row: JobState, role: str, links: list[dict[str, Any]], away: str) -> dict[str, Any]:
    mine = [link for link in links if link["job"] == row.base]
    return {
        "id": row.id,
        "kind": "workers" if role.startswith("workers") else role,
        "state": row.state,
        "reason": row.reason,
        "why": why(row.reason) if row.state == "PENDING" else "",
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
