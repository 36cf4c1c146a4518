"""Augmented copies: faster means a higher rate, equal weights mix to the mean, the rest changes no copy."""

import numpy as np
import pytest

from kd.errors import InputError
from kd.recordings import Recording
from kd.signals.augment import Augment, augmented, mix, stretch
from kd.signals.baselines import fft_peak
from kd.signals.preprocess import Preprocess
from kd.signals.windows import NO_LABEL, OUTSIDE, make_windows


def pulse(bpm=80.0, channels=1, name="r", seconds=60):
    t = np.arange(round(25 * seconds)) / 25.0
    rng = np.random.default_rng(3)
    ppg = np.sin(2 * np.pi * bpm / 60 * t) + rng.normal(0, 0.1, (channels, len(t)))
    labels = int((seconds - 8) // 2) + 1
    return Recording(name, "set", "s", ppg.astype(np.float32), 25.0, np.full(labels, bpm, np.float32))


@pytest.mark.parametrize("factor", [0.7, 0.97, 1.4, 2.0])
def test_a_stretched_recording_is_that_much_faster_in_signal_and_label(factor):
    windows, _ = make_windows([stretch(pulse(), factor)], Preprocess())
    np.testing.assert_allclose(windows.bpm, 80 * factor, rtol=1e-5)
    np.testing.assert_allclose(fft_peak(windows.x, 25.0), 80 * factor, atol=1.0)
    assert len(windows) == pytest.approx((60 / factor - 8) / 2 + 1, abs=2)


def test_what_is_no_reading_stays_none_in_copies():
    """300 for "no reading", played at 0.65, would be 195; and a 0 beside 80 would be anything."""
    source = pulse(channels=2)
    source.hr[[3, 9, 10]] = [300, 0, np.inf]
    augment, chosen = Augment(copies=3, stretch=(0.65, 0.69)), Preprocess()
    copies = augmented([source], augment, chosen)
    for copy in copies:
        assert np.flatnonzero(np.isnan(copy.hr)).tolist() == [3, 9, 10]
        windows, dropped = make_windows([copy], chosen, tested=True)
        np.testing.assert_allclose(windows.bpm, 80 * copy.fs / 25, rtol=1e-5)
        assert set(dropped.by_reason) == {NO_LABEL}
    assert source.hr[3] == 300


def test_a_copys_heart_may_leave_the_classes_and_costs_only_its_own_windows():
    """Its labels are true: between 205 and 213 lies a window of 209."""
    source = pulse(bpm=160, seconds=120)
    source.hr[:] = np.linspace(140, 170, len(source.hr))
    copy = stretch(source, 1.3)
    windows, dropped = make_windows([copy], Preprocess(), tested=True)
    assert set(dropped.by_reason) == {OUTSIDE}
    assert windows.bpm.max() > 208
    fewer, more = make_windows([copy], Preprocess())
    assert len(fewer) + more.total == len(windows) + dropped.total


def test_labels_stay_with_their_signal_when_stretched():
    t = np.arange(15000) / 25.0
    rate = 60 + 90 * t / 600
    ppg = np.sin(2 * np.pi * np.cumsum(rate) / 25 / 60)
    labels = np.interp(2.0 * np.arange(297) + 4, t, rate)
    source = Recording("r", "set", "s", ppg[None].astype(np.float32), 25.0, labels.astype(np.float32))
    for factor in (0.8, 1.3):
        windows, _ = make_windows([stretch(source, factor)], Preprocess())
        assert abs(np.mean(fft_peak(windows.x, 25.0) - windows.bpm)) < 0.15


def test_equal_weights_mix_to_the_mean():
    source = pulse(channels=3)
    source.ppg[1] *= 500
    mixed = mix(source, np.full(3, 1 / 3, np.float32), Preprocess())
    assert mixed.ppg.shape == (1, 1500)
    a, b = (make_windows([r], Preprocess())[0].x for r in (mixed, source))
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_one_channel_alone_can_be_chosen_by_its_weight_and_gaps_stay_gaps():
    source = pulse(channels=2)
    source.ppg[1, 700:720] = np.nan
    mixed = mix(source, np.array([1.0, 0.0], np.float32), Preprocess())
    assert np.isnan(mixed.ppg[0, 700:720]).all()
    assert np.isfinite(np.delete(mixed.ppg[0], np.arange(700, 720))).all()


@pytest.mark.filterwarnings("error")
def test_a_channel_that_is_missing_or_dead_makes_no_noise():
    source = pulse(channels=3)
    source.ppg[1] = 0.0
    source.ppg[2] = np.nan
    mixed = mix(source, np.full(3, 1 / 3, np.float32), Preprocess())
    assert np.isnan(mixed.ppg).all()
    windows, dropped = make_windows([mixed], Preprocess())
    assert len(windows) == 0
    assert dropped.total == 27


def test_copies_are_deterministic_and_depend_on_their_own_recording_alone():
    a, b = pulse(name="a", channels=2), pulse(name="b", channels=2)
    augment = Augment(copies=2, seed=5)
    both = augmented([a, b], augment, Preprocess())
    alone = augmented([b], augment, Preprocess())
    assert [r.name for r in both] == ["a#1", "a#2", "b#1", "b#2"]
    for one, other in zip(both[2:], alone, strict=True):
        np.testing.assert_array_equal(one.ppg, other.ppg)
        assert one.fs == other.fs
    assert len({r.fs for r in both}) > 2
    assert all(0.7 * 25 - 0.2 <= r.fs <= 1.4 * 25 + 0.2 for r in both)
    assert augmented([b], Augment(copies=2, seed=6), Preprocess())[0].fs != alone[0].fs
    assert all(r.ppg.shape[0] == 1 for r in both)
    kept = augmented([b], Augment(copies=1, mix_channels=False), Preprocess())
    assert kept[0].ppg.shape[0] == 2
    assert augmented([b], Augment(copies=1), Preprocess(channels="all"))[0].ppg.shape[0] == 2


def test_a_recording_too_short_for_a_window_gets_no_copies():
    assert augmented([pulse(seconds=8, channels=2)], Augment(copies=1), Preprocess())
    short = Recording("r", "set", "s", np.zeros((2, 3), np.float32), 25.0, np.zeros(1, np.float32))
    assert augmented([short], Augment(copies=1), Preprocess()) == []


@pytest.mark.parametrize(
    "fields", [{"copies": -1}, {"stretch": (1.4, 0.7)}, {"stretch": (0.1, 1)}, {"stretch": (1, 9)}]
)
def test_settings_that_make_no_sense_are_refused(fields):
    with pytest.raises(InputError, match="augment"):
        Augment(**fields)
