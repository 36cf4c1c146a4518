"""From recordings to windows: one resampler, one filter, one cutter for every data set. Knows no file format.

The defaults are those of WildPPG's supervised baseline (25 Hz, Butterworth order 4, 0.5-4 Hz, z-score per
window), with the 8 s / 2 s windows that the labels of SPC, BAMI and PPG-DaLiA come in.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.recordings import Recording

FloatArray = npt.NDArray[np.floating]
BPM_RANGE = (30.0, 209.0)  # lowest and highest of the 180 classes; WildPPG's code

# Why a window was dropped; a window counts once, under the first reason that holds.
NOT_COVERED = "window reaches outside the recording"
MISSING = "signal missing (NaN)"
NO_LABEL = "no label (NaN)"
OUTSIDE = "label outside the classes"
FLAT = "flat signal"


@dataclass(frozen=True)
class Preprocess:
    """How a recording becomes windows. Every default is a convention with its source beside it.

    channels: "mean" = one channel, the average of all after each was scaled to unit variance over the
    filtered recording, so that a channel with a large gain can't drown the others; "first"; "all".
    """

    fs: float = 25.0  # Hz; WildPPG's supervised baseline
    low_hz: float = 0.5  # 30 BPM; the same
    high_hz: float = 4.0  # 240 BPM; the same
    order: int = 4  # Butterworth, run forward and back (zero phase); the same
    window_s: float = 8.0  # SPC, BAMI and PPG-DaLiA labels; BeliefPPG
    stride_s: float = 2.0  # the same
    normalise: str = "zscore"  # per window and channel, WildPPG; "none" keeps the filtered units
    channels: str = "mean"  # ours: smaller FFT-peak error than averaged spectra on SPC-train and BAMI-1

    def __post_init__(self) -> None:
        if self.normalise not in ("zscore", "none"):
            raise InputError(f"preprocess.normalise is {self.normalise!r}: use zscore or none")
        if self.channels not in ("mean", "first", "all"):
            raise InputError(f"preprocess.channels is {self.channels!r}: use mean, first or all")
        if not 0 < self.low_hz < self.high_hz < self.fs / 2:
            raise InputError(
                f"preprocess: need 0 < low_hz < high_hz < fs/2, got low_hz {self.low_hz}, "
                f"high_hz {self.high_hz}, fs {self.fs}: raise fs or narrow the band"
            )
        if self.window_s <= 0 or self.stride_s <= 0 or self.order < 1:
            raise InputError("preprocess: window_s, stride_s and order must be positive")

    @property
    def samples(self) -> int:
        """Samples of one window."""
        return round(self.window_s * self.fs)


@dataclass(frozen=True)
class WindowSet:
    """Windows with their labels.

    x: float32 (N, channels, samples). bpm: float32 (N,). subject: str (N,), "dataset/subject", so that it is
    unique across data sets. dataset: str (N,).
    """

    x: npt.NDArray[np.float32]
    bpm: npt.NDArray[np.float32]
    subject: npt.NDArray[np.str_]
    dataset: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.bpm)

    def take(self, indices: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "WindowSet":
        """The windows at `indices`, in that order."""
        return WindowSet(self.x[indices], self.bpm[indices], self.subject[indices], self.dataset[indices])


@dataclass(frozen=True)
class Dropped:
    """Windows that were not used: recording name -> reason -> how many."""

    by_recording: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def by_reason(self) -> dict[str, int]:
        """How many windows each reason cost."""
        total: Counter[str] = Counter()
        for reasons in self.by_recording.values():
            total.update(reasons)
        return dict(total)

    @property
    def total(self) -> int:
        """All windows dropped."""
        return sum(self.by_reason.values())


def subject_label(recording: Recording) -> str:
    """The subject's name in a WindowSet, unique across data sets."""
    return f"{recording.dataset}/{recording.subject}"


