"""The schedule wsd: a point trained for N epochs goes on to more, as if it had been trained so long."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from kd.errors import InputError
from kd.signals.prepare import Data
from kd.training.recipe import Recipe, Spec
from kd.training.schedule import Cooldown, rates
from kd.training.stem import Stem
from kd.training.train import Runs

RECIPE = Recipe(max_epochs=5, batch_size=32, lr=3e-3, schedule="wsd")
STUDENT = Spec("s", "student", "mlp", 1, 4, recipe=RECIPE, seed=3)


def of(epochs: int, spec: Spec = STUDENT) -> Spec:
    return dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, max_epochs=epochs))


def train(runs: Runs) -> dict:
    while runs.step() != [None]:
        pass
    return runs.finish(0)


@pytest.fixture(scope="module")
def teacher(small_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    train(Runs([Spec("t", "teacher", "mlp", 1, 6, recipe=Recipe(max_epochs=2))], small_data, [folder]))
    return folder


def test_the_rate_rises_stays_and_falls_as_one_minus_sqrt() -> None:
    recipe, steps = Recipe(max_epochs=10, lr=2.0, schedule="wsd", warmup_epochs=0.5), 8
    found = rates(recipe, steps, np.arange(10 * steps), Cooldown.planned(recipe))
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert set(found[4 : 8 * steps]) == {2.0}
    into = np.arange(2 * steps) / (2 * steps)
    assert found[8 * steps :] == pytest.approx(2.0 * (1 - np.sqrt(into)))
    assert found[-1] > 0


@pytest.mark.parametrize("longer", [6, 7, 30, 300])
def test_before_the_cooldown_no_rate_depends_on_the_length(longer: int) -> None:
    few = RECIPE.cooldown_from * 11
    recipes = (of(n).recipe for n in (5, longer))
    one, other = (rates(r, 11, np.arange(few), Cooldown.planned(r)) for r in recipes)
    assert one.tobytes() == other.tobytes()


def test_without_a_cooldown_it_stays() -> None:
    recipe = dataclasses.replace(RECIPE, cooldown_fraction=0.0)
    assert recipe.cooldown_from == 5
    assert rates(recipe, 4, np.arange(20), Cooldown.planned(recipe))[-1] == recipe.lr


@pytest.mark.parametrize("strategy", ["scratch", "dkd"])
def test_trained_longer_it_ends_with_the_bits_of_so_long_a_training(
    small_data: Data, teacher: Path, tmp_path: Path, strategy: str
) -> None:
    spec = dataclasses.replace(STUDENT, strategy=strategy, teacher="t" if strategy == "dkd" else None)
    folders = [teacher if strategy == "dkd" else None]
    stem = Stem(tmp_path / "stems", "abc")
    short = Runs([of(5, spec)], small_data, [tmp_path / "short"], teacher_folders=folders, stems=[stem])
    train(short)
    assert sorted(path.name for path in stem.folder.iterdir()) == ["abc-4.jsonl", "abc-4.pt"]

    longer = Runs([of(8, spec)], small_data, [tmp_path / "longer"], teacher_folders=folders, stems=[stem])
    assert longer.members[0].epoch == 4
    found = train(longer)
    whole = Runs([of(8, spec)], small_data, [tmp_path / "whole"], teacher_folders=folders)
    expected = train(whole)
    bits = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("longer", "whole", "short")]
    assert bits[0] == bits[1] != bits[2]
    same = ("mae_bpm", "val_mae_bpm", "epochs", "best_epoch")
    assert [found[key] for key in same] == [expected[key] for key in same]
    curves = [
        [
            json.loads(row)["val_mae_bpm"]
            for row in (tmp_path / name / "history.jsonl").read_text().splitlines()
        ]
        for name in ("longer", "whole")
    ]
    assert curves[0] == curves[1]
    told = json.loads((tmp_path / "longer" / "continued.json").read_text())
    rows = (stem.folder / "abc-4.jsonl").read_text().splitlines()
    assert told == {"epoch": 4, "seconds": json.loads(rows[-1])["train_seconds"]}
    assert not (tmp_path / "whole" / "continued.json").exists()


def test_a_shorter_training_and_one_by_cosine_begin_anew(small_data: Data, tmp_path: Path) -> None:
    stem = Stem(tmp_path / "stems", "abc")
    train(Runs([of(8)], small_data, [tmp_path / "long"], stems=[stem]))
    assert [path.name for path in stem.folder.glob("*.pt")] == ["abc-6.pt"]
    assert Runs([of(5)], small_data, [tmp_path / "short"], stems=[stem]).members[0].epoch == 0
    cosine = dataclasses.replace(STUDENT, recipe=Recipe(max_epochs=30, batch_size=32))
    assert Runs([cosine], small_data, [tmp_path / "cosine"], stems=[stem]).members[0].epoch == 0


def test_a_damaged_stem_costs_its_epochs_only(small_data: Data, tmp_path: Path) -> None:
    stem = Stem(tmp_path / "stems", "abc")
    train(Runs([of(5)], small_data, [tmp_path / "short"], stems=[stem]))
    (stem.folder / "abc-4.pt").write_bytes(b"PK damaged")
    longer = Runs([of(8)], small_data, [tmp_path / "longer"], stems=[stem])
    assert longer.members[0].epoch == 0
    assert "set aside" in str(longer.members[0].set_aside)
    assert not (tmp_path / "longer" / "continued.json").exists()


def test_a_paused_one_goes_on_past_where_lengths_part(small_data: Data, tmp_path: Path) -> None:
    stem = Stem(tmp_path / "stems", "abc")
    waits = Runs([of(5)], small_data, [tmp_path / "point"], until=[2], stems=[stem])
    while waits.step() != [None]:
        pass
    assert waits.members[0].waits
    assert not stem.folder.exists()
    train(Runs([of(5)], small_data, [tmp_path / "point"], stems=[stem]))
    train(Runs([of(5)], small_data, [tmp_path / "whole"]))
    bits = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("point", "whole")]
    assert bits[0] == bits[1]
    assert (stem.folder / "abc-4.pt").exists()


def test_a_schedule_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="use cosine, wsd"):
        Recipe(schedule="linear")  # type: ignore[arg-type]
