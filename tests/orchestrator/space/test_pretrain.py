"""Pre-trained teachers in a search space: other points, told apart wherever teachers are named."""

import dataclasses
import json
from pathlib import Path

import pytest

from kd.errors import InputError
from orchestrator.commands.plan import _differing
from orchestrator.space.plan import Plan
from orchestrator.space.planning import make_plan
from orchestrator.space.resolve import open_space
from orchestrator.space.schema import load_space, space_text

TEXT = """\
name: s
data:
  options: {subjects: 5, minutes: 1}
  unlabelled: {source: synthetic, options: {subjects: 8, minutes: 1}}
teachers:
  - {arch: resnet1d, depth: 2, width: 8}
  - {arch: resnet1d, depth: 2, width: 8, pretrain: {method: contrastive, epochs: 20}}
students: [{arch: resnet1d, depth: 2, width: 4}]
strategies: {soft: {}}
"""
BLOCK = ", pretrain: {method: contrastive, epochs: 20}"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str = TEXT) -> Path:
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return path

    return write


def plan_of(path: Path, windows) -> Plan:
    return make_plan(load_space(path), windows)


def test_a_pre_trained_teacher_is_another_point_and_others_keep_their_ids(write, tmp_path: Path) -> None:
    opened = open_space(str(write()), [], str(tmp_path / "out"))
    windows = dataclasses.replace(opened.windows, fingerprint="f")
    plain, pretrained = (p for p in plan_of(write(), windows).points if p.role == "teacher")
    assert (plain.id, plain.name) == ("83182ee6aaef", "resnet1d-2x8")  # as before there was pre-training
    assert (pretrained.strategy_args, pretrained.name) == (
        {"pretrain_epochs": 20},
        "resnet1d-2x8-pretrained20",
    )
    assert _differing(pretrained) == "pretrain_epochs=20"
    longer = plan_of(write(TEXT.replace("epochs: 20", "epochs: 21")), windows)
    ids = {p.id for p in longer.points if p.role == "teacher"}
    assert plain.id in ids
    assert pretrained.id not in ids
    students = [p for p in plan_of(write(), windows).points if p.role == "student"]
    assert {p.teacher for p in students} == {plain.id, pretrained.id}
    assert plan_of(write(TEXT.replace(BLOCK, ", seeds: 1")), windows).points[0] == plain


def test_its_cost_counts_every_window_without_labels(write, tmp_path: Path) -> None:
    opened = open_space(str(write()), [], str(tmp_path / "out"))
    plain, pretrained = (p for p in opened.plan.points if p.role == "teacher")
    more = pretrained.cost_s - plain.cost_s
    longer = plan_of(write(TEXT.replace("epochs: 20", "epochs: 40")), opened.windows).points[1]
    assert longer.cost_s - plain.cost_s == pytest.approx(2 * more)
    fewer = dataclasses.replace(opened.windows, unlabelled=None)
    without = plan_of(write(), fewer).points[1]
    share = len(fewer.train) / len(opened.windows.taught_x)
    assert without.cost_s - plain.cost_s == pytest.approx(share * more)


def test_students_may_name_it(write, tmp_path: Path) -> None:
    one = TEXT.replace("width: 4}", "width: 4, teachers: resnet1d-2x8-pretrained20}")
    plan = open_space(str(write(one)), [], str(tmp_path / "out")).plan
    (student,) = (p for p in plan.points if p.role == "student")
    by = {p.id: p for p in plan.points}
    assert by[student.teacher].strategy_args == {"pretrain_epochs": 20}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{method: masked, epochs: 3}", r"space\.yaml:7.*'masked' is no way.*write method: contrastive"),
        ("{epochs: 3}", r"space\.yaml:7: teachers\.1\.pretrain\.method: Field required"),
        ("{method: contrastive}", r"teachers\.1\.pretrain\.epochs: Field required"),
        ("{method: contrastive, epochs: 0}", r"teachers\.1\.pretrain\.epochs: .*greater than or equal to 1"),
        ("{method: contrastive, epoch: 3}", r"unknown key; did you mean epochs"),
    ],
)
def test_what_it_is_not_is_refused(write, block: str, message: str) -> None:
    path = write(TEXT.replace("{method: contrastive, epochs: 20}", block))
    with pytest.raises(InputError, match=message):
        load_space(path)


def test_it_is_no_argument_of_a_strategy(write) -> None:
    with pytest.raises(InputError, match="strategy scratch has no 'pretrain_epochs'"):
        load_space(write(TEXT.replace("soft: {}", "scratch: {pretrain_epochs: 3}")))


def test_a_space_with_it_is_written_and_read_again(write, tmp_path: Path) -> None:
    space = load_space(write())
    again = tmp_path / "again.yaml"
    again.write_text(space_text(space))
    assert load_space(again) == space
    assert json.loads(space.teachers[1].model_dump_json())["pretrain"]["epochs"] == 20
