"""What became of a submission's jobs, as Slurm and the sweep's own record say it. No torch, no Ray."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kd.errors import InputError
from orchestrator.run.submission import DRIVERS, Record, Request, latest
from slurm import chain
from slurm.command import Slurm
from slurm.errors import Away, Refused
from slurm.excluded import excluded
from slurm.head import read_head
from slurm.pending import why
from slurm.states import UNKNOWN, JobState, ended_badly, task_numbers, tasks

POLL_S = 30.0  # between two questions to Slurm; slurmctld serves a whole site
MANY = 20  # tasks of an array that no one remembers are one row, if they are more


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
    slurm = slurm or Slurm(patience_s=0, limit_s=10, cluster=record.cluster)
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


def excluded_nodes(folder: Path) -> dict[str, str]:
    """Nodes that the next jobs of a sweep's last submission are kept off, each with the reason."""
    here = latest(folder)
    return excluded(here) if here else {}


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
        "why": why(row.reason) if row.state == "PENDING" else ended_badly(row.state),
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
