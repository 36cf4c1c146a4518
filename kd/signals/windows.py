"""From recordings to labelled windows: one cutter for every data set. Knows no file format.

kd.shipped.grid says where windows start and which label is theirs; here they are cut, checked and counted.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.recordings import ACC, BPM_RANGE, Recording, Signal
from kd.shipped import grid
from kd.signals import filters
from kd.signals.preprocess import Preprocess

# Why a window was dropped; a window counts once, under the first reason that holds.
NOT_COVERED = "window reaches outside the recording"
MISSING = "signal missing (NaN)"
NO_LABEL = "no label (NaN)"
OUTSIDE = "label outside the classes"
FLAT = "flat signal"
BESIDE = "label between two, one of them outside the classes"
LEAD = "a teacher's longer window reaches outside the recording"

Cut = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float64], dict[str, int]]


@dataclass(frozen=True)
class WindowSet:
    """Windows with their labels.

    x: float32 (N, channels, samples), the accelerometer's channels after the PPG's. bpm: float32 (N,).
    subject: str (N,), "dataset/subject", so that it is unique across data sets. dataset: str (N,).
    recording: int32 (N,), which one of the data, -1 for copies and windows without labels, which lie on no
    time line; start_s: float64 (N,), seconds in it. Both None where time isn't known.
    """

    x: npt.NDArray[np.float32]
    bpm: npt.NDArray[np.float32]
    subject: npt.NDArray[np.str_]
    dataset: npt.NDArray[np.str_]
    recording: npt.NDArray[np.int32] | None = None
    start_s: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.bpm)

    def take(self, indices: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "WindowSet":
        """The windows at `indices`, in that order."""

        def some(array: Any) -> Any:
            return None if array is None else array[indices]

        return WindowSet(*(some(getattr(self, f.name)) for f in fields(self)))

    @property
    def stride_s(self) -> float:
        """From one window to the next, as far as they tell: the shortest step in a recording; inf if none."""
        _, step, same = self._in_time()
        return float(step[same].min(initial=math.inf))

    def runs(self) -> list[npt.NDArray[np.intp]]:
        """The windows that follow each other by a stride in one recording, (n,) each; [] if time isn't known.

        A window that was dropped ends a run.
        """
        order, step, same = self._in_time()
        parts = np.split(order, np.flatnonzero(~same | (step > 1.5 * self.stride_s)) + 1)
        return [part for part in parts if len(part)]

    def _in_time(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Windows by recording and time; the steps between them, s, and which are within a recording."""
        if self.recording is None or self.start_s is None:
            return np.zeros(0, np.intp), np.zeros(0), np.zeros(0, bool)
        timed = np.flatnonzero(self.recording >= 0)
        order = timed[np.lexsort((self.start_s[timed], self.recording[timed]))]
        return order, np.diff(self.start_s[order]), np.diff(self.recording[order]) == 0


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
    recordings: Iterable[Recording],
    preprocess: Preprocess,
    *,
    bpm_range: tuple[float, float] = BPM_RANGE,
    tested: bool = False,
    lead_s: float = 0.0,
    progress: Callable[[str], None] | None = None,
) -> tuple[WindowSet, Dropped]:
    """Cut every recording into labelled windows, in the order given.

    bpm_range: lowest and highest class. A label outside it is no reading and as good as missing, before
    anything is interpolated; a window has a label only if all that it is made of are readings.
    tested: hr holds readings only, as that of augmented copies, whose heart rates may leave the classes.
    lead_s: as of `cut`.
    Raises InputError if recordings disagree in channels under channels="all", or one makes no sense.
    """
    parts: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = []
    starts: list[npt.NDArray[np.float64]] = []
    dropped: dict[str, dict[str, int]] = {}
    owners: list[tuple[str, str]] = []
    each = cut(recordings, preprocess, bpm_range, tested=tested, lead_s=lead_s)
    for recording, x, bpm, starts_s, reasons in each:
        if progress and len(parts) % 10 == 0:
            progress(f"cutting windows: recording {len(parts) + 1}")
        parts.append((x, bpm))
        starts.append(starts_s)
        owners.append((subject_label(recording), recording.dataset))
        if reasons:
            dropped[f"{recording.dataset}/{recording.name}"] = reasons
    if not parts:
        raise InputError("no recordings to cut into windows")
    sizes = [len(bpm) for _, bpm in parts]
    windows = WindowSet(
        np.concatenate([x for x, _ in parts]),
        np.concatenate([bpm for _, bpm in parts]),
        np.repeat(np.array([subject for subject, _ in owners]), sizes),
        np.repeat(np.array([dataset for _, dataset in owners]), sizes),
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        np.concatenate(starts),
    )
    return windows, Dropped(dropped)


