"""Brought teachers from a space's file to trained students, without Ray."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kd.errors import InputError
from kd.teachers.ready import write_index
from orchestrator.run.worker import PackTrainer, Setup
from orchestrator.space.packs import Pack
from orchestrator.space.plan import Plan
from orchestrator.space.resolve import Opened, open_space

DATA = "{options: {subjects: 6, minutes: 1.5}, split: {scheme: kfold, folds: 3}}"
SPACE = """\
name: NAME
data: DATA
teachers: TEACHERS
students: {arch: mlp, depth: 1, width: 4}
strategies: {soft: {}, hard: {}}
training: {max_epochs: 2, batch_size: 32}
"""
PORT = """\
import torch

class Port:
    fs = 50
    window_s = 10

    def load(self, weights):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Conv1d(1, 4, 9, 5), torch.nn.AdaptiveAvgPool1d(3), torch.nn.Flatten()
        )
        return self.net

    def outputs(self, x):
        assert x.shape[1:] == (1, 500)
        return self.net(x)
"""


def opened(tmp_path: Path, teachers: str, name: str = "s", data: str = DATA) -> Opened:
    text = SPACE.replace("TEACHERS", teachers).replace("NAME", name).replace("DATA", data)
    (tmp_path / f"{name}.yaml").write_text(text)
    return open_space(str(tmp_path / f"{name}.yaml"), (), str(tmp_path / name))


def trainer_of(space: Opened, tmp_path: Path) -> PackTrainer:
    return PackTrainer(
        Setup(
            sweep_dir=str(space.store.path),
            pace_dir=str(tmp_path),
            cache_dir=str(space.cache_dir),
            data=space.data,
            threads=1,
            gpu=False,
            slice_s=0.0,
            checkpoint_every_s=1e9,
            git_commit=None,
        )
    )


def train(space: Opened, tmp_path: Path) -> list[dict]:
    """Every point, teachers first, and what happened."""
    space.keep()
    space.plan.save(space.store.path / "plan.json")
    trainer = trainer_of(space, tmp_path)
    points = Plan.load(space.store.path / "plan.json").points
    assert points == space.plan.points
    served, events = Counter(id for p in points for id in p.needs), []
    for point in points:
        trainer.take(Pack.of([point], served))
        while trainer.ids:
            events += trainer.advance(0.0)["events"]
    return events


def results(space: Opened) -> list[dict]:
    return list(space.store.results())


def test_a_port_becomes_a_teacher_of_every_fold(tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(PORT)
    teachers = (
        f"{{name: enc, port: '{tmp_path}/port.py:Port', output: embedding, input: {{band_hz: [0.5, 12]}}}}"
    )
    space = opened(tmp_path, teachers)
    assert space.data.lead_s == 2.0
    assert [e for e in train(space, tmp_path) if e["kind"] == "failed"] == []
    brought = [r for r in results(space) if r["role"] == "teacher"]
    assert len(brought) == 3
    assert {r["brought"]["name"] for r in brought} == {"enc"}
    for result in brought:
        folder, data = space.store.folder(result["id"]), space.folds[result["fold"]]
        assert np.load(folder / "logits.npy").shape == (len(data.train), 180)
        assert np.load(folder / "features.npy").shape == (len(data.train), 12)
        assert result["params"] == 4 * 9 + 4
    # one pass for all folds, a head for each
    assert len(list((space.cache_dir / "teachers").glob("*/out.npy"))) == 1
    assert len({r["model_sha256"] for r in brought}) == 3
    students = [r for r in results(space) if r["role"] == "student"]
    assert {r["teacher_group"] for r in students} == {brought[0]["brought"]["group"]}
    assert all(r["teacher_sha256"] for r in students)
    again = opened(tmp_path, teachers)
    assert [p.id for p in again.plan.points] == [p.id for p in space.plan.points]


def test_a_point_of_another_sweep_teaches_as_if_it_were_trained_here(tmp_path: Path) -> None:
    first = opened(tmp_path, "{arch: resnet1d, depth: 2, width: 8}", "first")
    train(first, tmp_path)
    teacher = next(p for p in first.plan.points if p.role == "teacher")
    second = opened(tmp_path, f"{{name: mine, sweep: '{tmp_path}/first', point: {teacher.id}}}", "second")
    events = train(second, tmp_path)
    assert [e for e in events if e["kind"] == "failed"] == []
    ours, theirs = (
        {(r["fold"], r["role"], r["strategy"]): r for r in results(space)} for space in (second, first)
    )
    assert ours.keys() == theirs.keys()
    for key, r in ours.items():
        other = theirs[key]
        assert r["mae_bpm"] == pytest.approx(other["mae_bpm"], abs=1e-3)
        if key[1] == "teacher":
            assert r["model_sha256"] == other["model_sha256"]  # each fold's own
            a, b = (np.load(s.store.folder(x["id"]) / "logits.npy") for s, x in ((second, r), (first, other)))
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_ready_outputs_and_a_mean_of_two(tmp_path: Path) -> None:
    data = DATA.replace("split", "augment: {copies: 1}, split")
    plain = opened(tmp_path, "{arch: mlp, depth: 1, width: 4}", "plain", data)
    folders = [tmp_path / "a", tmp_path / "b"]
    for i, folder in enumerate(folders):
        folder.mkdir()
        n = write_index(plain.data, plain.cache_dir, folder / "windows.parquet")
        np.save(folder / "logits.npy", np.random.default_rng(i).normal(size=(n, 180)).astype(np.float32))
    single = ", ".join(f"{{name: {folder.name}, outputs: {folder}}}" for folder in folders)
    teachers = f"[{single}, {{name: both, mean: [a, b]}}]"
    space = opened(tmp_path, teachers, "ready", data)
    assert [e for e in train(space, tmp_path) if e["kind"] == "failed"] == []
    logits = {
        (r["fold"], r["brought"]["name"]): np.load(space.store.folder(r["id"]) / "logits.npy")
        for r in results(space)
        if r["role"] == "teacher"
    }
    for fold in range(3):
        mean = (logits[fold, "a"] + logits[fold, "b"]) / 2
        np.testing.assert_allclose(logits[fold, "both"], mean, atol=1e-6)
    other = DATA.replace("minutes: 1.5", "minutes: 2.0")
    with pytest.raises(InputError, match=r"teacher a: .* holds outputs of other windows \(hash"):
        opened(tmp_path, teachers, "other", other)
    np.save(folders[0] / "logits.npy", np.full((n, 180), "a"))
    with pytest.raises(InputError, match=r"teacher a: .*logits.npy holds no real numbers, but <U1"):
        opened(tmp_path, teachers, "text", data)


def test_json_of_a_result_says_where_the_teacher_is_from(tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(PORT)
    space = opened(tmp_path, f"{{name: enc, port: '{tmp_path}/port.py:Port', output: embedding}}")
    (point, *_) = [p for p in space.plan.points if p.role == "teacher"]
    assert point.name == "enc"
    assert json.loads(json.dumps(dict(point.brought)))["kind"] == "port"
    (tmp_path / "port.py").write_text(PORT.replace("4, 9, 5", "4, 9, 4"))
    other = opened(tmp_path, f"{{name: enc, port: '{tmp_path}/port.py:Port', output: embedding}}")
    assert not {p.id for p in other.plan.points} & {p.id for p in space.plan.points}


def test_a_student_of_a_brought_teacher_is_refitted_on_everybody(tmp_path: Path) -> None:
    from orchestrator.edge.refit import refit_point

    (tmp_path / "port.py").write_text(PORT)
    data = "{options: {subjects: 6, minutes: 1.5}}"
    space = opened(tmp_path, f"{{name: enc, port: '{tmp_path}/port.py:Port', output: embedding}}", data=data)
    train(space, tmp_path)
    student = next(r for r in results(space) if r["role"] == "student")
    made = refit_point(space.store.path, student["id"])
    assert made["teacher_sha256"]
    assert made["subjects_by_dataset"] == {"synthetic": 6}


def test_a_port_is_tuned_per_fold_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(PORT)
    tune = "finetune: {epochs: 3, lr: 0.01, layers: 1}"
    teachers = f"[{{name: enc, port: '{tmp_path}/port.py:Port', output: embedding, {tune}}}]"
    data = DATA.replace("folds: 3", "folds: 3, use: [0]")
    whole, killed = opened(tmp_path, teachers, "whole", data), opened(tmp_path, teachers, "killed", data)
    assert [e for e in train(whole, tmp_path) if e["kind"] == "failed"] == []
    teacher = next(p for p in killed.plan.points if p.role == "teacher")
    killed.store.path.mkdir()
    trainer = trainer_of(killed, tmp_path)
    trainer.take(Pack.of([teacher], {}))
    while not (
        trainer.runs and trainer.runs.members[0].max_epochs == 3 and trainer.runs.members[0].epoch == 2
    ):
        trainer.advance(0.0)
    trainer.pause()
    assert (killed.store.folder(teacher.id) / "checkpoint.pt").exists()
    assert [e for e in train(killed, tmp_path) if e["kind"] == "failed"] == []
    assert not (killed.store.folder(teacher.id) / "checkpoint.pt").exists()
    one, two = (space.store.result(teacher.id) for space in (whole, killed))
    assert one["epochs"] == 3
    assert one["model_sha256"] == two["model_sha256"]
    plain = opened(tmp_path, teachers.replace(f", {tune}", ""), "plain", data)
    assert teacher.id not in {p.id for p in plain.plan.points}
    train(plain, tmp_path)
    (frozen,) = [r for r in results(plain) if r["role"] == "teacher"]
    a, b = (
        np.load(s.store.folder(i) / "features.npy") for s, i in ((whole, teacher.id), (plain, frozen["id"]))
    )
    assert a.shape == b.shape
    assert (a != b).any()


def test_a_student_of_one_sweep_teaches_another(tmp_path: Path) -> None:
    data = "{options: {subjects: 6, minutes: 1.5}}"
    first = opened(tmp_path, "{arch: mlp, depth: 1, width: 8}", "first", data)
    train(first, tmp_path)
    student = next(r for r in results(first) if r["role"] == "student")
    second = opened(
        tmp_path,
        f"{{name: small, sweep: '{tmp_path}/first', point: {student['id']}}}",
        "second",
        data.replace("}}", "}, preprocess: {window_s: 6, low_hz: 0.7}}"),  # other windows than its own
    )
    assert second.data.lead_s == 2.0
    assert [e for e in train(second, tmp_path) if e["kind"] == "failed"] == []
    (teacher,) = [r for r in results(second) if r["role"] == "teacher"]
    assert (teacher["arch"], teacher["width"], teacher["params"]) == ("mlp", 4, student["params"])
    assert not teacher["brought"]["same_split"]


MORE = (
    ", unlabelled: {source: synthetic, options: {subjects: 8, minutes: 1}, copies: 1, "
    "gate: quality, keep: 0.5}}"
)


def with_more(data: str) -> str:
    return data.removesuffix("}") + MORE


def taught(space: Opened) -> dict[int | None, np.ndarray]:
    """What the teachers said of every window they were asked about, by fold."""
    return {
        r["fold"]: np.load(space.store.folder(r["id"]) / "logits.npy")
        for r in results(space)
        if r["role"] == "teacher"
    }


def test_brought_teachers_say_of_windows_without_labels_what_one_trained_here_says(tmp_path: Path) -> None:
    data = DATA.replace("folds: 3", "folds: 3, use: [0, 2]")
    for name, of in (("with", with_more(data)), ("without", data)):
        first = opened(tmp_path, "{arch: resnet1d, depth: 2, width: 8}", name, of)
        train(first, tmp_path)
        teacher = next(p for p in first.plan.points if p.role == "teacher")
        bring = f"{{name: mine, sweep: '{tmp_path}/{name}', point: {teacher.id}}}"
        second = opened(tmp_path, bring, f"{name}-brought", with_more(data))
        assert [e for e in train(second, tmp_path) if e["kind"] == "failed"] == []
        brought = [r for r in results(second) if r["role"] == "teacher"]
        assert all(r["brought"]["same_split"] for r in brought), "each fold has its own fold's"
        for fold, logits in taught(second).items():
            theirs, windows = taught(first)[fold], second.folds[fold]
            assert len(logits) == len(windows.train) + len(windows.unlabelled.windows)
            np.testing.assert_allclose(logits[: len(theirs)], theirs, atol=1e-5)
            assert len(theirs) == (len(logits) if name == "with" else len(windows.train))
        learnt = [r for r in results(second) if r["role"] == "student"]
        assert {r["unlabelled_windows"] for r in learnt} == {
            len(second.folds[fold].unlabelled.windows) for fold in (0, 2)
        }


def test_an_embedding_a_mean_and_a_tuned_port_say_of_windows_without_labels(tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(PORT)
    port = f"port: '{tmp_path}/port.py:Port', output: embedding, probe: {{epochs: 1}}"
    teachers = (
        f"[{{name: a, {port}}}, {{name: b, {port}, input: {{band_hz: [0.5, 4]}}}}, "
        f"{{name: both, mean: [a, b]}}, {{name: tuned, {port}, finetune: {{epochs: 1}}}}]"
    )
    data = with_more("{options: {subjects: 6, minutes: 1}}")
    space = opened(tmp_path, teachers, data=data)
    assert [e for e in train(space, tmp_path) if e["kind"] == "failed"] == []
    said = {
        r["brought"]["name"]: np.load(space.store.folder(r["id"]) / "logits.npy")
        for r in results(space)
        if r["role"] == "teacher"
    }
    assert {len(logits) for logits in said.values()} == {len(space.windows.taught_x)}
    np.testing.assert_allclose(said["both"], (said["a"] + said["b"]) / 2, atol=1e-5)
    alone = opened(tmp_path, teachers, "alone", "{options: {subjects: 6, minutes: 1}, lead_s: 2}")
    train(alone, tmp_path)
    for result in results(alone):
        if result["role"] == "teacher":
            logits = np.load(alone.store.folder(result["id"]) / "logits.npy")
            np.testing.assert_array_equal(said[result["brought"]["name"]][: len(logits)], logits)


def test_teachers_that_were_trained_here_teach_as_one(tmp_path: Path) -> None:
    """A sweep's second space brings the points of its first: each fold its own."""
    grid = "{arch: resnet1d, depth: 1, width: 4, seeds: [0, 1]}"
    first = opened(tmp_path, grid)
    train(first, tmp_path)
    mine = {p.seed: p for p in first.plan.points if p.role == "teacher" and p.fold == 0}
    bring = ", ".join(f"{{name: t{k}, sweep: '{tmp_path}/s', point: {p.id}}}" for k, p in mine.items())
    space = opened(tmp_path, f"[{bring}, {{name: both, mean: [t0, t1]}}]")
    assert [e for e in train(space, tmp_path) if e["kind"] == "failed"] == []
    teachers = [r for r in results(space) if r["role"] == "teacher"]
    both = [r for r in teachers if r.get("brought", {}).get("name") == "both"]
    assert len(both) == 3
    for result in both:
        assert result["brought"]["same_split"]
        assert all(one["same_split"] for one in result["brought"]["of"])
        members = [r["id"] for r in teachers if r["fold"] == result["fold"] and not r.get("brought")]
        assert len(members) == 2
        mean = np.mean([np.load(space.store.folder(id) / "logits.npy") for id in members], axis=0)
        said = np.load(space.store.folder(result["id"]) / "logits.npy")
        np.testing.assert_allclose(said, mean, atol=1e-5)
    assert {r["teacher"] for r in results(space)} >= {r["id"] for r in both}


