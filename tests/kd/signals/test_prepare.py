"""Prepared data: named by all that changes it and nothing else, whole or not there, shared by all."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from kd.errors import InputError
from kd.recordings import Recording
from kd.signals import prepare as module
from kd.signals import synthetic
from kd.signals.augment import Augment, augmented
from kd.signals.prepare import DataConfig, fingerprint, prepare, windows_of
from kd.signals.preprocess import Preprocess
from kd.signals.splits import SIDES, Split
from kd.signals.windows import BESIDE, NO_LABEL, OUTSIDE, cut, make_windows

TINY = DataConfig(options={"subjects": 4, "minutes": 1.0})


def write_recordings(path, recordings):
    """An .npz of recordings, as `kd.datasets.recordings_npz` reads it."""
    meta = [{"name": r.name, "dataset": r.dataset, "subject": r.subject, "fs": r.fs} for r in recordings]
    arrays = {f"{r.name}/{key}": getattr(r, key) for r in recordings for key in ("ppg", "hr")}
    np.savez(path, meta_json=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)


@pytest.fixture
def wrist(tmp_path):
    """A file of five short recordings."""
    path = tmp_path / "wrist.npz"
    made = synthetic.recordings(synthetic.Synthetic(subjects=5, minutes=1))
    write_recordings(path, [dataclasses.replace(r, dataset="wrist") for r in made])
    return path


def changed(config, **fields):
    return dataclasses.replace(config, **fields)


WINDOWS_CHANGE = [
    {"options": {"subjects": 5, "minutes": 1.0}},
    {"options": {"subjects": 4, "minutes": 1.5}},
    {"options": {"subjects": 4, "minutes": 1.0, "seed": 1}},
    {"options": {"subjects": 4, "minutes": 1.0, "motion": 0.5}},
    {"options": {"subjects": 4, "minutes": 1.0, "noise": 0.5}},
    {"options": {"subjects": 4, "minutes": 1.0, "fs": 50.0}},
    {"preprocess": Preprocess(fs=32.0)},
    {"preprocess": Preprocess(low_hz=0.6)},
    {"preprocess": Preprocess(high_hz=3.9)},
    {"preprocess": Preprocess(order=3)},
    {"preprocess": Preprocess(window_s=7.0)},
    {"preprocess": Preprocess(stride_s=1.0)},
    {"preprocess": Preprocess(normalise="none")},
    {"preprocess": Preprocess(acc="magnitude")},
    {"preprocess": Preprocess(acc="xyz")},
    {"preprocess": Preprocess(acc="xyz", acc_band_hz=(0.3, 6.0))},
    {"preprocess": Preprocess(acc="xyz", acc_dropout=0.5)},
    {"augment": Augment(copies=1), "preprocess": Preprocess(acc="xyz")},
    {"augment": Augment(copies=1, turn=False), "preprocess": Preprocess(acc="xyz")},
    {"split": Split(fractions=(0.5, 0.25, 0.25))},
    {"split": Split(seed=3)},
    {"split": Split(scheme="kfold", folds=3)},
    {"split": Split(scheme="kfold", folds=4)},
    {"split": Split(scheme="kfold", folds=4, fold=1)},
    {"split": Split(scheme="loso")},
    {"split": Split(scheme="loso", fold=1)},
    {"split": Split(scheme="lodo")},
    {"split": Split(test=("synthetic/s000",))},
    {"split": Split(val=("synthetic/s000",))},
    {"augment": Augment(copies=1)},
    {"augment": Augment(copies=2)},
    {"augment": Augment(copies=1, stretch=(0.8, 1.2))},
    {"augment": Augment(copies=1, seed=1)},
    {"augment": Augment(copies=1, mix_channels=False)},
    {"min_bpm": 40},
    {"classes": 100},
    {"lead_s": 2.0},
]
SAME = [
    ({"options": {"minutes": 1, "subjects": 4}}, {}),
    ({"options": {"minutes": 1, "subjects": 4, "seed": 0, "fs": 25}}, {}),
    ({"preprocess": Preprocess(fs=25, window_s=8)}, {}),
    ({"augment": Augment(copies=1, turn=False)}, {"augment": Augment(copies=1)}),  # of an accelerometer
    ({"preprocess": Preprocess(acc="xyz", acc_band_hz=(0.5, 4))}, {"preprocess": Preprocess(acc="xyz")}),
    ({"augment": Augment(copies=0, seed=9, stretch=(0.9, 1.1))}, {}),
    ({"split": Split(fold=2, folds=7)}, {}),  # read by other schemes only
    ({"split": Split(test=(), train=())}, {}),
    (
        {"split": Split(scheme="kfold", fractions=(0.8, 0.1, 0.1))},
        {"split": Split(scheme="kfold")},
    ),
    (
        {"split": Split(scheme="loso", fractions=(0.5, 0.2, 0.3), folds=9)},
        {"split": Split(scheme="loso")},
    ),
    (
        {"split": Split(test=("synthetic/s000", "synthetic/s001"))},
        {"split": Split(test=("synthetic/s001", "synthetic/s000"))},
    ),
    (
        {"preprocess": Preprocess(channels="all"), "augment": Augment(copies=1, mix_channels=False)},
        {"preprocess": Preprocess(channels="all"), "augment": Augment(copies=1)},
    ),
]


def test_the_fingerprint_changes_with_everything_that_changes_windows():
    names = [fingerprint(TINY)] + [fingerprint(changed(TINY, **change)) for change in WINDOWS_CHANGE]
    assert len(set(names)) == len(names)
    assert all(len(name) == 16 for name in names)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_fingerprint_changes_with_nothing_else(one, other):
    assert fingerprint(changed(TINY, **one)) == fingerprint(changed(TINY, **other))


def test_every_field_of_every_setting_is_in_the_lists_above():
    """A setting that is added later must be added here too, or its windows may be taken for others'."""
    tested = {
        (name, field.name)
        for change in WINDOWS_CHANGE
        for name, value in change.items()
        if dataclasses.is_dataclass(value)
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    }
    needed = {
        (name, field.name)
        for name, kind in [("preprocess", Preprocess), ("split", Split), ("augment", Augment)]
        for field in dataclasses.fields(kind)
    }
    # channels: no two give different windows of one-channel recordings. train: as val and test, above
    assert needed - tested == {("preprocess", "channels"), ("split", "train")}
    options = {k for change in WINDOWS_CHANGE for k in change.get("options", ())}
    assert options == {f.name for f in dataclasses.fields(synthetic.Synthetic)}
    assert {f.name for f in dataclasses.fields(DataConfig)} == {
        *("source", "path"),  # the tests of files, below
        "unlabelled",  # test_unlabelled.py
        *(name for change in WINDOWS_CHANGE for name in change),
    }