def cut(
    recordings: Iterable[Recording],
    preprocess: Preprocess,
    bpm_range: tuple[float, float] = BPM_RANGE,
    *,
    tested: bool = False,
    lead_s: float = 0.0,
    labelled: bool = True,
) -> Iterator[tuple[Recording, *Cut]]:
    """Each recording, its windows (N, channels, samples), their labels and starts, s, (N,), what was dropped.

    lead_s: seconds before each window that must be recorded, too: a teacher's window is so much longer.
    labelled: if not, windows are cut over the whole signal, whatever labels there are, and theirs are NaN.
    Other arguments and errors as of `make_windows`, which holds them all.
    """
    channels: int | None = None
    recordings = iter(recordings)
    for recording in recordings:
        if preprocess.axes and not preprocess.acc_dropout and ACC not in recording.sensors:
            _refuse_without_acc(itertools.chain([recording], recordings), preprocess)
        x, bpm, starts, reasons = _windows(recording, preprocess, bpm_range, tested, lead_s, labelled)
        if preprocess.channels == "all" and channels not in (None, found := recording.ppg.shape[0]):
            raise InputError(
                f"preprocess.channels is all, but recordings have {sorted({channels or 0, found})} channels: "
                "use mean or first"
            )
        channels = recording.ppg.shape[0]
        yield recording, x, bpm, starts, reasons


def whole_signal(recording: Recording, preprocess: Preprocess) -> grid.Labels:
    """Where labels would be if every window of the signal had one."""
    window_s, stride_s = preprocess.window_s, preprocess.stride_s
    number = math.floor((recording.seconds - window_s) / stride_s + 1e-9) + 1
    return grid.Labels(max(number, 0), 0.0, window_s, stride_s)


def labels_of(recording: Recording) -> grid.Labels:
    """When the recording's labels were true."""
    return grid.Labels(len(recording.hr), recording.hr_start_s, recording.hr_window_s, recording.hr_stride_s)


def _windows(
    recording: Recording,
    preprocess: Preprocess,
    bpm_range: tuple[float, float],
    tested: bool,
    lead_s: float,
    labelled: bool,
) -> Cut:
    """Windows x (N, C, S), labels and starts (N,) and what was dropped, of one recording."""
    starts, bpm, reasons = kept(
        recording, preprocess, bpm_range, tested=tested, lead_s=lead_s, labelled=labelled
    )
    if not _holds_one(recording, preprocess, labelled):
        channels = recording.ppg.shape[0] if preprocess.channels == "all" else 1
        return np.zeros((0, channels + preprocess.axes, preprocess.samples), np.float32), bpm, starts, reasons
    ppg = recording.ppg[:1] if preprocess.channels == "first" else recording.ppg
    signal = filters.prepared(ppg, ~np.isfinite(ppg), recording.fs, preprocess)
    x = _cut(signal, grid.first_sample(starts, recording.fs, preprocess.fs), preprocess)
    if preprocess.axes:
        x = np.concatenate([x, _acceleration(recording, starts, preprocess)], axis=1)
    return x, bpm, starts, reasons


def _acceleration(
    recording: Recording, starts: npt.NDArray[np.float64], preprocess: Preprocess
) -> npt.NDArray[np.float32]:
    """The accelerometer in the windows that begin at starts (N,), not yet scaled; zeros without one."""
    acc = recording.sensors.get(ACC)
    if acc is None or not len(starts):
        return np.zeros((len(starts), preprocess.axes, preprocess.samples), np.float32)
    signal = filters.acceleration(acc, preprocess)
    return np.ascontiguousarray(
        _cut_out(signal, grid.first_sample(starts, acc.fs, preprocess.fs), preprocess.samples), np.float32
    )


def _refuse_without_acc(recordings: Iterable[Recording], preprocess: Preprocess) -> None:
    """Raise InputError naming those that have no accelerometer."""
    without = [f"{r.dataset}/{r.name}" for r in recordings if ACC not in r.sensors]
    more = f" and {len(without) - 5} more" if len(without) > 5 else ""
    raise InputError(
        f"preprocess.channels.acc is {preprocess.acc}, but {', '.join(without[:5])}{more} have no "
        "accelerometer: leave these out, set it to none, or give acc_dropout, which makes a model that works "
        "with and without"
    )


def _holds_one(recording: Recording, preprocess: Preprocess, labelled: bool) -> bool:
    """Whether there are labels, where they are asked for, and signal for a window."""
    labels = labels_of(recording) if labelled else whole_signal(recording, preprocess)
    starts = grid.labelled_starts(labels, preprocess.window_s, preprocess.stride_s)
    rates = recording.fs, preprocess.fs
    return len(starts) > 0 and grid.covered(recording.ppg.shape[1], preprocess.window_s, *rates)


