"""What the driver makes of what it hears, without Ray: bad nodes, lost workers, what is counted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.run import ray_internals
from orchestrator.run.events import Events, StopRequest
from orchestrator.run.nodes import BAD_POINTS, BAD_STARTS
from orchestrator.run.out_of_memory import MOST, Memory
from orchestrator.run.outcome import SweepResult
from orchestrator.run.pace import Pace
from orchestrator.run.progress import Progress
from orchestrator.run.ray_cluster import Node
from orchestrator.run.scheduler import Scheduler
from orchestrator.space.slot import Slot
from orchestrator.store.store import Store


class World(Events):
    """Events over nodes of two slots each, and what was said."""

    def __init__(self, folder: Path, nodes: str, points: int = 12, elastic: bool = False) -> None:
        plan = [point("T", role="teacher", cost_s=9.0)]
        plan += [point(f"p{i:02}", teacher="T" if i == 0 else None) for i in range(points)]
        scheduler = Scheduler(plan, set(), pack=lambda ready, slots: [[p] for p in ready])
        by_id: Any = scheduler.points
        self.said: list[str] = []
        self.memory: Memory | None = None  # of any node
        self.there = [Node(id, f"host-{id}", f"10.0.0.{i}", 2, f"slurm-{id}") for i, id in enumerate(nodes)]
        quiet = SimpleNamespace(write=self.nothing, publish=self.nothing, logs=None)
        cluster = SimpleNamespace(
            nodes=lambda: self.there,
            elastic=elastic,
            address="10.0.0.0:1",
            dashboard_url=None,
            slot=Slot(),
            as_json=dict,
            memory_of=lambda node: self.memory,
            more_memory="ask for more memory, or for fewer slots",
            oom_kills=None,
        )
        folder.mkdir(exist_ok=True)
        parts: Any = {
            "scheduler": scheduler,
            "progress": Progress(by_id, scheduler.done, scheduler.failed, scheduler.blocked, scheduler.cost),
            "store": Store(folder),
            "cluster": cluster,
            "dashboard": quiet,
            "display": SimpleNamespace(say=self.said.append, show=self.nothing),
            "tracker": SimpleNamespace(start=self.nothing, ended=self.nothing),
            "stop": StopRequest(),
            "most_slots": None,
            "pace": Pace(folder / ".tune", 2.0),
        }
        super().__init__(**parts)
        self.announce()
        self.trials = 0

    def nothing(self, *args: Any, **more: Any) -> None:
        """What isn't looked at."""

    def next(self) -> tuple[str, list[str], list[str]]:
        """Another trial: its name, its pack, where it must not run."""
        self.trials += 1
        released = self.release(f"t{self.trials}")
        assert released is not None
        return f"t{self.trials}", *released

    def ends(
        self,
        trial: str,
        id: str,
        node: str,
        kind: str = "done",
        error: str = "RuntimeError",
        message: str = "CUDA error",
    ) -> None:
        """A trial's only point is over."""
        self.trial_started(trial)
        more: dict[str, Any] = {"mae_bpm": 1.0, "train_seconds": 1.0}
        if kind == "failed":
            more = {"error": {"type": error, "message": message, "traceback": ""}, "log": ""}
        self.heard(
            trial, {"node": node, "pid": len(node), "events": [{"kind": kind, "id": id, "time": 0.0, **more}]}
        )
        self.trial_over(trial)

    def dies_starting(self, trial: str, node: str) -> None:
        """A trial's worker raises while it starts."""
        text = f"died because of an error raised in its creation task, (pid=1, ip={self.ip(node)})\nno torch"
        self.trial_lost(trial, Died(text), None, None)

    def ip(self, node: str) -> str:
        return next(n.ip for n in self.there if n.id == node)


class Died(RuntimeError):
    """Ray's ActorDiedError, of an actor that Ray has forgotten."""

    actor_init_failed = True


def point(id: str, role: str = "student", teacher: str | None = None, cost_s: float = 1.0) -> Any:
    recipe = {"max_epochs": 10}
    return SimpleNamespace(
        id=id,
        role=role,
        teacher=teacher,
        needs=(teacher,) if teacher else (),
        cost_s=cost_s,
        recipe=recipe,
        strategy="scratch",
        fold=None,
    )


