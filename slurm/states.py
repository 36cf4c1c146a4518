"""What Slurm says of jobs, as text, to rows. A job that isn't mentioned is unknown, never "completed".

Tested on recorded output of squeue --json (22.05, and the shapes of later versions), scontrol and sacct.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slurm.errors import Away

QUEUED = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
HELD = frozenset(
    {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
)
UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class JobState:
    """One job, or one array task; tasks of an array that still wait are one row.

    id: as people write it, 12 or 12_3 or 12_[4-7]. base: the id that sbatch printed.
    """

    id: str
    base: str
    state: str
    reason: str = ""
    comment: str = ""
    name: str = ""
    nodes: str = ""
    start: float | None = None
    end: float | None = None  # while it runs: when its time limit ends it
    restarts: int = 0

    @property
    def active(self) -> bool:
        """Whether it waits or runs, as far as known."""
        return self.state in QUEUED | HELD


def parse_squeue(text: str) -> list[JobState]:
    """`squeue --json`: of every user, and with jobs that ended some minutes ago.

    Raises Away when it lists nothing because slurmctld didn't answer; squeue then says so, and exits with 0.
    """
    try:
        content = json.loads(text)
        jobs, errors = content["jobs"], content.get("errors")
    except (ValueError, KeyError, TypeError):
        raise Away(f"squeue: no list of jobs: {text[:200]!r}") from None
    if errors:
        raise Away(f"squeue: {errors[0].get('description') or errors[0]}; slurmctld doesn't answer")
    return [_row(job) for job in jobs]


def _row(job: dict[str, Any]) -> JobState:
    state = job["job_state"]
    states = state if isinstance(state, list) else [state]  # a list since 23.02: base state, then flags
    base: str = str(_number(job.get("array_job_id")) or job["job_id"])
    task, waiting = _number(job.get("array_task_id")), job.get("array_task_string") or ""
    id = str(job["job_id"])
    if base != "0" and waiting:
        id = f"{base}_[{waiting}]"
    elif _number(job.get("array_job_id")) and task is not None:
        id = f"{base}_{task}"
    return JobState(
        id=id,
        base=base,
        state="COMPLETING" if "COMPLETING" in states else states[0],
        reason=_reason(job.get("state_reason")),
        comment=_text(job.get("comment")),
        name=job.get("name") or "",
        nodes=job.get("nodes") or "",
        start=_number(job.get("start_time")) or None,
        end=_number(job.get("end_time")) or None,
        restarts=_number(job.get("restart_cnt")) or 0,
    )


def _number(value: Any) -> int | None:
    """A number, or since 23.02 {"set", "infinite", "number"}."""
    if isinstance(value, dict):
        return int(value["number"]) if value.get("set") and not value.get("infinite") else None
    return None if value is None else int(value)


def _text(value: Any) -> str:
    """A comment, or since 23.02 {"job": comment, "administrator": ...}."""
    if isinstance(value, dict):
        return str(value.get("job") or "")
    return str(value or "")


def _reason(value: Any) -> str:
    return "" if value in (None, "None", "") else str(value)


def parse_scontrol(text: str) -> list[JobState]:
    """`scontrol --oneliner show job`."""
    rows = []
    for line in text.splitlines():
        if not line.startswith("JobId="):
            continue
        fields: dict[str, str] = dict(re.findall(r"(?:^| )([A-Za-z:/]+)=(\S*)", line))
        base = fields.get("ArrayJobId", fields["JobId"])
        task = fields.get("ArrayTaskId")
        id = fields["JobId"] if task is None else f"{base}_{task}" if task.isdigit() else f"{base}_[{task}]"
        rows.append(
            JobState(
                id=id,
                base=base,
                state=fields["JobState"],
                reason=_reason(fields.get("Reason")),
                comment=fields.get("Comment", ""),
                name=fields.get("JobName", ""),
                nodes="" if fields.get("NodeList") == "(null)" else fields.get("NodeList", ""),
                restarts=int(fields.get("Restarts", "0")),
            )
        )
    return rows


def parse_sacct(text: str) -> list[JobState]:
    """`sacct --parsable2 --noheader -X -o JobID,State,NodeList,Comment,JobName`, where it works."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != 5 or not parts[0]:
            continue
        id, state, nodes, comment, name = parts
        rows.append(
            JobState(
                id=id,
                base=id.partition("_")[0],
                state=state.split()[0],  # "CANCELLED by 1000"
                comment=comment,
                name=name,
                nodes="" if nodes == "None assigned" else nodes,
            )
        )
    return rows


def parse_sbatch(text: str) -> str:
    """The job id in what `sbatch --parsable` printed: its last such line, since sites add banners."""
    for line in reversed(text.splitlines()):
        if match := re.fullmatch(r"(\d+)(;\S*)?", line.strip()):
            return match[1]
    raise ValueError(f"sbatch printed no job id: {text!r}")


def parse_config(text: str, key: str) -> str | None:
    """One value of `scontrol show config`."""
    match = re.search(rf"^{key}\s*=\s*(.*?)\s*$", text, re.MULTILINE)
    return match[1] if match else None


def of(rows: Iterable[JobState], *, base: str | None = None, comment: str | None = None) -> list[JobState]:
    """The rows of one job (with its array tasks), or with one comment."""
    return [r for r in rows if (base is None or r.base == base) and (comment is None or r.comment == comment)]
