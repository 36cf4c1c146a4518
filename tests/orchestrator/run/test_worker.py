"""A worker's pack without Ray: one by one as on a CPU, and as stacks as on a GPU."""

import copy
import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch

from kd.training import probe
from kd.training import train as training
from kd.training.probe import Choice
from kd.training.train import Runs
from orchestrator.run import pace
from orchestrator.run.pace import Pace
from orchestrator.run.worker import PackTrainer, Setup
from orchestrator.space.packs import Pack, packs
from orchestrator.space.plan import Plan
from orchestrator.space.resolve import Opened, open_space

SPACE = """\
name: pack
data: {options: {subjects: 6, minutes: 1.5}}
teachers: {arch: mlp, depth: 1, width: 8}
students:
  - {arch: mlp, depth: 2, width: [4, 6]}
strategies: {scratch: {}, hard: {}, soft: {}, feature: {}}
training: {max_epochs: 6, batch_size: 32}
"""


class Alone(PackTrainer):
    """Takes points of the plan by their ids."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.plan = {p.id: p for p in Plan.load(self.store.path / "plan.json").points}

    def take(self, ids: list[str]) -> None:
        served = Counter(p.teacher for p in self.plan.values() if p.teacher)
        super().take(Pack.of((self.plan[id] for id in ids), served))


class Stacked(Alone):
    """Trains on a CPU as it would on a GPU."""

    most = 3

    def _how(self, id: str) -> Choice:
        return Choice(1 if id in self._alone else self.most)


def setup_of(opened: Opened, tmp_path: Path) -> Setup:
    return Setup(
        sweep_dir=str(opened.store.path),
        pace_dir=str(tmp_path),
        cache_dir=str(opened.cache_dir),
        data=opened.data,
        threads=1,
        gpu=False,
        slice_s=0.0,  # one epoch at a time
        checkpoint_every_s=1e9,
        git_commit=None,
    )


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "pack.yaml").write_text(SPACE)
    opened = open_space(str(tmp_path / "pack.yaml"), (), str(tmp_path / "sweep"))
    opened.store.path.mkdir(parents=True, exist_ok=True)
    opened.plan.save(opened.store.path / "plan.json")
    return setup_of(opened, tmp_path)


def test_a_gpu_that_was_granted_and_cannot_be_used_fails_the_start(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"a GPU was granted.*nvidia-smi"):
        Alone(dataclasses.replace(setup, gpu=True))


def train(trainer: Alone) -> list[dict]:
    events = []
    while trainer.ids:
        events += trainer.advance(0.0)["events"]
    return events


def teacher_and_students(trainer: Alone) -> tuple[str, list[str]]:
    points = trainer.plan.values()
    (teacher,) = [p.id for p in points if p.role == "teacher"]
    return teacher, [p.id for p in sorted(points, key=lambda p: p.width) if p.role == "student"]


def models(trainer: Alone, ids: list[str]) -> list[bytes]:
    return [(trainer.store.folder(id) / "model.safetensors").read_bytes() for id in ids]


@pytest.mark.parametrize("kind", [Alone, Stacked])
def test_every_point_of_a_pack_begins_and_is_done(setup, kind):
    trainer = kind(setup)
    teacher, students = teacher_and_students(trainer)
    trainer.take([teacher])
    assert [event["kind"] for event in train(trainer)] == ["began", "done"]
    trainer.take(students)
    together = 0
    events = []
    while trainer.ids:
        slice_ = trainer.advance(0.0)
        events += slice_["events"]
        together = max(together, len(trainer.stacked))
        assert slice_["left"] == len(trainer.ids)
        if "point" in slice_:
            assert slice_["point"] in trainer.ids
            assert 0 <= slice_["epoch"] <= slice_["max_epochs"] == 6
    assert together == (3 if kind is Stacked else 1)
    for kind_ in ("began", "done"):
        assert sorted(event["id"] for event in events if event["kind"] == kind_) == sorted(students)
    assert all(trainer.store.is_done(id) for id in students)
    for id in students:
        assert sorted(file.name for file in trainer.store.folder(id).iterdir()) == [
            "history.jsonl",
            "model.safetensors",
            "result.json",
            "tracker.json",
        ]


@pytest.mark.parametrize("kind", [Alone, Stacked])
def test_a_paused_pack_goes_on_in_other_company_and_ends_alike(setup, kind, tmp_path):
    trainer = kind(setup)
    teacher, students = teacher_and_students(trainer)
    trainer.take([teacher])
    train(trainer)
    trainer.take(students)
    trainer.advance(0.0)
    trainer.advance(0.0)
    trainer.take(students[::-1])  # as when a trial ends and what is left is released anew
    events = train(trainer)
    began = {event["id"]: event["epoch"] for event in events if event["kind"] == "began"}
    assert [began[id] for id in students] == [2] * (3 if kind is Stacked else 1) + [0] * (
        5 if kind is Stacked else 7
    )
    once = models(trainer, students)
    for id in students:
        (trainer.store.folder(id) / "result.json").unlink()
    trainer.take(students)
    train(trainer)
    if kind is Alone:
        assert models(trainer, students) == once
    assert {event["kind"] for event in events} == {"began", "done"}


@pytest.mark.parametrize("kind", [Alone, Stacked])
def test_a_failing_point_takes_nobody_with_it(setup, kind):
    """One diverges, one can't be written: they fail, each by its own name; the rest of the stack is done."""
    trainer = kind(setup)
    teacher, students = teacher_and_students(trainer)
    trainer.take([teacher])
    train(trainer)
    wild, full = students[0], students[1]
    recipe = {**trainer.plan[wild].recipe, "lr": 1e30, "clip_norm": 1e30}
    trainer.plan[wild] = dataclasses.replace(trainer.plan[wild], recipe=recipe)
    folder = trainer.store.folder(full)
    (folder / "result.json" / "in the way").mkdir(parents=True)
    trainer.store.is_done = lambda id: (trainer.store.folder(id) / "result.json").is_file()
    trainer.take(students)
    events = train(trainer)
    failed = {event["id"]: event["error"] for event in events if event["kind"] == "failed"}
    assert {id: error["type"] for id, error in failed.items()} == {
        wild: "Diverged",
        full: "IsADirectoryError",
    }
    assert failed[wild]["epoch"] == 1
    assert all("Traceback" in error["traceback"] for error in failed.values())
    assert sorted(event["id"] for event in events if event["kind"] == "done") == sorted(students[2:])
    assert trainer.runs is None


