"""Trained longer, a wsd training is to the bit so long a training: every strategy, engine, company."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd.signals.prepare import Data
from kd.training import compiled
from kd.training.fused import fits
from kd.training.recipe import Recipe, Spec
from kd.training.schedule import Cooldown, rates
from kd.training.stack import Shape
from kd.training.stem import Stem, epochs_kept
from kd.training.strategies import PRETRAIN, STRATEGIES, defaults, needs_teacher, weights
from kd.training.train import Runs

RECIPE = Recipe(
    max_epochs=4, batch_size=64, lr=3e-3, schedule="wsd", cooldown_fraction=0.4, warmup_epochs=1.5
)  # constant until 2 epochs are over
LONG = dataclasses.replace(RECIPE, max_epochs=6)  # until 4 are
STUDENT = Spec("s", "student", "resnet1d", 2, 4, recipe=RECIPE, seed=1)
KNOWN = [name for name in STRATEGIES if fits(Shape("mlp", 1, 1, 1, 1, 1), weights(name, defaults(name)))]


@pytest.fixture(scope="module")
def taught(small_data: Data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    recipe = Recipe(max_epochs=1, batch_size=64)
    train(Runs([Spec("t", "teacher", "resnet1d", 2, 8, recipe=recipe)], small_data, [folder]))
    return folder


def by(recipe: Recipe, **changes: Any) -> Spec:
    return dataclasses.replace(STUDENT, recipe=recipe, **changes)


def train(runs: Runs) -> list[dict[str, Any]]:
    while any(runs.step()):
        pass
    return [runs.finish(i) for i in range(len(runs.members))]


def left(folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """What a training leaves behind, less its times: the model and the history."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["train_seconds"]
    return (folder / "model.safetensors").read_bytes(), rows


@pytest.mark.parametrize(
    ("strategy", "engine"), [*((s, "torch") for s in STRATEGIES), *((s, "fused") for s in KNOWN)]
)
def test_every_strategy_goes_on_by_either_engine(
    small_data: Data, taught: Path, tmp_path: Path, strategy: str, engine: str
) -> None:
    needs = needs_teacher(strategy)
    more = {"strategy": strategy, "strategy_args": defaults(strategy), "teacher": "t" if needs else None}
    options: dict[str, Any] = {"teacher_folders": [taught if needs else None]}
    options["engine"] = compiled.library() if engine == "fused" else None
    stems = [Stem(tmp_path / "stems", "key")]
    train(Runs([by(RECIPE, **more)], small_data, [tmp_path / "short"], stems=stems, **options))
    longer = Runs([by(LONG, **more)], small_data, [tmp_path / "longer"], stems=stems, **options)
    assert longer.members[0].epoch == 2
    (found,) = train(longer)
    (wanted,) = train(Runs([by(LONG, **more)], small_data, [tmp_path / "whole"], **options))
    assert left(tmp_path / "longer") == left(tmp_path / "whole")
    assert (found.pop("train_seconds"), wanted.pop("train_seconds")) != (0, 0)
    assert found == wanted
    assert (found["engine"], found["cooldown_from"]) == (engine, 4)


