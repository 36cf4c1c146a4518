"""All windows of a config, with labels and without, under one count."""

import numpy as np

from kd.signals.augment import Augment
from kd.signals.prepare import DataConfig, prepare
from kd.signals.splits import Split
from kd.signals.unlabelled import Unlabelled
from kd.signals.whole import rows_of, take, wholes


def test_rows_lead_to_the_windows_of_every_side(tmp_path):
    more = Unlabelled("synthetic", options={"subjects": 8, "minutes": 1}, gate="quality", keep=0.5)
    split = Split("kfold", folds=3, fold=1)
    options = {"subjects": 6, "minutes": 1}
    config = DataConfig(options=options, split=split, augment=Augment(copies=1), unlabelled=more)
    data, known = prepare(config, tmp_path), wholes(config, tmp_path)
    assert [whole.labelled for whole in known] == [True, False]
    labelled, without = (whole.pool for whole in known)
    x = [labelled.originals[0], labelled.copies[0], without.originals[0]]
    assert sum(map(len, known)) == sum(map(len, x))
    sides, besides = rows_of(known, config, tmp_path)
    for side, rows in sides.items():
        np.testing.assert_array_equal(take(x, rows), getattr(data, side).x)
    np.testing.assert_array_equal(take(x, np.concatenate([sides["train"], besides])), data.taught_x)
    assert 0 < len(besides) < len(known[1])


def test_rows_of_arrays_that_lie_end_to_end():
    arrays = [np.arange(6).reshape(3, 2), np.zeros((0, 2), int), np.arange(6, 10).reshape(2, 2)]
    rows = np.array([4, 0, 3, 3])
    np.testing.assert_array_equal(take(arrays, rows), np.concatenate(arrays)[rows])
    assert take(arrays, rows[:0]).shape == (0, 2)
