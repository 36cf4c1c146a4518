"""A sweep keeps every space it was given, and its plan is their union."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.commands.plan import plan as plan_command
from orchestrator.run.status import standing
from orchestrator.space.plan import Plan
from orchestrator.space.resolve import Opened, open_space
from orchestrator.space.spaces import documents, space_files, write_documents
from orchestrator.tracking.reader import from_folder

SPACE = """
name: grown
data: {options: {subjects: 9, minutes: 2}}
students:
  - {arch: mlp, depth: 1, width: [4, 5]}
training: {max_epochs: 1, batch_size: 64}
"""


def opened(folder: Path, width: str = "[4, 5]", *more: str) -> Opened:
    file = folder.parent / "given.yaml"
    file.write_text(SPACE)
    return open_space(str(file), [f"students.0.width={width}", *more], str(folder))


def kept(folder: Path, width: str, *more: str) -> Plan:
    """What a driver does before it trains."""
    plan = opened(folder, width, *more).keep()
    plan.save(folder / "plan.json")
    return plan


def widths(plan: Plan) -> list[int]:
    return [point.width for point in plan.points]


def test_a_second_space_adds_to_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    kept(folder, "[4, 5]")
    first = (folder / "spaces" / "001.yaml").read_bytes()
    second = opened(folder, "[5, 6]")
    assert widths(second.plan) == [4, 5, 6], "nothing untrained is forgotten"
    assert second.left_in_words() == ("1 new points, 0 already done, 2 of an earlier space still to train")
    kept(folder, "[5, 6]")
    kept(folder, "[5, 6]", "resources.cpus=2")
    kept(folder, "[4, 5]")
    assert [file.name for file in space_files(folder)] == ["001.yaml", "002.yaml"]
    assert (folder / "spaces" / "001.yaml").read_bytes() == first
    ids = [point.id for point in Plan.load(folder / "plan.json").points]
    said = json.loads(CliRunner().invoke(plan_command, [str(folder), "--json"]).output)
    assert [point["id"] for point in said["points"]] == ids
    assert standing(folder)["total"] == said["total"] == 3


def test_a_sweep_of_an_earlier_version_has_one_space(tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    assert space_files(folder) == [folder / "space.yaml"]
    assert widths(kept(folder, "[6]")) == [4, 5, 6]
    assert (folder / "spaces" / "001.yaml").read_text() == SPACE
    assert len(space_files(folder)) == 2


def test_a_space_added_meanwhile_is_in_the_plan(tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    mine = opened(folder, "[4]")
    kept(folder, "[5]")
    assert widths(mine.keep()) == [5, 4]
    assert len(space_files(folder)) == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("name=other", r"given.yaml: name is 'other', but .*001.yaml has 'grown'.*--out"),
        ("data.options.minutes=3", r"given.yaml: data.options.minutes is 3, but .*--out"),
        ("task.min_bpm=35", r"given.yaml: task.min_bpm is 35.*--out"),
    ],
)
def test_spaces_of_one_sweep_agree_in_name_and_data(tmp_path: Path, change: str, why: str) -> None:
    folder = tmp_path / "grown"
    kept(folder, "[4]")
    before = documents(folder)
    with pytest.raises(InputError, match=why):
        opened(folder, "[4]", change)
    assert documents(folder) == before


def test_another_recipe_may_be_added(tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    kept(folder, "[4]")
    assert [p.recipe["max_epochs"] for p in kept(folder, "[4]", "training.max_epochs=2").points] == [1, 2]


def test_all_spaces_travel_as_documents(tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    kept(folder, "[4]")
    kept(folder, "[5]")
    source = from_folder(folder)
    write_documents(tmp_path / "copy", source.space)
    assert documents(tmp_path / "copy") == source.space == documents(folder)
    assert widths(open_space(str(tmp_path / "copy"), [], None).plan) == [4, 5]
