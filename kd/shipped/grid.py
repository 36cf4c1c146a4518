"""Which samples are window k of a recording, and which label is its? The one rule, numpy only.

kdsweep cuts training windows by it, and so do example.py and stream.py, which it is copied beside. It knows
times and counts: what is in a signal it doesn't.

Window k starts first_s + k * stride_s seconds after the first sample, at the nearest sample of the resampled
signal. Every start is rounded from its own time, so that a stride of 12.5 samples doesn't add up to a drift;
half a sample goes to the even neighbour, as Python's round, numpy's rint and C's lrint do.
"""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np


class Labels(NamedTuple):
    """When labels were true, seconds: label j in the window_s from start_s + j * stride_s on."""

    number: int
    start_s: float
    window_s: float
    stride_s: float


def length(window_s: float, fs: float) -> int:
    """Samples of one window, the model's input; fs: Hz, the rate the model was trained at."""
    return round(window_s * fs)


def ratio(fs: float, to: float) -> Fraction:
    """The factor a recording at fs Hz is resampled by: to / fs with a small denominator.

    The bound keeps the polyphase filter short. Where it makes the rate wrong by a little (24.99 Hz), windows
    are cut by the rate it really has, so that labels and signal don't drift apart over hours.
    """
    return Fraction(to / fs).limit_denominator(1000)


def first_sample(starts_s: Any, fs: float, to: float) -> Any:
    """First sample, int64, of windows that start at `starts_s` (W,) or one, in a recording resampled."""
    return np.rint(np.asarray(starts_s, np.float64) * fs * float(ratio(fs, to))).astype(np.int64)


def start_s(k: Any, stride_s: float, first_s: float = 0.0) -> Any:
    """Start of window k, seconds after the first sample: of one k, or of many (W,)."""
    return first_s + stride_s * k


def labelled_starts(labels: Labels, window_s: float, stride_s: float) -> Any:
    """Start of every window the labels allow, in seconds, (W,).

    On the labels' own grid when window and stride are the labels'; else the first window is centred on the
    first label or starts with it, and the last is centred no later than the last label.
    """
    if labels.number == 0:
        return np.zeros(0)
    first = labels.start_s + max(0.0, (labels.window_s - window_s) / 2)
    last_centre = labels.start_s + (labels.number - 1) * labels.stride_s + labels.window_s / 2
    # 1e-6 of slack: a float's rounding must not cost the last window
    count = math.floor((last_centre - window_s / 2 - first) / stride_s + 1e-6) + 1
    return start_s(np.arange(max(count, 0)), stride_s, first)


def unlabelled_starts(samples: int, window_s: float, stride_s: float, fs: float, to: float) -> Any:
    """Start of every window inside a recording of `samples` samples at fs, in seconds, (W,)."""
    starts = start_s(np.arange(math.floor(samples / fs / stride_s) + 1), stride_s)
    last = first_sample(starts, fs, to) + length(window_s, to)
    return starts[(last <= resampled(samples, fs, to)) & covered(samples, window_s, fs, to)]


def resampled(samples: int, fs: float, to: float) -> int:
    """Samples of a recording at fs after resampling."""
    factor = ratio(fs, to)
    return -(-samples * factor.numerator // factor.denominator)


def covered(samples: int, window_s: float, fs: float, to: float) -> bool:
    """Whether a recording of `samples` samples at fs holds a whole window, before and after resampling."""
    return samples / fs >= window_s and resampled(samples, fs, to) >= length(window_s, to)


def readings(hr: Any, lowest: float, highest: float) -> Any:
    """hr (labels,) as float32, NaN for what is no heart rate from lowest to highest BPM, both included.

    Before labels_at, never after: a 0 for "no reading" between two 80 would have become a 40.
    """
    hr = np.asarray(hr, np.float32)
    return np.where(np.isfinite(hr) & (hr >= lowest) & (hr <= highest), hr, np.float32(np.nan))


def labels_at(hr: Any, labels: Labels, centres_s: Any) -> Any:
    """Reference heart rate, float32 (W,), of windows centred at `centres_s` (W,): linear between the labels'.

    hr: (labels,), BPM, of `readings`. A window centred on a label gets exactly it; another needs both of its
    neighbours, one label step apart: NaN where either is NaN, however short the gap.
    """
    position = (centres_s - labels.start_s - labels.window_s / 2) / labels.stride_s
    position = np.clip(position, 0, len(hr) - 1)
    low = np.floor(position + 1e-6).astype(int)
    share = np.maximum(position - low, 0.0)
    share[share < 1e-6] = 0.0
    left, right = hr[low], hr[np.minimum(low + 1, len(hr) - 1)]
    # where share is 0, a NaN on the right must not spoil the label on the left
    return np.where(share > 0, left + share * (right - left), left).astype(np.float32)


def count_in(marks: Any, starts_s: Any, window_s: float, fs: float) -> Any:
    """How many marks lie in each window (W,), which may overhang both ends.

    marks: bool (samples at fs,), of the recording before resampling.
    """
    total = np.concatenate([[0], np.cumsum(marks, dtype=np.int64)])
    starts = starts_s * fs
    first = np.clip(np.round(starts).astype(int), 0, len(marks))
    last = np.clip(np.round(starts + window_s * fs).astype(int), 0, len(marks))
    return total[last] - total[first]