def test_a_node_where_workers_cannot_start_is_left_out_and_the_sweep_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, "ab")
    first, (id,), _ = world.next()
    world.ends(first, id, "a")
    for i in range(BAD_STARTS):
        good, (id,), _ = world.next()
        bad, _, avoid = world.next()
        assert avoid == []
        world.dies_starting(bad, "a")
        world.ends(good, id, "ab"[i % 2])  # others report, on this node, too: that resets no count
    assert world.broken is None
    assert not world.scheduler.failures, "a point was blamed for its node"
    assert [text for text in world.said if "gets no more work" in text] == [
        f"host-a gets no more work: {BAD_STARTS} workers could not start there; the last: no torch"
    ]
    (shut_out,) = [entry for entry in world.store.ledger() if entry["event"] == "shut_out"]
    assert (shut_out["node"], "no torch" in shut_out["why"]) == ("slurm-a", True)
    assert world.next()[2] == ["a"]
    assert world.progress.slots == 2
    assert world.on_bad_node({"node": "a"})
    assert not world.on_bad_node({"node": "b"})


@pytest.mark.parametrize(("elastic", "code"), [(False, 1), (True, 75)])
def test_without_a_node_the_sweep_ends(tmp_path: Path, elastic: bool, code: int) -> None:
    world = World(tmp_path, "a", elastic=elastic)
    for _ in range(BAD_STARTS):
        assert world.broken is None
        world.dies_starting(world.next()[0], "a")
    assert world.broken is not None
    assert "host-a" in world.broken
    assert "no torch" in world.broken
    assert world.over
    assert world.abandon
    assert SweepResult(9, 0, 0, error=world.broken, later=world.later).exit_code == code


def test_a_retry_goes_to_another_node_if_there_is_one(tmp_path: Path) -> None:
    world = World(tmp_path / "two", "ab")
    trial, (id,), _ = world.next()
    world.ends(trial, id, "a", "failed")
    assert world.next()[1:] == ([id], ["a"])
    alone = World(tmp_path / "one", "a")
    trial, (id,), _ = alone.next()
    alone.ends(trial, id, "a", "failed")
    assert alone.next()[1:] == ([id], [])


def test_a_point_that_diverged_may_be_retried_anywhere(tmp_path: Path) -> None:
    world = World(tmp_path, "ab")
    trial, (id,), _ = world.next()
    world.ends(trial, id, "a", "failed", "Diverged")
    assert world.next()[1:] == ([id], [])


def test_a_node_where_every_point_fails_is_left_out_and_what_failed_there_is_tried_again(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, "ab")
    world.scheduler.max_failures = 0
    trial, (teacher,), _ = world.next()
    world.ends(trial, teacher, "a", "failed")
    assert world.scheduler.failed == {"T"}
    assert world.scheduler.blocked == {"p00"}
    world.scheduler.max_failures = 1
    for _ in range(BAD_POINTS):
        trial, (id,), _ = world.next()
        world.ends(trial, id, "a", "failed")
        trial, (again,), avoid = world.next()
        assert (again, avoid) == (id, ["a"])
        world.ends(trial, id, "b")
    assert "CUDA error" in next(text for text in world.said if "host-a gets no more work" in text)
    assert not world.scheduler.failed
    assert not world.scheduler.blocked
    assert not world.store.errors()
    assert world.next()[1:] == (["T"], ["a"])


def test_a_retry_whose_other_node_has_left_is_released_again(tmp_path: Path) -> None:
    world = World(tmp_path, "ab", points=1)
    trial, (id,), _ = world.next()
    world.ends(trial, id, "a", "failed")
    _, _, avoid = world.next()
    assert avoid == ["a"]
    assert not world.abandon
    world.there = [node for node in world.there if node.id == "a"]
    world._counted = float("-inf")
    world.tick()
    assert world.abandon
    assert world.again()
    assert not world.scheduler.running
    assert world.next()[1:] == ([id], [])
    assert not world.again()


def test_slots_are_counted_from_the_first_line_of_the_ledger(tmp_path: Path) -> None:
    world = World(tmp_path, "ab")
    world.there = world.there[:1]
    world._counted = float("-inf")
    world.tick()
    lines = [json.loads(text) for text in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [entry["slots"] for entry in lines] == [4, 4, 2]
    assert lines[0]["event"] == "start"


def test_a_point_runs_once_its_worker_is_up(tmp_path: Path) -> None:
    world = World(tmp_path, "a")
    trial, (id,), _ = world.next()
    assert not world.progress.running
    world.trial_started(trial)
    assert world.progress.running[trial]["point"] == id
    # A node that is lost now has lost a point; before, Ray would have placed it elsewhere.
    world.trial_lost(trial, RuntimeError("its node has died"), None, None)
    assert world.said[-1] == f"point {id}: its node left; it will resume from its checkpoint"


def test_a_worker_is_found_through_its_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, "ab")
    monkeypatch.setattr(ray_internals, "node_of_actor", {"abc": "b"}.get)
    error = Died("no address")
    error.actor_id = "abc"  # type: ignore[attr-defined]
    world.trial_lost(world.next()[0], error, None, None)
    assert "host-b" in world.said[-1]


