"""A sweep that trains for one question: decisions, pauses, kills; workers and store are real, Ray is not."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.commands import main as cli
from orchestrator.run.answering import Answering, Asked
from orchestrator.run.driver import _answering, _conclude_answer
from orchestrator.run.events import Events, StopRequest
from orchestrator.run.outcome import SweepResult
from orchestrator.run.pace import Pace
from orchestrator.run.point import everything_of
from orchestrator.run.progress import Progress, line
from orchestrator.run.ray_cluster import Node
from orchestrator.run.status import standing
from orchestrator.run.worker import PackTrainer, Setup
from orchestrator.space.packs import Pack, packs
from orchestrator.space.resolve import Opened, open_space
from orchestrator.space.slot import Slot
from orchestrator.store.check import check

SPACE = """\
name: asked
data: {options: {subjects: 6, minutes: 1.5}}
teachers: {arch: mlp, depth: 1, width: 8}
students: [{arch: mlp, depth: 1, width: [2, 3, 4]}]
strategies: {scratch: {}, soft: {}}
training: {max_epochs: 4, batch_size: 32}
"""


@dataclasses.dataclass(frozen=True)
class Said:
    """What `next_step` gives, said by a test."""

    train: list[tuple[str, int]]
    stop: str | None
    belief: dict[str, Any]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    (tmp_path / "asked.yaml").write_text(SPACE)
    opened = open_space(str(tmp_path / "asked.yaml"), (), str(tmp_path / "sweep"))
    opened.store.path.mkdir(parents=True)
    opened.keep().save(opened.store.path / "plan.json")
    return opened


def nothing(*args: Any, **more: Any) -> None:
    """What isn't looked at."""


class Driver:
    """One call of `run_sweep` over one worker in this process; killed by being left alone."""

    def __init__(
        self, opened: Opened, decide: Callable[..., Said], most_params: float = 1e6, **asked: Any
    ) -> None:
        self.opened, self.store, self.told = opened, opened.store, []

        def listening(**known: Any) -> Said:
            self.told.append(known)
            return decide(**known)

        options = SimpleNamespace(
            asked=Asked({"max_params": most_params}, listening, **asked), max_failures=1
        )
        plan, done = opened.plan, opened.store.done()
        found = _answering(plan, opened.store, done, Slot(), options)  # type: ignore[arg-type]
        assert found is not None
        self.answering: Answering = found
        scheduler = found.scheduler
        by_id = {point.id: point for point in plan.points}
        self.served = Counter(p.teacher for p in plan.points if p.teacher)
        cluster = SimpleNamespace(
            nodes=lambda: [Node("a", "host-a", "10.0.0.1", 1, "a")],
            elastic=False,
            address="10.0.0.0:1",
            dashboard_url=None,
            slot=Slot(),
            as_json=dict,
            memory_of=lambda node: None,
            more_memory="",
            oom_kills=None,
        )
        parts: Any = {
            "scheduler": scheduler,
            "progress": Progress(by_id, scheduler.done, scheduler.failed, scheduler.blocked, scheduler.cost),
            "store": self.store,
            "cluster": cluster,
            "dashboard": SimpleNamespace(write=nothing, publish=nothing, logs=None),
            "display": SimpleNamespace(say=nothing, show=nothing),
            "tracker": SimpleNamespace(start=nothing, ended=nothing),
            "stop": StopRequest(),
            "most_slots": None,
            "pace": Pace(self.store.path / ".tune", 2.0),
            "answering": found,
        }
        self.events = Events(**parts)
        self.events.announce()
        setup = Setup(
            sweep_dir=str(self.store.path),
            pace_dir=str(self.store.path / ".tune"),
            cache_dir=str(opened.cache_dir),
            data=opened.data,
            threads=1,
            gpu=False,
            slice_s=0.0,
            checkpoint_every_s=1e9,
            git_commit=None,
        )
        self.trainer = PackTrainer(setup)
        self.trials = 0

    def run(self, slices: int = 10_000) -> SweepResult:
        """Go on until it is over, or for so many slices, as Tune would."""
        events, trainer = self.events, self.trainer
        while slices > 0 and not events.ending:
            trial = f"t{self.trials}"
            self.trials += 1
            released = events.release(trial)
            if released is None:
                assert events.over, "it waits for ever"
                break
            points = [events.progress.points[id] for id in released[0]]
            trainer.take(Pack.of(points, self.served, events.scheduler.until))
            events.trial_started(trial)
            while trainer.ids and slices > 0 and not events.ending:
                slices -= 1
                events.heard(trial, {"node": "a", "pid": 1, **trainer.advance(0.0)})
            if slices > 0:
                trainer.pause()
                events.trial_over(trial)
        result = SweepResult(len(self.opened.plan.points), 0, len(events.scheduler.done))
        if self.answering.stopped:
            _conclude_answer(self.answering, result, self.events.tracker)
            events.heartbeat("SUCCEEDED")
        return result


