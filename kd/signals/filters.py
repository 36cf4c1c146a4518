"""What becomes of a signal before windows are cut: gaps, rate, band, channels. Knows no labels."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kd.recordings import Signal
from kd.shipped import grid
from kd.signals.preprocess import Preprocess

FloatArray = npt.NDArray[np.floating]


def prepared(
    ppg: FloatArray, missing: npt.NDArray[np.bool_], fs: float, preprocess: Preprocess
) -> FloatArray:
    """ppg (channels, samples at fs) bridged where missing, resampled, band-passed; channels="mean" averaged.

    Returns float64 (channels or 1, samples at preprocess.fs).
    """
    signal = bandpassed(bridged(ppg, missing), fs, preprocess)
    if preprocess.channels == "mean" and len(signal) > 1:
        scale = signal.std(axis=-1, keepdims=True)
        unit = np.divide(signal, scale, out=np.zeros_like(signal), where=scale > 0)
        signal = unit.mean(axis=0, keepdims=True)
    return signal


def acceleration(acc: Signal, preprocess: Preprocess) -> FloatArray:
    """An accelerometer as windows hold it, not yet scaled: float64 (preprocess.axes, samples at fs).

    Bridged, its magnitude taken where that is asked for, resampled and band-passed.
    """
    values = bridged(acc.values, ~np.isfinite(acc.values))
    if preprocess.acc == "magnitude":
        values = np.sqrt(np.square(values, dtype=np.float64).sum(0, keepdims=True))
    return bandpassed(values, acc.fs, preprocess, preprocess.band_hz)


def bandpassed(
    ppg: FloatArray, fs: float, preprocess: Preprocess, band_hz: tuple[float, float] | None = None
) -> FloatArray:
    """Resample ppg (channels, samples at fs) to preprocess.fs, anti-aliased, and band-pass it, zero-phase.

    band_hz: another than the PPG's. The signal must be finite. Returns float64 (channels, samples at
    fs * grid.ratio(fs, preprocess.fs)).
    """
    from scipy.signal import resample_poly, sosfiltfilt

    ratio = grid.ratio(fs, preprocess.fs)
    signal = np.asarray(ppg, dtype=np.float64)
    if ratio != 1:
        # Its own FIR is the anti-aliasing filter; "line" keeps a large offset from ringing at the ends.
        signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    sos = _bandpass(preprocess.order, *(band_hz or (preprocess.low_hz, preprocess.high_hz)), preprocess.fs)
    pad = min(3 * (2 * len(sos) + 1), signal.shape[-1] - 1)  # scipy's, or what a short recording allows
    return np.asarray(sosfiltfilt(sos, signal, axis=-1, padlen=pad))


@lru_cache(maxsize=16)
def _bandpass(order: int, low_hz: float, high_hz: float, fs: float) -> FloatArray:
    """A Butterworth band-pass as second-order sections; designing one takes as long as a minute's signal."""
    from scipy.signal import butter

    sos: FloatArray = butter(order, (low_hz, high_hz), btype="bandpass", fs=fs, output="sos")
    return sos


def bridged(ppg: FloatArray, missing: npt.NDArray[np.bool_]) -> FloatArray:
    """Gaps replaced by straight lines, so that one NaN doesn't spoil the whole filtered recording."""
    if not missing.any():
        return ppg
    filled = np.zeros(ppg.shape)
    t = np.arange(ppg.shape[1])
    for row, channel, gap in zip(filled, ppg, missing, strict=True):
        if not gap.all():
            row[:] = np.interp(t, t[~gap], channel[~gap])
    return filled
