"""The scheduler, simulated: whatever happens in any order, no student runs before its teacher is done."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.run.scheduler import Scheduler


@dataclass(frozen=True)
class P:
    id: str
    role: str = "student"
    teacher: str | None = None
    cost_s: float = 1.0
    of: tuple[str, ...] = ()  # of a mean: its members

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.teacher,) if self.teacher else self.of


def by_two(points: list[P], slots: int) -> list[list[P]]:
    points = sorted(points, key=lambda point: -point.cost_s)
    return [points[i : i + 2] for i in range(0, len(points), 2)]


def scheduler(points: list[P], done: set[str] = frozenset(), max_failures: int = 1) -> Scheduler:  # type: ignore[assignment]
    return Scheduler(points, set(done), pack=by_two, max_failures=max_failures)


TEACHER = P("T", "teacher", cost_s=10)


def test_students_wait_for_their_own_teacher_and_for_nothing_else() -> None:
    g = scheduler([TEACHER, P("U", "teacher", cost_s=5), P("a", teacher="T"), P("b", teacher="U"), P("c")])
    assert g.release("t1", 2) == ["T"]
    assert g.release("t2", 2) == ["U"]
    assert g.release("t3", 2) is None
    assert g.release("t3", 3) == ["c"]  # scratch waits for nobody
    g.point_done("t2", "U")
    g.trial_over("t2")
    assert g.release("t4", 3) == ["b"]  # although T still runs
    assert g.release("t5", 9) is None
    assert not g.over


def test_the_teacher_that_most_seconds_wait_for_goes_first() -> None:
    students = [P(f"s{i}", teacher="small") for i in range(30)]
    g = scheduler([P("big", "teacher", cost_s=20), P("small", "teacher", cost_s=5), *students])
    assert g.release("t", 1) == ["small"]


def test_a_mean_waits_for_all_its_members_which_go_before_others_as_its_students_wait_too() -> None:
    one, two, other = (P(id, "teacher", cost_s=5) for id in ("one", "two", "other"))
    mean = P("mean", "teacher", of=("one", "two"))
    students = [P(f"s{i}", teacher="mean", cost_s=3) for i in range(4)]
    g = scheduler([other, one, two, mean, *students, P("o", teacher="other", cost_s=3)])
    assert {g.release(f"t{k}", 2)[0] for k in range(2)} == {"one", "two"}  # type: ignore[index]
    g.point_done("t0", g.running["t0"][0])
    g.trial_over("t0")
    assert g.release("t2", 2) == ["other"]
    g.point_done("t1", g.running["t1"][0])
    g.trial_over("t1")
    assert g.release("t3", 2) == ["mean"]
    g.point_done("t3", "mean")
    g.trial_over("t3")
    assert g.release("t4", 2) == ["s0", "s1"]


def test_a_mean_is_blocked_by_the_member_that_fails_whichever_is_done_first() -> None:
    for failing in ("one", "two"):
        mean = P("mean", "teacher", of=("one", "two"))
        g = scheduler(
            [P("one", "teacher"), P("two", "teacher"), mean, P("s", teacher="mean")], max_failures=0
        )
        for trial in ("t0", "t1"):
            assert g.release(trial, 2)
        for trial in sorted(g.running, key=lambda t: g.running[t] != [failing]):  # the failing one first
            id = g.running[trial][0]
            assert g.point_failed(trial, id) is False if id == failing else g.point_done(trial, id) is None
            g.trial_over(trial)
        assert g.over
        assert g.blocked == {"mean", "s"}
        g.forgive(failing)
        assert not g.blocked
        assert g.release("t3", 1) == [failing]
        g.point_done("t3", failing)
        g.trial_over("t3")
        assert g.release("t4", 1) == ["mean"]


def test_done_points_are_never_released() -> None:
    g = scheduler([TEACHER, P("a", teacher="T"), P("b")], done={"T", "b", "not in this plan"})
    assert g.release("t", 1) == ["a"]
    g.point_done("t", "a")
    g.trial_over("t")
    assert g.over
    assert g.done == {"T", "a", "b"}


def test_a_failure_is_tried_again_then_blocks_only_its_dependants() -> None:
    g = scheduler([TEACHER, P("a", teacher="T"), P("b")], max_failures=1)
    assert g.release("t1", 2) == ["T"]
    assert g.point_failed("t1", "T") is True
    g.trial_over("t1")
    assert g.release("t2", 2) == ["T"]
    assert g.point_failed("t2", "T") is False
    g.trial_over("t2")
    assert g.blocked == {"a"}
    assert g.release("t3", 2) == ["b"]
    g.point_done("t3", "b")
    g.trial_over("t3")
    assert g.over
    assert (g.done, g.failed) == ({"b"}, {"T"})


def test_a_lost_worker_costs_its_current_point_one_try_and_its_pack_none() -> None:
    g = scheduler([P("a", cost_s=3), P("b", cost_s=2)], max_failures=1)
    assert g.release("t1", 1) == ["a", "b"]
    assert g.trial_lost("t1", blame=True) == ("a", True)
    assert g.failures == {"a": 1}
    assert g.release("t2", 1) == ["a"]
    assert g.trial_lost("t2", blame=False) == ("a", True)  # the node left: nobody's fault
    assert g.failures == {"a": 1}
    assert g.release("t3", 1) == ["a"]
    assert g.trial_lost("t3", blame=True) == ("a", False)
    assert g.release("t4", 1) == ["b"]


@st.composite
def plans(draw: st.DrawFn) -> list[P]:
    teachers = [P(f"T{i}", "teacher", cost_s=draw(st.floats(0.1, 9))) for i in range(draw(st.integers(0, 4)))]
    for i in range(draw(st.integers(0, 2)) if teachers else 0):
        of = draw(st.lists(st.sampled_from([t.id for t in teachers if not t.of]), min_size=1, unique=True))
        teachers.append(P(f"M{i}", "teacher", of=tuple(of)))
    of = st.sampled_from([None, *(teacher.id for teacher in teachers)])
    students = [
        P(f"s{i}", teacher=draw(of), cost_s=draw(st.floats(0.1, 9))) for i in range(draw(st.integers(0, 12)))
    ]
    return teachers + students


@settings(max_examples=200, deadline=None)
@given(plan=plans(), slots=st.integers(1, 4), data=st.data())
def test_every_history_ends_with_every_point_accounted_for(
    plan: list[P], slots: int, data: st.DataObject
) -> None:
    by_id = {point.id: point for point in plan}
    g = scheduler(plan, max_failures=1)
    trials, forgiven = 0, set()
    for _ in range(500):
        while (ids := g.release(f"t{trials}", slots)) is not None:
            assert ids
            for id in ids:
                assert set(by_id[id].needs) <= g.done
            trials += 1
        assert len(g.running) <= slots
        held = [id for ids in g.running.values() for id in ids]
        assert len(held) == len(set(held))
        assert not set(held) & (g.done | g.failed | g.blocked)
        if (id := next(iter(sorted(g.failed - forgiven)), None)) and data.draw(st.booleans()):
            forgiven.add(id)
            g.forgive(id)  # its node was bad
            continue
        if g.over:
            break
        trial = data.draw(st.sampled_from(sorted(g.running)))
        event = data.draw(st.sampled_from(["done", "done", "failed", "lost", "left", "stopped"]))
        left = g.running[trial]
        if event == "done" and left:
            g.point_done(trial, left[0])
        elif event == "failed" and left:
            g.point_failed(trial, left[0])
        elif event == "lost":
            g.trial_lost(trial, blame=True)
        elif event == "left" and data.draw(st.booleans()):
            g.trial_lost(trial, blame=False)
        if trial in g.running and (event == "stopped" or not g.running[trial]):
            g.trial_over(trial)
    else:
        raise AssertionError("the simulation did not end")
    assert g.done | g.failed | g.blocked == by_id.keys()
    assert g.cost.left_s == pytest.approx(0, abs=1e-6)
    for point in plan:
        if point.id in g.blocked:
            assert set(point.needs) & (g.failed | g.blocked)
