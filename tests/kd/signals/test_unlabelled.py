"""Recordings without labels: trained on, never tested on, and never of anybody who is."""

import dataclasses
import json

import numpy as np
import pytest

from kd.errors import InputError
from kd.recordings import Recording
from kd.signals import pool, synthetic
from kd.signals.augment import Augment, augmented
from kd.signals.fingerprints import fingerprints
from kd.signals.prepare import DataConfig, each_recording, fingerprint, group_fingerprint, prepare
from kd.signals.splits import Split
from kd.signals.unlabelled import OTHER_SIDE, POOR, Unlabelled, best, held_out, quality
from kd.signals.windows import cut, make_windows

SPLIT = Split(test=("wrist/s000",), val=("wrist/s001",))


def write(path, recordings, labelled=True):
    """An .npz as `kd.datasets.recordings_npz` reads it; unless labelled, without NAME/hr."""
    meta = [{"name": r.name, "dataset": r.dataset, "subject": r.subject, "fs": r.fs} for r in recordings]
    keys = ("ppg", "hr") if labelled else ("ppg",)
    arrays = {f"{r.name}/{key}": getattr(r, key) for r in recordings for key in keys}
    np.savez(path, meta_json=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return str(path)


@pytest.fixture
def everybody():
    made = synthetic.recordings(synthetic.Synthetic(subjects=8, minutes=1))
    return [dataclasses.replace(r, dataset="wrist") for r in made]


@pytest.fixture
def config(tmp_path, everybody):
    """Five people with labels; three more without."""
    return DataConfig(
        "auto",
        write(tmp_path / "labelled.npz", everybody[:5]),
        split=SPLIT,
        unlabelled=Unlabelled(path=write(tmp_path / "more.npz", everybody[5:], labelled=False)),
    )


def without(config, path, **changes):
    return dataclasses.replace(config, unlabelled=Unlabelled(path=path, **changes))


def test_windows_without_labels_follow_those_of_training_and_are_on_no_other_side(config, tmp_path):
    plain = prepare(dataclasses.replace(config, unlabelled=None), tmp_path / "cache")
    data = prepare(config, tmp_path / "cache")
    for side in ("train", "val", "test"):
        for key in ("x", "bpm", "subject", "dataset"):
            np.testing.assert_array_equal(
                getattr(getattr(data, side), key), getattr(getattr(plain, side), key)
            )
    assert set(data.unlabelled.windows.subject) == {"wrist/s005", "wrist/s006", "wrist/s007"}
    assert np.isnan(data.unlabelled.windows.bpm).all()
    assert plain.taught_x is plain.train.x
    assert len(data.taught_x) == len(data.train) + len(data.unlabelled.windows)
    np.testing.assert_array_equal(data.taught_x[len(data.train) :], data.unlabelled.windows.x)
    assert isinstance(data.taught_x, np.memmap)


def test_their_windows_are_cut_over_the_whole_signal_as_labelled_ones_are(config, everybody, tmp_path):
    found = prepare(config, tmp_path / "cache").unlabelled.windows
    one = found.take(found.subject == "wrist/s005")
    labelled, _ = make_windows([everybody[5]], config.preprocess)
    np.testing.assert_array_equal(one.x, labelled.x)


def test_what_is_before_a_teachers_longer_window_is_left_out_of_them_too(config, tmp_path):
    plain, led = (
        prepare(dataclasses.replace(config, lead_s=s), tmp_path / "cache").unlabelled for s in (0.0, 4.0)
    )
    assert len(led.windows) == len(plain.windows) - 2 * 3  # two strides of each of three recordings
    assert np.isin(led.windows.x[:, 0, 0], plain.windows.x[:, 0, 0]).all()


def test_labels_that_are_there_are_not_read(config, everybody, tmp_path):
    spoiled = [dataclasses.replace(r, hr=np.full_like(r.hr, 999.0)) for r in everybody[5:]]
    read = prepare(without(config, write(tmp_path / "with.npz", spoiled)), tmp_path / "cache")
    np.testing.assert_array_equal(
        read.unlabelled.windows.x, prepare(config, tmp_path / "cache").unlabelled.windows.x
    )


def test_labelled_recordings_still_need_labels(everybody, tmp_path):
    path = write(tmp_path / "none.npz", everybody, labelled=False)
    with pytest.raises(InputError, match=r"hr is missing: .*data\.unlabelled"):
        list(each_recording(DataConfig("auto", path)))


def test_only_data_with_such_recordings_have_another_fingerprint(config, everybody, tmp_path):
    plain = dataclasses.replace(config, unlabelled=None)
    other = without(config, write(tmp_path / "other.npz", everybody[6:], labelled=False))
    gated = without(config, config.unlabelled.path, gate="quality", keep=0.5)
    unsure = without(config, config.unlabelled.path, gate="entropy", keep=0.5)
    configs = (plain, config, other, gated, unsure)
    assert len({fingerprint(c) for c in configs}) == len(configs)
    folds = [dataclasses.replace(c, split=Split(scheme="kfold", folds=3)) for c in configs]
    assert len({group_fingerprint(c, tmp_path / "cache") for c in folds}) == len(configs)


def test_in_each_fold_those_are_left_out_who_are_validated_or_tested_in_it(config, everybody, tmp_path):
    path = write(tmp_path / "all.npz", everybody, labelled=False)
    for fold in range(3):
        split = Split(scheme="kfold", folds=3, fold=fold)
        data = prepare(dataclasses.replace(without(config, path), split=split), tmp_path / "cache")
        seen = set(data.unlabelled.windows.subject)
        assert not seen & {*data.val.subject, *data.test.subject}
        assert seen == {*data.train.subject, "wrist/s005", "wrist/s006", "wrist/s007"}
        assert data.unlabelled.left_out[OTHER_SIDE] == len(data.val) + len(data.test)


def test_the_same_signal_under_another_name_is_noticed(config, everybody, tmp_path):
    tested = everybody[0]  # SPLIT
    half = tested.ppg[:, : tested.ppg.shape[1] * 3 // 4]
    renamed = dataclasses.replace(tested, name="x", subject="x", dataset="other", ppg=half)
    second = dataclasses.replace(everybody[6], name="y", subject="x", dataset="other")
    path = write(tmp_path / "again.npz", [renamed, second, everybody[5]], labelled=False)
    data = prepare(without(config, path), tmp_path / "cache")
    assert set(data.unlabelled.windows.subject) == {"wrist/s005"}  # the second is of the same person


def test_a_device_that_is_tested_as_a_new_one_is_not_trained_on(config, everybody, tmp_path):
    labelled = [dataclasses.replace(r, dataset="ab"[i % 2]) for i, r in enumerate(everybody[:6])]
    more = [dataclasses.replace(r, dataset="ab"[i]) for i, r in enumerate(everybody[6:])]
    config = dataclasses.replace(
        without(config, write(tmp_path / "more2.npz", more, labelled=False)),
        path=write(tmp_path / "two.npz", labelled),
        split=Split(scheme="lodo", fold=1),
    )
    assert set(prepare(config, tmp_path / "cache").unlabelled.windows.dataset) == {"a"}


def test_nobody_left_is_said(config, everybody, tmp_path):
    path = write(tmp_path / "tested.npz", everybody[:2], labelled=False)
    with pytest.raises(InputError, match="no window is left to train on"):
        prepare(without(config, path), tmp_path / "cache")


def test_windows_cut_before_fingerprints_were_kept_get_them(config, tmp_path):
    cache = tmp_path / "cache"
    prepare(dataclasses.replace(config, unlabelled=None), cache)
    (kept,) = cache.glob("cut/*/" + pool.SIGNALS)
    said = kept.read_text()
    kept.unlink()
    prepare(config, cache)
    assert kept.read_text() == said


def test_fingerprints_of_short_and_switched_off_signals():
    noise = np.random.default_rng(0).normal(size=(2, 250)).astype(np.float32)
    short = Recording("r", "d", "s", noise, 25.0, np.zeros(1, np.float32))
    assert len(set(fingerprints(short))) == 2
    assert fingerprints(dataclasses.replace(short, ppg=noise[1:])) == fingerprints(short)[1:]
    assert fingerprints(dataclasses.replace(short, ppg=np.zeros((1, 5000), np.float32))) == []


def test_a_signal_reaches_a_tested_person_by_way_of_others():
    side_of = {"d/a": "test", "d/b": "train"}
    elsewhere = [("d/a", {"1"}), ("d/b", {"2"})]
    subjects = ["e/p", "e/p", "e/q", "e/r"]
    assert held_out(subjects, [{"1"}, {"5"}, {"5"}, {"2"}], elsewhere, side_of) == {"e/p", "e/q"}
    assert held_out(["d/a", "e/q"], [{"7"}, {"7"}], elsewhere, side_of) == {"d/a", "e/q"}


def test_the_gate_keeps_the_clearest_windows(config, tmp_path):
    gated = without(config, config.unlabelled.path, gate="quality", keep=0.25)
    kept, everything = (prepare(c, tmp_path / "cache").unlabelled for c in (gated, config))
    assert len(kept.windows) == round(0.25 * len(everything.windows))
    assert kept.left_out[POOR] == len(everything.windows) - len(kept.windows)
    of_all = quality(everything.windows.x, 25.0, (30.0, 209.0))
    of_kept = quality(kept.windows.x, 25.0, (30.0, 209.0))
    assert of_kept.min() >= np.sort(of_all)[-len(of_kept)]


def test_copies_of_them_follow_them_and_are_those_of_training_but_without_labels(config, everybody, tmp_path):
    config = dataclasses.replace(config, augment=Augment(stretch=(0.5, 0.8), seed=3))
    plain = prepare(config, tmp_path / "cache").unlabelled.windows
    copied = without(config, config.unlabelled.path, copies=2)
    data = prepare(copied, tmp_path / "cache")
    found = data.unlabelled.windows
    np.testing.assert_array_equal(found.x[: len(plain)], plain.x)
    copies = found.x[len(plain) :]
    made = augmented(everybody[5:], dataclasses.replace(config.augment, copies=2), config.preprocess)
    alone = [x for _, x, _, _, _ in cut(made, config.preprocess, labelled=False)]
    np.testing.assert_array_equal(copies, np.concatenate(alone))
    assert np.isnan(found.bpm).all()
    assert len(data.train) == len(prepare(config, tmp_path / "cache").train), "labelled ones have none"
    assert fingerprint(copied, tmp_path / "cache") != fingerprint(config, tmp_path / "cache")
    other = dataclasses.replace(copied, augment=Augment(stretch=(0.5, 0.8), seed=4))
    assert fingerprint(other, tmp_path / "cache") != fingerprint(copied, tmp_path / "cache")
    tested = dataclasses.replace(copied, split=Split(test=("wrist/s000",), val=("wrist/s005",)))
    with pytest.raises(InputError, match="wrist/s005"):  # it has no label to be validated by
        prepare(tested, tmp_path / "cache")
    both = without(
        config, write(tmp_path / "both.npz", everybody[:2] + everybody[5:], labelled=False), copies=1
    )
    left = prepare(both, tmp_path / "cache").unlabelled
    assert set(left.windows.subject) == {"wrist/s005", "wrist/s006", "wrist/s007"}
    assert left.left_out[OTHER_SIDE] > 2 * len(plain) / 3, "their copies, too"
    gated = dataclasses.replace(both.unlabelled, gate="quality", keep=0.25)
    kept = prepare(dataclasses.replace(both, unlabelled=gated), tmp_path / "cache").unlabelled
    assert len(kept.windows) == round(0.25 * len(left.windows))


def test_a_pulse_is_clearer_than_noise():
    t = np.arange(200) / 25
    pulse = np.sin(2 * np.pi * 1.3 * t) + 0.3 * np.sin(2 * np.pi * 2.6 * t)
    noise = np.random.default_rng(0).normal(size=200)
    clear, both, unclear = quality(np.stack([pulse, pulse + noise, noise])[:, None], 25.0, (30.0, 209.0))
    assert 0 < unclear < both < clear <= 1
    assert best(np.array([0.1, 0.9, 0.9, 0.5]), 0.5).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"path": None}, r"unlabelled\.path is missing"),
        ({"gate": "luck"}, "use none, entropy, quality"),
        ({"gate": "entropy", "keep": 0.0}, "above 0"),
        ({"gate": "entropy"}, "a share below 1"),
        ({"keep": 0.5}, "without one, leave keep out"),
        ({"copies": -1}, "copies is -1: it must not be negative"),
    ],
)
def test_what_cannot_be_is_refused(fields, says):
    with pytest.raises(InputError, match=says):
        Unlabelled(**{"path": "p", **fields})