def belief(**more: Any) -> dict[str, Any]:
    return {"advised": None, "p_best": None, "regret_bpm": 2.0, "share_of_grid": 0.1, **more}


def scratch_of(opened: Opened) -> list[str]:
    return [p.id for p in opened.plan.points if p.role == "student" and p.strategy == "scratch"]


def rungs(first: list[str], winner: str) -> Callable[..., Said]:
    """Each of `first` for two epochs, then one of them to its end, then enough."""

    def decide(curves: Mapping[str, Any], results: Mapping[str, Any], **known: Any) -> Said:
        if young := [id for id in first if len(curves.get(id, ())) < 2]:
            return Said([(id, 2) for id in young], None, belief())
        if winner not in results:
            return Said([(winner, 4)], None, belief(regret_bpm=0.7))
        return Said([], "reached", belief(advised=winner, p_best=0.8, regret_bpm=0.05, share_of_grid=0.25))

    return decide


def test_only_what_is_named_is_trained_and_to_the_epoch_named(opened: Opened) -> None:
    first = scratch_of(opened)
    driver = Driver(opened, rungs(first, first[1]), until_regret=0.1)
    result = driver.run()
    store = opened.store
    assert store.done() == {first[1]}
    assert {id: where["epoch"] for id, where in store.paused().items()} == {first[0]: 2, first[2]: 2}
    assert set(store.ids()) == set(first), "nothing else was begun"
    assert (result.answered, result.exit_code, result.mlflow_status) == (True, 0, "FINISHED")
    assert result.answer == "regret <= 0.05 BPM with probability 0.9 after 25 % of the grid's cost"
    first_told, *_, last_told = driver.told
    assert first_told["curves"] == first_told["results"] == {}
    assert first_told["spent_s"] == 0
    assert [p.id for p in first_told["points"]] == [p.id for p in opened.plan.points]
    assert last_told["epochs"] == {p.id: 4 for p in opened.plan.points}
    assert {id: len(curve) for id, curve in last_told["curves"].items()} == {
        **dict.fromkeys(first, 2),
        first[1]: 4,
    }
    trained = sum(store.history(id)[-1]["train_seconds"] for id in (first[0], first[2]))
    assert last_told["spent_s"] == pytest.approx(store.result(first[1])["train_seconds"] + trained)
    per_epoch = last_told["seconds_per_epoch"]
    assert per_epoch[first[0]] == pytest.approx(store.history(first[0])[-1]["train_seconds"] / 2)
    assert per_epoch.keys() == {p.id for p in opened.plan.points}
    assert all(seconds > 0 for seconds in per_epoch.values())
    assert check(store) == []


def test_a_pause_is_a_state_of_its_own_everywhere(opened: Opened) -> None:
    first = scratch_of(opened)
    Driver(opened, rungs(first, first[1]), until_regret=0.1).run()
    now = standing(opened.store.path)
    assert (now["state"], now["done"], now["paused"], now["left"]) == ("answered", 1, 2, 4)
    states = {p["id"]: p["state"] for p in now["points"]}
    assert [states[id] for id in first] == ["paused", "done", "paused"]
    assert Counter(states.values()) == {"paused": 2, "done": 1, "left": 4}
    found = everything_of(opened.store.path, first[0])
    assert (found["state"], found["paused"]["epoch"]) == ("paused", 2)
    assert "checkpoint.pt" in found["files"]
    for command, said in (("show", "after epoch 2 of 4"), ("status", "2 paused")):
        point = [first[0]] if command == "show" else []
        run = CliRunner().invoke(cli.cli, [command, str(opened.store.path), *point])
        assert said in run.stdout, run.stdout
    text = CliRunner().invoke(cli.cli, ["status", str(opened.store.path)]).stdout
    assert "answer   regret <= 0.05 BPM with probability 0.9" in text
    ledger = list(opened.store.ledger())
    assert [entry["id"] for entry in ledger if entry["event"] == "paused"].count(first[0]) == 1