def test_a_stack_that_skips_a_point_goes_on_when_its_first_ends_early(setup):
    """The second of the pack was done already: what is first of the pack's rest isn't in the stack."""
    trainer = Stacked(setup)
    teacher, students = teacher_and_students(trainer)
    trainer.take([teacher])
    train(trainer)
    first, done, last = students[:3]
    trainer.take([done])
    train(trainer)
    recipe = {**trainer.plan[first].recipe, "max_epochs": 2}
    trainer.plan[first] = dataclasses.replace(trainer.plan[first], recipe=recipe)
    trainer.take([first, done, last])
    events, places = [], []
    while trainer.ids:
        slice_ = trainer.advance(0.0)
        events += slice_["events"]
        places.append((slice_.get("point"), slice_.get("epoch")))
    assert sorted(event["id"] for event in events if event["kind"] == "done") == sorted([first, done, last])
    assert [id for id, _ in places if id] == [first] * 2 + [last] * 4
    assert places[2:6] == [(last, epoch) for epoch in (3, 4, 5, 6)]


def test_a_done_point_that_cannot_be_read_fails_by_its_own_name(setup):
    """It is not in the stack that was trained before it."""
    trainer = Stacked(setup)
    teacher, students = teacher_and_students(trainer)
    trainer.take([teacher])
    train(trainer)
    bad, good = students[:2]
    (trainer.store.folder(bad)).mkdir(parents=True, exist_ok=True)
    (trainer.store.folder(bad) / "result.json").write_text("{}")
    trainer.most = 1
    trainer.take([good, bad])
    events = train(trainer)
    assert [(event["kind"], event["id"]) for event in events] == [
        ("began", good),
        ("done", good),
        ("failed", bad),
    ]


