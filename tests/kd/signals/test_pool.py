"""Windows are cut once for all splits, and a split's sides are byte for byte what they always were."""

import dataclasses
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kd.datasets import recordings_npz
from kd.errors import InputError
from kd.signals import augment as augmenting
from kd.signals import pool, prepare, splits, synthetic
from kd.signals.augment import Augment
from kd.signals.labels import faults
from kd.signals.pool import ArrayWriter
from kd.signals.prepare import DataConfig, fingerprint, folds, group_fingerprint
from kd.signals.preprocess import Preprocess
from kd.signals.splits import SIDES, Split
from kd.signals.windows import BESIDE, make_windows, subject_label

KEYS = ("x", "bpm", "subject", "dataset")


def recordings():
    """Two data sets; a subject with two recordings, apart; one too short; two with labels that are none."""
    made = synthetic.recordings(synthetic.Synthetic(subjects=11, minutes=1))
    for k, r in enumerate(made):
        made[k] = dataclasses.replace(r, dataset="A" if k % 2 else "longer name")
    made[8] = dataclasses.replace(made[8], subject=made[0].subject)
    made[9] = dataclasses.replace(made[9], ppg=made[9].ppg[:, :150], subject="with a name longer than others")
    for k, bad in ((3, 0.0), (6, 300.0)):
        hr = made[k].hr.copy()
        hr[4::5] = bad
        made[k] = dataclasses.replace(made[k], hr=hr)
    return made


def held_in_memory(config):
    """The sides of a split as they were made before windows were cut once, and whether labels were wrong."""
    made = recordings()
    windows, dropped = make_windows(made, config.preprocess, bpm_range=config.bpm_range)
    mislabelled = BESIDE in dropped.by_reason or any(r.readings_left_out for r in made)
    index = splits.split_subjects(windows, config.split)
    sides = {side: windows.take(index[side]) for side in SIDES}
    if config.augment.copies:
        trained = set(sides["train"].subject)
        originals = [r for r in made if subject_label(r) in trained]
        copies = augmenting.augmented(originals, config.augment, config.preprocess, config.bpm_range)
        more, _ = make_windows(copies, config.preprocess, bpm_range=config.bpm_range, tested=True)
        mislabelled |= any(faults(r, config.bpm_range).outside for r in originals)
        both = [(getattr(sides["train"], key), getattr(more, key)) for key in KEYS]
        sides["train"] = type(more)(*(np.concatenate(pair) for pair in both))
    return sides, mislabelled


@pytest.fixture
def given(monkeypatch):
    monkeypatch.setattr(prepare, "each_recording", lambda config, progress=None: iter(recordings()))