def test_teachers_of_the_very_sweep_teach_as_one(tmp_path: Path) -> None:
    from orchestrator.edge.refit import refit_point
    from orchestrator.store.refits import Refits

    (tmp_path / "port.py").write_text(PORT)
    port = f"{{name: enc, port: '{tmp_path}/port.py:Port', output: embedding, probe: {{epochs: 1}}}}"
    grid = "{arch: resnet1d, depth: 1, width: 4, seeds: [0, 1]}"
    data = with_more(DATA.replace("folds: 3", "folds: 3, use: [0, 2]").replace("1.5", "1"))
    teachers = f"[{{name: both, mean: [enc, resnet1d-1x4]}}, {port}, {grid}]"
    space = opened(tmp_path, teachers, data=data)
    means = {p.fold: p for p in space.plan.points if p.name == "both"}
    for fold, mean in means.items():
        mine = [p for p in space.plan.points if p.fold == fold and p.role == "teacher" and p.id != mean.id]
        assert set(mean.needs) == {p.id for p in mine if not p.brought}
        assert len(mean.needs) == 2
        assert mean.params == sum(p.params for p in mine)
    assert len({p.brought["group"] for p in means.values()}) == 1
    assert [e for e in train(space, tmp_path) if e["kind"] == "failed"] == []
    for fold, mean in means.items():
        ours = [r for r in results(space) if r["fold"] == fold and r["role"] == "teacher"]
        said = {r["id"]: np.load(space.store.folder(r["id"]) / "logits.npy") for r in ours}
        of_all = np.mean([logits for id, logits in said.items() if id != mean.id], axis=0)
        np.testing.assert_allclose(said[mean.id], of_all, atol=1e-5)
        errors = {r["id"]: r["mae_bpm"] for r in ours}
        assert errors[mean.id] < max(error for id, error in errors.items() if id != mean.id)
        result = space.store.result(mean.id)
        assert result["alone_seconds"] > result["train_seconds"]
    learnt = [r for r in results(space) if r["role"] == "student" and r["teacher"] == means[0].id]
    assert {r["teacher_group"] for r in learnt} == {means[0].brought["group"]}
    refitted = refit_point(space.store.path, learnt[0]["id"])
    refits = Refits(space.store.path)
    of_everybody = {id: refits.result(id) for id in refits.ids()}
    teacher = of_everybody[refitted["teacher"]]
    assert {r["role"] for r in of_everybody.values()} == {"teacher", "student"}
    assert [one["content"][0] in of_everybody for one in teacher["brought"]["of"]] == [False, True, True]


