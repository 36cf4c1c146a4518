"""The law of validation error against epochs."""

import numpy as np
import pytest
from small import EPOCHS, curve, plan

from orchestrator.answers.economy.curves import (
    SHARES,
    fit_curves,
    lowest,
    on_shares,
    predict_ends,
    reached_by,
)
from orchestrator.answers.economy.students import students_of


def family(rng, cells, n, slow=()):
    """Curves of cells that fall alike, those of arms in `slow` three times as far; noise by epoch."""
    out = []
    for k in range(n):
        cell = int(k % len(cells))
        far = (3.0 if cells.arm[cell] in slow else 1.0) * np.exp(0.1 * rng.standard_normal())
        x = np.arange(1, 15) / 14
        noise = 0.03 * (1 - x) * rng.standard_normal(14)
        last = 1.6 + 0.2 * rng.standard_normal()
        out.append((cell, np.exp(last + far * 0.25 * (x**-0.5 - 1) + noise), last))
    return out


def test_the_lowest_so_far_counts_and_what_is_not_a_number_does_not():
    assert np.exp(lowest([5.0, 6.0, np.nan, 4.0])).tolist() == pytest.approx([5, 5, 5, 4])
    values, reached = on_shares([np.nan, np.inf], 10)
    assert reached == 0
    assert np.isfinite(values).all()
    assert on_shares([5.0] * 10, 10)[1] == len(SHARES)
    assert reached_by(0, 10) == 0
    assert reached_by(5, 10) < reached_by(9, 10) < reached_by(10, 10) == len(SHARES)


def test_an_end_is_predicted_as_well_as_is_said_and_better_later():
    rng = np.random.default_rng(3)
    cells = students_of(plan(), {}).cells
    seen = family(rng, cells, 48)
    law = fit_curves(cells, [(cell, on_shares(c, 14)[0]) for cell, c, _ in seen])
    spread = []
    for epochs in (2, 4, 8, 12):
        new = family(rng, cells, 120)
        drawn = [on_shares(c[:epochs], 14) for _, c, _ in new]
        cell = np.array([n[0] for n in new])
        ends = predict_ends(law, cell, drawn)
        off = (ends.value - [n[2] for n in new]) / np.sqrt(np.diag(ends.covariance))
        assert 0.4 < np.sqrt(np.mean(off**2)) < 1.5, epochs
        spread.append(float(np.sqrt(np.diag(ends.covariance)).mean()))
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 2 * spread[-1]


def test_an_arm_that_falls_further_is_known_as_such_from_a_few_of_its_curves():
    rng = np.random.default_rng(4)
    cells = students_of(plan(), {}).cells
    slow = {int(cells.arm[1])}
    seen = family(rng, cells, 36, slow)
    law = fit_curves(cells, [(cell, on_shares(c, 14)[0]) for cell, c, _ in seen])
    late = [n for n in family(rng, cells, 240, slow) if cells.arm[n[0]] in slow]
    ends = predict_ends(law, np.array([n[0] for n in late]), [on_shares(c[:4], 14) for _, c, _ in late])
    bias = float(np.mean(ends.value - [n[2] for n in late]))
    pooled = fit_curves(cells, [])
    blind = predict_ends(pooled, np.array([n[0] for n in late]), [on_shares(c[:4], 14) for _, c, _ in late])
    assert abs(bias) < 0.25 * abs(float(np.mean(blind.value - [n[2] for n in late])))


def test_what_an_arm_is_off_by_is_shared_by_its_points():
    who = students_of(plan(), {})
    law = fit_curves(who.cells, [])
    drawn = [on_shares([9.0, 8.0], EPOCHS)] * 2
    same = predict_ends(law, np.array([0, 0]), drawn).covariance
    other = predict_ends(law, np.array([0, 1]), drawn).covariance
    assert same[0, 1] > other[0, 1] > 0
    assert same[0, 0] > same[0, 1]


def test_a_whole_curve_is_its_end():
    p = plan()[2]
    who = students_of(plan(), {})
    law = fit_curves(who.cells, [])
    ends = predict_ends(law, np.array([0]), [on_shares(curve(p), EPOCHS)])
    assert np.exp(ends.value[0]) == pytest.approx(curve(p)[-1])