def test_versions_are_part_of_the_fingerprint(monkeypatch):
    before = fingerprint(TINY)
    monkeypatch.setattr(module, "PREPARE_VERSION", 1000)
    between = fingerprint(TINY)
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", 1000)
    assert len({before, between, fingerprint(TINY)}) == 3


def test_a_files_content_counts_and_neither_its_place_nor_its_age(wrist, tmp_path):
    config = DataConfig(source="recordings_npz", path=str(wrist))
    before = fingerprint(config, tmp_path / "cache")
    moved = tmp_path / "elsewhere" / "other name.npz"
    moved.parent.mkdir()
    shutil.copy(wrist, moved)
    os.utime(moved, (1, 1))
    assert fingerprint(changed(config, path=str(moved)), tmp_path / "cache") == before
    assert fingerprint(changed(config, source="auto"), tmp_path / "cache") == before
    for change in (
        {"options": {"bidmc_lag_s": 0.0}},
        {"options": {"datasets": ("wrist",)}},
        {"preprocess": Preprocess(channels="first")},
        {"preprocess": Preprocess(channels="all")},
    ):
        assert fingerprint(changed(config, **change), tmp_path / "cache") != before
    made = synthetic.recordings(synthetic.Synthetic(subjects=5, minutes=1))
    made[2].ppg[0, 100] += 1e-3
    write_recordings(wrist, [dataclasses.replace(r, dataset="wrist") for r in made])
    assert fingerprint(config, tmp_path / "cache") != before


