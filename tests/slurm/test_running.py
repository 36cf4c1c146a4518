"""Sweeps on a real Slurm, undisturbed: gang, elastic, beside each other, under hostile names, many points."""

import json
import os
import shutil
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path

import pytest
from world import FAST, SLOW, Login, Sweep, compare, unbroken_in_mlflow

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
    assert not list(gang.login.cluster.root.glob("tmp/node[12]/kds*")), "temporary directories are left"
    assert not list(gang.here().glob("token-*")), "a token is left"
    print(f"\n{startup(gang)}")


def startup(sweep: Sweep) -> str:
    """The wall time from sbatch to the first training step, and how it divides."""
    submitted = json.loads((sweep.here() / "submission.json").read_text())["created"]
    head = json.loads((sweep.here() / "head.json").read_text())["time"]
    first = min(
        datetime.fromisoformat(r["finished_at"]).timestamp() - r["train_seconds"]
        for r in sweep.results().values()
        if r["arch"] == "mlp"  # those of a paced ResNet took longer than they say
    )
    times = [submitted, sweep.links("begin")[0]["time"], head, sweep.ledger("start")[0]["time"], first]
    names = ("until the job begins", "Ray's head", "other nodes and the driver", "workers and their data")
    parts = [f"{name} {b - a:.1f} s" for name, a, b in zip(names, times, times[1:], strict=False)]
    return f"sbatch to first step {first - submitted:.1f} s: {', '.join(parts)}"


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


HOSTILE = 'it\'s "$(touch x)" & `touch y`; ünï 日本 #1 %j %A \\ * ${HOME} {{x}} -rf'


def test_two_sweeps_on_one_node_one_with_hostile_names(gang: Sweep, login: Login) -> None:
    folder = login.home / HOSTILE
    folder.mkdir()
    name = HOSTILE.ljust(200 - len(str(folder)), "_")
    here = login.site(options={"nodelist": "node1"})
    first = login.submit(login.space(SLOW), here, "calm")
    space = folder / f"{HOSTILE}.yaml"
    shutil.copy(login.space(FAST), space)
    second = login.submit(str(space), here, str(folder / name), cwd=folder)
    assert len(str(second.path)) >= 200
    for sweep in (first, second):
        sweep.until_over()
        compare(sweep, gang)
        unbroken_in_mlflow(sweep)
        assert [e["code"] for e in sweep.links()] == [0]
        assert {r["host"] for r in sweep.results().values()} == {"node1"}
    assert (len(first.results()), len(second.results())) == (5, 13)
    began = [sweep.links("begin")[0]["time"] for sweep in (first, second)]
    ended = [sweep.links()[0]["ended"] for sweep in (first, second)]
    assert max(began) < min(ended), "they were not there at the same time"
    gpus = [{r["cuda_visible_devices"] for r in sweep.results().values()} for sweep in (first, second)]
    assert gpus[0].isdisjoint(gpus[1])
    assert second.status()["jobs"][0]["kind"] == "gang"
    for root in (login.home, login.cluster.root / "tmp", Path.cwd()):
        assert not [f for f, _, names in os.walk(root) if {"x", "y"} & set(names)], "a name was run"


def test_many_points_over_three_nodes(login: Login) -> None:
    space = login.space({"arch": "mlp", "depth": 1, "width": [4, 6, 8], "seeds": list(range(50))})
    site = login.site(mode="elastic", nodes=3)
    sweep = login.submit(space, site, "many", "training.max_epochs=2")
    assert len(sweep.jobs) == 3, "a head, and arrays of two and one, since MaxArraySize is 3"
    sweep.until(lambda: sweep.beat()["done"] > 250)
    beat = sweep.beat()
    status = login.cluster.in_node(beat["host"], "cat", f"/proc/{beat['pid']}/status")
    memory_mb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    sweep.until_over()
    results = sweep.results()
    assert len(results) == 301
    done = sweep.ledger("point")
    assert len(done) == 301
    slot_s = max(e["slots"] for e in done) * (done[-1]["time"] - done[0]["time"])
    overhead_s = (slot_s - sum(r["train_seconds"] for r in results.values())) / len(results)
    print(f"\n301 points on 3 nodes: {overhead_s:.2f} slot seconds over a point, driver {memory_mb:.0f} MB")
    assert overhead_s < 2.0
    assert memory_mb < 1500
