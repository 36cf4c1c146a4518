"""`kdsweep doctor` on a real Slurm: all well, and what it says when something is not."""

import json

import pytest
from world import FAST, Login

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]


def findings(login: Login, *args: str, expect: int) -> dict[str, tuple[bool, str]]:
    done = login.run("doctor", "--json", "--shared", str(login.home / "sweeps"), *args, expect=expect)
    return {line["what"]: (line["ok"], line["text"]) for line in json.loads(done.stdout)}


def test_all_is_well(login: Login) -> None:
    site = login.site(gpus_per_node=0, nodes=2, partition="batch,scavenge", options={"exclude": "node1"})
    found = findings(login, "--site", site, expect=0)
    assert all(ok for ok, _ in found.values())
    assert {"partition batch", "partition scavenge"} <= found.keys()
    there = found["two nodes reach each other"][1]
    assert "node2 at 10." in there, "the profile's options were not used"
    assert "node3 at 10." in there
    assert found["shared folder"][1].startswith("node")
    assert "2 CPUs, 0 GPUs" in found["allocation"][1]
    assert found["sbatch --test-only gang.sbatch"][0]
    assert not list((login.home / "sweeps").glob(".doctor-*"))


def test_what_is_wrong_is_said_with_a_remedy(login: Login) -> None:
    found = findings(login, "--site", login.site(partition="nowhere"), "--no-node", expect=1)
    assert "sinfo -s" in found["partition nowhere"][1]
    ok, text = found["sbatch --test-only gang.sbatch"]
    assert not ok
    assert "partition" in text
    elsewhere = findings(login, "--site", login.site(clusters="kdsweep"), "--no-node", expect=1)
    assert "`clusters: kdsweep` in the site profile; it needs slurmdbd" in elsewhere["Slurm reachable"][1]
    too_much = findings(login, "--site", login.site(cpus_per_node=64), "--no-node", expect=1)
    assert not too_much["sbatch --test-only gang.sbatch"][0]
    site, space = login.site(time="02:00:00"), login.space(FAST)
    too_long = findings(login, "--site", site, "--no-node", expect=1)
    assert "above its MaxTime 01:00:00" in too_long["partition batch"][1]
    refused = login.run("submit", space, "--site", site, "--out", str(login.home / "sweeps" / "x"), expect=1)
    assert "above its MaxTime" in refused.stderr
    assert not list((login.home / "sweeps" / "x").glob("slurm/2*")), "it would wait for ever"
    fake = findings(login, "--site", login.site(), expect=1)
    assert "install torch for this GPU's driver" in fake["torch on a node"][1]  # fake GPUs are none
    assert [what for what, (ok, _) in fake.items() if not ok] == ["torch on a node"]


def test_slurm_away(login: Login) -> None:
    login.cluster.stop_controller()
    try:
        found = findings(login, "--site", login.site(), expect=1)
        assert not found["Slurm reachable"][0]
    finally:
        login.cluster.start_controller()
        login.cluster.until_nodes_answer()