def test_a_stack_that_cannot_begin_is_tried_point_by_point(setup):
    """A teacher's outputs are missing: the points that need them fail, the others of their stack don't."""
    trainer = Stacked(setup)
    _, students = teacher_and_students(trainer)
    trainer.most = 8
    trainer.take(students)
    events = train(trainer)
    scratch = [id for id in students if trainer.plan[id].strategy == "scratch"]
    assert sorted(event["id"] for event in events if event["kind"] == "done") == sorted(scratch)
    failed = {event["id"]: event["error"]["message"] for event in events if event["kind"] == "failed"}
    assert failed.keys() == set(students) - set(scratch)
    assert all("train the teacher first" in message for message in failed.values())


def test_a_shape_is_probed_once_until_more_points_come(setup, monkeypatch):
    """On a GPU, and never beyond what there is to train."""
    trainer = Alone(setup)
    trainer.device = "cuda"
    _, students = teacher_and_students(trainer)
    asked = []

    def choose(spec, data, device, points, *, teachers, say):
        asked.append(points)
        return Choice(min(points, 4), bounded=points < 5)

    monkeypatch.setattr(probe, "choose", choose)
    company = []
    for count in (2, 2, 4, 3, 1):
        trainer.take(students[:count])
        company.append(trainer._how(students[0]).members)
    assert asked == [2, 4]
    assert company == [2, 2, 4, 4, 1]


def test_a_stack_too_large_for_the_device_goes_on_in_halves(setup, monkeypatch):
    """From its checkpoints or its start, as if nothing had happened; then no stack is made so large again."""

    class Probed(Alone):
        def _how(self, id: str) -> Choice:
            return self._chosen.setdefault(self._key(id), Choice(4, bounded=True))

    trainer = Probed(setup)
    teacher, students = teacher_and_students(trainer)
    trainer.take([teacher])
    train(trainer)
    sizes = []
    step = Runs.step

    def out_of_memory(self):
        sizes.append(len(self.members))
        if len(self.members) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return step(self)

    monkeypatch.setattr(Runs, "step", out_of_memory)
    trainer.take(students[:4])
    events = train(trainer)
    assert sizes[:3] == [4, 2, 1]
    assert set(sizes[3:]) == {1}
    assert sorted(event["id"] for event in events if event["kind"] == "done") == sorted(students[:4])
    assert not [event for event in events if event["kind"] == "failed"]
    assert trainer._how(students[0]) == Choice(1)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_want_of_a_gpus_memory_has_many_classes(setup, monkeypatch, error):
    """Whichever it is, a stack goes on in halves."""
    trainer = Stacked(setup)
    _, students = teacher_and_students(trainer)
    trainer.take(students[:4])
    trainer.stacked, trainer.runs = students[:4], object()
    trainer._chosen[trainer._key(students[0])] = Choice(4)
    trainer._stack_failed(error, [])
    assert trainer._chosen[trainer._key(students[0])].members == 2
    assert list(trainer.ids) == students[:4]


