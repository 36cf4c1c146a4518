"""A scheduler that releases only what is named, to the epoch it is named for."""

from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.run.chosen import Chosen


@dataclass(frozen=True)
class P:
    id: str
    role: str = "student"
    teacher: str | None = None
    cost_s: float = 10.0

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.teacher,) if self.teacher else ()


PLAN = [P("T", "teacher"), P("a", teacher="T"), P("b"), P("c")]


def chosen(plan: list[P] = PLAN, done: tuple[str, ...] = (), **trained: int) -> Chosen:
    def pairs(points: list[P], slots: int) -> list[list[P]]:
        return [points[i : i + 2] for i in range(0, len(points), 2)]

    return Chosen(plan, set(done), pack=pairs, epochs={p.id: 10 for p in plan}, trained=trained)


def test_nothing_is_released_before_it_is_named_and_then_the_most_valuable_first() -> None:
    g = chosen()
    assert g.release("t0", 2) is None
    g.choose([("c", 3), ("b", 10)])
    assert g.release("t1", 2) == ["c", "b"]
    assert g.until == {"c": 3, "b": 10}
    assert g.cost.left_s == 3 + 10
    assert g.release("t2", 2) is None
    assert not g.over
    g.end()
    assert g.over


def test_a_student_waits_for_its_teacher_though_it_is_named() -> None:
    g = chosen()
    g.choose([("a", 5), ("T", 10)])
    assert g.release("t1", 2) == ["T"]
    assert g.release("t2", 2) is None
    g.point_done("t1", "T")
    g.trial_over("t1")
    assert g.release("t2", 2) == ["a"]


def test_a_paused_point_goes_on_only_when_it_is_named_for_longer() -> None:
    g = chosen()
    g.choose([("b", 3)])
    assert g.release("t1", 1) == ["b"]
    g.point_paused("t1", "b", 3)
    g.trial_over("t1")
    assert g.release("t2", 1) is None
    g.choose([("b", 3), ("c", 1)])
    assert g.release("t2", 1) == ["c"]
    g.trial_over("t2")
    g.choose([("b", 4)])
    assert g.release("t3", 1) == ["b"]


def test_what_was_trained_before_a_kill_is_known() -> None:
    g = chosen(b=4)
    g.choose([("b", 4), ("c", 2)])
    assert g.release("t1", 1) == ["c"]
    assert g.cost.left_s == 2


def test_what_failed_for_good_is_not_released_again_nor_its_students() -> None:
    g = chosen()
    g.choose([("T", 10), ("a", 10)])
    for trial in ("t1", "t2"):
        assert g.release(trial, 1) == ["T"]
        g.point_failed(trial, "T")
        g.trial_over(trial)
    assert (g.failed, g.blocked) == ({"T"}, {"a"})
    assert g.release("t3", 1) is None


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), slots=st.integers(1, 3))
def test_every_point_trains_only_what_was_named(data: st.DataObject, slots: int) -> None:
    plan = [P("T", "teacher"), *(P(f"s{i}", teacher="T" if i % 2 else None) for i in range(6))]
    g = chosen(plan)
    for trial in range(25):
        ids = st.sampled_from(sorted(g.points))
        g.choose(data.draw(st.lists(st.tuples(ids, st.integers(1, 10)), max_size=4)))
        if released := g.release(f"t{trial}", slots):
            held = [id for ids in g.running.values() for id in ids]
            assert len(held) == len(set(held))
            for id in released:
                assert g.trained.get(id, 0) < g.until[id]
                assert g.points[id].teacher is None or g.points[id].teacher in g.done
        if g.running and data.draw(st.booleans()):
            at = data.draw(st.sampled_from(sorted(g.running)))
            for id in list(g.running[at]):
                if g.until.get(id, 10) >= 10:
                    g.point_done(at, id)
                else:
                    g.point_paused(at, id, g.until[id])
            g.trial_over(at)
        assert not set(g.until) & g.done & set(g.ready)