def make_windows(
    recordings: Sequence[Recording],
    preprocess: Preprocess,
    *,
    bpm_range: tuple[float, float] = BPM_RANGE,
    progress: Callable[[str], None] | None = None,
) -> tuple[WindowSet, Dropped]:
    """Cut every recording into labelled windows, in the order given.

    bpm_range: windows with a label outside it (both ends belong to it) are dropped.
    Raises InputError if recordings disagree in channels under channels="all", or one makes no sense.
    """
    if preprocess.channels == "all" and len(counts := {r.ppg.shape[0] for r in recordings}) > 1:
        raise InputError(
            f"preprocess.channels is all, but recordings have {sorted(counts)} channels: use mean or first"
        )
    cut: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = []
    dropped: dict[str, dict[str, int]] = {}
    for i, recording in enumerate(recordings):
        if progress and i % 10 == 0:
            progress(f"cutting windows: recording {i} of {len(recordings)}")
        x, bpm, reasons = _windows(recording, preprocess, bpm_range)
        cut.append((x, bpm))
        if reasons:
            dropped[f"{recording.dataset}/{recording.name}"] = reasons
    if not cut:
        raise InputError("no recordings to cut into windows")
    sizes = [len(bpm) for _, bpm in cut]
    windows = WindowSet(
        np.concatenate([x for x, _ in cut]),
        np.concatenate([bpm for _, bpm in cut]),
        np.repeat(np.array([subject_label(r) for r in recordings]), sizes),
        np.repeat(np.array([r.dataset for r in recordings]), sizes),
    )
    return windows, Dropped(dropped)


def window_starts(recording: Recording, preprocess: Preprocess) -> FloatArray:
    """Start of every window the labels allow, in seconds, (W,).

    On the labels' own grid when window and stride are the labels'; else the first window is centred on the
    first label or starts with it, and the last is centred no later than the last label.
    """
    labels = len(recording.hr)
    if labels == 0:
        return np.zeros(0)
    first = recording.hr_start_s + max(0.0, (recording.hr_window_s - preprocess.window_s) / 2)
    last_centre = recording.hr_start_s + (labels - 1) * recording.hr_stride_s + recording.hr_window_s / 2
    # 1e-6 s of slack: a float's rounding must not cost the last window
    count = math.floor((last_centre - preprocess.window_s / 2 - first) / preprocess.stride_s + 1e-6) + 1
    return first + preprocess.stride_s * np.arange(max(count, 0))


def labels_at(recording: Recording, centres_s: FloatArray) -> npt.NDArray[np.float32]:
    """Reference heart rate of windows centred at `centres_s` (W,), BPM: linear between the labels' centres.

    A window centred on a label gets exactly that label; NaN where either neighbour is NaN.
    """
    position = (centres_s - recording.hr_start_s - recording.hr_window_s / 2) / recording.hr_stride_s
    position = np.clip(position, 0, len(recording.hr) - 1)
    low = np.floor(position + 1e-6).astype(int)
    share = np.maximum(position - low, 0.0)
    share[share < 1e-6] = 0.0
    high = np.minimum(low + 1, len(recording.hr) - 1)
    left, right = recording.hr[low], recording.hr[high]
    # where share is 0, a NaN on the right must not spoil the label on the left
    return np.where(share > 0, left + share * (right - left), left).astype(np.float32)


def bandpassed(ppg: FloatArray, fs: float, preprocess: Preprocess) -> FloatArray:
    """Resample ppg (channels, samples at fs) to preprocess.fs, anti-aliased, and band-pass it, zero-phase.

    The signal must be finite. Returns float64 (channels, samples at fs * resampling(fs, preprocess)).
    """
    from scipy.signal import butter, resample_poly, sosfiltfilt

    ratio = resampling(fs, preprocess)
    signal = np.asarray(ppg, dtype=np.float64)
    if ratio != 1:
        # Its own FIR is the anti-aliasing filter; "line" keeps a large offset from ringing at the ends.
        signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    band = (preprocess.low_hz, preprocess.high_hz)
    sos = butter(preprocess.order, band, btype="bandpass", fs=preprocess.fs, output="sos")
    pad = min(3 * (2 * len(sos) + 1), signal.shape[-1] - 1)  # scipy's, or what a short recording allows
    return np.asarray(sosfiltfilt(sos, signal, axis=-1, padlen=pad))


def resampling(fs: float, preprocess: Preprocess) -> Fraction:
    """The factor a recording at fs Hz is resampled by: preprocess.fs / fs with a small denominator.

    The bound keeps the polyphase filter short. Where it makes the rate wrong by a little (24.97 Hz), windows
    are cut by the rate it really has, so that labels and signal don't drift apart over hours.
    """
    return Fraction(preprocess.fs / fs).limit_denominator(1000)


