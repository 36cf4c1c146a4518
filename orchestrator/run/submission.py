"""A sweep's submissions to Slurm: what was asked for, and whether it was sent. No torch, no Ray.

`<sweep>/slurm/<id>/` is one submission: scripts, space.yaml, submission.json (the intent, written before
sbatch and completed with job ids after it), the jobs' outputs, links.jsonl and head.json, which they write.
"""

import errno
import fcntl
import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from kd.errors import InputError
from kd.files import read_json, write_json, write_text
from orchestrator.store.lock import DRIVER, UNSUPPORTED, SweepLock
from orchestrator.store.records import NUMBER, WHOLE, problem
from slurm import chain
from slurm.command import Slurm
from slurm.errors import Refused
from slurm.excluded import exclude_option

if TYPE_CHECKING:
    from orchestrator.space.plan import Plan
    from orchestrator.space.resolve import Opened
    from orchestrator.store.store import Store
    from slurm.job import Job
    from slurm.site import Site

DRIVERS = ("gang", "head")  # roles of the jobs that hold the driver
# What a job takes beside training: Ray's head, the driver, a worker, the end. Measured in a gang of one node,
# where 1.3 s of training took 19 s.
START_S = 18.0


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
    "cluster?": str,
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
    cluster: str | None = None  # where it was sent, if not to the login node's own

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


def job_of(opened: "Opened", site: "Site", options: Sequence[str] = ()) -> "Job":
    """A new submission of a sweep. options: more that its `kdsweep run` is given, in every link of a chain.

    Raises InputError when no pack fits on a node of the site.
    """
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
        "slurm.mortal",
        "orchestrator.commands.main",
        "run",
        str(here / "space.yaml"),
        "--out",
        str(sweep),
        *options,
    )
    return Job(id=id, sweep=opened.plan.name, here=here, site=site, driver=driver)


def fit_on(opened: "Opened", site: "Site") -> tuple[float, int]:
    """(GPUs of a pack, packs that a node of the site runs at once).

    Raises InputError when that is 0, or when the profile asks for less memory than so many packs need.
    """
    from slurm.memory import too_little

    slot = opened.space.resources.slot(site.gpus > 0)
    packs = slot.fit_in({"CPU": site.cpus, "GPU": site.gpus})
    if not packs:
        raise InputError(
            f"no point fits on a node of this site: one takes {slot.cpus:g} CPUs and {slot.gpus:g} GPUs "
            "(resources), "
            f"a node has {site.cpus} and {site.gpus}: change resources.cpus, resources.gpus or the site"
        )
    if lacking := too_little(site, packs):
        raise InputError("\n".join(lacking))
    return slot.gpus, packs


def estimate(opened: "Opened", site: "Site") -> dict[str, Any]:
    """Hours that the points left will hold, and hours asked for: of GPUs, or of CPUs where there are none.

    With the start of each link of the chain that it takes; without the time in the queue.
    """
    from orchestrator.space.cost import cost_scale
    from slurm.job import node_hours

    _, packs = fit_on(opened, site)
    scale, source = cost_scale(opened.plan, opened.store)
    left = _left(opened.plan, opened.store.done())
    train_s = sum(p.cost_s for p in left) * scale / (packs * site.nodes)
    start_s, start_source = startup(opened.store)
    links = links_of(train_s, start_s, site) if left else 0
    unit, per_node = ("GPU", site.gpus) if site.gpus else ("CPU", site.cpus)
    wall_hours = (train_s + links * start_s) / 3600
    return {
        "points": len(left),
        "total": len(opened.plan.points),
        "slots": packs * site.nodes,
        "unit": unit,
        "estimated_hours": wall_hours * site.nodes * per_node,
        "requested_hours": node_hours(site) * per_node,
        "wall_hours": wall_hours,
        "estimated_from": source,
        "links": links,
        "startup_s": links * start_s,
        "startup_from": start_source,
    }


def links_of(train_s: float, start_s: float, site: "Site") -> int:
    """How many links of the chain so much training takes, each of which starts anew and ends when warned."""
    from slurm.site import seconds

    time_s = seconds(site.time)
    if site.mode == "elastic" and site.head.time:
        time_s = min(time_s, seconds(site.head.time))
    trains_s = max(time_s - site.warn_s - start_s, 60.0)  # Slurm's least time, where it is shorter
    return max(math.ceil(train_s / trains_s), 1)


def startup(store: "Store") -> tuple[float, str]:
    """Seconds from the start of a job to its first training step, and where that comes from."""
    records = (store.path / "slurm").glob(f"*/{chain.RECORD}")
    links = [link for record in records for link in chain.read_links(record.parent)]
    links.sort(key=lambda link: float(link["time"]))
    took = []
    for entry in store.ledger():
        if entry["event"] == "end" and (first := entry.get("first_step")):
            before = [link for link in links if link["time"] < first]
            if before and first < (before[-1]["ended"] or math.inf):  # else it was a run outside of Slurm
                took.append(first - before[-1]["time"])
    if took:
        return float(median(took)), f"as in {len(took)} earlier jobs"
    return START_S, "as measured on one node"


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
        cluster=job.site.clusters,
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


def top_up(here: Path, record: Record, slurm: Slurm, job: "Job", missing: int, max_array: int) -> list[str]:
    """Submit so many more workers to a head that waits or runs; the ids of their arrays."""
    from slurm.job import workers

    first = sum(r.role.startswith("workers") for r in record.requests)
    exclude = exclude_option(slurm, here, "worker.sbatch", job.site.options.get("exclude"))
    added = [
        Request(r.role, r.script, [*r.args, *exclude], f"kdsweep/{record.id}/{r.role}")
        for r in workers(job, missing, max_array, first)
    ]
    record.requests += added
    record.save(here)
    send(here, record, slurm, again=False)
    return [r.job for r in added if r.job]


def _python() -> str:
    import sys

    return sys.executable
