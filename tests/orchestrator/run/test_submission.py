"""What is sent to Slurm, and what when an answer got lost."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretended import pretended, record

from kd.errors import InputError
from orchestrator.run import jobs, submission
from orchestrator.run.submission import Record
from slurm import chain
from slurm.errors import Away, Refused
from slurm.job import Job
from slurm.site import Site
from slurm.states import JobState


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
    assert jobs.live_workers(jobs.active_rows(here, made, queue)) == 5
    site = Site(memory="1G", cpus_per_node=1, mode="elastic", nodes=8)
    slurm = pretended(*queue)
    job = Job(here.name, "s", here, site, ("run",))
    assert submission.top_up(here, made, slurm, job, 3, max_array=3) == ["101", "102"]
    assert slurm.sent == [f"{comment}/workers-1", f"{comment}/workers-2"]
    assert "--array=0-1" in slurm.args[slurm.sent[0]]
    assert "--dependency=after:7" in slurm.args[slurm.sent[0]]
    assert len(Record.load(here).requests) == 4
    (here / "unfit").write_text("node3\n")
    job = Job(here.name, "s", here, site.model_copy(update={"options": {"exclude": "node9"}}), ("run",))
    submission.top_up(here, made, slurm, job, 1, max_array=3)
    assert "--exclude=node3,node9" in slurm.args[slurm.sent[-1]]


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


def test_a_sweep_that_runs_on_one_cluster_is_not_sent_to_another(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are workers added there: the head is where it was sent."""
    from orchestrator.commands import submit

    made, asked = record(here, "7"), []
    made.cluster = "blue"
    made.save(here)
    slurm = pretended(JobState("7", "7", "RUNNING", comment=made.requests[0].comment))
    monkeypatch.setattr(submit, "Slurm", lambda *_, cluster: asked.append(cluster) or slurm)
    site = Site(memory="1G", cpus_per_node=1, mode="elastic", nodes=8, clusters="red")
    opened: Any = SimpleNamespace(store=SimpleNamespace(path=here.parent.parent))
    assert submit._submit(opened, site, "site.yaml", ())["state"] == "already"
    assert (asked, slurm.sent) == (["blue"], [])