def test_content_hashes_are_remembered_and_not_trusted_for_changed_files(wrist, tmp_path, monkeypatch):
    from kd import datasets

    config = DataConfig(source="recordings_npz", path=str(wrist))
    hashed = []

    def count(file):
        hashed.append(file)
        return real(file)

    real = datasets.sha256
    monkeypatch.setattr(datasets, "sha256", count)
    for _ in range(2):
        datasets._hash.cache_clear()  # as in a new process
        fingerprint(config, tmp_path / "cache")
    assert len(hashed) == 1
    os.utime(wrist, (2, 2))
    fingerprint(config, tmp_path / "cache")
    assert len(hashed) == 2


def test_prepared_windows_are_the_windows_divided_and_memory_mapped(tmp_path):
    config = DataConfig(options={"subjects": 6, "minutes": 1.0})
    data = prepare(config, tmp_path)
    windows, _ = make_windows(module.load_recordings(config), config.preprocess)
    assert data.fingerprint == fingerprint(config)
    assert (data.min_bpm, data.classes) == (30, 180)
    seen = []
    for side in SIDES:
        part = getattr(data, side)
        assert isinstance(part.x, np.memmap)
        assert not part.x.flags.writeable
        assert part.x.dtype == np.float32
        assert len(part.x) == len(part.bpm) == len(part.subject) == len(part.dataset) > 0
        for subject in np.unique(part.subject):
            np.testing.assert_array_equal(
                part.x[part.subject == subject], windows.x[windows.subject == subject]
            )
            np.testing.assert_array_equal(
                part.bpm[part.subject == subject], windows.bpm[windows.subject == subject]
            )
        seen += np.unique(part.subject).tolist()
    assert sorted(seen) == sorted(np.unique(windows.subject))


def test_windows_are_built_once(tmp_path, monkeypatch):
    told = []
    first = prepare(TINY, tmp_path, told.append)
    assert told

    def never(*_):
        raise AssertionError("built again")

    monkeypatch.setattr(module, "_divide", never)
    monkeypatch.setattr(module.pool, "build", never)
    again = prepare(TINY, tmp_path)
    np.testing.assert_array_equal(first.train.x, again.train.x)
    assert again.dropped == first.dropped


def test_augmented_copies_are_trained_on_and_nothing_else(wrist, tmp_path):
    plain = DataConfig(source="recordings_npz", path=str(wrist))
    data, more = (prepare(c, tmp_path) for c in (plain, changed(plain, augment=Augment(copies=2))))
    for side in ("val", "test"):
        np.testing.assert_array_equal(getattr(data, side).x, getattr(more, side).x)
    n = len(data.train)
    assert len(more.train) > 2 * n
    np.testing.assert_array_equal(more.train.x[:n], data.train.x)
    assert set(more.train.subject) == set(data.train.subject)


def test_what_was_dropped_is_remembered(wrist, tmp_path):
    made = synthetic.recordings(synthetic.Synthetic(subjects=5, minutes=1))
    made[0].hr[3:5] = np.nan
    write_recordings(wrist, [dataclasses.replace(r, dataset="wrist") for r in made])
    config = DataConfig(source="auto", path=str(wrist))
    for _ in range(2):
        assert prepare(config, tmp_path).dropped.by_recording == {"wrist/synthetic_000": {NO_LABEL: 2}}


