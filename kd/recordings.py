"""A recording: one PPG signal of one subject with its reference heart rate. Knows no file format."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Recording:
    """One subject's PPG with a reference heart rate per window.

    ppg: float32 (channels, samples), any scale. fs: Hz.
    hr: float32 (windows,), BPM; hr[k] belongs to the seconds
        [hr_start_s + k * hr_stride_s, hr_start_s + k * hr_stride_s + hr_window_s); NaN = no label.
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

    @property
    def seconds(self) -> float:
        """Length of the signal in seconds."""
        return self.ppg.shape[1] / self.fs
