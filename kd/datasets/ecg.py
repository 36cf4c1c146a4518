"""Heart rate from an ECG, for data sets that ship one instead of labels.

QRS detection after Pan and Tompkins, "A Real-Time QRS Detection Algorithm", IEEE TBME 32(3), 1985, with the
running thresholds replaced by medians over the whole neighbourhood (the recording is complete, nothing runs
in real time); then a quotient filter of the RR intervals after Piskorski and Guzik, "Filtering Poincare
plots", 2005.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

RATES_HZ = (40.0, 10_000.0)  # the band of the QRS complex ends at 15 Hz
INTEGRATION_S = 0.15  # the widest QRS complex; Pan and Tompkins
REFRACTORY_S = 0.25  # no two beats closer: 240 BPM
THRESHOLD = 0.25  # of the usual QRS energy; Pan and Tompkins' weight between noise and signal level
TOLERANCE = 0.75  # smallest over largest RR interval of a run; WildPPG's code
RUN = 4  # RR intervals that must agree; WildPPG's code (5 beats)
BPM_LIMITS = (35.0, 185.0)  # mean heart rate of a run; WildPPG's code


def r_peaks(ecg: FloatArray, fs: float) -> npt.NDArray[np.intp]:
    """Sample indices of the R peaks of ecg (n,) at fs Hz; upright or inverted leads."""
    from scipy.ndimage import median_filter, uniform_filter1d
    from scipy.signal import butter, find_peaks, sosfiltfilt

    ecg = np.nan_to_num(np.asarray(ecg, np.float64), posinf=0.0, neginf=0.0)
    if len(ecg) < 4 * fs:
        return np.zeros(0, np.intp)
    band = sosfiltfilt(butter(1, (5.0, 15.0), "bandpass", fs=fs, output="sos"), ecg)
    energy = uniform_filter1d(np.square(np.gradient(band)), max(round(INTEGRATION_S * fs), 1))
    # The usual energy of a beat: every 2 s hold one, and the median of 15 such stretches ignores artefacts.
    block = round(2 * fs)
    blocks = len(energy) // block
    highest = energy[: blocks * block].reshape(blocks, block).max(axis=1)
    usual = median_filter(highest, size=min(15, blocks), mode="nearest")
    level = np.interp(np.arange(len(energy)), (np.arange(blocks) + 0.5) * block, usual)
    found, _ = find_peaks(energy, distance=max(round(REFRACTORY_S * fs), 1))
    found = found[energy[found] > THRESHOLD * level[found]]
    half = round(INTEGRATION_S * fs / 2)
    around = np.clip(found[:, None] + np.arange(-half, half + 1), 0, len(band) - 1)  # (beats, 2 half + 1)
    peaks = around[np.arange(len(found)), np.abs(band[around]).argmax(axis=1)]
    return np.unique(peaks)


def good_intervals(peaks: npt.NDArray[np.intp], fs: float) -> tuple[FloatArray, FloatArray]:
    """RR intervals (k,) in seconds that agree with their neighbours, and the times (k,) of their middles.

    An interval is good when it belongs to a run of RUN intervals, none much shorter than another, at a mean
    heart rate inside BPM_LIMITS.
    """
    beats = np.asarray(peaks, np.float64) / fs
    rr = np.diff(beats)
    if len(rr) < RUN:
        return np.zeros(0), np.zeros(0)
    runs = np.lib.stride_tricks.sliding_window_view(rr, RUN)  # (intervals - RUN + 1, RUN)
    rate = 60.0 / runs.mean(axis=1)
    agree = (
        (runs.min(axis=1) > TOLERANCE * runs.max(axis=1)) & (rate > BPM_LIMITS[0]) & (rate < BPM_LIMITS[1])
    )
    good = np.zeros(len(rr), bool)
    for i in range(RUN):
        good[i : i + len(agree)] |= agree
    return rr[good], (beats[:-1] + rr / 2)[good]


def heart_rate(
    ecg: FloatArray, fs: float, window_s: float = 8.0, stride_s: float = 2.0
) -> npt.NDArray[np.float32]:
    """Heart rate of each window that fits, (windows,) in BPM: 60 / mean good RR; NaN with fewer than two."""
    windows = max(int((len(ecg) / fs - window_s) // stride_s) + 1, 0)
    rr, middle = good_intervals(r_peaks(ecg, fs), fs)
    starts = stride_s * np.arange(windows)
    first, last = np.searchsorted(middle, starts), np.searchsorted(middle, starts + window_s)
    total = np.concatenate([[0.0], np.cumsum(rr)])
    count = last - first
    with np.errstate(divide="ignore", invalid="ignore"):
        hr = np.where(count >= 2, 60.0 * count / (total[last] - total[first]), np.nan)
    return hr.astype(np.float32)
