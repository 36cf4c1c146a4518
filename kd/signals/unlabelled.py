"""Recordings without heart rate, for loss terms that need only a teacher: whose may be trained on, and which.

They are never validated or tested on, and whoever is validated or tested elsewhere in the data isn't among
them. Knows no loss.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.signals.pool import Array, Part, Pool
from kd.signals.windows import WindowSet

GATES = ("none", "entropy", "quality")
NEAR_HZ = 0.25  # of a peak: half the width of a Hann window's main lobe over 8 s
OTHER_SIDE, POOR = "subject validated or tested on", "poor signal"  # why a window isn't trained on


@dataclass(frozen=True)
class Unlabelled:
    """Which recordings are trained on without labels; those they have are not read.

    source, path, options: as of labelled data. copies: changed ones of each recording besides, as
    `data.augment` changes them; teachers have outputs for each. gate: "quality" keeps the share `keep` of
    windows with the clearest pulse (`quality`), "entropy" those that each teacher is surest of; "none" all.
    """

    source: str = "auto"
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    gate: str = "none"
    keep: float = 1.0
    copies: int = 0

    def __post_init__(self) -> None:
        if self.path is None and self.source != "synthetic":
            raise InputError("data.unlabelled.path is missing: give the path of recordings without labels")
        if self.gate not in GATES:
            raise InputError(f"data.unlabelled.gate is {self.gate!r}: use {', '.join(GATES)}")
        if self.copies < 0:
            raise InputError(f"data.unlabelled.copies is {self.copies}: it must not be negative")
        if not 0 < self.keep <= 1:
            raise InputError(f"data.unlabelled.keep is {self.keep}: give a share above 0, up to 1")
        if (self.gate == "none") != (self.keep == 1):
            raise InputError(
                f"data.unlabelled: gate {self.gate} with keep {self.keep:g}: "
                "a gate keeps a share below 1; without one, leave keep out"
            )


@dataclass(frozen=True)
class Extra:
    """Windows without labels, beside those of training.

    x: (N + U, C, S), all windows of training and then these U: a window's index there is its name, and
    teachers' outputs are stored under it. sure: the share of these that a student sees, those its teacher is
    surest of. left_out: reason -> windows that nobody sees.
    """

    windows: WindowSet
    x: Array
    sure: float = 1.0
    left_out: Mapping[str, int] = field(default_factory=dict)


def held_out(
    subjects: Sequence[str],
    signals: Sequence[Collection[str]],
    elsewhere: Sequence[tuple[str, Collection[str]]],
    side_of: Mapping[str, str],
    lodo: bool = False,
) -> set[str]:
    """The subjects ("dataset/subject") of unlabelled recordings that no model of this split may see.

    subjects, signals: of each unlabelled recording, whose it is and its fingerprints. elsewhere: the same of
    each labelled one; side_of: their sides. One is out who is validated or tested by name, or whose signal
    is that of one who is, also by way of a third recording; lodo: and all of a data set that is tested, as
    it stands for a device that nobody has seen.
    """
    devices = {s.partition("/")[0] for s, side in side_of.items() if side == "test"} if lodo else set()
    out = {s for s in subjects if side_of.get(s, "train") != "train" or s.partition("/")[0] in devices}
    tainted = {h for s, signal in elsewhere if side_of.get(s, "train") != "train" for h in signal}
    while True:
        tainted |= {h for s, signal in zip(subjects, signals, strict=True) if s in out for h in signal}
        more = {
            s for s, signal in zip(subjects, signals, strict=True) if s not in out and tainted & set(signal)
        }
        if not more:
            return out
        out |= more


def chosen(
    config: Unlabelled,
    found: tuple[Pool, Sequence[Collection[str]]],
    cut: tuple[Pool, Sequence[Collection[str]]],
    side_of: Mapping[str, str],
    *,
    lodo: bool,
    fs: float,
    bpm_range: tuple[float, float],
    axes: int = 0,
) -> tuple[list[tuple[Part, Array]], dict[str, int]]:
    """Which windows (n,) of `found` are trained on, recording by recording; reason -> windows left out.

    A pool's windows are counted through its originals, then through its copies.
    found, cut: windows without and with labels, and the fingerprints of their recordings. Others as of
    `held_out` and `quality`, which sees the PPG alone: the last `axes` channels are none of it. Raises
    InputError when nothing is left.
    """
    parts, where = found[0].parts, f"data.unlabelled ({config.path or config.source})"
    if (x := found[0].originals[0]).shape[1] != cut[0].originals[0].shape[1]:
        raise InputError(
            f"{where} has {x.shape[1]} channels, the labelled recordings have "
            f"{cut[0].originals[0].shape[1]}: set data.preprocess.channels to mean or first"
        )
    elsewhere = [(part.subject, signal) for part, signal in zip(cut[0].parts, cut[1], strict=True)]
    out = held_out([part.subject for part in parts], found[1], elsewhere, side_of, lodo)
    counts = [(part, n) for n in ("windows", "copies") for part in parts]
    ends = np.cumsum([getattr(part, n) for part, n in counts])
    rows = [
        (part, np.arange(end - getattr(part, n), end))
        for (part, n), end in zip(counts, ends, strict=True)
        if part.subject not in out and (n == "windows" or part.copies)
    ]
    left_out = {OTHER_SIDE: sum(part.windows + part.copies for part in parts if part.subject in out)}
    if not sum(len(at) for _, at in rows):
        raise InputError(
            f"{where}: no window is left to train on, {left_out[OTHER_SIDE]:,} are of subjects who are "
            "validated or tested on: add recordings of others, or leave data.unlabelled out"
        )
    if config.gate == "quality":
        ppg = slice(x.shape[1] - axes)
        values = [quality(found[0].x(at)[:, ppg], fs, bpm_range) for _, at in rows]
        clear = best(np.concatenate(values), config.keep)
        ends = np.cumsum([len(at) for _, at in rows])
        rows = [(p, at[clear[end - len(at) : end]]) for (p, at), end in zip(rows, ends, strict=True)]
        left_out[POOR] = int((~clear).sum())
    return rows, left_out


def quality(x: Array, fs: float, bpm_range: tuple[float, float]) -> npt.NDArray[np.float64]:
    """How clear the pulse in windows x (N, C, S) at fs Hz is, (N,) in 0..1; of channels, the mean.

    The share of the power, above half the slowest heart rate and up to twice the fastest, that lies within
    NEAR_HZ of the strongest heart rate and of twice that: a pulse has little else. The measure is ours.
    """
    samples = x.shape[-1]
    hz = np.fft.rfftfreq(4 * samples, 1 / fs)  # padded, so that a peak is found between two frequencies
    low, high = bpm_range[0] / 60, bpm_range[1] / 60
    heard, heart = (hz >= low / 2) & (hz <= 2 * high), (hz >= low) & (hz <= high)
    values = []
    for i in range(0, len(x), 1024):
        power = np.abs(np.fft.rfft(x[i : i + 1024] * np.hanning(samples), 4 * samples)) ** 2  # (n, C, F)
        peak = hz[heart][power[..., heart].argmax(-1)][..., None]  # (n, C, 1)
        near = (np.abs(hz - peak) <= NEAR_HZ) | (np.abs(hz - 2 * peak) <= NEAR_HZ)
        total = np.maximum(power[..., heard].sum(-1), 1e-12)
        values.append(((power * (near & heard)).sum(-1) / total).mean(-1))
    return np.concatenate(values) if values else np.zeros(0)


def best(values: Array, share: float) -> npt.NDArray[np.bool_]:
    """Which of the values (N,) are among the highest `share`, one at least; of equals, the first."""
    keep = np.zeros(len(values), bool)
    keep[np.argsort(-values, kind="stable")[: max(round(share * len(values)), 1)]] = True
    return keep
