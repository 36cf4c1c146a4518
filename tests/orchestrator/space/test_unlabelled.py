"""Recordings without labels in a search space: which points they change, and how a plan tells of them."""

import dataclasses
from pathlib import Path

import pytest

from kd.errors import InputError
from kd.signals.prepare import prepare
from orchestrator.commands.plan import _windows, as_dict
from orchestrator.space.planning import make_plan
from orchestrator.space.resolve import open_space, space_of
from orchestrator.space.schema import SearchSpace, load_space, space_text
from orchestrator.space.spaces import same

TEXT = """\
data:
  options: {subjects: 5, minutes: 1}
  UNLABELLED
teachers: [{arch: resnet1d, depth: 2, width: 8}]
students: [{arch: resnet1d, depth: 2, width: 4}]
strategies: {scratch: , soft: {ARGS}}
"""
MORE = "unlabelled: {source: synthetic, options: {subjects: 8, minutes: 1}}"


@pytest.fixture
def write(tmp_path: Path):
    def write(more: str = MORE, args: str = "unlabelled_share: [0, 0.25], unlabelled_weight: 0.5") -> Path:
        path = tmp_path / "space.yaml"
        path.write_text(TEXT.replace("UNLABELLED", more).replace("ARGS", args))
        return path

    return write


def test_share_and_weight_are_grids_of_students_with_a_teacher(write, tmp_path: Path) -> None:
    opened = open_space(str(write()), [], str(tmp_path / "out"))
    by = {p.strategy: p for p in opened.plan.points if p.role == "student"}
    assert by["scratch"].strategy_args == {}
    soft = [p for p in opened.plan.points if p.strategy == "soft"]
    shares = {p.strategy_args["unlabelled_share"]: p for p in soft}
    assert set(shares) == {0.0, 0.25}
    assert shares[0.25].strategy_args["unlabelled_weight"] == 0.5
    assert shares[0.25].cost_s > shares[0.0].cost_s == by["scratch"].cost_s
    windows = opened.windows
    assert f"{len(windows.unlabelled.windows):,} without labels (" in _windows(windows)
    assert as_dict(opened)["unlabelled"]["windows"] == len(windows.unlabelled.windows) > 0


def test_without_them_points_are_what_they_were(write, tmp_path: Path) -> None:
    space = load_space(write("", ""))
    windows = prepare(space.data_config(), tmp_path / "cache")
    assert "unlabelled" not in _windows(windows)
    named = dataclasses.replace(windows, fingerprint="f")
    plan = make_plan(space.model_copy(update={"name": "s"}), named)
    assert all(set(p.strategy_args) <= {"ce", "weight", "temperature"} for p in plan.points)
    with pytest.raises(InputError, match=r"space\.yaml:.*there are none: add data\.unlabelled"):
        load_space(write("", "unlabelled_share: 0.5"))


def test_a_space_with_them_is_written_and_read_again_and_its_paths_are_made_absolute(write, tmp_path) -> None:
    path = write("unlabelled: {path: more.npz, gate: entropy, keep: 0.5}", "")
    space, _, _ = space_of(str(path), [], None)
    assert Path(space.data.unlabelled.path).is_absolute()
    again = tmp_path / "again.yaml"
    again.write_text(space_text(space))
    assert load_space(again).data == space.data
    moved = space.data.unlabelled.model_copy(update={"path": "/elsewhere/more.npz"})
    assert same(space, space.model_copy(update={"data": space.data.model_copy(update={"unlabelled": moved})}))


def test_what_is_wrong_is_said_with_its_place(write) -> None:
    with pytest.raises(
        InputError, match=r"space\.yaml:3: data\.unlabelled\.pth: unknown key; did you mean path"
    ):
        load_space(write("unlabelled: {pth: more.npz}", ""))
    with pytest.raises(InputError, match=r"unlabelled\.path is missing"):
        load_space(write("unlabelled: {gate: entropy, keep: 0.5}", ""))
    with pytest.raises(InputError, match="unknown option 'subject'"):
        load_space(write("unlabelled: {source: synthetic, options: {subject: 5}}", ""))
    assert SearchSpace.model_validate({"name": "s"}).data.unlabelled is None
