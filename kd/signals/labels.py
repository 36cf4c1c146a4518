"""What is wrong with the labels of a recording, as its source has them. Cuts nothing, knows no windows."""

from dataclasses import dataclass, fields

import numpy as np

from kd.recordings import BPM_RANGE, Recording
from kd.shipped import grid

# From one label to the next, BPM per second. A convention: of 23,446 pairs of neighbouring labels of
# SPC-train, BAMI-1 and BIDMC none changes by more than 7.9.
JUMP_BPM_PER_S = 10.0


@dataclass(frozen=True)
class LabelFaults:
    """Counts over labels: each is missing (NaN), zero, otherwise outside the classes, or a reading.

    jumps: neighbouring readings that differ by more than JUMP_BPM_PER_S. left_out: not labels, but numbers
    outside the classes that a loader left out of labels that are means.
    """

    labels: int = 0
    missing: int = 0
    zero: int = 0
    out_of_range: int = 0
    jumps: int = 0
    left_out: int = 0

    @property
    def outside(self) -> int:
        """Labels that are numbers, but no readings."""
        return self.zero + self.out_of_range

    def __add__(self, other: "LabelFaults") -> "LabelFaults":
        return LabelFaults(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def faults(recording: Recording, bpm_range: tuple[float, float] = BPM_RANGE) -> LabelFaults:
    """The faults of one recording's labels, for classes from bpm_range[0] to bpm_range[1]."""
    reading = grid.readings(recording.hr, *bpm_range)
    finite = np.isfinite(recording.hr)
    outside = finite & np.isnan(reading)
    zero = outside & (recording.hr == 0)
    with np.errstate(invalid="ignore"):
        jumps = np.abs(np.diff(reading)) > JUMP_BPM_PER_S * recording.hr_stride_s
    return LabelFaults(
        labels=len(recording.hr),
        missing=int((~finite).sum()),
        zero=int(zero.sum()),
        out_of_range=int((outside & ~zero).sum()),
        jumps=int(jumps.sum()),
        left_out=recording.readings_left_out,
    )
