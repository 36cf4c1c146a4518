"""A teacher's own windows, cut from raw recordings at its rate, length and band, ending with the student's.

They follow the order of a pool (`kd.signals.whole`): originals recording by recording, then all copies, which
are played faster or slower as the students' copies are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.recordings import Recording
from kd.shipped import grid
from kd.signals import filters
from kd.signals.augment import augmented
from kd.signals.prepare import each_recording
from kd.signals.preprocess import Preprocess
from kd.signals.whole import Whole
from kd.signals.windows import kept
from kd.teachers.source import Source

CHUNK = 512  # windows of a recording that are passed, and stored, at once


@dataclass(frozen=True)
class Played:
    """A recording, or a copy of one, and when its kept windows start, seconds.

    bpm: NaN without labels. first: number in the pool of its first window. copy: 0: the original.
    """

    recording: Recording
    starts_s: npt.NDArray[np.float64]
    bpm: npt.NDArray[np.float32]
    first: int
    copy: int


def lead_s(source: Source, student: Preprocess) -> float:
    """Seconds before a student's window that the teacher's window takes in."""
    return max([0.0, source.window_s - student.window_s, *(lead_s(one, student) for one in source.of)])


def each_played(whole: Whole) -> Iterator[Played]:
    """Every recording, each followed by its copies."""
    config, labelled = whole.config, whole.labelled
    bpm_range, p = config.bpm_range, config.preprocess
    first, first_copy = 0, len(whole.pool.originals[1])
    for recording in each_recording(config, labelled=labelled):
        starts, bpm, _ = kept(recording, p, bpm_range, lead_s=config.lead_s, labelled=labelled)
        yield Played(recording, starts, bpm, first, 0)
        first += len(starts)
        copies = augmented([recording], config.augment, p, bpm_range)
        for k, copy in enumerate(copies, 1):
            starts, bpm, _ = kept(copy, p, bpm_range, tested=True, lead_s=config.lead_s, labelled=labelled)
            yield Played(copy, starts, bpm, first_copy, k)
            first_copy += len(starts)


def windows(
    source: Source, recording: Recording, starts_s: npt.NDArray[np.float64], student: Preprocess
) -> npt.NDArray[np.float32]:
    """The teacher's windows (N, channels, samples) that end where the student's that start at starts_s do.

    Gaps before the student's window are bridged by straight lines. Raises InputError as `signal_of`.
    """
    return windows_in(signal_of(source, recording), source, recording, starts_s, student)


def signal_of(source: Source, recording: Recording) -> npt.NDArray[np.floating]:
    """The recording as the teacher takes it, (channels, samples at source.fs), before windows are cut.

    Raises InputError for a copy of mixed channels that the teacher would need one by one.
    """
    if source.channels == "all" and "#" in recording.name and len(recording.ppg) == 1:
        raise InputError(
            f"teacher {source.name} takes all channels, and copies have one: set data.augment.mix_channels "
            "to false, or data.augment.copies to 0"
        )
    ppg = recording.ppg[:1] if source.channels == "first" else recording.ppg
    missing = ~np.isfinite(ppg)
    if source.band_hz is not None:
        return filters.prepared(ppg, missing, recording.fs, _preprocess(source))
    return _unfiltered(source, filters.bridged(ppg, missing), recording.fs)


def windows_in(
    signal: npt.NDArray[np.floating],
    source: Source,
    recording: Recording,
    starts_s: npt.NDArray[np.float64],
    student: Preprocess,
) -> npt.NDArray[np.float32]:
    """`windows` of a recording whose signal is prepared."""
    starts = _inside(recording, starts_s + (student.window_s - source.window_s), source)
    samples, first = (
        grid.length(source.window_s, source.fs),
        grid.first_sample(starts, recording.fs, source.fs),
    )
    view = np.lib.stride_tricks.sliding_window_view(signal, samples, axis=-1)
    x = view[:, first].transpose(1, 0, 2)  # (N, C, S)
    if source.normalise == "zscore":  # as `kd.signals.windows`, to the bit
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.maximum(x.std(axis=-1, keepdims=True), 1e-12)
    return np.ascontiguousarray(x, dtype=np.float32)


def _inside(recording: Recording, starts: npt.NDArray[np.float64], source: Source) -> npt.NDArray[np.float64]:
    """Starts moved by at most a sample, where rounding to the teacher's rate left the recording."""
    rates = recording.fs, source.fs
    last = grid.resampled(recording.ppg.shape[1], *rates) - grid.length(source.window_s, source.fs)
    first = grid.first_sample(starts, *rates)
    beyond = np.maximum(first - last, 0) - np.maximum(-first, 0)
    if np.abs(beyond).max(initial=0) > 1:
        raise AssertionError(f"{recording.name}: a teacher's window reaches outside: {first.min()}, {last}")
    return np.asarray(starts - beyond / (recording.fs * float(grid.ratio(*rates))))


def _preprocess(source: Source) -> Preprocess:
    assert source.band_hz is not None
    return Preprocess(
        fs=source.fs,
        low_hz=source.band_hz[0],
        high_hz=source.band_hz[1],
        order=source.order,
        window_s=source.window_s,
        normalise=source.normalise,
        channels=source.channels,
    )


def check_input(source: Source) -> None:
    """Raise InputError for a band that the rate can't have, or what `Preprocess` refuses."""
    try:
        if source.band_hz is not None:
            _preprocess(source)
        else:
            Preprocess(fs=1000.0, window_s=1.0, normalise=source.normalise, channels=source.channels)
    except InputError as error:
        raise InputError(f"teacher {source.name}: input: {error}") from None


def _unfiltered(source: Source, ppg: npt.NDArray[np.floating], fs: float) -> npt.NDArray[np.floating]:
    """Only resampled; channels averaged, each scaled to unit variance, where the mean is asked for."""
    from scipy.signal import resample_poly

    ratio, signal = grid.ratio(fs, source.fs), np.asarray(ppg, np.float64)
    if ratio != 1:
        signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    if source.channels != "mean" or len(signal) == 1:
        return signal
    signal = signal - signal.mean(axis=-1, keepdims=True)
    scale = signal.std(axis=-1, keepdims=True)
    return np.divide(signal, scale, out=np.zeros_like(signal), where=scale > 0).mean(axis=0, keepdims=True)
