"""The tracker that travels with a student, against what the definition of a hidden Markov model gives."""

import itertools

import numpy as np
import pytest

from kd.edge.export import preprocess_json
from kd.shipped import example, tracker
from kd.shipped.stream import Stream
from kd.shipped.tracker import Tracker, estimate, moves, quantile
from kd.signals.prepare import DataConfig

CHANGE = [0.1, 0.2, 0.4, 0.2, 0.1]
CONFIG = {
    "level": 0.9,
    "temperature": 1.5,
    "weight": 0.5,
    "belief_temperature": 2.0,
    "unsure_above_bpm": 10.0,
    "change": CHANGE,
    "jump": 0.01,
}


def test_the_belief_is_that_of_all_paths_summed_up():
    """Four classes, four windows: every sequence of classes, weighed by its changes and its evidence."""
    logits = np.random.default_rng(0).normal(0, 2, (4, 4)).astype(np.float32)
    p = np.exp(logits / 1.5) / np.exp(logits / 1.5).sum(1, keepdims=True)
    m = np.array([[0.99 * CHANGE[2 + j - i] if abs(j - i) <= 2 else 0 for j in range(4)] for i in range(4)])
    m += 0.01 / 4
    wanted = np.zeros(4)
    for path in itertools.product(range(4), repeat=4):
        chance = p[0, path[0]]
        for n, (i, j) in enumerate(itertools.pairwise(path), 1):
            chance *= m[i, j] * p[n, j] ** 0.5
        wanted[path[-1]] += chance
    followed = Tracker(CONFIG, 30, 4)
    for row in logits:
        followed.update(row)
    assert followed.belief == pytest.approx(wanted / wanted.sum(), rel=1e-5)


def test_moves_are_probabilities_but_at_the_ends():
    m = moves(CONFIG, 180)
    assert m.dtype == np.float32
    assert m[2:-2].sum(1) == pytest.approx(1, abs=1e-6)
    assert m[0].sum() == pytest.approx(0.01 + 0.99 * 0.7, abs=1e-6)
    assert m[90, 92] == pytest.approx(0.099 + 0.01 / 180, rel=1e-5)
    assert m[90, 93] == pytest.approx(0.01 / 180, rel=1e-5)


def test_the_first_window_counts_whole_also_after_a_reset():
    logits = np.random.default_rng(1).normal(0, 3, (3, 180))
    one = Tracker(CONFIG, 30, 180)
    first, later = one.update(logits[0]), one.update(logits[1])
    assert one.belief.dtype == np.float32
    one.reset()
    assert one.update(logits[0]) == first
    assert one.update(logits[1]) == later
    assert first.bpm == pytest.approx(quantile(tracker.probabilities(logits[0], 1.5), 0.5, 30))


@pytest.mark.parametrize(
    ("p", "q", "bpm"),
    [
        ([0, 1, 0], 0.5, 31.0),
        ([0, 1, 0], 1.0, 31.5),
        ([0.5, 0.5, 0], 0.5, 30.5),
        ([0.25, 0.25, 0.5], 0.75, 32.0),
        ([1 / 3, 1 / 3, 1 / 3], 0.5, 31.0),
    ],
)
def test_quantiles_spread_a_class_evenly(p, q, bpm):
    assert quantile(np.array(p, np.float32), q, 30) == pytest.approx(bpm, abs=1e-5)
    both = quantile(np.array([p, p], np.float32), q, 30)
    assert both == pytest.approx([bpm, bpm], abs=1e-5)


def test_an_estimate_says_when_it_is_unsure():
    sure, flat = np.full(180, 1e-9, np.float32), np.full(180, 1 / 180, np.float32)
    sure[50] = 1
    one, other = estimate(sure, CONFIG, 30), estimate(flat, CONFIG, 30)
    assert (one.unsure, other.unsure) == (False, True)
    assert one.bpm == pytest.approx(80, abs=1e-3)
    assert one.low <= one.bpm <= one.high
    assert other.expected_error_bpm == pytest.approx(45, abs=0.1)
    assert (other.low, other.high) == (pytest.approx(29.5 + 9, abs=1e-2), pytest.approx(209.5 - 9, abs=1e-2))


def test_logits_of_any_size_leave_a_belief():
    one = Tracker(CONFIG, 30, 180)
    for place in (0, 179, 90):
        logits = np.full(180, -1e4)
        logits[place] = 1e4
        said = one.update(logits)
        assert np.isfinite(one.belief).all()
        assert one.belief.sum() == pytest.approx(1, abs=1e-5)
    assert said.bpm == pytest.approx(120, abs=1)


class Model:
    """As `kd.shipped.example.Model`, whose logits are made of the windows themselves; keeps those."""

    def __init__(self):
        self.config = preprocess_json(DataConfig(), 1) | {"tracker": CONFIG}
        self.seen = []

    def logits(self, windows):
        self.seen.append(np.array(windows))
        shapes = np.random.default_rng(3).normal(0, 1, (windows.shape[-1], 180))
        return (windows[:, 0] @ shapes * 0.3).astype(np.float32)

    def tracker(self):
        return Tracker(CONFIG, 30, 180)


def test_a_live_stream_is_tracked_from_window_to_window():
    model, signal = Model(), np.random.default_rng(4).normal(0, 1, (1, 25 * 20)).cumsum(1)
    live = Stream(model, 25.0, causal=True)
    heard = [pair for i in range(0, signal.shape[1], 40) for pair in live.track(signal[:, i : i + 40])]
    assert [start for start, _ in heard] == [0, 2, 4, 6, 8, 10, 12]
    again = Tracker(CONFIG, 30, 180)
    assert [said for _, said in heard] == [again.update(model.logits(w)[0]) for w in model.seen[:7]]


def test_a_missing_window_makes_the_tracker_forget():
    model, windows = Model(), np.random.default_rng(5).normal(0, 1, (4, 1, 200))
    found = example.tracked(model, windows, np.array([0.0, 2.0, 8.0, 10.0]))
    alone = Tracker(CONFIG, 30, 180)
    first = [alone.update(row) for row in model.logits(windows[:2])]
    alone.reset()
    assert found == [*first, *(alone.update(row) for row in model.logits(windows[2:]))]
