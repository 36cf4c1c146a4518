"""Folds as an axis of a sweep: which are trained, from which teachers, under which ids."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from kd.errors import InputError
from kd.signals.prepare import Data, fingerprint
from kd.signals.windows import Dropped, WindowSet
from kd.training.recipe import Recipe
from orchestrator.space.packs import packs
from orchestrator.space.plan import Plan, Point
from orchestrator.space.planning import make_plan
from orchestrator.space.schema import SearchSpace, load_space, space_text
from orchestrator.store.metric import Headline

SPACE = {
    "name": "s",
    "data": {"split": {"scheme": "kfold", "folds": 3}},
    "teachers": [{"arch": "resnet1d", "depth": 2, "width": [8, 16]}],
    "students": [{"arch": "resnet1d", "depth": 2, "width": [4, 6], "init": ["random", "pruned"]}],
    "strategies": {"scratch": None, "soft": None},
}
QUICKSTART = Path(__file__).resolve().parents[3] / "search_spaces" / "quickstart.yaml"


def windows(name: str) -> Data:
    names = np.array(["a"] * 10)
    side = WindowSet(np.zeros((10, 1, 200), np.float32), np.zeros(10, np.float32), names, names)
    return Data(side, side, side, name, Dropped(), 30, 180)


FOLDS = {fold: windows(f"fold{fold}") for fold in range(3)}


def plan_of(**changes) -> Plan:
    return make_plan(SearchSpace.model_validate({**SPACE, **changes}), FOLDS, "all")


def without_folds(p: Point) -> bool:
    return (p.fold, p.data_group, p.teacher_group) == (None, p.data_fingerprint, p.teacher)


def test_every_point_belongs_to_a_fold_and_learns_from_teachers_of_that_fold() -> None:
    plan = plan_of()
    assert plan.folds == [0, 1, 2]
    points = {p.id: p for p in plan.points}
    for p in plan.points:
        assert (p.data_fingerprint, p.data_group) == (f"fold{p.fold}", "all")
        assert p.teacher is None or points[p.teacher].fold == p.fold
    assert len(plan.points) == 3 * (2 + 2 + 2 * 2 + 2 * 2 * 2)
    assert [p.role for p in plan.points[:6]] == ["teacher"] * 6
    groups = {
        p.teacher_group: {q.teacher for q in plan.points if q.teacher_group == p.teacher_group}
        for p in plan.points
    }
    assert len(groups.pop(None)) == 1
    assert sorted(len(ids) for ids in groups.values()) == [3, 3]
    assert not set(groups) & set(points)


def test_a_space_trains_the_folds_it_uses() -> None:
    some = plan_of(data={"split": {"scheme": "kfold", "folds": 3, "use": [2, 0]}})
    assert some.folds == [0, 2]
    assert {p.id for p in some.points} == {p.id for p in plan_of().points if p.fold != 1}
    one = SearchSpace.model_validate({**SPACE, "data": {"split": {"scheme": "kfold", "folds": 3, "fold": 2}}})
    assert make_plan(one, FOLDS, "all").folds == [2]


def test_points_of_the_quickstart_keep_their_ids() -> None:
    space = load_space(QUICKSTART, ["data.split={scheme: fixed}"])
    plan = make_plan(space, windows(fingerprint(space.data_config())))
    ids = [p.id for p in plan.points]
    assert ids[:3] == ["a0822bfeeb5a", "4f6b2499d919", "f3c3e327c276"]
    assert hashlib.sha256(" ".join(sorted(ids)).encode()).hexdigest()[:16] == "03e5c0c09f5d9dd3"
    assert all(map(without_folds, plan.points))


def test_a_metric_that_is_said_and_folds_change_what_early_stopping_goes_by() -> None:
    fixed = {**SPACE, "data": {}}
    assert "stop_on" not in SearchSpace.model_validate(fixed).recipe("student")
    assert "stop_on" not in SearchSpace.model_validate({**fixed, "metric": "by-window"}).recipe("student")
    assert (
        SearchSpace.model_validate({**fixed, "metric": "by-subject"}).recipe("teacher")["stop_on"]
        == "by-subject"
    )
    assert (
        SearchSpace.model_validate({**SPACE, "metric": "p90-subject"}).recipe("student")["stop_on"]
        == "p90-subject"
    )
    assert SearchSpace.model_validate(SPACE).recipe("student")["stop_on"] == "by-subject"
    ids = {p.id for p in plan_of().points}
    assert not ids & {p.id for p in plan_of(metric="p90-subject").points}


def test_weights_of_data_sets_reach_early_stopping_and_the_ids() -> None:
    weighted = SearchSpace.model_validate({**SPACE, "data": {}, "metric_weights": {"b": 1, "a": 2}})
    for role in ("teacher", "student"):
        recipe = weighted.recipe(role)
        assert recipe["stop_on"] == "by-subject"
        assert list(recipe["stop_weights"].items()) == [("a", 2.0), ("b", 1.0)]
        assert Recipe(**recipe).stop_weights == {"a": 2.0, "b": 1.0}
        assert "stop_weights" not in SearchSpace.model_validate(SPACE).recipe(role)
    ids = {p.id for p in plan_of().points}
    assert not ids & {p.id for p in plan_of(metric_weights={"a": 2}).points}


def test_a_teacher_is_named_in_all_folds_by_its_name_or_any_of_its_ids() -> None:
    plan = plan_of()
    teacher = next(p for p in plan.points if p.width == 16 and p.fold == 1)
    group = next(p.teacher_group for p in plan.points if p.teacher == teacher.id)
    for name in (teacher.name, teacher.id, group):
        chosen = plan_of(students=[{**SPACE["students"][0], "teachers": [name]}])
        assert {p.teacher_group for p in chosen.points} == {None, group}
        assert chosen.folds == [0, 1, 2]


def test_packs_hold_points_of_one_fold() -> None:
    made = packs([p for p in plan_of().points if p.role == "student"], 2)
    assert all(len({p.fold for p in pack}) == 1 for pack in made)


def test_a_plan_keeps_folds_and_metric_and_reads_one_that_has_none(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan = plan_of(metric_weights={"a": 2})
    plan.save(file)
    assert Plan.load(file) == plan
    assert plan.headline == Headline("by-subject", {"a": 2.0})
    content = json.loads(file.read_text())
    for name in ("fold", "data_group", "teacher_group"):  # as earlier versions wrote it
        place = content["columns"].index(name)
        content["columns"].pop(place)
        for row in content["points"]:
            row.pop(place)
    del content["metric"], content["metric_weights"]
    file.write_text(json.dumps(content))
    older = Plan.load(file)
    assert older.headline == Headline("by-window")
    assert all(map(without_folds, older.points))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("data: {split: {use: [0]}}", "data.split.use chooses folds, but the scheme is fixed"),
        ("data: {split: {scheme: kfold, folds: 3, use: [3]}}", "no fold 3: there are 3, numbered from 0"),
        ("data: {split: {scheme: kfold, use: [0, 0]}}", "name each fold that shall be trained once"),
        ("data: {split: {scheme: kfold, use: some}}", "data.split.use"),
        ("data: {split: {scheme: kfold, use: all, fold: 1}}", "unknown key"),
        (
            "metric: mean",
            "metric: Input should be 'by-subject', 'by-window', 'p90-subject', 'tracked-",
        ),
        ("metric: by-window\nmetric_weights: {A: 1}", "leave them out, or use by-subject"),
        ("metric_weights: {A: 0}", "give a data set a weight above 0"),
    ],
)
def test_folds_and_metrics_that_cannot_be_are_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(f"{text}\nstudents: {{arch: mlp, depth: 1, width: 4}}\n")
    with pytest.raises(InputError) as error:
        load_space(file)
    assert str(file) in str(error.value)
    assert why in str(error.value)


def test_weights_are_of_the_data_sets_that_are_tested() -> None:
    with pytest.raises(InputError, match="metric_weights weigh b, but tested are a: give each of these"):
        plan_of(metric_weights={"b": 1})
    names = np.array(["b"] * 10)
    val = dataclasses.replace(FOLDS[0].val, dataset=names)
    space = SearchSpace.model_validate({**SPACE, "metric_weights": {"a": 1}})
    with pytest.raises(InputError, match=r"give those who validate \(b\) no weight"):
        make_plan(space, FOLDS | {1: dataclasses.replace(FOLDS[1], val=val)}, "all")


def test_a_space_with_folds_and_a_metric_is_written_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "metric: p90-subject\ndata: {split: {scheme: kfold, fold: 2}}\n"
        "students: {arch: mlp, depth: 1, width: 4}\n"
    )
    space = load_space(file)
    assert space.use == [2]
    file.write_text(space_text(space))
    assert load_space(file) == space