def test_a_pretrained_teacher_goes_on_and_its_pretraining_is_not_done_again(
    small_data: Data, tmp_path: Path
) -> None:
    teacher: dict[str, Any] = {"role": "teacher", "strategy_args": {PRETRAIN: 1}}
    stems = [Stem(tmp_path / "stems", "key")]
    train(Runs([by(RECIPE, **teacher)], small_data, [tmp_path / "short"], stems=stems))
    longer = Runs([by(LONG, **teacher)], small_data, [tmp_path / "longer"], stems=stems)
    assert (longer.members[0].epoch, longer.members[0].pretrained) == (2, 1)
    train(longer)
    train(Runs([by(LONG, **teacher)], small_data, [tmp_path / "whole"]))
    assert left(tmp_path / "longer") == left(tmp_path / "whole")
    assert [row["epoch"] for row in left(tmp_path / "longer")[1]] == [1, *range(1, 7)]
    for name in ("logits.npy", "features.npy"):
        assert (tmp_path / "longer" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_in_a_stack_each_has_its_own_schedule(small_data: Data, tmp_path: Path) -> None:
    """Two lengths of wsd and a cosine side by side, one of them from a stem: as alone, within rounding."""
    cosine = Recipe(max_epochs=5, batch_size=64, lr=3e-3)
    specs = [by(RECIPE), by(LONG), by(cosine, seed=3)]
    stems = [Stem(tmp_path / f"stems{i}", "key") for i in range(3)]
    for spec, name in zip(specs, "abc", strict=True):
        train(Runs([spec], small_data, [tmp_path / name], stems=stems[:1] if name == "a" else None))
    folders = [tmp_path / f"stacked {name}" for name in "abc"]
    runs = Runs(specs, small_data, folders, stems=[stems[1], stems[0], stems[2]])
    assert [member.epoch for member in runs.members] == [0, 2, 0]
    assert [r.get("cooldown_from") for r in train(runs)] == [2, 4, None]
    for folder, name in zip(folders, "abc", strict=True):
        rows, expected = left(folder)[1], left(tmp_path / name)[1]
        assert [row["lr"] for row in rows] == [row["lr"] for row in expected]
        for key in ("train_loss", "val_mae_bpm"):
            assert [r[key] for r in rows] == pytest.approx([r[key] for r in expected], rel=2e-3)
    assert [sorted(epochs_kept(stem.folder).get("key", [])) for stem in stems] == [[2, 4], [2], []]


def test_paused_anywhere_a_longer_training_is_the_same(small_data: Data, tmp_path: Path) -> None:
    """Behind where it begins, before its cooldown, where that begins, in it."""
    stems = [Stem(tmp_path / "stems", "key")]
    train(Runs([by(RECIPE)], small_data, [tmp_path / "short"], stems=stems))
    for until in (1, 3, 4, 5, None):
        runs = Runs([by(LONG)], small_data, [tmp_path / "longer"], until=[until], stems=stems)
        while any(runs.step()):
            pass
        assert runs.members[0].waits == (until is not None)
        assert runs.members[0].epoch == max(until or 6, 2)
    runs.finish()
    train(Runs([by(LONG)], small_data, [tmp_path / "whole"]))
    assert left(tmp_path / "longer") == left(tmp_path / "whole")


PATIENT = dataclasses.replace(RECIPE, max_epochs=9, lr=1e-12, patience=2)  # learns nothing; cools down from 5


def stalling(runs: Runs) -> Runs:
    """The first epoch stays the best."""
    member = runs.members[0]
    if not member.epoch:
        member.best_mae, member.best_epoch = -1.0, 1
    return runs


def test_an_early_cooldown_is_the_same_share_of_fewer_epochs() -> None:
    planned = Cooldown.planned(PATIENT)
    assert planned == Cooldown(5, 9)
    assert planned.early(PATIENT, 3) == Cooldown(3, 5)
    assert planned.early(PATIENT, 4) == Cooldown(4, 7)
    held = dataclasses.replace(PATIENT, cooldown_fraction=0.0)
    assert Cooldown(9, 9).early(held, 3) == Cooldown(3, 3)  # without a cooldown it stops there
    rate = rates(PATIENT, 10, np.arange(50), Cooldown(3, 5)) / PATIENT.lr
    assert (rate[15:30] == 1).all()
    assert rate[30:] == pytest.approx(1 - np.sqrt(np.arange(20) / 20))


@pytest.mark.parametrize("long", [12, 40])
def test_patience_begins_the_cooldown_after_the_same_epoch_in_a_longer_training(
    small_data: Data, tmp_path: Path, long: int
) -> None:
    stems = [Stem(tmp_path / "stems", "key")]
    short = stalling(Runs([by(PATIENT)], small_data, [tmp_path / "short"], stems=stems))
    (found,) = train(short)
    assert (found["cooldown_from"], found["epochs"], short.members[0].max_epochs) == (3, 5, 5)
    steps = short.stack.steps
    into = 1 - np.array([steps + 1, 1]) / (2 * steps)  # of the cooldown, at the last step of either epoch
    fell = [row["lr"] / PATIENT.lr for row in left(tmp_path / "short")[1]]
    assert fell[2:] == pytest.approx([1.0, *(1 - np.sqrt(into))])
    recipe = dataclasses.replace(PATIENT, max_epochs=long)
    longer = Runs([by(recipe)], small_data, [tmp_path / "longer"], stems=stems)
    assert longer.members[0].epoch == 3
    (again,) = train(longer)
    assert (again["cooldown_from"], again["epochs"]) == (3, 5)
    assert left(tmp_path / "longer") == left(tmp_path / "short")


def test_one_that_stalls_just_where_it_cools_down_as_planned_does_so_early_when_longer(
    small_data: Data, tmp_path: Path
) -> None:
    stems, recipe = [Stem(tmp_path / "stems", "key")], dataclasses.replace(PATIENT, max_epochs=5)
    (found,) = train(stalling(Runs([by(recipe)], small_data, [tmp_path / "short"], stems=stems)))
    assert (found["cooldown_from"], found["epochs"]) == (3, 5)
    longer = Runs([by(PATIENT)], small_data, [tmp_path / "longer"], stems=stems)
    assert longer.members[0].cooldown == Cooldown(3, 5)
    train(longer)
    train(stalling(Runs([by(PATIENT)], small_data, [tmp_path / "whole"])))
    assert left(tmp_path / "longer") == left(tmp_path / "whole")


@pytest.mark.parametrize("killed_after", [3, 4])
def test_an_early_cooldown_survives_a_kill(small_data: Data, tmp_path: Path, killed_after: int) -> None:
    train(stalling(Runs([by(PATIENT)], small_data, [tmp_path / "whole"])))
    first = stalling(Runs([by(PATIENT)], small_data, [tmp_path / "killed"]))
    for _ in range(killed_after):
        first.step()
    first.checkpoint()
    again = Runs([by(PATIENT)], small_data, [tmp_path / "killed"])
    assert (again.members[0].epoch, again.members[0].cooldown) == (killed_after, Cooldown(3, 5))
    train(again)
    assert left(tmp_path / "killed") == left(tmp_path / "whole")
