"""Sweeps on a real Slurm, undisturbed: gang, elastic, beside each other, under hostile names, many points."""

from collections import Counter, defaultdict

import pytest
from world import SLOW, Login, Sweep, compare

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def test_gang_uses_all_nodes_and_gives_each_trial_its_gpu(gang: Sweep) -> None:
    results = gang.results()
    assert len(results) == 1 + 4 + 30 + 12
    slots = defaultdict(list)
    for r in results.values():
        slots[r["host"], r["cuda_visible_devices"]].append(r)
    assert slots.keys() <= {(f"node{n}", gpu) for n in (1, 2) for gpu in "01"}
    assert {host for host, _ in slots} == {"node1", "node2"}, gang.said()
    assert [link["verdict"] for link in gang.links()] == ["done"]
    assert not list(gang.login.cluster.root.glob("tmp/*/kds*")), "temporary directories are left"
    assert not list(gang.here().glob("token-*")), "a token is left"


def test_elastic_grows_and_shrinks_with_what_slurm_gives(gang: Sweep, login: Login) -> None:
    cluster = login.cluster
    # At first there is room for the head and one worker.
    blockers = [
        cluster.run(
            "sbatch",
            "--parsable",
            "--nodes=1",
            "--exclusive",
            f"--nodelist={node}",
            "--output=/dev/null",
            "--wrap=sleep 600",
        )
        for node in ("node2", "node3")
    ]
    for job in blockers:
        cluster.wait_for(job, "RUNNING")
    site = login.site(mode="elastic", nodes=3)
    sweep = login.submit(login.space(SLOW), site, "elastic")
    assert len(sweep.jobs) == 3, "a head, and arrays of at most two tasks"
    head, first, second = sweep.jobs
    sweep.until(lambda: sweep.beat()["running"])
    assert cluster.job(head)["JobState"] == "RUNNING"
    assert sweep.beat()["slots"] == 1
    cluster.run("scancel", *blockers)
    sweep.until(lambda: sweep.beat()["slots"] == 3)
    sweep.until_trained()
    cluster.run("scancel", f"{first}_0")
    sweep.until(lambda: sweep.beat()["slots"] == 2)
    sweep.until_over()
    results = sweep.results()
    assert len(results) == 5
    assert Counter(entry["id"] for entry in sweep.ledger("point")) == dict.fromkeys(results, 1)
    assert len({r["host"] for r in results.values()}) >= 2
    compare(sweep, gang)
    for job in (first, second):  # the head ends the workers, also those that wait
        sweep.until(lambda job=job: job not in cluster.run("squeue", "-h", "-o", "%A").split())
    assert "its worker died" not in sweep.said()