def test_after_a_kill_it_believes_what_it_did_and_goes_on(opened: Opened) -> None:
    first = scratch_of(opened)
    for slices in (1, 4, 3):  # left alone in the middle: a worker that is gone leaves what it had written
        killed = Driver(opened, rungs(first, first[1]), until_regret=0.1)
        killed.run(slices)
        killed.trainer.lock.close()
    seen = {id: [r["val_mae_bpm"] for r in opened.store.history(id)] for id in opened.store.ids()}
    again = Driver(opened, rungs(first, first[1]), until_regret=0.1)
    assert again.told[0]["curves"] == {id: curve for id, curve in seen.items() if curve}
    assert again.run().answered
    assert opened.store.done() == {first[1]}
    numbers = [e["number"] for e in opened.store.decisions() if e["event"] == "decision"]
    assert numbers == list(range(1, len(numbers) + 1))


def test_what_trains_when_the_answer_is_there_is_paused_and_kept(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.run.answering.SHARE", 1e9)  # decide after every epoch
    first = scratch_of(opened)

    def decide(curves: Mapping[str, Any], **known: Any) -> Said:
        stop = "reached" if any(len(curve) >= 2 for curve in curves.values()) else None
        return Said([] if stop else [(first[0], 4)], stop, belief(regret_bpm=0.1))

    assert Driver(opened, decide, until_regret=0.1).run().answered
    assert {id: where["epoch"] for id, where in opened.store.paused().items()} == {first[0]: 2}
    assert not opened.store.done()
    told = [entry["event"] for entry in opened.store.decisions() if entry.get("id") == first[0]]
    assert told == ["started", "paused"]


def test_a_teacher_is_trained_before_its_student(opened: Opened) -> None:
    student = next(p for p in opened.plan.points if p.strategy == "soft")

    def decide(results: Mapping[str, Any], **known: Any) -> Said:
        done = student.id in results
        train = [] if done else [(str(student.teacher), 4), (student.id, 4)]
        return Said(train, "nothing-more" if done else None, belief(hours_to_target=None))

    result = Driver(opened, decide, until_regret=0.1).run()
    assert opened.store.done() == {student.id, student.teacher}
    assert (result.answered, result.exit_code) == (False, 3)
    assert "not reached: nothing more of this grid is expected to bring it to 0.1 BPM" in str(result.answer)
    assert standing(opened.store.path)["state"] == "not reached"


def test_names_that_cannot_be_trained_end_it_instead_of_waiting_for_ever(opened: Opened) -> None:
    student = next(p for p in opened.plan.points if p.strategy == "soft")
    driver = Driver(opened, lambda **known: Said([(student.id, 4)], None, belief()), gpu_hours=1.0)
    assert driver.answering.stopped == "nothing-more"
    assert driver.run().exit_code == 0, "no regret was asked for"


def test_a_point_whose_worker_dies_for_good_does_not_make_it_wait_for_ever(opened: Opened) -> None:
    first = scratch_of(opened)
    driver = Driver(opened, lambda **known: Said([(first[0], 4)], None, belief()), until_regret=0.1)
    for trial in ("t0", "t1"):  # it is tried again once
        released = driver.events.release(trial)
        assert released is not None
        driver.events.trial_started(trial)
        driver.events.trial_lost(trial, RuntimeError("it died"), None, None)
    assert driver.events.scheduler.failed == {first[0]}
    assert driver.events.release("t2") is None
    assert driver.events.over
    assert driver.answering.stopped == "nothing-more"
    assert first[0] not in [p.id for p in driver.told[-1]["points"]]


def test_deciding_takes_little_of_the_slots_time(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scratch_of(opened)
    driver = Driver(opened, rungs(first, first[1]), until_regret=0.1)
    answering, clock = driver.answering, [1000.0]
    monkeypatch.setattr("orchestrator.run.answering.time.monotonic", lambda: clock[0])
    slow = answering.asked.decide

    def decide(**known: Any) -> Any:
        clock[0] += 0.5
        return slow(**known)

    answering.asked = dataclasses.replace(answering.asked, decide=decide)
    answering._next = 0.0
    began, decided = clock[0], answering.number
    while clock[0] < began + 1000:  # every slot is busy and every second an epoch is trained
        clock[0] += 1.0
        answering.advanced()
        answering.consider(1)
    assert answering.number - decided > 10
    assert (answering.number - decided) * 0.5 / (clock[0] - began) < 0.011


def test_why_tells_what_was_believed_when(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.run.answering.SHARE", 1e-9)  # decide only where a slot is idle
    first = scratch_of(opened)
    with pytest.raises(InputError, match="nothing was chosen"):
        cli.cli.main(["why", str(opened.store.path), first[0]], standalone_mode=False)
    Driver(opened, rungs(first, first[1]), until_regret=0.1).run()
    path = str(opened.store.path)

    def told(id: str) -> dict[str, Any]:
        return json.loads(CliRunner().invoke(cli.cli, ["why", path, id, "--json"]).stdout)

    won = told(first[1])
    assert [event["event"] for event in won["events"]] == ["started", "paused", "resumed"]
    assert [event["epoch"] for event in won["events"]] == [0, 2, 2]
    started, _, resumed = (event["decision"] for event in won["events"])
    assert (started["place"], started["until"], started["belief"]["regret_bpm"]) == (2, 2, 2.0)
    assert (resumed["place"], resumed["until"], resumed["belief"]["regret_bpm"]) == (1, 4, 0.7)
    assert resumed["spent_s"] > started["spent_s"]
    left = told(next(p.id for p in opened.plan.points if p.strategy == "soft"))
    assert (left["state"], left["events"], left["named"]) == ("left", [], 0)
    assert left["last"]["stop"] == "reached"
    text = CliRunner().invoke(cli.cli, ["why", path, first[1]]).stdout
    assert "started, to epoch 2" in text
    assert "paused after epoch 2, validation" in text
    assert "resumed after epoch 2, to epoch 4" in text
    assert "regret <= 0.7 BPM with probability 0.9" in text
    assert "never begun: 0 of" in CliRunner().invoke(cli.cli, ["why", path, left["point"]]).stdout


def test_a_run_without_a_question_trains_the_rest(opened: Opened) -> None:
    first = scratch_of(opened)
    Driver(opened, rungs(first, first[1]), until_regret=0.1).run()
    options: Any = SimpleNamespace(asked=None, max_failures=1)
    store, plan = opened.store, opened.plan
    assert _answering(plan, store, store.done(), Slot(), options) is None
    now = standing(store.path)
    assert (now["state"], now["answer"], now["paused"]) == ("stopped", None, 2)
    from orchestrator.run.scheduler import Scheduler

    rest = Scheduler(plan.points, store.done(), pack=packs)
    held: list[str] = []
    while released := rest.release(f"t{len(held)}", 99):
        held += released
    assert set(first) - store.done() <= set(held), "paused points are ordinary points again"


def test_the_line_of_progress_tells_pauses_and_belief(opened: Opened) -> None:
    first = scratch_of(opened)
    driver = Driver(opened, rungs(first, first[1]), until_regret=0.1)
    driver.run(4)
    said = line(driver.events.progress, 0.0)
    assert "1 paused" in said
    assert "regret <= 2 BPM with probability 0.9 after 10 % of the grid's cost" in said


def test_the_real_decisions_train_a_part_and_stop(opened: Opened) -> None:
    from orchestrator.answers.asked import asked

    question = asked("max-params=1e6", until_regret=40.0)
    assert question is not None
    driver = Driver(opened, question.decide, until_regret=question.until_regret)
    result = driver.run()
    assert driver.answering.stopped in ("reached", "nothing-more")
    assert result.answer
    assert opened.store.done()
    first, *_, last = [e for e in opened.store.decisions() if e["event"] == "decision"]
    assert first["belief"]["share_of_grid"] == 0
    assert 0 < last["belief"]["share_of_grid"] <= 1.5
    assert last["belief"]["advised"] in opened.store.done()


def test_a_question_that_no_point_can_answer_is_refused_before_any_compute(opened: Opened) -> None:
    from orchestrator.answers.asked import asked

    question = asked("max-params=3")
    assert question is not None
    assert question.until_regret == 0.1
    with pytest.raises(InputError, match="no student of the plan is within max_params 3"):
        Driver(opened, question.decide, question.question["max_params"])
    assert not opened.store.ids()


def test_a_point_killed_between_its_last_epoch_and_its_result_is_finished(opened: Opened) -> None:
    first = scratch_of(opened)
    Driver(opened, rungs(first, first[1]), until_regret=0.1).run()
    (opened.store.folder(first[1]) / "result.json").unlink()
    assert len(opened.store.history(first[1])) == 4
    result = Driver(opened, rungs(first, first[1]), until_regret=0.1).run()
    assert result.answered
    assert opened.store.done() == {first[1]}