def _windows(
    recording: Recording, preprocess: Preprocess, bpm_range: tuple[float, float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], dict[str, int]]:
    """Windows x (N, C, S), labels (N,) and what was dropped, of one recording."""
    _check(recording)
    channels = recording.ppg.shape[0] if preprocess.channels == "all" else 1
    starts = window_starts(recording, preprocess)
    if len(starts) == 0 or recording.seconds < preprocess.window_s:
        empty = np.zeros((0, channels, preprocess.samples), np.float32)
        return empty, np.zeros(0, np.float32), {NOT_COVERED: len(starts)} if len(starts) else {}

    ppg = recording.ppg[:1] if preprocess.channels == "first" else recording.ppg
    missing = ~np.isfinite(ppg)
    signal = bandpassed(bridged(ppg, missing), recording.fs, preprocess)
    if preprocess.channels == "mean" and len(signal) > 1:
        scale = signal.std(axis=-1, keepdims=True)
        signal = np.divide(signal, scale, out=np.zeros_like(signal), where=scale > 0).mean(
            axis=0, keepdims=True
        )

    first = np.round(starts * recording.fs * float(resampling(recording.fs, preprocess))).astype(int)
    fits = (first >= 0) & (first + preprocess.samples <= signal.shape[1])
    bpm = labels_at(recording, starts + preprocess.window_s / 2)
    raw = (starts * recording.fs, preprocess.window_s * recording.fs)
    has_gap = _count(np.any(missing, axis=0), *raw) > 0
    # Even at 30 BPM a pulse rises and falls 4 times in 8 s; a sensor that is off, or at its limit, doesn't.
    changes = np.stack([_count(np.diff(channel, append=channel[-1:]) != 0, *raw) for channel in ppg])
    flat = changes.max(axis=0) < 2 * preprocess.window_s * bpm_range[0] / 60

    reasons: dict[str, int] = {}
    keep = np.ones(len(starts), bool)
    with np.errstate(invalid="ignore"):
        outside = (bpm < bpm_range[0]) | (bpm > bpm_range[1])
    checks = [
        (NOT_COVERED, ~fits),
        (MISSING, has_gap),
        (NO_LABEL, np.isnan(bpm)),
        (OUTSIDE, outside),
        (FLAT, flat),
    ]
    for reason, bad in checks:
        if count := int((keep & bad).sum()):
            reasons[reason] = count
        keep &= ~bad

    view = np.lib.stride_tricks.sliding_window_view(signal, preprocess.samples, axis=-1)  # (C, starts, S)
    x = view[:, first[keep]].transpose(1, 0, 2)  # (N, C, S)
    if preprocess.normalise == "zscore":
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.maximum(x.std(axis=-1, keepdims=True), 1e-12)
    return np.ascontiguousarray(x, dtype=np.float32), bpm[keep], reasons


def _check(recording: Recording) -> None:
    """Refuse a recording whose shapes make no sense, naming it."""
    where = f"recording {recording.dataset}/{recording.name}"
    if recording.ppg.ndim != 2 or recording.ppg.shape[0] == 0:
        raise InputError(f"{where}: ppg has shape {recording.ppg.shape}: it must be (channels, samples)")
    if recording.hr.ndim != 1:
        raise InputError(f"{where}: hr has shape {recording.hr.shape}: it must be (windows,)")
    times = (recording.fs, recording.hr_window_s, recording.hr_stride_s)
    if not all(math.isfinite(t) and t > 0 for t in times):
        raise InputError(f"{where}: fs, hr_window_s and hr_stride_s must be positive, but are {times}")


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


def _count(marks: npt.NDArray[np.bool_], starts: FloatArray, length: float) -> npt.NDArray[np.int64]:
    """How many marks lie in each window [start, start + length), in samples; windows may overhang the end."""
    total = np.concatenate([[0], np.cumsum(marks, dtype=np.int64)])
    first = np.clip(np.round(starts).astype(int), 0, len(marks))
    last = np.clip(np.round(starts + length).astype(int), 0, len(marks))
    return total[last] - total[first]
