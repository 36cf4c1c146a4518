"""The floor a model must beat: right on a clean pulse, summed over channels, and told by data set."""

import numpy as np
import pytest

from kd.signals.baselines import baseline_errors, fft_peak, training_median
from kd.signals.windows import WindowSet


def tones(bpm, fs=25.0, samples=200):
    t = np.arange(samples) / fs
    return np.sin(2 * np.pi * np.asarray(bpm)[:, None] / 60 * t)[:, None]


@pytest.mark.parametrize(("fs", "samples"), [(25.0, 200), (64.0, 512), (25.0, 100)])
def test_the_peak_of_a_pure_pulse_is_its_rate(fs, samples):
    bpm = np.linspace(45, 220, 60)
    error = np.abs(fft_peak(tones(bpm, fs, samples), fs) - bpm)
    assert error.max() < (1.5 if samples >= 200 else 5.0)


def test_only_the_band_is_searched():
    x = tones([90.0]) + 1.5 * tones([12.0]) + 10 * tones([500.0])
    assert fft_peak(x, 25.0)[0] == pytest.approx(90, abs=3)


def test_spectra_of_channels_are_summed():
    low, high = tones([60.0]), tones([120.0])
    channels = [low + 1.2 * high, low + 0.2 * high]
    assert fft_peak(channels[0], 25.0)[0] == pytest.approx(120, abs=2)
    assert fft_peak(np.concatenate(channels, axis=1), 25.0)[0] == pytest.approx(60, abs=2)


def test_windows_in_blocks_are_the_same_as_one_by_one():
    x = np.random.default_rng(0).standard_normal((2050, 1, 200)).astype(np.float32)
    whole = fft_peak(x, 25.0)
    assert whole.shape == (2050,)
    some = [0, 1023, 1024, 2049]
    np.testing.assert_array_equal(whole[some], np.concatenate([fft_peak(x[i : i + 1], 25.0) for i in some]))


def test_errors_by_data_set():
    def window_set(bpm, datasets):
        names = np.array(datasets)
        return WindowSet(tones(bpm).astype(np.float32), np.float32(bpm), names, names)

    train = window_set([50.0, 70.0, 80.0], ["A"] * 3)
    test = window_set([60.0, 100.0, 90.0], ["A", "A", "B"])
    errors = baseline_errors(train, test, 25.0)
    assert errors["training_median"] == pytest.approx({"all": 20.0, "A": 20.0, "B": 20.0})
    assert set(errors["fft_peak"]) == {"all", "A", "B"}
    assert errors["fft_peak"]["all"] < 1.0
    assert training_median(train.bpm, 2).tolist() == [70.0, 70.0]
