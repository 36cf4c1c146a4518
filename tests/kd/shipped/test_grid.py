"""The window grid: starts on the clock, counts, labels; figures that can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.shipped import grid
from kd.shipped.grid import Labels


def test_half_a_sample_goes_to_the_even_neighbour_and_does_not_add_up():
    starts = grid.start_s(np.arange(9), 0.5)
    assert grid.first_sample(starts, 25, 25).tolist() == [0, 12, 25, 38, 50, 62, 75, 88, 100]
    assert grid.first_sample(3600.5, 25, 25) == 90012
    assert grid.first_sample(-6.0, 64, 25) == -150


@pytest.mark.parametrize(
    ("fs", "real"), [(25, 25), (64, 25), (125, 25), (24.99, 24.99), (49.97, 49.97 * 500 / 999), (20.5, 25)]
)
def test_windows_start_by_the_rate_that_the_resampled_signal_has(fs, real):
    starts = 2.0 * np.arange(1797)
    np.testing.assert_allclose(grid.first_sample(starts, fs, 25), starts * real, atol=0.5)
    assert grid.resampled(round(3600 * fs), fs, 25) == pytest.approx(3600 * real, abs=1.5)
    assert grid.ratio(fs, 25).denominator <= 1000


def test_as_many_windows_as_fit():
    def starts(samples, fs, window_s=8.0):
        return grid.unlabelled_starts(samples, window_s, 2.0, fs, 25).tolist()

    assert starts(250, 25) == [0.0, 2.0]
    assert starts(249, 25) == [0.0]
    assert starts(199, 25) == []
    assert starts(640, 64) == [0.0, 2.0]
    assert len(starts(round(3600 * 24.99), 24.99)) == 1797
    assert starts(round(120 * 24.99), 24.99, window_s=120.0) == []  # 2,999 samples, 3,000 are a window


def test_labels_of_another_grid_are_interpolated_between_their_centres():
    hr = np.array([60.0, 70.0, np.nan, 90.0, 100.0], np.float32)
    labels = Labels(5, 0.0, 10.0, 10.0)  # centres 5, 15, ... 45 s
    at = grid.labels_at(hr, labels, np.array([5.0, 10.0, 15.0, 20.0, 30.0, 35.0, 40.0, 45.0]))
    np.testing.assert_allclose(at, [60, 65, 70, np.nan, np.nan, 90, 95, 100])


def test_readings_are_numbers_from_the_lowest_to_the_highest():
    hr = np.array([0, 29.9, 30, 209, 209.1, -80, np.nan, np.inf, -np.inf])
    got = grid.readings(hr, 30, 209)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [*[np.nan] * 2, 30, 209, *[np.nan] * 5])


def test_labels_too_few_for_a_window_allow_none():
    assert len(grid.labelled_starts(Labels(0, 0.0, 8.0, 2.0), 8.0, 2.0)) == 0
    assert len(grid.labelled_starts(Labels(2, 0.0, 1.0, 1.0), 8.0, 2.0)) == 0
    assert grid.labelled_starts(Labels(1, 1.0, 10.0, 10.0), 8.0, 2.0).tolist() == [2.0]


@settings(deadline=None, max_examples=200)
@given(
    labels=st.integers(0, 40),
    hr_window=st.sampled_from([1.0, 4.0, 8.0, 10.0, 30.0]),
    hr_stride=st.sampled_from([0.5, 1.0, 2.0, 5.0]),
    window=st.sampled_from([4.0, 8.0, 10.0]),
    stride=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    start=st.sampled_from([-6.0, 0.0, 1.7]),
)
def test_no_window_reaches_beyond_the_labels(labels, hr_window, hr_stride, window, stride, start):
    when = Labels(labels, start, hr_window, hr_stride)
    starts = grid.labelled_starts(when, window, stride)
    if len(starts):
        last_centre = start + (labels - 1) * hr_stride + hr_window / 2
        assert starts[0] >= start
        assert starts[-1] + window / 2 <= last_centre + 1e-3
        assert starts[-1] + stride + window / 2 > last_centre
        np.testing.assert_allclose(np.diff(starts), stride)
        # centred on a label: exactly it, by its number
        centres = starts + window / 2
        at = grid.labels_at(np.arange(labels, dtype=np.float32), when, centres)
        np.testing.assert_allclose(at, (centres - start - hr_window / 2) / hr_stride, atol=1e-4)
    if (hr_window, hr_stride) == (window, stride):
        np.testing.assert_allclose(starts, start + stride * np.arange(labels))


def test_marks_are_counted_within_each_window_of_the_raw_signal():
    marks = np.zeros(100, bool)
    marks[[0, 19, 20, 99]] = True
    starts = np.array([-1.0, 0.0, 2.0, 9.0, 50.0])
    assert grid.count_in(marks, starts, 2.0, 10.0).tolist() == [1, 2, 1, 1, 0]