def kept(
    recording: Recording,
    preprocess: Preprocess,
    bpm_range: tuple[float, float] = BPM_RANGE,
    *,
    tested: bool = False,
    lead_s: float = 0.0,
    labelled: bool = True,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32], dict[str, int]]:
    """When the windows that are kept start, seconds (N,), their labels (N,), and what was dropped.

    Filters nothing. Arguments as of `cut`. Raises InputError for a recording that makes no sense.
    """
    _check(recording)
    window_s = preprocess.window_s
    labels = labels_of(recording) if labelled else whole_signal(recording, preprocess)
    starts = grid.labelled_starts(labels, window_s, preprocess.stride_s)
    if not _holds_one(recording, preprocess, labelled):
        return np.zeros(0), np.zeros(0, np.float32), {NOT_COVERED: len(starts)} if len(starts) else {}

    ppg = recording.ppg[:1] if preprocess.channels == "first" else recording.ppg
    acc = recording.sensors.get(ACC) if preprocess.axes else None
    fits = _fits(starts, recording.ppg.shape[1], recording.fs, preprocess)
    if acc is not None:
        fits &= _fits(starts, acc.values.shape[1], acc.fs, preprocess)
    mixed = bpm = np.full(len(starts), np.nan, np.float32)
    if labelled:
        every, centres = grid.readings(recording.hr, -math.inf, math.inf), starts + window_s / 2
        # with labels outside the classes: only to say what is lost
        mixed = grid.labels_at(every, labels, centres)
        bpm = mixed if tested else grid.labels_at(grid.readings(every, *bpm_range), labels, centres)
    has_gap = _has_gap(Signal(ppg, recording.fs), starts, window_s)
    if acc is not None:
        has_gap |= _has_gap(acc, starts, window_s)
    # Even at 30 BPM a pulse rises and falls 4 times in 8 s; a sensor that is off, or at its limit, doesn't.
    moves = [np.diff(channel, append=channel[-1:]) != 0 for channel in ppg]
    changes = np.stack([grid.count_in(m, starts, window_s, recording.fs) for m in moves])
    flat = changes.max(axis=0) < 2 * window_s * bpm_range[0] / 60
    with np.errstate(invalid="ignore"):
        outside = (mixed < bpm_range[0]) | (mixed > bpm_range[1])

    reasons: dict[str, int] = {}
    keep = np.ones(len(starts), bool)
    checks = [
        (NOT_COVERED, ~fits),
        (LEAD, starts < lead_s - 1e-6),
        (MISSING, has_gap),
        (NO_LABEL, labelled & np.isnan(mixed)),
        (OUTSIDE, outside),
        (FLAT, flat),
        (BESIDE, labelled & np.isnan(bpm)),  # last: these and no others would have had a wrong label
    ]
    for reason, bad in checks:
        if count := int((keep & bad).sum()):
            reasons[reason] = count
        keep &= ~bad
    return starts[keep], bpm[keep], reasons


def _fits(
    starts: npt.NDArray[np.float64], samples: int, fs: float, preprocess: Preprocess
) -> npt.NDArray[np.bool_]:
    """Whether windows (N,) lie inside a signal of so many samples at fs."""
    first = grid.first_sample(starts, fs, preprocess.fs)
    inside: npt.NDArray[np.bool_] = (first >= 0) & (
        first + preprocess.samples <= grid.resampled(samples, fs, preprocess.fs)
    )
    return inside


def _has_gap(signal: Signal, starts: npt.NDArray[np.float64], window_s: float) -> npt.NDArray[np.bool_]:
    """Whether a sample is missing in windows (N,), of any channel."""
    missing = np.any(~np.isfinite(signal.values), axis=0)
    gaps: npt.NDArray[np.bool_] = grid.count_in(missing, starts, window_s, signal.fs) > 0
    return gaps


def _cut_out(
    signal: npt.NDArray[np.floating], first: npt.NDArray[np.int64], samples: int
) -> npt.NDArray[np.floating]:
    """Windows (N, channels, samples) of a signal that start at its samples `first` (N,)."""
    view = np.lib.stride_tricks.sliding_window_view(signal, samples, axis=-1)  # (C, starts, S)
    return view[:, first].transpose(1, 0, 2)  # (N, C, S)


def _cut(
    signal: npt.NDArray[np.floating], first: npt.NDArray[np.int64], preprocess: Preprocess
) -> npt.NDArray[np.float32]:
    """The same of a prepared PPG signal, normalised."""
    x = _cut_out(signal, first, preprocess.samples)
    if preprocess.normalise == "zscore":
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.maximum(x.std(axis=-1, keepdims=True), 1e-12)
    return np.ascontiguousarray(x, dtype=np.float32)


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
