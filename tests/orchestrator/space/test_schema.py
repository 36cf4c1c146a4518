"""Search spaces: what may be written, what is refused with its line, and that writing loses nothing."""

from pathlib import Path

import pytest

from kd.errors import InputError
from kd.models.architectures import ARCHITECTURES
from orchestrator.space.schema import Students, load_space, space_text, strategy_points

SPACES = sorted((Path(__file__).resolve().parents[3] / "search_spaces").glob("*.yaml"))
TEXT = """\
data: {options: {subjects: 9}}
teachers:
  - {arch: resnet1d, depth: 8, width: [16, 24]}
students:
  - {arch: [resnet1d, mlp], depth: [2, 4], width: 4}
strategies:
  scratch:
  soft: {temperature: [2, 4], weight: 1}
  dkd: [{beta: 8}, {beta: 1, ce: 0.5}]
training: {max_epochs: 3, lr: 1e-3, teachers: {max_epochs: 6}}
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str = TEXT, name: str = "space.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_single_values_and_lists_are_grids(write) -> None:
    space = load_space(write())
    assert space.name == "space"
    assert space.students[0].width == [4]
    assert space.students[0].arch == ["resnet1d", "mlp"]
    points = list(strategy_points(space.strategies))
    assert [name for name, _ in points] == ["scratch", "soft", "soft", "dkd", "dkd"]
    assert points[1][1] == {"ce": 0.5, "weight": 1.0, "temperature": 2.0}
    assert points[4][1]["beta"] == 1.0
    assert points[4][1]["temperature"] == 4.0  # the default, filled in


def test_recipes_by_role(write) -> None:
    space = load_space(write())
    assert space.recipe("student")["max_epochs"] == 3
    assert space.recipe("teacher")["max_epochs"] == 6
    assert space.recipe("teacher")["lr"] == space.recipe("student")["lr"] == 1e-3  # YAML reads 1e-3 as text


def test_overrides(write) -> None:
    space = load_space(
        write(), ["training.max_epochs=9", "students.0.width=[4, 8]", "data.preprocess.fs=32", "seeds=[0,1]"]
    )
    assert space.recipe("student")["max_epochs"] == 9
    assert space.students[0].width == [4, 8]
    assert space.data_config().preprocess.fs == 32
    assert space.seeds == [0, 1]


REFUSED = {
    "trainng: {}": r"space.yaml:1: trainng: unknown key; did you mean training\?",
    "training: {lrr: 1}": r"space.yaml:1: training.lrr: unknown key; did you mean lr\?",
    "training: {max_epochs: 0}": "training.max_epochs is 0",
    "training: {lr: 0}": "training.lr is 0",
    "strategies: {soff: {}}": r"strategies.soff: unknown strategy; did you mean soft\?",
    "strategies: {soft: {temprature: 3}}": "no 'temprature': it takes ce, weight, temperature",
    "strategies: {soft: {temperature: 0}}": "temperature is 0",
    "strategies: {soft: {ce: 0, weight: 0}}": "every weight is 0",
    "students:\n  - {arch: resnet1d, depth: 2, width: 4}\n  - {arch: lstm, depth: 2, width: 4}": (
        r"space.yaml:3: students.1.arch.0: no such architecture; known: resnet1d, mlp \(got 'lstm'\)"
    ),
    "teachers: {arch: [mlp, resnet], depth: 2, width: 4}": r"no such architecture; did you mean resnet1d\?",
    "students: {arch: 3, depth: 2, width: 4}": "students.0.arch.0: Input should be a valid string",
    "students:\n  - {arch: mlp, depth: 2}": "students.0.width: Field required",
    "students: {arch: mlp, depth: 2, width: 4, init: prund}": r"unknown init 'prund'; did you mean pruned\?",
    "students: {arch: mlp, depth: 0, width: 4}": "greater than or equal to 1",
    "seeds: 0\nseeds: 1": "space.yaml:2: seeds is given twice",
    "name: ../up": "name",
    "data: {preprocess: {low_hz: 5}}": "low_hz",
    "data: {split: {scheme: random}}": "split.scheme",
    "task: {classes: 2}": "task.classes",
    "- a list": "is a mapping",
    "a: [": "not YAML",
}


@pytest.mark.parametrize("text", REFUSED)
def test_bad_input_is_refused_with_its_place(write, text: str) -> None:
    with pytest.raises(InputError, match=REFUSED[text]):
        load_space(write(text))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("training.max_epochs", "write key.sub=value"),
        ("students.3.width=4", "is a list of 1: no entry 3"),
        ("training.max_epochs.deep=1", "is a single value"),
        ("training.epochs=4", "did you mean max_epochs"),
        ("seeds=[", "not YAML"),
    ],
)
def test_bad_overrides(write, override: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        load_space(write(), [override])


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such search space"):
        load_space(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("path", [None, *SPACES], ids=lambda p: p.stem if p else "grid")
def test_written_and_read_again_it_is_the_same(write, path: Path | None) -> None:
    overrides = ["data.path=recordings.npz"] if path and path.stem == "wrist" else []
    space = load_space(path or write(), overrides)
    again = load_space(write(space_text(space), "again.yaml"))
    assert again == space


def test_nothing_is_executed(write) -> None:
    with pytest.raises(InputError, match="not YAML"):
        load_space(write("data: !!python/object/apply:os.system ['true']"))


def test_a_space_may_name_what_is_registered(write, monkeypatch) -> None:
    """And editors are told the same names."""
    monkeypatch.setitem(ARCHITECTURES, "lstm", ARCHITECTURES["mlp"])
    space = load_space(write("students: {arch: [lstm, mlp], depth: 2, width: 4}"))
    assert space.students[0].arch == ["lstm", "mlp"]
    schema = Students.model_json_schema(mode="validation")
    assert schema["properties"]["arch"]["items"]["enum"] == ["resnet1d", "mlp", "lstm"]