def spoiled(recordings, share=0.05, seed=3):
    """The recordings with that share of labels replaced by 0 and 300, as by a device without a reading."""
    rng, made = np.random.default_rng(seed), []
    for r in recordings:
        hr = r.hr.copy()
        hr[rng.random(len(hr)) < share] = rng.choice([0.0, 300.0])
        made.append(dataclasses.replace(r, hr=hr))
    return made


@pytest.mark.parametrize(
    "settings",
    [
        {"preprocess": Preprocess(stride_s=1.5)},
        {"preprocess": Preprocess(window_s=10.0)},
        {"augment": Augment(copies=2)},
        {"augment": Augment(copies=1, stretch=(0.5, 0.6)), "preprocess": Preprocess(stride_s=1.0)},
    ],
)
def test_no_label_is_made_of_what_is_no_reading(settings, tmp_path):
    """Labels that are all 80 BPM stay so, times the factor of a copy: one in twenty was 31 to 208."""
    made = synthetic.recordings(synthetic.Synthetic(subjects=5, minutes=2, motion=0))
    made = [dataclasses.replace(r, dataset="wrist", hr=np.full_like(r.hr, 80)) for r in made]
    write_recordings(tmp_path / "bad.npz", spoiled(made))
    config = DataConfig(source="auto", path=str(tmp_path / "bad.npz"), **settings)
    data = prepare(config, tmp_path)
    factors = {1.0, *(round(c.fs / 25, 2) for c in augmented(made, config.augment, config.preprocess))}
    allowed = np.array(sorted(80 * f for f in factors))
    for side in SIDES:
        bpm = getattr(data, side).bpm
        assert len(bpm) > 20
        assert np.abs(bpm[:, None] - allowed).min(axis=1).max() < 0.01
        assert side == "train" or set(bpm) == {80}
    assert {OUTSIDE, BESIDE} & set(data.dropped.by_reason)


def test_only_windows_that_were_mislabelled_get_another_name(wrist, tmp_path):
    """Points trained on good labels stay the same points; arrays with wrong labels are not read again."""
    assert fingerprint(TINY) == "9af58fc38b1dfe74"  # the name before labels were tested first
    assert prepare(TINY, tmp_path).fingerprint == fingerprint(TINY)
    made = [dataclasses.replace(r, dataset="wrist") for r in synthetic.recordings(synthetic.Synthetic(5, 1))]
    for recordings, settings, same in [
        (made, {"augment": Augment(copies=1), "preprocess": Preprocess(stride_s=1.5)}, True),
        (spoiled(made), {}, True),  # each window has a label of its own
        (spoiled(made), {"preprocess": Preprocess(stride_s=1.5)}, False),
        (spoiled(made), {"augment": Augment(copies=1)}, False),
    ]:
        write_recordings(wrist, recordings)
        config = DataConfig(source="auto", path=str(wrist), **settings)
        before = fingerprint(config, tmp_path)
        older = tmp_path / "windows" / before  # of an older version, with who knows what in it
        older.mkdir()
        data = prepare(config, tmp_path)
        assert data.fingerprint == prepare(config, tmp_path).fingerprint
        assert (data.fingerprint == before) == same
        assert list(older.iterdir()) == []


RACER = """
import sys, time
from pathlib import Path
from kd.signals.prepare import DataConfig, prepare
folder = Path(sys.argv[1])
print("ready", flush=True)
while not (folder / "go").exists():
    time.sleep(0.001)
data = prepare(DataConfig(options={"subjects": 6, "minutes": 2.0}), folder)
print(data.fingerprint, float(data.train.x[:, 0, 7].sum()), len(data.test))
"""


def test_processes_that_build_at_once_end_with_one_and_the_same(tmp_path):
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    got = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len(set(got)) == 1
    assert len(list((tmp_path / "windows").iterdir())) == 1, "something is left behind"


