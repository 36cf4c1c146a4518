"""A Slurm that answers as told, and submissions to it."""

from pathlib import Path
from typing import Any

from orchestrator.run.submission import Record, Request
from slurm.errors import Away, Refused
from slurm.states import JobState


class Pretended:
    """A Slurm that answers as told, and remembers what it was asked to submit."""

    def __init__(self, *queue: JobState, away: bool = False, accounting: tuple[JobState, ...] = ()) -> None:
        self.jobs, self.away, self.accounting = list(queue), away, accounting
        self.sent: list[str] = []
        self.args: dict[str, list[str]] = {}
        self.cancelled: list[str] = []
        self.refuse = ""

    def queue(self, user: str | None = None, retry: bool = True) -> list[JobState]:
        if self.away:
            raise Away("slurmctld doesn't answer")
        return self.jobs

    def accounted(self, ids: Any) -> list[JobState]:
        return [row for row in self.accounting if row.base in ids]

    def submitted(self, comment: str) -> str | None:
        return next((row.base for row in self.queue() if row.comment == comment), None)

    def sbatch(self, args: Any, *, comment: str, cwd: Path) -> str:
        if self.refuse and self.refuse in comment:
            raise Refused("invalid account")
        if self.away:
            raise Away("slurmctld doesn't answer")
        self.sent.append(comment)
        self.args[comment] = list(args)
        return str(100 + len(self.sent))

    def run(self, *command: str, **more: Any) -> str:
        self.cancelled.append(command[-1])
        return ""


def pretended(*queue: JobState, **more: Any) -> Any:
    return Pretended(*queue, **more)


def record(here: Path, *jobs: str | None) -> Record:
    roles = ("head", "workers-0", "workers-1")
    made = Record(here.name, "s", "elastic", "site", "kds-worker", 20, 0.0)
    for role, job in zip(roles, jobs, strict=False):
        made.requests.append(Request(role, "x.sbatch", [], f"kdsweep/{here.name}/{role}", job))
    made.save(here)
    return made
