"""What is said of a sweep's Slurm jobs when Slurm says little."""

import json
from pathlib import Path
from typing import Any

import pytest
from pretended import pretended, record

from kd.errors import InputError
from orchestrator.commands import status
from orchestrator.run import jobs
from orchestrator.run.status import with_jobs
from slurm import chain
from slurm.states import COLUMNS, JobState


def rows(here: Path, slurm: Any) -> list[tuple[str, str, Any]]:
    return [(r["id"], r["state"], r["active"]) for r in jobs.jobs_of(here.parent.parent, slurm)]


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
        (r["id"], r["kind"], r["active"]) for r in jobs.jobs_of(here.parent.parent, pretended(*queue))
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
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    slurm.queue = lambda **options: asked.append(now[0]) or answer(**options)
    look = jobs.Jobs(here.parent.parent, slurm)
    while now[0] < 280:
        assert len(look()) == 1
        now[0] += 2
        if now[0] == 150:
            slurm.jobs = [JobState("7", "7", "PENDING")]
    assert asked == [100, 130, 160, 220]


def test_accounting_is_asked_once_of_a_job_that_has_ended(here: Path) -> None:
    record(here, "7")
    slurm, ended = pretended(accounting=(JobState("7", "7", "TIMEOUT"),)), {}
    for _ in range(2):
        (job,) = jobs.jobs_of(here.parent.parent, slurm, ended)
        assert job["state"] == "TIMEOUT"
        slurm.accounting = ()


@pytest.mark.parametrize("job", ["../x", "1*", "", "a"])
def test_a_job_id_is_no_pattern(tmp_path: Path, job: str) -> None:
    with pytest.raises(InputError):
        jobs.output_of(tmp_path, job)


def test_no_submission_no_jobs(tmp_path: Path) -> None:
    assert jobs.jobs_of(tmp_path) == []
    assert jobs.ray_nodes(tmp_path) == []


@pytest.mark.parametrize(
    ("waiting", "state"),
    [
        ([], "stopped"),
        ([{"state": "FAILED", "active": False}], "stopped"),
        ([{"state": "PENDING", "active": True}], "queued"),
        ([{"state": "RUNNING", "active": True}, {"state": "PENDING", "active": True}], "starting"),
        ([{"state": "UNKNOWN", "active": None}], "unknown"),
    ],
)
def test_a_sweep_whose_jobs_wait_is_not_stopped(waiting: list[dict[str, Any]], state: str) -> None:
    assert with_jobs("stopped", waiting) == state
    assert with_jobs("done", waiting) == "done"


def test_a_waiting_job_says_why_and_until_when(here: Path) -> None:
    record(here, "7")
    slurm = pretended(JobState("7", "7", "PENDING", "Priority", start=1795698164.0))
    (job,) = jobs.jobs_of(here.parent.parent, slurm)
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
    assert jobs.last_link(sweep) == {"code": 1, "verdict": "stop", "why": "the driver failed"}


def test_the_cluster_that_a_sweep_was_sent_to_is_asked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from orchestrator.commands.cancel import cancel

    made = record(here, "7")
    made.cluster = "blue"
    made.save(here)
    sweep = here.parent.parent
    (sweep / "space.yaml").touch()
    calls = sweep / "calls"
    fields = {"JobArrayID": "7", "ArrayJobID": "7", "State": "PENDING", "Comment": made.requests[0].comment}
    row = "".join(fields.get(name, "(null)").ljust(width) for name, width in COLUMNS.items())
    for name, said in (("squeue", f"CLUSTER: blue\n{row}"), ("scancel", "")):
        path = sweep / name
        path.write_text(f"#!/bin/bash\necho {name} \"$@\" >>'{calls}'\necho '{said}'\n", encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(sweep), prepend=":")
    (job,) = jobs.jobs_of(sweep)
    assert (job["id"], job["state"]) == ("7", "PENDING")
    assert "job 7 (head): cancelled" in CliRunner().invoke(cancel, [str(sweep)]).output
    asked = calls.read_text(encoding="utf-8").splitlines()
    assert [line.split()[:2] for line in asked] == [
        [name, "--clusters=blue"] for name in ("squeue", "squeue", "scancel")
    ]


def test_excluded_nodes_are_told_in_one_line(here: Path) -> None:
    record(here, "7")
    used = {"slots": 1, "cpus_per_slot": 1, "gpus_per_slot": 0}
    entry = {"event": "shut_out", "time": 1.0, "node": "node2", "why": "no \x1b torch", **used}
    sweep = here.parent.parent
    (sweep / "ledger.jsonl").write_text(f"{json.dumps(entry)}\n", encoding="utf-8")
    told = {"excluded": jobs.excluded_nodes(sweep), "best": {}, "failures": {}, "running": [], "mixed": []}
    told |= {"sweep": "s", "state": "stopped", "done": 0, "total": 1, "failed": 0, "blocked": 0, "left": 1}
    hours = dict.fromkeys(("slot_hours", "gpu_hours", "train_hours"), 0.0)
    lines = status.in_words(told | {"used": hours, "hours_left": hours, "used_by": {}}).splitlines()
    assert [line for line in lines if "excluded" in line] == ["  excluded node2: no \\x1b torch"]
