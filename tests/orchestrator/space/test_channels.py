"""Teachers that see the accelerometer and students that don't, and the other way round: other points."""

from pathlib import Path

import pytest

from kd.errors import InputError
from orchestrator.answers.next_space import space_like
from orchestrator.run.worker import spec_of
from orchestrator.space.plan import Plan
from orchestrator.space.resolve import open_space
from orchestrator.space.schema import load_space, space_text

TEXT = """\
name: s
data:
  options: {subjects: 5, minutes: 1}
  preprocess: {channels: {ppg: mean, acc: xyz}}
teachers:
  - {arch: resnet1d, depth: 2, width: 8}
students:
  - {arch: [resnet1d, mlp], depth: 2, width: 4}
strategies: {soft: {}}
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str = TEXT) -> Path:
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def plan(write, tmp_path: Path):
    def plan(text: str = TEXT) -> Plan:
        return open_space(str(write(text)), [], str(tmp_path / "out")).plan

    return plan


def test_what_sees_one_sensor_is_another_point_of_another_size(plan) -> None:
    everything = plan()
    assert all("channels" not in p.recipe for p in everything.points)
    said = plan(TEXT.replace("width: 8}", "width: 8, channels: [acc, ppg]}"))
    assert {p.id for p in said.points} == {p.id for p in everything.points}  # the default, spelled out
    some = plan(TEXT.replace("width: 4}", "width: 4, channels: ppg}"))
    assert {p.id for p in some.points} & {p.id for p in everything.points} == {everything.points[0].id}
    (mlp,) = (p for p in some.points if p.arch == "mlp")
    (whole,) = (p for p in everything.points if p.arch == "mlp")
    assert whole.params - mlp.params == 3 * 200 * 4  # three axes fewer
    assert spec_of(mlp).recipe.channels == "ppg"
    assert mlp.teacher == whole.teacher


def test_teachers_tell_them_apart_by_name_and_prune_none_of_another_input(plan) -> None:
    blocks = TEXT.replace(
        "width: 8}", "width: 8}\n  - {arch: resnet1d, depth: 2, width: 8, channels: ppg}"
    ).replace("width: 4}", "width: 4, channels: ppg, init: pruned}")
    found = plan(blocks)
    assert [p.name for p in found.points if p.role == "teacher"] == ["resnet1d-2x8", "resnet1d-2x8-ppg"]
    (student,) = (p for p in found.points if p.role == "student")
    assert student.teacher == found.points[1].id
    assert any("resnet1d-2x8: it sees other sensors than the student" in why for why in found.refused)


def test_sensors_that_are_not_there_are_refused_with_their_line(write) -> None:
    acc = TEXT.replace("width: 8}", "width: 8, channels: [ppg, acc]}")
    with pytest.raises(InputError, match=r"space\.yaml:6: teachers\.0\.channels: windows have no accelero"):
        load_space(write(acc.replace("acc: xyz", "acc: none")))
    with pytest.raises(InputError, match=r"channels: no such sensor: 'ac'; did you mean acc\?"):
        load_space(write(acc.replace("[ppg, acc]", "ac")))
    space = load_space(write(acc))
    assert load_space(write(space_text(space))) == space
    without = load_space(write(TEXT.replace("acc: xyz", "acc: none").replace("4}", "4, channels: ppg}")))
    assert without.seen(without.students[0]) == ""  # all there is


def test_suggestions_go_on_with_the_space_whose_students_see_the_same(write) -> None:
    space = load_space(write())
    recipe = {key: str(value) for key, value in {**space.recipe("student"), "channels": "ppg"}.items()}
    assert space_like({"group": {"recipe": recipe}}, [space], "s") is space
