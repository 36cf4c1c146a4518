"""Windows: what scipy gives step by step, under the right label, and nothing is lost unsaid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, resample_poly, sosfiltfilt

from kd.errors import InputError
from kd.recordings import Recording
from kd.signals.baselines import fft_peak
from kd.signals.preprocess import Preprocess
from kd.signals.windows import (
    BESIDE,
    FLAT,
    MISSING,
    NO_LABEL,
    NOT_COVERED,
    OUTSIDE,
    make_windows,
)


def recording(ppg, fs=25.0, hr=None, **times):
    """A recording of that signal with a label of 70 BPM for every window that fits."""
    ppg = np.atleast_2d(np.asarray(ppg, np.float32))
    fitting = int((ppg.shape[1] / fs - 8) // 2) + 1
    hr = np.full(fitting, 70.0) if hr is None else hr
    return Recording("r", "set", "s", ppg, fs, np.asarray(hr, np.float32), **times)


def noise(seconds, fs=25.0, channels=1, seed=0):
    return np.random.default_rng(seed).standard_normal((channels, round(seconds * fs)))


def sweep(seconds, fs, start_s=0.0, low=60.0, high=170.0):
    """A pulse whose rate rises from low to high BPM, and its rate (BPM) as a function of time."""
    t = start_s + np.arange(round(seconds * fs)) / fs
    slope = (high - low) / seconds
    phase = 2 * np.pi * (low * t + slope * t**2 / 2) / 60
    return np.sin(phase) + 0.3 * np.sin(2 * phase), lambda s: low + slope * s


@pytest.mark.parametrize(("fs", "up", "down"), [(25.0, 1, 1), (64.0, 25, 64), (125.0, 1, 5), (20.0, 5, 4)])
def test_windows_equal_a_reference_made_step_by_step(fs, up, down):
    signal = noise(61.3, fs) * 50 + 1000
    windows, dropped = make_windows([recording(signal, fs)], Preprocess())
    even = resample_poly(np.float32(signal[0]).astype(float), up, down, padtype="line")
    sos = butter(4, [0.5, 4.0], btype="bandpass", fs=25.0, output="sos")
    filtered = sosfiltfilt(sos, even)
    expected = []
    for k in range(len(windows)):
        part = filtered[50 * k : 50 * k + 200]
        expected.append((part - part.mean()) / part.std())
    assert windows.x.shape == (int((61.3 - 8) / 2) + 1, 1, 200)
    assert windows.x.dtype == np.float32
    np.testing.assert_allclose(windows.x[:, 0], expected, atol=2e-5)
    assert dropped.total == 0


def test_every_setting_reaches_the_windows():
    preprocess = Preprocess(
        fs=32.0, low_hz=0.7, high_hz=3.0, order=2, window_s=4.0, stride_s=1.0, normalise="none"
    )
    signal = noise(30, 64.0)
    windows, _ = make_windows([recording(signal, 64.0)], preprocess)
    sos = butter(2, [0.7, 3.0], btype="bandpass", fs=32.0, output="sos")
    filtered = sosfiltfilt(sos, resample_poly(np.float32(signal[0]).astype(float), 1, 2, padtype="line"))
    # 4 s windows in the middle of 8 s labels: from 2 s on, every second
    expected = [filtered[64 + 32 * k : 64 + 32 * k + 128] for k in range(len(windows))]
    assert len(windows) == 23
    np.testing.assert_allclose(windows.x[:, 0], expected, atol=2e-5)


def test_channels_are_averaged_after_scaling_or_chosen_or_kept():
    signal = noise(40, channels=2) * np.array([[1.0], [1000.0]])
    loud_second = recording(signal)
    alone = [make_windows([recording(row)], Preprocess(normalise="none"))[0].x for row in signal]
    both = make_windows([loud_second], Preprocess(channels="all", normalise="none"))[0].x
    np.testing.assert_allclose(both, np.concatenate(alone, axis=1), rtol=1e-5, atol=1e-4)
    first = make_windows([loud_second], Preprocess(channels="first", normalise="none"))[0].x
    np.testing.assert_allclose(first, alone[0])
    mean = make_windows([loud_second], Preprocess())[0].x
    other_gain = make_windows([recording(signal * np.array([[7.0], [0.01]]))], Preprocess())[0].x
    np.testing.assert_allclose(mean, other_gain, atol=1e-4)


def test_a_dead_channel_does_not_cost_the_living_one():
    signal = np.concatenate([noise(40), np.zeros((1, 1000))])
    windows, dropped = make_windows([recording(signal)], Preprocess())
    np.testing.assert_allclose(windows.x, make_windows([recording(signal[:1])], Preprocess())[0].x, atol=1e-5)
    assert dropped.total == 0


@pytest.mark.parametrize("fs", [25.0, 64.0, 125.0, 24.97, 31.7])
@pytest.mark.parametrize("start_s", [0.0, 3.0])
def test_labels_belong_to_their_windows(fs, start_s):
    seconds = 600
    signal, rate = sweep(seconds, fs)
    centres = start_s + 2.0 * np.arange(290) + 4.0
    windows, _ = make_windows([recording(signal, fs, rate(centres), hr_start_s=start_s)], Preprocess())
    error = fft_peak(windows.x, 25.0) - windows.bpm
    assert len(windows) == 290
    # the rate rises by 0.37 BPM from one window to the next: half a window of shift would be seen
    assert abs(np.mean(error)) < 0.1
    assert np.abs(np.mean(error[-20:])) < 0.35, "signal and labels drift apart"


def test_windows_stay_on_the_clock_for_an_hour_whatever_the_rate():
    """24.99 Hz has no short ratio to 25: taken for 25 Hz, the last window would be 1.4 s off."""
    t = np.arange(round(3600 * 24.99)) / 24.99
    windows, _ = make_windows([recording(np.sin(2 * np.pi * t), 24.99)], Preprocess())
    true = np.sin(2 * np.pi * np.arange(200) / 25)  # every window starts with a whole second
    likeness = (windows.x[:, 0] * true).mean(axis=1) / true.std()
    assert len(windows) > 1790
    assert likeness.min() > 0.95


def test_what_is_dropped_is_counted_under_its_first_reason():
    signal = noise(100)[0]
    signal[1000:1300] = 0.5  # 40 s .. 52 s: flat
    signal[2000:2010] = np.nan  # 80 s .. 80.4 s: missing
    hr = np.full(60, 70.0)  # windows 0..46 fit into 100 s
    hr[3], hr[5], hr[6], hr[7] = np.nan, 29.9, 209.1, 209.0
    windows, dropped = make_windows([recording(signal, hr=hr)], Preprocess())
    assert dropped.by_reason == {
        NOT_COVERED: 13,
        MISSING: 4,  # those that start at 74, 76, 78 and 80 s
        NO_LABEL: 1,
        OUTSIDE: 2,
        FLAT: 3,  # those that start at 40, 42 and 44 s
    }
    assert len(windows) + dropped.total == 60
    assert dropped.by_recording == {"set/r": dropped.by_reason}
    assert np.isfinite(windows.x).all()
    np.testing.assert_allclose(windows.x.std(axis=-1), 1, atol=1e-4)


@pytest.mark.parametrize("bad", [0.0, 300.0, -1.0, 29.9, 209.1, np.nan, np.inf, -np.inf])
def test_no_reading_is_missing_before_labels_are_mixed(bad):
    """A 0 between two 80 is no 40, and a 300 no 190; what is centred on a reading keeps it."""
    hr = np.full(47, 80.0)
    hr[[10, 11, 20]] = bad
    windows, dropped = make_windows([recording(noise(100), hr=hr)], Preprocess(stride_s=0.5))
    assert set(windows.bpm.tolist()) == {80.0}
    # windows every quarter of a label's stride; those centred on labels 9, 12, 19 and 21 are kept
    assert dropped.total == (4 * 3 - 1) + (4 * 2 - 1)
    if np.isfinite(bad):
        assert dropped.by_reason[OUTSIDE] >= 3
        assert set(dropped.by_reason) <= {OUTSIDE, BESIDE}
    else:
        assert set(dropped.by_reason) == {NO_LABEL}


@settings(deadline=None, max_examples=30)
@given(
    bad=st.dictionaries(st.integers(0, 26), st.sampled_from([0.0, 300.0, 215.0, 25.0, np.nan, np.inf])),
    stride=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
    window=st.sampled_from([6.0, 8.0, 10.0]),
)
def test_whatever_is_missing_no_label_differs_from_that_of_whole_labels(bad, stride, window):
    true = np.linspace(60, 180, 27)
    signal, chosen = noise(60), Preprocess(stride_s=stride, window_s=window)
    whole, outside = make_windows([recording(signal, hr=true)], chosen)
    hr = true.copy()
    hr[list(bad)] = list(bad.values())
    cut, dropped = make_windows([recording(signal, hr=hr)], chosen)
    position = (whole.bpm - 60) / (120 / 26)  # of each window, in labels
    needed = [{round(p)} if abs(p - round(p)) < 1e-3 else {int(p), int(p) + 1} for p in position]
    kept = np.array([not (n & set(bad)) for n in needed])
    np.testing.assert_array_equal(cut.bpm, whole.bpm[kept])
    assert dropped.total == outside.total + (~kept).sum()


def test_a_gap_spoils_only_the_windows_it_is_in():
    t = np.arange(2500) / 25.0
    signal = np.sin(2 * np.pi * 1.2 * t) + 100
    gap = signal.copy()
    gap[1250:1275] = np.nan
    whole, _ = make_windows([recording(signal)], Preprocess())
    cut, dropped = make_windows([recording(gap)], Preprocess())
    first = next(k for k in range(47) if 2 * k + 8 > 50)
    assert dropped.by_reason == {MISSING: 4}
    np.testing.assert_allclose(cut.x[: first - 1], whole.x[: first - 1], atol=0.03)
    np.testing.assert_allclose(cut.x[first + 1 :], whole.x[first + 5 :], atol=0.03)


@pytest.mark.parametrize(
    ("seconds", "labels", "expected"), [(7.9, 3, {NOT_COVERED: 3}), (0.2, 1, {NOT_COVERED: 1}), (60, 0, {})]
)
def test_a_recording_without_windows(seconds, labels, expected):
    windows, dropped = make_windows(
        [recording(noise(seconds), hr=np.full(labels, 70)), recording(noise(10))], Preprocess()
    )
    assert len(windows) == 2
    assert dropped.by_reason == expected


def test_a_recording_that_resampling_leaves_too_short_has_no_window():
    """120 s at 24.99 Hz stay at 24.99 Hz: 2,999 samples, where a window has 3,000."""
    settings = Preprocess(window_s=120.0)
    windows, dropped = make_windows([recording(noise(120, 24.99), 24.99, np.full(60, 70))], settings)
    assert len(windows) == 0
    assert set(dropped.by_reason) == {NOT_COVERED}


def test_windows_carry_their_subject_and_data_set():
    a = Recording("n", "A", "1", noise(10).astype(np.float32), 25.0, np.full(2, 60, np.float32))
    b = Recording("n", "B", "1", noise(12).astype(np.float32), 25.0, np.full(3, 80, np.float32))
    windows, _ = make_windows([a, b], Preprocess())
    assert windows.subject.tolist() == ["A/1"] * 2 + ["B/1"] * 3
    assert windows.dataset.tolist() == ["A"] * 2 + ["B"] * 3
    assert windows.bpm.tolist() == [60] * 2 + [80] * 3
    some = windows.take(np.array([4, 0]))
    assert some.subject.tolist() == ["B/1", "A/1"]
    np.testing.assert_array_equal(some.x[1], windows.x[0])


@pytest.mark.parametrize(
    "change",
    [
        {"normalise": "minmax"},
        {"channels": "second"},
        {"low_hz": 0.0},
        {"high_hz": 12.5},
        {"stride_s": 0.0},
        {"order": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(change):
    with pytest.raises(InputError, match=next(iter(change))):
        Preprocess(**change)


def test_recordings_that_make_no_sense_are_refused_by_name():
    bad = [
        Recording("r9", "set", "s", np.zeros(500, np.float32), 25.0, np.zeros(1, np.float32)),
        Recording("r9", "set", "s", np.zeros((1, 500), np.float32), 25.0, np.zeros((1, 1), np.float32)),
        Recording("r9", "set", "s", np.zeros((1, 500), np.float32), np.nan, np.zeros(1, np.float32)),
        Recording("r9", "set", "s", np.zeros((1, 500), np.float32), 25.0, np.zeros(1, np.float32), 0.0),
    ]
    for one in bad:
        with pytest.raises(InputError, match="set/r9"):
            make_windows([one], Preprocess())
    with pytest.raises(InputError, match="channels"):
        make_windows([recording(noise(10)), recording(noise(10, channels=2))], Preprocess(channels="all"))
    with pytest.raises(InputError, match="no recordings"):
        make_windows([], Preprocess())
