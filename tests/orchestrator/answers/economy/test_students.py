"""The students of a plan as arrays."""

import numpy as np
import pytest
from small import plan

from kd.errors import InputError
from orchestrator.answers.economy.students import students_of


def test_folds_share_cells_and_strategies_share_configurations():
    who = students_of(plan(), {})
    assert (len(who), len(who.cells), who.folds) == (24, 12, 2)
    assert len(set(who.cells.arm)) == 3
    assert len(set(who.cells.configuration)) == 4
    assert np.bincount(who.cell).tolist() == [2] * 12
    assert (who.cells.teacher >= 0).sum() == 8
    assert {t for t in who.teacher if t} == {"T16-0", "T16-1"}


def test_limits_are_of_what_query_takes():
    points = plan()
    who = students_of(points, {"max_params": 5000, "max_flash_kb": 1e9})
    sizes = [next(p for p, c in zip(points[2:], who.cell, strict=True) if c == k).params for k in range(12)]
    assert who.cells.fits.tolist() == [n <= 5000 for n in sizes]
    assert 0 < who.cells.fits.sum() < 12


def test_what_cannot_be_asked_is_said():
    with pytest.raises(InputError, match=r"max-latency-ms.*max-params"):
        students_of(plan(), {"max_latency_ms": 3})
    with pytest.raises(InputError, match=r"max_params 10 \(least: params [\d,]+\): raise"):
        students_of(plan(), {"max_params": 10})


def test_teachers_of_two_sizes_differ_by_the_log_of_it():
    who = students_of(plan(teachers=(16, 32)), {})
    t = np.unique(who.cells.t[who.cells.teacher >= 0])
    assert t[0] == pytest.approx(-t[1])
    assert t[1] > 0.5
    assert (who.cells.t[who.cells.teacher < 0] == 0).all()
