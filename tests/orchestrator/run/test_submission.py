"""What is said of a sweep's Slurm jobs when Slurm says little, and what is sent when an answer got lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from kd.errors import InputError
from orchestrator.commands import status
from orchestrator.run import submission
from orchestrator.run.status import with_jobs
from orchestrator.run.submission import Record, Request
from slurm import chain
from slurm.errors import Away, Refused
from slurm.job import Job
from slurm.site import Site
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

    def run(self, *command: str) -> str:
        self.cancelled.append(command[-1])
        return ""


def pretended(*queue: JobState, **more: Any) -> Any:
    return Pretended(*queue, **more)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "slurm" / "20260101-000000-aaaaaa"
    folder.mkdir(parents=True)
    return folder


def record(here: Path, *jobs: str | None) -> Record:
    roles = ("head", "workers-0", "workers-1")
    made = Record(here.name, "s", "elastic", "site", "kds-worker", 20, 0.0)
    for role, job in zip(roles, jobs, strict=False):
        made.requests.append(Request(role, "x.sbatch", [], f"kdsweep/{here.name}/{role}", job))
    made.save(here)
    return made


def rows(here: Path, slurm: Any) -> list[tuple[str, str, Any]]:
    return [(r["id"], r["state"], r["active"]) for r in submission.jobs_of(here.parent.parent, slurm)]


def test_a_job_that_is_not_mentioned_is_unknown(here: Path) -> None:
    record(here, "7")
    assert rows(here, pretended()) == [("7", "UNKNOWN", False)]


def test_nothing_is_known_while_slurm_is_away(here: Path) -> None:
    record(here, "7", None)
    assert rows(here, pretended(away=True)) == [("7", "UNKNOWN", None), ("-", "UNKNOWN", None)]


def test_accounting_knows_then_the_sweeps_own_record(here: Path) -> None:
    record(here, "7")
    accounted = JobState("7", "7", "TIMEOUT")
    assert rows(here, pretended(accounting=(accounted,))) == [("7", "TIMEOUT", False)]
    begin = {"event": "begin", "link": "7-0", "job": "7", "time": 1.0, "progress": [0, 0], "host": "n"}
    end = {"event": "end", "link": "7-0", "code": 0, "verdict": "done", "why": "all", "ended": 2.0}
    lines = [json.dumps(begin), json.dumps({**end, "progress": [1, 0]})]
    (here / chain.LINKS).write_text("\n".join(lines) + "\n")
    assert rows(here, pretended()) == [("7", "ENDED", False)]


def test_array_tasks_and_successors_are_shown(here: Path) -> None:
    record(here, "7", "8")
    queue = [
        JobState("7", "7", "RUNNING", comment=f"kdsweep/{here.name}/head"),
        JobState("8_0", "8", "PREEMPTED", comment=f"kdsweep/{here.name}/workers-0"),
        JobState("8_[1-2]", "8", "PENDING", "Resources", f"kdsweep/{here.name}/workers-0"),
        JobState("9", "9", "PENDING", comment=f"kdsweep/{here.name}/worker"),
        JobState("5", "5", "RUNNING", comment="kdsweep/another/head"),
    ]
    assert [
        (r["id"], r["kind"], r["active"]) for r in submission.jobs_of(here.parent.parent, pretended(*queue))
    ] == [
        ("7", "head", True),
        ("8_0", "workers", False),
        ("8_[1-2]", "workers", True),
        ("9", "successor", True),
    ]


def test_tasks_that_the_queue_has_forgotten_are_told_too(here: Path) -> None:
    made = record(here, "7", "8")
    made.requests[1].args = ["--array=0-2"]
    made.save(here)
    comment = f"kdsweep/{here.name}/workers-0"
    queue = (JobState("7", "7", "RUNNING"), JobState("8_1", "8", "FAILED", comment=comment))
    old = JobState("8_0", "8", "COMPLETED")
    assert rows(here, pretended(*queue, accounting=(old,))) == [
        ("7", "RUNNING", True),
        ("8_1", "FAILED", False),
        ("8_0", "COMPLETED", False),
        ("8_2", "UNKNOWN", False),
    ]


def test_slurm_is_not_asked_at_every_look(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(here, "7")
    slurm = pretended(JobState("7", "7", "RUNNING"))
    now, asked, answer = [100.0], [], slurm.queue
    monkeypatch.setattr(submission.time, "monotonic", lambda: now[0])
    slurm.queue = lambda **options: asked.append(now[0]) or answer(**options)
    jobs = submission.Jobs(here.parent.parent, slurm)
    while now[0] < 280:
        assert len(jobs()) == 1
        now[0] += 2
        if now[0] == 150:
            slurm.jobs = [JobState("7", "7", "PENDING")]
    assert asked == [100, 130, 160, 220]


def test_accounting_is_asked_once_of_a_job_that_has_ended(here: Path) -> None:
    record(here, "7")
    slurm, ended = pretended(accounting=(JobState("7", "7", "TIMEOUT"),)), {}
    for _ in range(2):
        (job,) = submission.jobs_of(here.parent.parent, slurm, ended)
        assert job["state"] == "TIMEOUT"
        slurm.accounting = ()


def test_workers_are_counted_and_replaced(here: Path) -> None:
    made = record(here, "7", "8")
    comment = f"kdsweep/{here.name}"
    queue = [
        JobState("7", "7", "RUNNING", comment=f"{comment}/head"),
        JobState("8_0", "8", "FAILED", comment=f"{comment}/workers-0"),
        JobState("8_1", "8", "RUNNING", comment=f"{comment}/workers-0"),
        JobState("8_[2-4]", "8", "PENDING", comment=f"{comment}/workers-0"),
        JobState("9", "9", "RUNNING", comment=f"{comment}/worker"),
    ]
    assert submission.live_workers(submission.active_rows(here, made, queue)) == 5
    site = Site(memory="1G", cpus_per_node=1, mode="elastic", nodes=8)
    slurm = pretended(*queue)
    job = Job(here.name, "s", here, site, ("run",))
    assert submission.top_up(here, made, slurm, job, 3, max_array=3) == ["101", "102"]
    assert slurm.sent == [f"{comment}/workers-1", f"{comment}/workers-2"]
    assert "--array=0-1" in slurm.args[slurm.sent[0]]
    assert "--dependency=after:7" in slurm.args[slurm.sent[0]]
    assert len(Record.load(here).requests) == 4


def test_what_was_sent_before_a_crash_is_found_and_the_rest_sent(here: Path) -> None:
    made = record(here, None, None, None)
    slurm = pretended(JobState("7", "7", "PENDING", comment=made.requests[0].comment))
    submission.send(here, made, slurm, again=True)
    assert [r.job for r in Record.load(here).requests] == ["7", "101", "102"]
    assert slurm.sent == [r.comment for r in made.requests[1:]]
    assert all(slurm.args[comment] == ["--dependency=after:7", "x.sbatch"] for comment in slurm.sent)


def test_a_driver_that_has_long_run_is_not_sent_again(here: Path) -> None:
    made = record(here, None)
    begin = {"event": "begin", "link": "7-0", "job": "7", "time": 1.0, "progress": [0, 0], "host": "n"}
    (here / chain.LINKS).write_text(json.dumps(begin) + "\n")
    slurm = pretended()
    submission.send(here, made, slurm, again=True)
    assert slurm.sent == []
    assert Record.load(here).requests[0].job == "7"


def test_nothing_is_sent_while_nobody_can_tell(here: Path) -> None:
    made, slurm = record(here, None), pretended(away=True)
    with pytest.raises(Away):
        submission.send(here, made, slurm, again=True)
    assert slurm.sent == []


def test_a_refused_part_takes_the_rest_with_it(here: Path) -> None:
    made, slurm = record(here, None, None), pretended()
    slurm.refuse = "workers"
    with pytest.raises(Refused, match="cancelled again: job 101"):
        submission.send(here, made, slurm, again=False)
    assert slurm.cancelled == ["101"]
    assert (here / chain.CANCELLED).exists()


def test_one_submit_at_a_time(tmp_path: Path) -> None:
    import multiprocessing

    with submission.alone(tmp_path):
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            assert pool.apply(second, (tmp_path,)) == "refused"


def second(folder: Path) -> str:
    try:
        with submission.alone(folder):
            return "let in"
    except InputError:
        return "refused"


@pytest.mark.parametrize("job", ["../x", "1*", "", "a"])
def test_a_job_id_is_no_pattern(tmp_path: Path, job: str) -> None:
    with pytest.raises(InputError):
        submission.output_of(tmp_path, job)


def test_no_submission_no_jobs(tmp_path: Path) -> None:
    assert submission.jobs_of(tmp_path) == []
    assert submission.ray_nodes(tmp_path) == []


@pytest.mark.parametrize(
    ("jobs", "state"),
    [
        ([], "stopped"),
        ([{"state": "FAILED", "active": False}], "stopped"),
        ([{"state": "PENDING", "active": True}], "queued"),
        ([{"state": "RUNNING", "active": True}, {"state": "PENDING", "active": True}], "starting"),
        ([{"state": "UNKNOWN", "active": None}], "unknown"),
    ],
)
def test_a_sweep_whose_jobs_wait_is_not_stopped(jobs: list[dict[str, Any]], state: str) -> None:
    assert with_jobs("stopped", jobs) == state
    assert with_jobs("done", jobs) == "done"


def test_a_waiting_job_says_why_and_until_when(here: Path) -> None:
    record(here, "7")
    slurm = pretended(JobState("7", "7", "PENDING", "Priority", start=1795698164.0))
    (job,) = submission.jobs_of(here.parent.parent, slurm)
    line = status.job_line(job)
    assert "7  head  PENDING  Priority: waits behind jobs of higher priority; expected to start 2026-" in line


@pytest.mark.parametrize(
    ("state", "code"), [("done", 0), ("queued", 0), ("partly failed", 3), ("unknown", 69), ("stopped", 75)]
)
def test_status_ends_with_what_it_says(state: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.setattr(status, "sweep_folder", Path)
    monkeypatch.setattr(status, "standing", lambda *_: {"state": state})
    done = CliRunner().invoke(status.status, ["x", "--json"])
    assert (done.exit_code, json.loads(done.output)) == (code, {"state": state})


def test_logs_show_why_the_jobs_ended(here: Path) -> None:
    from click.testing import CliRunner

    from orchestrator.commands.logs import logs

    sweep = here.parent.parent
    record(here, "7")
    (sweep / "space.yaml").touch()
    (here / "kds-s-7.out").write_text("line\npython: command not found\n")
    said = CliRunner().invoke(logs, [str(sweep)]).output
    assert "no point has failed" in said
    assert "    python: command not found" in said
    begin = {"event": "begin", "link": "7-0", "job": "7", "time": 1.0, "progress": [0, 0], "host": "n"}
    end = {
        "event": "end",
        "link": "7-0",
        "code": 1,
        "verdict": "stop",
        "why": "the driver failed",
        "ended": 2.0,
    }
    (here / chain.LINKS).write_text(
        "".join(f"{json.dumps(e | {'progress': [0, 0]})}\n" for e in (begin, end))
    )
    assert "the last job ended: the driver failed" in CliRunner().invoke(logs, [str(sweep)]).output
    assert submission.last_link(sweep) == {"code": 1, "verdict": "stop", "why": "the driver failed"}
