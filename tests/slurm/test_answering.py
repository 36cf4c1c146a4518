"""A sweep on a real Slurm that trains for one question: its answer over a kill."""

import json
from collections import Counter
from typing import Any

import pytest
from world import FAST, SLOW, Login, Sweep

from orchestrator.store.check import check
from orchestrator.store.store import Store, own_seconds

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def logged(sweep: Sweep, event: str) -> list[dict[str, Any]]:
    """Entries of decisions.jsonl of one kind, whole lines only."""
    try:
        text = (sweep.path / "decisions.jsonl").read_text()
    except FileNotFoundError:
        return []
    entries = [json.loads(row) for row in text.splitlines(keepends=True) if row.endswith("\n")]
    return [entry for entry in entries if entry["event"] == event]


def test_an_answer_outlives_the_kill_of_its_driver(login: Login) -> None:
    login.env["PACE_S"] = "0.15"
    asked = ("--answer", "max-params=60000", "--until-regret", "4")
    slow, fast = SLOW | {"width": [4, 6, 8, 12]}, FAST | {"width": [4, 8, 16]}
    space = login.space(slow, fast, strategies={name: None for name in ("scratch", "soft", "hard")})
    sweep = login.submit(space, login.site(), "asked", *asked)
    # Something has been put off, and something else is in the midst of its training.
    sweep.until(lambda: any(row["max_epochs"] > row["epoch"] >= 3 for row in sweep.beat()["running"]))
    sweep.until(lambda: logged(sweep, "paused"))
    steps = login.cluster.run("squeue", "-s", "-h", "-j", sweep.jobs[0], "-o", "%i").split()
    (driver,) = [step for step in steps if step[-1].isdigit()]
    login.cluster.run("scancel", "--signal=KILL", driver)
    sweep.until(sweep.links)
    assert sweep.links()[0]["verdict"] == "again", sweep.said()
    decided = len(logged(sweep, "decision"))
    put_off = {entry["id"]: entry["epoch"] for entry in logged(sweep, "paused")}
    done = sweep.results()
    sweep.until_over()
    decisions = logged(sweep, "decision")
    assert [entry["number"] for entry in decisions] == list(range(1, len(decisions) + 1))
    assert len(decisions) > decided
    told = decisions[decided]  # the first of the second link
    assert told["spent_s"] >= sum(own_seconds(result) for result in done.values()) > 0
    # What was done stays as it was; what was put off keeps its epochs or has more of them.
    results, store = sweep.results(), Store(sweep.path)
    assert {id: results[id] for id in done} == done
    assert Counter(entry["id"] for entry in sweep.ledger("point")) == dict.fromkeys(results, 1)
    assert all(len(store.history(id)) >= epoch for id, epoch in put_off.items())
    assert put_off.keys() <= results.keys() | store.paused().keys()
    for id in store.ids():
        assert [row["epoch"] for row in store.history(id)] == list(range(1, 1 + len(store.history(id))))
    last = decisions[-1]
    assert last["stop"] == "reached", sweep.said()
    assert last["belief"]["advised"] in results
    assert len(results) < 1 + 3 * 10, "it trained the whole plan"
    assert check(store) == []
    for id in put_off:
        why = json.loads(login.run("why", str(sweep.path), id, "--json").stdout)
        assert [e["event"] for e in why["events"]][:2] == ["started", "paused"]
        assert why["decisions"] == len(decisions)
    assert "regret <= " in sweep.status()["answer"]["in_words"]
