"""Plans: identity, dependencies, sizes, and packs that keep slots busy."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.errors import InputError
from kd.signals.prepare import Data
from kd.signals.windows import Dropped, WindowSet
from orchestrator.space.packs import packs
from orchestrator.space.plan import Plan, Point
from orchestrator.space.planning import make_plan
from orchestrator.space.schema import SearchSpace

SPACE = {
    "name": "s",
    "teachers": [{"arch": "resnet1d", "depth": 4, "width": [8, 16]}],
    "students": [{"arch": ["resnet1d", "mlp"], "depth": [2, 4], "width": [4, 12]}],
    "strategies": {"scratch": None, "soft": {"temperature": [2, 4]}},
}


def data(fingerprint: str = "f", windows: int = 1000, channels: int = 1) -> Data:
    names = np.array(["a"] * windows)
    side = WindowSet(
        np.zeros((windows, channels, 200), np.float32), np.zeros(windows, np.float32), names, names
    )
    return Data(side, side, side, fingerprint, Dropped(), 30, 180)


def plan_of(changes: dict | None = None, **more) -> Plan:
    return make_plan(SearchSpace.model_validate({**SPACE, **(changes or {})}), data(**more))


def test_scratch_does_not_multiply_by_teachers() -> None:
    plan = plan_of()
    by = {s: [p for p in plan.points if p.role == "student" and p.strategy == s] for s in ("scratch", "soft")}
    assert len(by["scratch"]) == 8
    assert len(by["soft"]) == 8 * 2 * 2
    assert all(p.teacher is None for p in by["scratch"])
    teachers = {p.id for p in plan.points if p.role == "teacher"}
    assert {p.teacher for p in by["soft"]} == teachers
    assert [p.role for p in plan.points[:2]] == ["teacher", "teacher"]


def test_duplicates_across_blocks_collapse() -> None:
    block = SPACE["students"][0]
    twice = plan_of({"students": [block, {**block, "width": [12, 4, 4]}]})
    assert {p.id for p in twice.points} == {p.id for p in plan_of().points}
    assert len({p.id for p in twice.points}) == len(twice.points)


def test_defaults_written_out_are_the_same_points() -> None:
    spelled = plan_of({"strategies": {"scratch": {}, "soft": {"temperature": [2, 4], "ce": 0.5}}})
    assert {p.id for p in spelled.points} == {p.id for p in plan_of().points}


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [1]},
        {"training": {"max_epochs": 31}},
        {"training": {"lr": 1e-3}},
        {"strategies": {"soft": {"temperature": 3}}},
    ],
)
def test_what_can_change_a_result_changes_the_id(changes: dict) -> None:
    students = {p.id for p in plan_of().points if p.role == "student"}
    assert not students & {p.id for p in plan_of(changes).points if p.role == "student"}


def test_other_data_other_points_and_other_teacher_other_students() -> None:
    ids = {p.id for p in plan_of().points}
    assert not ids & {p.id for p in plan_of(fingerprint="g").points}
    changed = plan_of({"training": {"teachers": {"max_epochs": 31}}})
    kept = {p.strategy for p in changed.points if p.id in ids}
    assert kept == {"scratch"}  # only what no teacher touches


def test_what_cannot_change_a_result_does_not() -> None:
    ids = {p.id for p in plan_of().points}
    assert {p.id for p in plan_of({"resources": {"threads": 2, "cpus": 2}, "name": "other"}).points} == ids
    assert (
        len({p.id for p in plan_of({"students": [{**SPACE["students"][0], "width": [4]}]}).points} - ids) == 0
    )


def test_growing_a_space_keeps_its_points() -> None:
    grown = plan_of({"seeds": [0, 1]})
    assert {p.id for p in plan_of().points} < {p.id for p in grown.points}


def test_a_block_may_have_its_own_strategies_seeds_and_teachers() -> None:
    block = {**SPACE["students"][0], "strategies": {"dkd": {}}, "seeds": [3], "teachers": ["resnet1d-4x16"]}
    plan = plan_of({"students": [block]})
    students = [p for p in plan.points if p.role == "student"]
    big = next(p for p in plan.points if p.role == "teacher" and p.width == 16)
    assert {(p.strategy, p.seed, p.teacher) for p in students} == {("dkd", 3, big.id)}
    with pytest.raises(InputError, match="no teacher 'x'"):
        plan_of({"students": [{**block, "teachers": ["x"]}]})


def test_pruned_students_come_from_teachers_that_can() -> None:
    plan = plan_of({"students": [{"arch": "resnet1d", "depth": [2, 4], "width": [4, 12], "init": "pruned"}]})
    teachers = {p.id: p for p in plan.points if p.role == "teacher"}
    students = [p for p in plan.points if p.role == "student"]
    assert {(s.depth, s.width, teachers[s.teacher].width) for s in students} == {
        (4, 4, 8),
        (4, 4, 16),
        (4, 12, 16),
    }
    assert {s.strategy for s in students} == {"scratch", "soft"}  # a pruned scratch student has a teacher too
    assert any("depth 4, not 2" in why for why in plan.refused)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"teachers": []}, "needs a teacher, and the space has none"),
        ({"teachers": [], "students": []}, "neither teachers nor students"),
        (
            {"students": [{"arch": "mlp", "depth": 4, "width": 4, "init": "pruned"}]},
            "can't be pruned to a mlp",
        ),
    ],
)
def test_a_space_without_points_is_refused(changes: dict, why: str) -> None:
    with pytest.raises(InputError, match=why):
        plan_of(changes)


def test_sizes_follow_the_data() -> None:
    one, three = plan_of(), plan_of(channels=3)
    assert all(a.params < b.params for a, b in zip(one.points, three.points, strict=True))


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    plan = plan_of({"students": [{**SPACE["students"][0], "init": ["random", "pruned"]}]})
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text('{"name": 3}')
    with pytest.raises(InputError, match="not a plan"):
        Plan.load(tmp_path / "plan.json")
    with pytest.raises(InputError, match="no plan"):
        Plan.load(tmp_path / "missing.json")


def test_what_an_earlier_plan_trained_stays_in_the_sweep(tmp_path: Path) -> None:
    first, second = plan_of(), plan_of({"seeds": [1]})
    file = tmp_path / "plan.json"
    assert first.with_earlier(file, set()) == first
    first.save(file)
    done = {first.points[0].id, first.points[5].id}
    merged = second.with_earlier(file, done)
    assert merged.points[: len(second.points)] == second.points
    assert {p.id for p in merged.points} == {p.id for p in second.points} | done


def points_of(costs: list[float], shapes: int) -> list[Point]:
    base = plan_of().points[-1]
    return [
        dataclasses.replace(base, id=f"p{i}", cost_s=c, width=4 + i % shapes) for i, c in enumerate(costs)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 200), min_size=1, max_size=60), st.integers(1, 6), st.integers(1, 8))
def test_packs_hold_every_point_once_with_one_shape_each(costs, shapes, slots) -> None:
    points = points_of(costs, shapes)
    made = packs(points, slots)
    assert sorted(p.id for pack in made for p in pack) == sorted(p.id for p in points)
    assert all(len({p.width for p in pack}) == 1 for pack in made)
    weights = [sum(p.cost_s for p in pack) for pack in made]
    assert weights == sorted(weights, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.5, 20), min_size=40, max_size=120), st.integers(1, 4))
def test_slots_end_at_about_one_time(costs, slots) -> None:
    """Taking packs as they come, no slot is idle for longer than the longest pack, which is short."""
    made = packs(points_of(costs, 3), slots)
    ends = [0.0] * slots
    for pack in made:
        i = ends.index(min(ends))
        ends[i] += sum(p.cost_s for p in pack)
    longest = max(sum(p.cost_s for p in pack) for pack in made)
    assert max(ends) - min(ends) <= longest
    assert longest <= max(sum(costs) / slots / 8, 4.0, max(costs)) + 1e-6