def test_members_of_a_mean_that_are_not_there_or_alone(tmp_path: Path) -> None:
    grid = "{arch: resnet1d, depth: 1, width: 4}"
    for mean, said in (
        (
            "[resnet1d-1x4, mlp-1x1]",
            "teacher both: mean: no teacher 'mlp-1x1' in this space: it has resnet1d-1x4",
        ),
        (
            "[resnet1d-1x4]",
            "teacher both: mean: resnet1d-1x4 is one teacher: name another, or give it several",
        ),
        ("[both, resnet1d-1x4]", "teacher both: mean: both is a mean itself: name its members"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            opened(tmp_path, f"[{grid}, {{name: both, mean: {mean}}}]")


def test_a_member_that_failed_blocks_its_means_and_their_students_only(tmp_path: Path) -> None:
    from orchestrator.report.sweep import Sweep, _plan
    from orchestrator.run.status import blocked_of

    grid = "{arch: resnet1d, depth: 1, width: 4, seeds: [0, 1]}"
    data = "{options: {subjects: 6, minutes: 1}}"
    plan = opened(tmp_path, f"[{grid}, {{name: both, mean: [resnet1d-1x4]}}]", data=data).plan
    mean = next(p for p in plan.points if p.name == "both")
    failed = mean.needs[0]
    waiting = {p.id for p in plan.points if {mean.id, failed}.intersection(p.needs)}
    assert mean.id in waiting
    assert len(waiting) == 1 + 2 * 2  # students of the mean and of the member, soft and hard
    assert blocked_of(plan, {failed}, set()) == waiting
    plan.save(tmp_path / "plan.json")
    points = _plan(tmp_path / "plan.json")
    sweep = Sweep(tmp_path, {}, [], {failed: {}}, points, "")
    assert {point.id for point in sweep.blocked} == waiting


def test_ready_outputs_are_asked_for_windows_without_labels_too(tmp_path: Path) -> None:
    data = "{options: {subjects: 6, minutes: 1}, augment: {copies: 1}}"
    folder, teachers = tmp_path / "a", f"{{name: a, outputs: {tmp_path}/a}}"
    folder.mkdir()
    for of, more in ((data, 0), (with_more(data), 1)):
        plain = opened(tmp_path, "{arch: mlp, depth: 1, width: 4}", f"plain{more}", of)
        n = write_index(plain.data, plain.cache_dir, folder / "windows.parquet")
        logits = np.random.default_rng(0).normal(size=(n, 180)).astype(np.float32)
        np.save(folder / "logits.npy", logits)
        if not more:
            with pytest.raises(InputError, match=r"teacher a: .*windows with labels only.*data windows"):
                opened(tmp_path, teachers, "ready", with_more(data))
    space = opened(tmp_path, teachers, "ready", with_more(data))
    assert [e for e in train(space, tmp_path) if e["kind"] == "failed"] == []
    (said,) = taught(space).values()
    chosen = said[len(space.windows.train) :]
    assert len(chosen) == len(space.windows.unlabelled.windows)
    rows = [int(np.flatnonzero((logits == row).all(1))[0]) for row in chosen]
    assert rows == sorted(rows), "those without labels are the index's last"
    index = pq.read_table(folder / "windows.parquet").to_pydict()
    assert np.isnan([index["bpm"][row] for row in rows]).all()
    assert [index["subject"][row] for row in rows] == space.windows.unlabelled.windows.subject.tolist()
