"""A recording: one PPG signal of one subject with its reference heart rate, and what other sensors of the
same device gave. Knows no file format."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BPM_RANGE = (30.0, 209.0)  # lowest and highest of the 180 classes; WildPPG's code


ACC = "acc"  # Recording.sensors: the accelerometer, axes x, y, z


@dataclass(frozen=True)
class Signal:
    """What a sensor beside the PPG gave, from the PPG's first sample on.

    values: float32 (axes, samples), all axes in one unit, NaN = missing. fs: Hz, the sensor's own rate.
    """

    values: npt.NDArray[np.float32]
    fs: float

    @property
    def seconds(self) -> float:
        """Length of the signal in seconds."""
        return self.values.shape[1] / self.fs


@dataclass(frozen=True)
class Recording:
    """One subject's PPG with a reference heart rate per window.

    ppg: float32 (channels, samples), any scale. fs: Hz. sensors: others of the device by name, such as ACC.
    hr: float32 (windows,), BPM; hr[k] belongs to the seconds
        [hr_start_s + k * hr_stride_s, hr_start_s + k * hr_stride_s + hr_window_s); NaN = no label.
        A number outside the classes is no reading: who cuts windows leaves it out before mixing labels.
    subject: unique within `dataset`; splits never put one subject on two sides.
    """

    name: str
    dataset: str
    subject: str
    ppg: npt.NDArray[np.float32]
    fs: float
    hr: npt.NDArray[np.float32]
    hr_window_s: float = 8.0
    hr_stride_s: float = 2.0
    hr_start_s: float = 0.0
    readings_left_out: int = 0  # numbers outside the classes that the loader left out of hr's means
    sensors: Mapping[str, Signal] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Length of the signal in seconds."""
        return self.ppg.shape[1] / self.fs


def readings(
    bpm: npt.NDArray[np.float64], bpm_range: tuple[float, float]
) -> tuple[npt.NDArray[np.float64], int]:
    """What a device showed, NaN for what lies outside bpm_range, and how many numbers that were.

    For loaders whose labels are means: one 0 for "no reading" must not pull down a mean.
    """
    outside = np.isfinite(bpm) & ((bpm < bpm_range[0]) | (bpm > bpm_range[1]))
    return np.where(outside | ~np.isfinite(bpm), np.nan, bpm), int(outside.sum())
