"""What a real Slurm does to a sweep: limits, preemption, kills, a full disk, a controller that is away."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from world import FAST, SLOW, Login, Sweep, compare, unbroken_in_mlflow

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def test_preempted_jobs_go_on_where_slurm_requeues_and_where_it_cancels(gang: Sweep, login: Login) -> None:
    cluster = login.cluster
    requeued = login.submit(login.space(SLOW), login.site(partition="batch", preempt="requeue"), "requeued")
    cancelled = login.submit(
        login.space(SLOW), login.site(partition="scavenge", preempt="cancel"), "cancelled"
    )
    head = {"partition": "apart", "preempt": "requeue", "cpus": 1, "memory": "2G"}
    elastic = login.submit(
        login.space(SLOW),
        login.site(mode="elastic", partition="scavenge", preempt="cancel", head=head),
        "preempted-workers",
    )
    for sweep in (requeued, cancelled, elastic):
        sweep.until_trained()
    urgent = cluster.run(
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--nodes=3",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 1",
    )
    cluster.wait_for(urgent, "COMPLETED")
    assert cluster.job(requeued.jobs[0])["Restarts"] == "1"
    assert cluster.job(cancelled.jobs[0])["JobState"] in ("PREEMPTED", "CANCELLED", "FAILED")
    for sweep in (requeued, cancelled):
        sweep.until_over(timeout=240)
        assert [e["code"] for e in sweep.links()] == [75, 0], sweep.said()
        begins = sweep.links("begin")
        assert begins[1]["progress"] > [0, 0], "nothing was checkpointed"
        compare(sweep, gang)
    assert {b["job"] for b in requeued.links("begin")} == {requeued.jobs[0]}
    assert len({b["job"] for b in cancelled.links("begin")}) == 2
    # The head of the elastic sweep went on, and its worker was followed by another.
    elastic.until_over(timeout=240)
    assert [e["code"] for e in elastic.links()] == [0], elastic.said()
    assert len(elastic.links("successor")) == 2  # should Slurm lose the head; the worker's
    assert len(elastic.results()) == 5
    compare(elastic, gang)
    assert "its node left" in elastic.said()
    # No successor stays behind.
    cancelled.until(lambda: "kdsweep" not in cluster.run("squeue", "-h", "-p", "scavenge", "-o", "%k"))


def test_killed_steps(gang: Sweep, login: Login) -> None:
    cluster = login.cluster
    sweep = login.submit(
        login.space(SLOW), login.site(nodes=2, cpus_per_node=1, gpus_per_node=0, gres="gpu:1"), "killed"
    )
    job = sweep.jobs[0]
    sweep.until_trained()
    sweep.until(lambda: len(sweep.beat()["running"]) == 2)
    # One step holds the head, one the other node; KILL reaches all their processes.
    steps = [
        line.split() for line in cluster.run("squeue", "-s", "-h", "-j", job, "-o", "%i %N").splitlines()
    ]
    head = next(step for step, node in steps if node == sweep.beat()["host"] and step[-1].isdigit())
    other = next(step for step, node in steps if node != sweep.beat()["host"])
    cluster.run("scancel", "--signal=KILL", other)
    sweep.until(lambda: sweep.beat()["slots"] == 1)
    assert not sweep.links(), "the loss of a worker ended the link"
    assert cluster.job(job)["JobState"] == "RUNNING"
    sweep.until(lambda: "it will resume from its checkpoint" in sweep.said())
    assert "its node left" in sweep.said()
    assert "its worker died" not in sweep.said(), "a point was blamed for the loss of its node"
    cluster.run("scancel", "--signal=KILL", head)
    sweep.until(lambda: sweep.links())
    assert sweep.links()[0]["verdict"] == "again", sweep.said()
    sweep.until_over(timeout=240)
    assert len(sweep.results()) == 5
    assert not list(sweep.path.glob("points/*/error.json"))
    compare(sweep, gang)


def test_a_gang_outlives_its_first_node(gang: Sweep, login: Login) -> None:
    """Slurm requeues no job whose script it kills: the one that waits for such an end takes over."""
    cluster = login.cluster
    site = login.site(nodes=2, cpus_per_node=1, gpus_per_node=0, gres="gpu:1")
    sweep = login.submit(login.space(SLOW), site, "first-node")
    sweep.until_trained()
    first = sweep.beat()["host"]
    cluster.run("scontrol", "update", f"nodename={first}", "state=down", "reason=test")
    (waiting,) = [entry["job"] for entry in sweep.links("successor")]
    cluster.wait_for(waiting, "RUNNING")
    cluster.run("scontrol", "update", f"nodename={first}", "state=resume", check=False)
    sweep.until_over(timeout=240)
    assert {b["job"] for b in sweep.links("begin")} == {sweep.jobs[0], waiting}
    assert len(sweep.results()) == 5
    compare(sweep, gang)
    sweep.until(lambda: not cluster.run("squeue", "-h", "-p", "batch"))


def fill(path: Path) -> None:
    """Take all the space there is."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


