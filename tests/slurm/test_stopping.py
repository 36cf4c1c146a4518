"""Stopping on a real Slurm, at any moment and by any half of a sweep; and nodes that can't run it."""

import sys
import time

import pytest
from cluster import SlurmCluster
from world import FAST, SLOW, Login, Sweep

from slurm.command import Slurm
from slurm.excluded import exclude_option

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def queued(sweep: Sweep) -> list[str]:
    """States of the sweep's jobs that wait or run."""
    cluster = sweep.login.cluster
    lines = cluster.run("squeue", "-h", "-r", "-o", "%T %k").splitlines()
    return [
        state for state, _, comment in (line.partition(" ") for line in lines) if sweep.here().name in comment
    ]


def test_a_cancel_while_ray_starts_is_heard(login: Login) -> None:
    space, site = login.space(SLOW), login.site()
    sweep = Sweep(login, login.home / "sweeps" / "early")
    for after_s in (0.2, 1.0, 3.0):
        before, sweep = sweep, login.submit(space, site, "early")
        assert sweep.jobs != before.jobs, "a sweep that was cancelled can't be submitted again"
        login.cluster.wait_for(sweep.jobs[0], "RUNNING")
        time.sleep(after_s)
        login.run("cancel", str(sweep.path))
        sweep.until(lambda: not queued(sweep), timeout=40)  # noqa: B023
        assert not sweep.results(), "it trained on"
        assert all(link["verdict"] == "stop" for link in sweep.links()), sweep.said()


def test_workers_do_not_outlive_a_head_that_was_cancelled_by_hand(login: Login) -> None:
    cluster = login.cluster
    space, site = login.space(SLOW), login.site(mode="elastic", nodes=2)
    sweep = login.submit(space, site, "orphans")
    head, workers = sweep.jobs
    sweep.until(lambda: sweep.beat()["slots"] == 2)
    cluster.run("scancel", f"{workers}_0")
    sweep.until(lambda: sweep.beat()["slots"] == 1)
    added = login.submit(space, site, "orphans")  # replaces the worker that was lost
    assert len(added.jobs) == 3
    sweep.until(lambda: sweep.beat()["slots"] == 2)
    assert (
        "already submitted, nothing to do"
        in login.run("submit", space, "--site", site, "--out", str(sweep.path)).stderr
    )
    cluster.run("scancel", head)
    sweep.until(lambda: not queued(sweep), timeout=60)
    assert login.run("logs", str(sweep.path), "--job", f"{workers}_1").stdout
    assert login.submit(space, site, "orphans").jobs[0] not in added.jobs
    login.run("cancel", str(sweep.path))
    sweep.until(lambda: not queued(sweep), timeout=60)


def test_a_worker_does_not_start_before_its_head_and_a_later_link_replaces_it(login: Login) -> None:
    cluster = login.cluster
    block = cluster.run(
        "sbatch", "--parsable", "-p", "apart", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"
    )
    cluster.wait_for(block, "RUNNING")
    head = {"partition": "apart", "preempt": "requeue", "cpus": 1, "memory": "2G"}
    sweep = login.submit(login.space(SLOW), login.site(mode="elastic", nodes=1, head=head), "late-head")
    time.sleep(5)
    assert queued(sweep) == ["PENDING", "PENDING"]
    cluster.run("scancel", block)
    sweep.until_trained()
    cluster.run("scancel", f"{sweep.jobs[1]}_0")
    cluster.run("scontrol", "requeue", sweep.jobs[0])
    sweep.until(lambda: len(sweep.links("begin")) == 2, timeout=60)
    sweep.until(lambda: len(queued(sweep)) == 3)  # the head, the job that waits for its loss, a worker
    login.run("cancel", str(sweep.path))
    sweep.until(lambda: not queued(sweep), timeout=60)


def test_a_node_without_a_working_python_is_avoided_by_head_and_worker(login: Login) -> None:
    """Every job finds no Python on the node it starts on first, whichever Slurm chooses."""
    python = login.home / "python"
    python.write_text(f"""#!/bin/bash
if [[ -n ${{SLURMD_NODENAME:-}} ]]; then
  first={login.home}/first-node-of-$SLURM_JOB_ID
  (set -o noclobber; echo "$SLURMD_NODENAME" >"$first") 2>/dev/null
  [[ $(<"$first") == "$SLURMD_NODENAME" ]] && exit 127
fi
exec {sys.executable} "$@"
""")
    python.chmod(0o755)
    space = login.space({**FAST, "depth": 1, "width": 4}, strategies={"scratch": None})
    sweep = login.submit(space, login.site(mode="elastic", python=str(python)), "broken")
    sweep.until_over()
    assert sweep.results()  # so one worker at least was started twice, and so was the head
    assert sweep.said().count("can't run this job: it goes to another node") >= 2
    sweep.until(lambda: not queued(sweep), timeout=60)


def test_a_node_where_no_worker_starts_is_excluded_from_the_next_link(login: Login) -> None:
    cluster, broken = login.cluster, login.home / "broken-node"
    login.env |= {"BROKEN_NODE": str(broken)}
    sweep = login.submit(login.space(SLOW), login.site(nodes=2), "excluded")
    sweep.until(lambda: sweep.beat()["slots"] and sweep.ledger("shut_out"))
    bad = broken.read_text()
    assert sweep.status()["excluded"].keys() == {bad}
    first = cluster.job(sweep.jobs[0])
    cluster.run("scancel", "--signal=USR1", "--batch", sweep.jobs[0])  # as Slurm does before the time limit
    sweep.until(lambda: len(sweep.links("begin")) == 2, timeout=60)
    second = cluster.job(sweep.jobs[0])
    assert (first["ExcNodeList"], second["ExcNodeList"]) == ("(null)", bad)
    assert bad in expanded(cluster, first) - expanded(cluster, second)
    assert f"excluded: {bad}: " in sweep.said()
    slurm, here = Slurm(env=cluster.env), sweep.here()
    other = min(expanded(cluster, second))
    assert exclude_option(slurm, here, "gang.sbatch", None) == [f"--exclude={bad}"]
    assert exclude_option(slurm, here, "gang.sbatch", other) == [], "one of three nodes is left to two"
    login.run("cancel", str(sweep.path))
    sweep.until(lambda: not queued(sweep), timeout=60)


def expanded(cluster: SlurmCluster, job: dict[str, str]) -> set[str]:
    """The nodes of a job."""
    return set(cluster.run("scontrol", "show", "hostnames", job["NodeList"]).split())
