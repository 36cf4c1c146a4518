"""A pre-trained teacher through a worker: paused in the middle of it, told apart in results and reports."""

from pathlib import Path

from test_worker import Alone, setup_of, train

from orchestrator.answers.compare import _points
from orchestrator.commands.logs import _epoch
from orchestrator.laws.document import _teacher_points
from orchestrator.report.sweep import Sweep
from orchestrator.space.resolve import open_space

SPACE = """\
name: few
data:
  options: {subjects: 5, minutes: 1}
  unlabelled: {source: synthetic, options: {subjects: 9, minutes: 1}}
teachers:
  - {arch: resnet1d, depth: 1, width: 4}
  - {arch: resnet1d, depth: 1, width: 4, pretrain: {method: contrastive, epochs: 3}}
students: [{arch: resnet1d, depth: 1, width: 2}]
strategies: {soft: {}}
training: {max_epochs: 2, batch_size: 16}
"""


def test_a_space_with_few_labels_runs_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(SPACE)
    opened = open_space(str(tmp_path / "few.yaml"), (), str(tmp_path / "sweep"))
    opened.store.path.mkdir(parents=True, exist_ok=True)
    opened.plan.save(opened.store.path / "plan.json")
    plain, pretrained = (p for p in opened.plan.points if p.role == "teacher")
    trainer = Alone(setup_of(opened, tmp_path))
    trainer.take([pretrained.id])
    slice_ = trainer.advance(0.0)
    assert (slice_["point"], slice_["epoch"], slice_["left"]) == (pretrained.id, 0, 1)
    assert slice_["checkpointed"] is None
    trainer.pause()
    assert trainer.checkpointed is not None
    events = train(trainer)
    assert [event["kind"] for event in events] == ["began", "done"]
    students = [p.id for p in opened.plan.points if p.role == "student"]
    for ids in ([plain.id], students):
        trainer.take(ids)
        train(trainer)
    store = opened.store
    assert [row["epoch"] for row in store.pretraining(pretrained.id)] == [1, 2, 3]
    assert [row["epoch"] for row in store.history(pretrained.id)] == [1, 2]
    assert store.pretraining(plain.id) == []
    assert _epoch(store.pretraining(pretrained.id)[0]).startswith("pre-training    1  loss ")
    results = {id: store.result(id) for id in (plain.id, pretrained.id, *students)}
    assert results[pretrained.id]["pretrained_windows"] == len(opened.windows.taught_x)
    assert "pretrained_windows" not in results[plain.id]
    assert results[pretrained.id]["model_sha256"] != results[plain.id]["model_sha256"]

    points = _teacher_points(list(results.values()))
    assert points[pretrained.id]["pretrain_epochs"] == 3
    assert "pretrain_epochs" not in points[plain.id]
    sweep = Sweep.__new__(Sweep)
    sweep.__dict__["results"] = list(results.values())
    assert sweep.teacher(pretrained.id) == "resnet1d 1×4, pretrained 3"
    assert sweep.teacher(plain.id) == "resnet1d 1×4"
    assert len(_points(results.values())) == 4  # students of the two aren't the same