def test_full_disk(gang: Sweep, login: Login) -> None:
    small = login.cluster.root / "small"
    space, site = login.space({**FAST, "seeds": [0, 1]}), login.site()
    sweep = Sweep(login, small / "sweeps" / "full")
    sweep.jobs = login.run("submit", space, "--site", site, "--out", str(sweep.path)).stdout.split()
    sweep.until(lambda: sweep.beat()["done"] >= 1)
    filler = small / "filler"
    fill(filler)
    login.cluster.wait_for(sweep.jobs[0], "FAILED", timeout=150)
    assert login.cluster.job(sweep.jobs[0])["ExitCode"] in ("75:0", "1:0"), sweep.said()
    whole = sweep.results()  # each is valid JSON
    assert 0 < len(whole) < 25
    assert "No space left" in sweep.said()
    filler.unlink()
    sweep.jobs = login.run("submit", space, "--site", site, "--out", str(sweep.path)).stdout.split()
    sweep.until_over()
    assert len(sweep.results()) == 25
    assert {id: r["finished_at"] for id, r in sweep.results().items() if id in whole} == {
        id: r["finished_at"] for id, r in whole.items()
    }
    compare(sweep, gang)


def test_a_controller_that_is_away(login: Login) -> None:
    cluster = login.cluster
    space, site = login.space(FAST), login.site()
    hold = cluster.run(
        "sbatch", "--parsable", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"
    )
    cluster.wait_for(hold, "RUNNING")
    cluster.stop_controller()
    try:
        out = login.home / "sweeps" / "away"
        done = login.run("submit", space, "--site", site, "--out", str(out), expect=75)
        assert "othing will be submitted twice" in done.stderr
        sweep = Sweep(login, out)
        (job,) = sweep.status()["jobs"]
        assert (job["state"], job["active"]) == ("UNKNOWN", None)
        login.run("cancel", str(out), expect=75)
    finally:
        cluster.start_controller()
        cluster.until_nodes_answer()
    sweep.until(lambda: "UP" in cluster.run("scontrol", "ping", check=False))
    first = login.submit(space, site, "away")
    again = login.run("submit", space, "--site", site, "--out", str(out))
    assert again.stdout.split() == first.jobs
    assert "already submitted" in again.stderr
    assert len(list((out / "slurm").glob("2*"))) == 1, "the interrupted submission should have gone on"
    names = cluster.run("squeue", "-h", "-o", "%k").split()
    assert len([n for n in names if n.startswith("kdsweep/")]) == 1
    # Stopped again, now that there is a job: nobody knows, so nobody says that it has ended.
    cluster.stop_controller()
    try:
        (job,) = sweep.status()["jobs"]
        assert (job["id"], job["state"], job["active"]) == (first.jobs[0], "UNKNOWN", None)
    finally:
        cluster.start_controller()
        cluster.until_nodes_answer()
    sweep.until(lambda: "UP" in cluster.run("scontrol", "ping", check=False))
    (job,) = sweep.status()["jobs"]
    assert (job["id"], job["state"], job["active"]) == (first.jobs[0], "PENDING", True)
    login.run("cancel", str(out))
    assert cluster.job(first.jobs[0])["JobState"] == "CANCELLED"


CRASH = """
import os, sys
from slurm import command, states
def die(text):
    os._exit(9)  # sbatch has answered, and nobody has written it down
states.parse_sbatch = die
from orchestrator.commands.main import main
main()
"""


def test_a_crash_between_sbatch_and_its_record_submits_once(login: Login) -> None:
    cluster, out = login.cluster, login.home / "sweeps" / "crash"
    hold = cluster.run(
        "sbatch", "--parsable", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"
    )
    cluster.wait_for(hold, "RUNNING")
    args = ["submit", login.space(FAST), "--site", login.site(), "--out", str(out)]
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH, *args], env=login.env, check=False, capture_output=True
    )
    assert crashed.returncode == 9
    (row,) = Sweep(login, out).status()["jobs"]
    assert row["state"] == "PENDING"  # found by its comment
    job = login.run(*args).stdout.strip()
    assert login.run(*args).stdout.strip() == job
    ours = [c for c in cluster.run("squeue", "-h", "-o", "%i %k").splitlines() if "kdsweep/" in c]
    assert len(ours) == 1
    record = json.loads(next((out / "slurm").glob("2*/submission.json")).read_text())
    assert record["requests"][0]["job"] == job == ours[0].split()[0]


def test_time_limits_are_bridged_by_a_chain(gang: Sweep, chain: Sweep) -> None:
    chain.until(chain.links)
    print(f"\n{chain.login.run('status', str(chain.path)).stdout}")
    chain.until_over(timeout=300)
    ends = chain.links()
    assert len(ends) >= 3, "the time limit should have come twice"
    assert [e["code"] for e in ends] == [75] * (len(ends) - 1) + [0]
    progress = [e["progress"] for e in ends]
    assert progress == sorted(progress)
    assert len(chain.results()) == 5
    compare(chain, gang)
    trained = [entry["id"] for entry in chain.ledger("point")]
    assert sorted(trained) == sorted(chain.results()), "a finished point was trained again"
    unbroken_in_mlflow(chain)