SPLITS = [
    Split(),
    Split(scheme="kfold", folds=3),
    Split(scheme="kfold", folds=3, fold=2),
    Split(scheme="loso", fold=4),
]
SETTINGS = {
    "plain": {},
    "copies": {"augment": Augment(copies=2)},
    "labels between two": {"preprocess": Preprocess(stride_s=1.5), "augment": Augment(copies=1)},
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_sides_are_byte_for_byte_those_held_in_memory(settings, tmp_path, given, monkeypatch):
    built = []
    real = pool.build
    monkeypatch.setattr(pool, "build", lambda *args: built.append(real(*args)))
    names = set()
    for split in SPLITS:
        config = DataConfig(split=split, **SETTINGS[settings])
        data = prepare.prepare(config, tmp_path)
        expected, mislabelled = held_in_memory(config)
        assert data.fingerprint == fingerprint(config, labels_version=2 if mislabelled else 1)
        names.add(mislabelled)
        for side in SIDES:
            for key in KEYS:
                got, want = getattr(getattr(data, side), key), getattr(expected[side], key)
                assert (got.dtype, got.shape) == (want.dtype, want.shape)
                assert got.tobytes() == want.tobytes(), f"{side} {key}"
    assert len(built) == 1, "windows are cut more than once"
    assert names == {"plain": {False}, "copies": {False, True}, "labels between two": {True}}[settings]


@pytest.mark.parametrize("settings", SETTINGS)
def test_all_folds_of_a_split_are_one_group(settings, tmp_path, given):
    fixed = DataConfig(**SETTINGS[settings])
    assert group_fingerprint(fixed, tmp_path) == prepare.prepare(fixed, tmp_path).fingerprint
    groups = {}
    for split in SPLITS[1:]:
        config = DataConfig(split=split, **SETTINGS[settings])
        group = group_fingerprint(config, tmp_path)
        groups.setdefault(group, set()).add(split.scheme)
        assert group != prepare.prepare(config, tmp_path).fingerprint
    assert sorted(groups.values(), key=sorted) == [{"kfold"}, {"loso"}]
    other = DataConfig(split=Split(scheme="kfold", folds=4), **SETTINGS[settings])
    assert group_fingerprint(other, tmp_path) not in groups


def test_there_is_a_fold_for_each_subject_with_windows(tmp_path, given):
    assert folds(DataConfig(), tmp_path) == 1
    assert folds(DataConfig(split=Split(scheme="kfold", folds=4)), tmp_path) == 4
    assert not (tmp_path / "cut").exists()
    loso = DataConfig(split=Split(scheme="loso"))
    assert folds(loso, tmp_path) == 9  # of 11 recordings one is too short, two are of one person
    lodo = DataConfig(split=Split(scheme="lodo", fold=1))
    assert folds(lodo, tmp_path) == 2
    assert set(prepare.prepare(lodo, tmp_path).test.dataset) == {"longer name"}
    last = dataclasses.replace(loso, split=Split(scheme="loso", fold=8))
    assert len(set(prepare.prepare(last, tmp_path).test.subject)) == 1


def test_arrays_written_in_pieces_are_those_that_numpy_saves(tmp_path):
    rng = np.random.default_rng(0)
    for name, array in {
        "windows": rng.normal(size=(1100, 2, 5)).astype(np.float32),
        "labels": rng.normal(size=7).astype(np.float32),
        "names": np.array(["a", "bcd", "é"]),
        "none": np.zeros((0, 3, 4), np.float32),
    }.items():
        with ArrayWriter(tmp_path / "pieces.npy") as file:
            for start in range(0, max(len(array), 1), 3):
                file.append(array[start : start + 3])
        np.save(tmp_path / "whole.npy", array)
        assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes(), name


def test_windows_are_never_all_in_memory(tmp_path):
    """Held in memory, they took several times their size: here 30 MB."""

    def one_by_one():
        for k in range(12):
            yield from synthetic.recordings(synthetic.Synthetic(subjects=1, minutes=30, seed=k))

    augment, classes = Augment(copies=3), (30.0, 209.0)
    first = synthetic.recordings(synthetic.Synthetic(subjects=1, minutes=1))
    pool.build(tmp_path / "warm", first, Preprocess(), augment, classes)  # scipy's imports
    tracemalloc.start()
    pool.build(tmp_path / "all", one_by_one(), Preprocess(), augment, classes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    written = sum(path.stat().st_size for path in Path(tmp_path / "all").iterdir())
    assert written > 25e6
    assert peak < written / 2


def test_no_recordings_leave_no_folder(tmp_path):
    with pytest.raises(InputError, match="no recordings"):
        pool.build(tmp_path / "cut" / "a", [], Preprocess(), Augment(), (30.0, 209.0))
    assert list((tmp_path / "cut").iterdir()) == []


def test_recordings_come_one_after_another(tmp_path, monkeypatch):
    many = DataConfig(options={"subjects": 1_000_000, "minutes": 0.5})  # hours, if all were generated first
    assert next(prepare.each_recording(many)).name == "synthetic_000"
    read = []
    real = recordings_npz._recording
    monkeypatch.setattr(recordings_npz, "_recording", lambda *args: read.append(1) or real(*args))
    arrays = {
        f"{k}/{key}": np.ones((1, 500) if key == "ppg" else 3) for k in range(9) for key in ("ppg", "hr")
    }
    meta = [{"name": str(k), "dataset": "d", "subject": str(k), "fs": 25} for k in range(9)]
    np.savez(tmp_path / "r.npz", meta_json=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    found = prepare.each_recording(DataConfig(source="auto", path=str(tmp_path / "r.npz")))
    assert [next(found).name, next(found).name, len(read)] == ["0", "1", 2]


def test_windows_of_earlier_versions_get_their_times(tmp_path, given):
    config = DataConfig(augment=Augment(copies=1))
    made = prepare.prepare(config, tmp_path)
    for path in tmp_path.glob("*/*/*"):
        if path.name == pool.STARTS or "recording" in path.name or "start_s" in path.name:
            path.unlink()
    again = prepare.prepare(config, tmp_path)
    windows, _ = make_windows(recordings(), config.preprocess, bpm_range=config.bpm_range)
    for side in SIDES:
        one, other = getattr(made, side), getattr(again, side)
        assert np.array_equal(one.recording, other.recording)
        assert np.array_equal(one.start_s, other.start_s, equal_nan=True)
        timed = one.recording >= 0
        assert timed.all() == (side != "train")
        for number in np.unique(one.recording[timed]):
            mine, whole = one.recording == number, windows.recording == number
            assert np.array_equal(one.start_s[mine], windows.start_s[whole])
            assert np.array_equal(one.x[mine], windows.x[whole])