def test_who_comes_second_reads_what_the_first_has_built(tmp_path, monkeypatch):
    def overtaken(*args, **kwargs):
        monkeypatch.undo()
        prepare(TINY, tmp_path)  # another process builds the same meanwhile, and is faster
        return cut(*args, **kwargs)

    monkeypatch.setattr(module.pool, "cut", overtaken)
    data = prepare(TINY, tmp_path)
    for kind in ("cut", "windows"):
        assert len(list((tmp_path / kind).iterdir())) == 1
    assert len(data.train) > 0


def test_a_preparation_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    for kind in ("cut", "windows"):
        with monkeypatch.context() as patch:
            patch.setattr(module.pool.ArrayWriter, "append", full)
            with pytest.raises(OSError, match="No space"):
                prepare(TINY, tmp_path)
        assert list((tmp_path / kind).iterdir()) == []
        module.folds(changed(TINY, split=Split(scheme="loso")), tmp_path)  # cuts them: next, dividing fails


def test_what_a_killed_preparation_left_goes_after_a_day_and_no_sooner(tmp_path):
    old, new = tmp_path / "windows" / ".a.1", tmp_path / "windows" / ".a.2"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 2 * module.pool.STALE_S,) * 2)
    prepare(TINY, tmp_path)
    assert not old.exists()
    assert new.exists()


def test_damaged_windows_are_named_and_not_used(tmp_path):
    prepare(TINY, tmp_path)
    (folder,) = (tmp_path / "windows").iterdir()
    for name, content in [("labels.json", "{}"), ("dropped.json", ""), ("val_bpm.npy", "")]:
        (folder / name).write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match="delete this folder"):
            prepare(TINY, tmp_path)
    shutil.rmtree(folder)
    (cut_folder,) = (tmp_path / "cut").iterdir()
    np.save(cut_folder / "bpm.npy", np.zeros(3, np.float32))
    for name, content in [("pool.json", "{}"), ("x.npy", "")]:
        with pytest.raises(InputError, match=f"{cut_folder}.*delete this folder"):
            prepare(TINY, tmp_path)
        (cut_folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"{cut_folder}.*delete this folder"):
        prepare(TINY, tmp_path)


def test_labels_outside_the_classes_are_dropped(tmp_path):
    data = prepare(changed(TINY, min_bpm=60, classes=41), tmp_path)
    for side in SIDES:
        bpm = getattr(data, side).bpm
        assert ((bpm >= 60) & (bpm <= 100)).all()
    assert data.dropped.total > 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"options": {"subject": 4}}, "did you mean subjects"),
        ({"path": "somewhere"}, "source is synthetic"),
        ({"source": "auto", "options": {}}, "data.path is missing"),
        ({"source": "bidnc", "path": ".", "options": {}}, "did you mean bidmc"),
        ({"source": "auto", "path": "no/such/path", "options": {}}, "no such file"),
        ({"options": {"subjects": 2, "minutes": 1.0}}, "at least 3"),
    ],
)
def test_configs_that_cannot_be_are_refused(fields, says, tmp_path):
    with pytest.raises(InputError, match=says):
        prepare(changed(TINY, **fields), tmp_path)


def test_windows_of_a_path_are_all_its_windows(wrist):
    windows, dropped = windows_of(wrist)
    assert len(windows) == 5 * 27
    assert dropped.total == 0
    narrow, more = windows_of(wrist, min_bpm=70, classes=11)
    assert ((narrow.bpm >= 70) & (narrow.bpm <= 80)).all()
    assert len(narrow) + more.total == 5 * 27
    assert windows_of(wrist, preprocess=Preprocess(fs=32.0))[0].x.shape[2] == 256


def test_recordings_of_a_config_are_generated_or_read(wrist):
    generated = module.load_recordings(TINY)
    assert len(generated) == 4
    assert isinstance(generated[0], Recording)
    read = module.load_recordings(DataConfig(source="auto", path=str(wrist)))
    assert [r.dataset for r in read] == ["wrist"] * 5
