"""A sweep whose next space wants more epochs: points go on, end as if trained from the start, and say so."""

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.commands.plan import as_dict, plan
from orchestrator.run.worker import PackTrainer, Setup
from orchestrator.space import spaces
from orchestrator.space.packs import Pack
from orchestrator.space.resolve import Opened, open_space
from orchestrator.space.stems import Saved, saved, stem_of
from orchestrator.store.check import account
from orchestrator.store.store import own_seconds

SPACE = """\
name: longer
data: {options: {subjects: 6, minutes: 1.5}}
teachers: {arch: mlp, depth: 1, width: 8}
students: {arch: mlp, depth: 2, width: 4}
strategies: {scratch: {}, dkd: {}}
training: {schedule: wsd, max_epochs: 5, batch_size: 32}
"""
MORE = "training.students.max_epochs=9"


def opened(tmp_path: Path, sweep: str, *overrides: str) -> Opened:
    (tmp_path / "longer.yaml").write_text(SPACE, encoding="utf-8")
    return open_space(str(tmp_path / "longer.yaml"), overrides, str(tmp_path / sweep))


def train(one: Opened, tmp_path: Path) -> list[dict]:
    """Train what is left, teachers first, as a worker would."""
    spaces.keep(one.store.path, one.space)
    one.plan.save(one.store.path / "plan.json")
    setup = Setup(
        sweep_dir=str(one.store.path),
        pace_dir=str(tmp_path),
        cache_dir=str(one.cache_dir),
        data=one.data,
        threads=1,
        gpu=False,
        slice_s=0.0,
        checkpoint_every_s=1e9,
        git_commit=None,
    )
    served = Counter(p.teacher for p in one.plan.points if p.teacher)
    trainer, events = PackTrainer(setup), []
    for point in one.plan.points:
        if not one.store.is_done(point.id):
            trainer.take(Pack.of([point], served))
            while trainer.ids:
                events += trainer.advance(0.0)["events"]
    return events


def test_more_epochs_in_a_later_space_go_on_from_what_is_trained(tmp_path: Path) -> None:
    train(opened(tmp_path, "sweep"), tmp_path)
    one = opened(tmp_path, "sweep", MORE)
    told, arguments = as_dict(one), [str(tmp_path / "longer.yaml"), MORE, "--out", str(tmp_path / "sweep")]
    rows = [row for row in told["points"] if not row["done"]]
    assert [row["continued_epochs"] for row in rows] == [4, 4]
    for row in rows:
        assert row["cost_s"] / row["saved_s"] == pytest.approx(5 / 4, rel=0.05)
    assert told["saved_s"] == pytest.approx(sum(row["saved_s"] for row in rows), abs=0.1)
    said = CliRunner().invoke(plan, arguments)
    assert "2 points go on from shorter ones, after 4 epochs: " in said.output

    events = train(one, tmp_path)
    assert [e["epoch"] for e in events if e["kind"] == "began"] == [4, 4]
    whole = opened(tmp_path, "whole", MORE)
    train(whole, tmp_path)
    for row in rows:
        id = row["id"]
        result, wanted = one.store.result(id), whole.store.result(id)
        models = [(o.store.folder(id) / "model.safetensors").read_bytes() for o in (one, whole)]
        assert models[0] == models[1]
        assert result["mae_by_subject"] == wanted["mae_by_subject"]
        assert (result["continued_epochs"], wanted.get("continued_epochs")) == (4, None)
        assert [r["epoch"] for r in one.store.history(id)] == list(range(1, 10))
        done = next(e for e in events if e["kind"] == "done" and e["id"] == id)
        assert done["train_seconds"] == own_seconds(result) < result["train_seconds"]
    assert as_dict(opened(tmp_path, "sweep", MORE))["saved_s"] == 0
    account(one.store)
    lines = {entry["id"]: entry["train_seconds"] for entry in one.store.ledger()}
    assert all(lines[row["id"]] == own_seconds(one.store.result(row["id"])) for row in rows)


def test_without_what_they_kept_points_are_trained_from_the_start(tmp_path: Path) -> None:
    one = opened(tmp_path, "sweep")
    train(one, tmp_path)
    for path in one.store.stems.iterdir():
        path.unlink()
    again = opened(tmp_path, "sweep", MORE)
    assert as_dict(again)["saved_s"] == 0
    assert [e["epoch"] for e in train(again, tmp_path) if e["kind"] == "began"] == [0, 0]


def test_what_is_saved_is_the_longest_that_still_fits(tmp_path: Path) -> None:
    """Not of a training whose cooldown began later, nor where something else differs or is begun."""
    one = opened(tmp_path, "sweep", MORE)  # constant until 7 epochs are over
    stems = {p.id: stem_of(p, one.store) for p in one.plan.points}
    assert len({stem.key for stem in stems.values()}) == len(stems) == 3
    assert saved(one.plan.points, one.store) == {}
    student = next(p for p in one.plan.points if p.strategy == "dkd")
    one.store.stems.mkdir(parents=True)
    for epoch in (2, 5, 8):
        (one.store.stems / f"{stems[student.id].key}-{epoch}.pt").touch()
    found = saved(one.plan.points, one.store)
    assert found == {student.id: Saved(5, pytest.approx(student.cost_s * 5 / 9))}
    other = opened(tmp_path, "sweep", MORE, "training.lr=1e-4")
    assert saved(other.plan.points, other.store) == {}
    one.store.folder(student.id).mkdir(parents=True)
    (one.store.folder(student.id) / "checkpoint.pt").touch()
    assert saved(one.plan.points, one.store) == {}