def test_a_points_end_costs_the_same_in_a_pack_of_thousands(setup, monkeypatch):
    """Neither how to train a point nor leaving it looks at the rest of the pack."""
    trainer = Alone(setup)
    _, students = teacher_and_students(trainer)
    point, asked, keys = trainer.plan[students[0]], [], []

    def choose(spec, data, device, points, *, teachers, say):
        asked.append(points)
        return Choice(64)

    monkeypatch.setattr(probe, "choose", choose)
    ids = [f"{i:016x}" for i in range(4000)]
    trainer.plan = {id: dataclasses.replace(point, id=id) for id in ids}
    trainer.take(ids)
    trainer.device = "cuda"
    key = trainer._key
    monkeypatch.setattr(trainer, "_key", lambda id: keys.append(id) or key(id))
    for id in ids[:-1]:
        assert next(iter(trainer.ids)) == id
        assert trainer._how(id).members == 64
        trainer.stacked = [id]
        trainer._close(id)
    assert len(keys) <= 3 * len(ids)
    assert asked == [4000]
    assert list(trainer.ids) == ids[-1:]


@pytest.mark.parametrize("damage", ["cut", "empty", "no history", "keys"])
def test_a_damaged_checkpoint_is_set_aside_and_the_point_starts_afresh(
    setup: Setup, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Alone(setup)
    id = next(p.id for p in trainer.plan.values() if p.strategy == "scratch" and p.role == "student")
    trainer.take([id])
    trainer.advance(0.0)
    trainer.pause()
    folder = trainer.store.folder(id)
    checkpoint = folder / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    if damage == "no history":
        (folder / "history.jsonl").unlink()
    elif damage == "keys":
        torch.save({"epoch": 1}, checkpoint)
    else:
        checkpoint.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    trainer.take([id])
    kinds = [(e["kind"], e.get("epoch")) for e in train(trainer)]
    assert kinds == [("began", 0), ("done", None)]
    assert (folder / "checkpoint.pt.broken").exists()
    assert "is damaged" in capsys.readouterr().out
    assert [row["epoch"] for row in trainer.store.history(id)] == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_fails_no_point_but_names_the_disk(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    from kd.training.member import Member

    def full(self: Member, row: dict) -> None:
        raise OSError(28, "No space left on device", str(self.folder / "history.jsonl"))

    monkeypatch.setattr(Member, "append", full)
    trainer = Alone(setup)
    id = next(p.id for p in trainer.plan.values() if p.role == "teacher")
    trainer.take([id])
    (_, event) = train(trainer)
    assert event["error"]["full_disk"] == [
        28,
        "No space left on device",
        str(trainer.store.folder(id) / "history.jsonl"),
    ]


def test_a_worker_needs_no_plan_and_leaves_a_long_slice_when_all_stop(setup: Setup, monkeypatch) -> None:
    plan = Plan.load(Path(setup.sweep_dir) / "plan.json")
    (Path(setup.sweep_dir) / "plan.json").unlink()
    pack = Pack.of((p for p in plan.points if p.role == "teacher"), {})
    assert copy.deepcopy({"pack": pack})["pack"] is pack, "Tune copies a trial's configuration"
    monkeypatch.setattr(pace, "LOOK_S", 0.0)
    trainer = PackTrainer(setup)
    trainer.take(pack)
    Pace(Path(setup.pace_dir), setup.slice_s).tell(30.0, stop=True)
    slice_ = trainer.advance(30.0)
    assert (slice_["epoch"], slice_["left"]) == (1, 1)
    assert slice_["checkpointed"] is None
    trainer.pause()
    assert trainer.checkpointed is not None
    assert (trainer.store.folder(pack.points[0].id) / "checkpoint.pt").exists()


FOLDS = """\
name: folds
data:
  options: {subjects: 6, minutes: 1.5}
  split: {scheme: kfold, folds: 3}
teachers: {arch: mlp, depth: 1, width: 8}
students: {arch: mlp, depth: 1, width: [4], init: [random, pruned]}
strategies: {scratch: {}, soft: {}}
training: {max_epochs: 2, batch_size: 32}
"""


def test_no_teacher_saw_a_subject_that_its_students_are_tested_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folds.yaml").write_text(FOLDS)
    opened = open_space(str(tmp_path / "folds.yaml"), (), str(tmp_path / "sweep"))
    opened.keep().save(opened.store.path / "plan.json")
    trained_on: dict[str, set[str]] = {}  # by point, as the windows it really got say
    tested_on: dict[str, set[str]] = {}

    def watched(specs, data, *args, **more):
        for spec in specs:
            trained_on[spec.id] = {*map(str, data.train.subject), *map(str, data.val.subject)}
            tested_on[spec.id] = set(map(str, data.test.subject))
        return whole(specs, data, *args, **more)

    whole = training.Runs
    monkeypatch.setattr(training, "Runs", watched)
    trainer = Alone(setup_of(opened, tmp_path))
    for role in ("teacher", "student"):
        for pack in packs([p for p in opened.plan.points if p.role == role], 1):
            trainer.take([p.id for p in pack])
            assert all(event["kind"] != "failed" for event in train(trainer))
    assert len(trainer._data) == 2  # of three folds
    results = {r["id"]: r for r in opened.store.results()}
    assert len(results) == len(opened.plan.points) == 3 * (1 + 4)
    students = [r for r in results.values() if r["teacher"]]
    assert len(students) == 3 * 3
    for student in students:
        assert not trained_on[student["teacher"]] & set(student["subjects"])
        assert set(student["subjects"]) == tested_on[student["id"]] == tested_on[student["teacher"]]
        assert student["fold"] == results[student["teacher"]]["fold"]
    assert len({name for r in results.values() for name in r["subjects"]}) == 6  # all are tested once


@pytest.mark.parametrize("kind", [Alone, Stacked])
def test_a_point_pauses_where_it_is_told_and_ends_as_if_it_had_not(setup, kind):
    trainer = kind(setup)
    teacher, students = teacher_and_students(trainer)
    trainer.take([teacher])
    train(trainer)
    few = [id for id in students if trainer.plan[id].width == trainer.plan[students[0]].width][:3]
    trainer.take(few)
    train(trainer)
    whole = models(trainer, few)
    curves = [trainer.store.history(id) for id in few]
    for id in few:
        for file in ("result.json", "history.jsonl"):
            (trainer.store.folder(id) / file).unlink()

    def until(epochs: dict[str, int]) -> list[dict]:
        served = Counter(p.teacher for p in trainer.plan.values() if p.teacher)
        PackTrainer.take(trainer, Pack.of((trainer.plan[id] for id in epochs), served, epochs))
        return train(trainer)

    events = until({few[0]: 2, few[1]: 4, few[2]: 2})
    paused = {event["id"]: event["epoch"] for event in events if event["kind"] == "paused"}
    assert paused == {few[0]: 2, few[1]: 4, few[2]: 2}
    assert {event["kind"] for event in events} == {"began", "paused"}
    waiting = trainer.store.paused()
    assert {id: where["epoch"] for id, where in waiting.items()} == paused
    assert waiting[few[1]]["val_mae_bpm"] == trainer.store.history(few[1])[-1]["val_mae_bpm"]
    assert [event["kind"] for event in until({few[1]: 3})] == ["began", "paused"], "it is beyond that"
    assert trainer.store.paused()[few[1]]["epoch"] == 4

    events = until({id: 6 for id in few})
    began = {event["id"]: event["epoch"] for event in events if event["kind"] == "began"}
    assert began == paused
    assert not trainer.store.paused()
    assert all(trainer.store.is_done(id) for id in few)
    if kind is Alone:
        assert models(trainer, few) == whole
        for id, curve in zip(few, curves, strict=True):
            seen = [(row["epoch"], row["val_mae_bpm"]) for row in trainer.store.history(id)]
            assert seen == [(row["epoch"], row["val_mae_bpm"]) for row in curve]
    for id in few:
        names = {file.name for file in trainer.store.folder(id).iterdir()}
        assert names == {"history.jsonl", "model.safetensors", "result.json", "tracker.json"}
