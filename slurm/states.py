"""What Slurm says of jobs, as text, to rows. A job that isn't mentioned is unknown, never "completed".

Tested on recorded output of squeue -O (22.05) and on what the manual says of sacct.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

QUEUED = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
HELD = frozenset(
    {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
)
UNKNOWN = "UNKNOWN"
# What slurmstepd writes into a job's output, by release: "Detected 1 oom_kill event in StepId=7.0", ...
_OOM = re.compile(r"oom[-_]kill|OOM Killed|[Ee]xceeded (job |step )?memory limit", re.ASCII)
OUT_OF_MEMORY = "out of memory: ask for more (memory in the site profile), or fewer slots (resources.cpus)"

# What squeue is asked for, and in how many columns; without --json, which not every site has, and which would
# bring the jobs of all users. What people may write freely comes last.
COLUMNS = {
    "JobArrayID": 400,
    "ArrayJobID": 20,
    "State": 20,
    "Reason": 80,
    "RestartCnt": 12,
    "StartTime": 24,
    "EndTime": 24,
    "NodeList": 400,
    "Comment": 100,
    "Name": 100,
}
SQUEUE = ("squeue", "--noheader", "--states=all", "-O", ",".join(f"{k}:{n}" for k, n in COLUMNS.items()))


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


def ended_badly(state: str) -> str:
    """What to do about how a job ended; "" where there is nothing to say."""
    return OUT_OF_MEMORY if state == "OUT_OF_MEMORY" else ""


def ran_out_of_memory(output: str) -> bool:
    """Whether Slurm says, in a job's output, that it ended a process for want of memory."""
    return _OOM.search(output) is not None


def tasks(id: str) -> int:
    """How many jobs a row stands for.

    >>> tasks("12"), tasks("12_3"), tasks("12_[4-7,9%2]"), tasks("12_[0-9:3]")
    (1, 1, 5, 4)
    """
    return len(task_numbers(id)) or 1


def task_numbers(id: str) -> list[int]:
    """The array tasks that a row stands for; none of a job that is no array's.

    >>> task_numbers("12_3"), task_numbers("12_[0,4-6%2]"), task_numbers("12")
    ([3], [0, 4, 5, 6], [])
    """
    inside = re.fullmatch(r"\d+_\[?(.*?)(?:%\d+)?\]?", id)
    spans = re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", inside[1]) if inside else []
    return [
        n for first, last, step in spans for n in range(int(first), int(last or first) + 1, int(step or 1))
    ]


def parse_squeue(text: str) -> list[JobState]:
    """What SQUEUE prints: the user's jobs, with those that ended some minutes ago.

    With --clusters it names the cluster first, --noheader or not.
    """
    return [_row(line) for line in text.splitlines() if line.strip() and not line.startswith("CLUSTER: ")]


def _row(line: str) -> JobState:
    fields, at = [], 0
    for width in COLUMNS.values():
        fields.append(line[at : at + width].strip())
        at += width
    id, base, state, reason, restarts, start, end, nodes, comment, name = (
        "" if field in ("(null)", "N/A", "None") else field for field in fields
    )
    return JobState(
        id=id,
        base=base,
        state=state,
        reason=reason,
        comment=comment,
        name=name,
        nodes=nodes,
        start=_unix(start),
        end=_unix(end),
        restarts=int(restarts or 0),
    )


def _unix(text: str) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


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
