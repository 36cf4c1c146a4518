"""Splits: whole subjects on one side, always; who is where depends on the split and the names alone."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kd.errors import InputError
from kd.signals.splits import SIDES, Split, assign_subjects, fold_of_subjects, split_subjects
from kd.signals.windows import WindowSet

FRACTIONS = st.tuples(*[st.integers(1, 10)] * 3).map(lambda n: tuple(i / sum(n) for i in n))


def window_set(owners):
    """Windows without content, the k-th of subject owners[k]."""
    subjects = np.array(owners)
    datasets = np.array([o.partition("/")[0] for o in owners])
    return WindowSet(
        np.zeros((len(owners), 1, 1), np.float32), np.zeros(len(owners), np.float32), subjects, datasets
    )


@st.composite
def worlds(draw):
    """Subjects of one to four data sets, and the owner of each of many windows, in any order."""
    counts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    subjects = [f"{'ABCD'[d]}/{k}" for d, n in enumerate(counts) for k in range(n)]
    assume(len(subjects) >= 3)
    more = draw(st.lists(st.sampled_from(subjects), max_size=60))
    return subjects, draw(st.permutations(subjects + more))


@st.composite
def splits(draw, subjects):
    """Any split, of any scheme, that could be asked of these subjects."""
    scheme = draw(st.sampled_from(["fixed", "kfold", "loso", "lodo"]))
    common = {"scheme": scheme, "seed": draw(st.integers(0, 5)), "fractions": draw(FRACTIONS)}
    if scheme == "kfold":
        folds = draw(st.integers(3, 6))
        return Split(**common, folds=folds, fold=draw(st.integers(0, folds - 1)))
    if scheme == "loso":
        return Split(**common, fold=draw(st.integers(0, len(subjects) - 1)))
    if scheme == "lodo":
        return Split(**common, fold=draw(st.integers(0, 3)))
    patterns = st.lists(st.sampled_from([*subjects, "A/*", "B/*", "*/1", "A/[0-3]"]), max_size=2)
    return Split(**common, **{side: tuple(draw(patterns)) for side in SIDES})


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_no_subject_is_ever_on_two_sides(data):
    subjects, owners = data.draw(worlds())
    split = data.draw(splits(subjects))
    windows = window_set(owners)
    try:
        index = split_subjects(windows, split)
    except InputError:
        return  # refused, so that nothing was divided wrongly; when, the tests below say
    on = {side: set(windows.subject[i]) for side, i in index.items()}
    assert not on["train"] & on["val"]
    assert not on["train"] & on["test"]
    assert not on["val"] & on["test"]
    assert all(on.values()), "a side is empty"
    assert sorted(np.concatenate(list(index.values()))) == list(range(len(owners))), "a window is lost"
    assert all((np.diff(i) > 0).all() for i in index.values())
    for side in SIDES:
        for pattern in getattr(split, side):
            if pattern in subjects:
                assert pattern in on[side]


@settings(deadline=None, max_examples=200)
@given(worlds(), FRACTIONS, st.integers(0, 9))
def test_shares_alone_are_never_refused_and_followed_in_each_data_set(world, fractions, seed):
    subjects, _ = world
    side_of = assign_subjects(subjects, Split(fractions=fractions, seed=seed))
    for name in {s[0] for s in subjects}:
        members = [s for s in subjects if s[0] == name]
        if len(members) >= 3:
            assert {side_of[s] for s in members} == set(SIDES), "a data set misses a side"
    for side, share in zip(SIDES, fractions, strict=True):
        got = sum(at == side for at in side_of.values())
        assert abs(got - share * len(subjects)) <= 2 + 2 * len({s[0] for s in subjects})


@settings(deadline=None, max_examples=100)
@given(worlds(), st.integers(0, 9))
def test_every_subject_is_tested_exactly_once_over_all_folds(world, seed):
    subjects, owners = world
    windows = Counter(owners)
    for split, folds in [
        (Split(scheme="loso", seed=seed), len(subjects)),
        (Split(scheme="kfold", folds=3, seed=seed), 3),
    ]:
        tested = []
        for fold in range(folds):
            side_of = assign_subjects(subjects, replace(split, fold=fold), windows)
            tested += [s for s, side in side_of.items() if side == "test"]
        assert sorted(tested) == sorted(subjects)


@settings(deadline=None, max_examples=200)
@given(worlds(), st.integers(3, 6), st.integers(0, 9))
def test_folds_balance_the_subjects_of_each_data_set_and_all_windows(world, folds, seed):
    subjects, owners = world
    assume(len(subjects) >= folds)
    windows = Counter(owners)
    fold_of = fold_of_subjects(subjects, Split(scheme="kfold", folds=folds, seed=seed), windows)
    assert set(fold_of.values()) == set(range(folds)), "a fold is empty"
    for name in {s[0] for s in subjects}:
        counts = Counter(fold for s, fold in fold_of.items() if s[0] == name)
        assert max(counts.values()) - min(counts[f] for f in range(folds)) <= 1
    total = [sum(windows[s] for s, f in fold_of.items() if f == fold) for fold in range(folds)]
    datasets = len({s[0] for s in subjects})
    assert max(total) - min(total) <= datasets * max(windows.values())


def test_folds_of_few_large_subjects_hold_equally_many_windows():
    """Dealt out by name alone, three of the large subjects were in one fold for most seeds."""
    windows = {f"A/{k}": 100 if k % 3 == 0 else 10 for k in range(15)} | {f"B/{k}": 40 for k in range(10)}
    for seed in range(20):
        fold_of = fold_of_subjects(sorted(windows), Split(scheme="kfold", seed=seed), windows)
        assert {sum(windows[s] for s in fold_of if fold_of[s] == f) for f in range(5)} == {200}
    assert fold_of != fold_of_subjects(sorted(windows), Split(scheme="kfold", seed=0), windows)


def test_folds_need_the_windows_that_they_balance():
    with pytest.raises(ValueError, match="how many"):
        assign_subjects([f"A/{k}" for k in range(5)], Split(scheme="kfold"))


@settings(deadline=None, max_examples=100)
@given(worlds(), st.integers(0, 9))
def test_leaving_a_data_set_out_tests_all_of_it_and_nobody_else(world, seed):
    subjects, _ = world
    datasets = sorted({s[0] for s in subjects})
    assume(len(datasets) >= 2)
    for fold, name in enumerate(datasets):
        rest = [s for s in subjects if s[0] != name]
        if len(rest) < 2:
            continue  # one to train, one to validate: refused
        side_of = assign_subjects(subjects, Split(scheme="lodo", fold=fold, seed=seed))
        assert {s for s, side in side_of.items() if side == "test"} == {s for s in subjects if s[0] == name}
        val = sum(side_of[s] == "val" for s in rest)
        assert abs(val - 0.2 * len(rest)) <= 1 + 2 * len(datasets)


def test_leaving_a_data_set_out_needs_another_and_one_that_is_there():
    with pytest.raises(InputError, match="only A: add recordings of another"):
        assign_subjects(["A/0", "A/1", "A/2"], Split(scheme="lodo"))
    with pytest.raises(InputError, match="there are 2 data sets, counted from 0"):
        assign_subjects(["A/0", "A/1", "B/2"], Split(scheme="lodo", fold=2))


def test_who_goes_where_depends_on_seed_and_names_alone():
    subjects = [f"A/{k}" for k in range(20)]
    first = assign_subjects(subjects, Split(seed=1))
    assert assign_subjects(subjects[::-1] * 2, Split(seed=1)) == first
    assert assign_subjects(subjects, Split(seed=2)) != first
    assert sum(side == "train" for side in first.values()) == 12


def test_named_subjects_are_where_they_are_named():
    subjects = [f"A/{k}" for k in range(6)] + [f"B/{k}" for k in range(6)]
    side_of = assign_subjects(subjects, Split(test=("B/*",)))
    assert {s for s, side in side_of.items() if side == "test"} == {s for s in subjects if s[0] == "B"}
    assert {side for s, side in side_of.items() if s[0] == "A"} == {"train", "val"}


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (Split(test=("B/*",)), r"no subject matches 'B/\*'"),
        (Split(test=("A/00",)), "did you mean A/0"),
        (Split(train=("A/*",), test=("A/1",)), "A/1 is named in train and in test"),
        (Split(train=("A/0",), val=("A/1",), test=("A/2",)), "but not A/3"),
        (Split(train=("A/*",)), "left for val and test"),
        (Split(scheme="kfold", folds=9), "9 folds"),
        (Split(scheme="loso", fold=5), "5 subjects, counted from 0"),
    ],
)
def test_splits_that_cannot_be_are_refused(split, says):
    with pytest.raises(InputError, match=says):
        assign_subjects([f"A/{k}" for k in range(5)], split, {f"A/{k}": 9 for k in range(5)})


@pytest.mark.parametrize(
    "fields",
    [
        {"scheme": "random"},
        {"fractions": (0.5, 0.5, 0.5)},
        {"fractions": (1.0, 0.0, 0.0)},
        {"scheme": "kfold", "folds": 2},
        {"scheme": "kfold", "fold": 5},
        {"scheme": "loso", "test": ("A/1",)},
        {"scheme": "lodo", "test": ("A/1",)},
    ],
)
def test_settings_that_make_no_sense_are_refused(fields):
    with pytest.raises(InputError, match="split"):
        Split(**fields)


def test_too_few_subjects_are_refused():
    with pytest.raises(InputError, match="at least 3"):
        assign_subjects(["A/0", "A/1"], Split())