KILLED = (  # Ray 2.60, of a process that got SIGKILL, from whomever
    "The actor died unexpectedly before finishing this task.\nThe actor is dead because its worker process "
    "has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a "
    "connection error code 2. End of file. Some common causes include: (1) the process was killed by the OOM "
    "killer"
)
GIB = 2**30


def test_a_point_whose_worker_the_kernel_killed_for_memory_is_not_blamed_at_first(tmp_path: Path) -> None:
    world = World(tmp_path, "a", points=1)
    trial, (id,), _ = world.next()
    for n in range(1, MOST + 2):
        world.trial_started(trial)
        world.memory = Memory(kills=n, peak=4 * GIB, limit=4 * GIB)
        world.trial_lost(trial, RuntimeError(KILLED), world.ip("a"), 1)
        if n < MOST:
            assert not world.scheduler.failures
            why = "host-a ran out of memory (4.0 of 4.0 GB): ask for more memory, or for fewer slots"
            assert (
                world.said[-1] == f"point {id}: its worker died ({why}); it will resume from its checkpoint"
            )
        if n <= MOST:
            trial, (again,), _ = world.next()
            assert again == id
    assert world.scheduler.failed == {id}, "it would loop for ever"
    error = world.store.errors()[id]
    assert error["type"] == "OutOfMemory"
    assert error["message"].startswith("host-a ran out of memory")


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        (Memory(kills=2), "The actor died unexpectedly"),  # as many as before: the kernel killed nothing
        (None, "killed or crashed on host-a, perhaps out of memory"),
    ],
)
def test_a_kill_without_proof_of_memory_counts(tmp_path: Path, memory: Memory | None, says: str) -> None:
    world = World(tmp_path, "a", points=3)
    first, (id,), _ = world.next()
    began = {"kind": "began", "id": id, "time": 0.0}
    world.heard(first, {"node": "a", "pid": 1, "events": [began], "oom_kills": 2})
    world.memory = memory
    world.trial_started(first)
    world.trial_lost(first, RuntimeError(KILLED), world.ip("a"), 1)
    assert world.scheduler.failures == {id: 1}
    assert says in world.said[-1]


def test_a_failed_allocation_is_told_as_such_and_not_blamed_at_first(tmp_path: Path) -> None:
    world = World(tmp_path, "a", points=1)
    for n in range(1, MOST + 2):
        trial, (id,), _ = world.next()
        world.ends(trial, id, "a", "failed", message="DefaultCPUAllocator: can't allocate memory: 4 bytes")
        assert bool(world.scheduler.failures) == (n >= MOST)
    error = world.store.errors()[id]
    assert error["type"] == "OutOfMemory"
    assert error["message"].startswith("host-a ran out of memory: ask for more memory")
    assert error["message"].endswith("can't allocate memory: 4 bytes")


def test_workers_that_run_out_of_memory_while_starting_say_so(tmp_path: Path) -> None:
    world = World(tmp_path, "a")
    for n in range(1, BAD_STARTS + 1):
        world.memory = Memory(kills=n, peak=GIB, limit=GIB)
        world.trial_lost(world.next()[0], RuntimeError(KILLED), world.ip("a"), None)
    assert world.broken is not None
    assert "host-a ran out of memory (1.0 of 1.0 GB)" in world.broken
    told = [entry["event"] for entry in world.store.ledger()]
    assert "shut_out" not in told, "the next job would be kept off the only nodes there are"


def test_the_ledger_s_end_tells_how_long_starting_took(tmp_path: Path) -> None:
    world = World(tmp_path, "a")
    world.heartbeat("FAILED")
    trial, (id,), _ = world.next()
    world.heard(trial, {"node": "a", "pid": 1, "events": [{"kind": "began", "id": id, "time": 50.0}]})
    world.startup_s = {"ray": 4.0, "workers": 3.0}
    world.heartbeat("STOPPED")
    ends = [entry for entry in world.store.ledger() if entry["event"] == "end"]
    assert [(entry["first_step"], entry["startup_s"]) for entry in ends] == [(None, None), (50.0, 7.0)]
