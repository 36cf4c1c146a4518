"""What a model must beat: the highest peak of the spectrum, and always the training median. Numpy alone."""

import numpy as np
import numpy.typing as npt

from kd.signals.windows import WindowSet

FloatArray = npt.NDArray[np.floating]
GRID_BPM = 0.5  # the spectrum is zero-padded until its lines are at most this far apart


def fft_peak(x: FloatArray, fs: float, low_hz: float = 0.4, high_hz: float = 4.0) -> npt.NDArray[np.float32]:
    """Heart rate of each window as its spectrum's highest peak from low_hz to high_hz, (N,) in BPM.

    x: (N, channels, samples) at fs Hz; spectra of several channels are summed.
    """
    length = 1 << int(np.ceil(np.log2(max(60.0 * fs / GRID_BPM, x.shape[-1]))))
    frequency = np.fft.rfftfreq(length, 1.0 / fs)
    band = np.flatnonzero((frequency >= low_hz) & (frequency <= high_hz))
    peaks = np.empty(len(x), np.float32)
    for i in range(0, len(x), 1024):  # a few tens of MB at a time
        spectrum = np.abs(np.fft.rfft(x[i : i + 1024], length)[..., band]).sum(axis=1)
        peaks[i : i + 1024] = 60.0 * frequency[band[spectrum.argmax(axis=-1)]]
    return peaks


def training_median(train_bpm: FloatArray, count: int) -> npt.NDArray[np.float32]:
    """The median of the training labels, `count` times."""
    return np.full(count, np.median(train_bpm), np.float32)


def baseline_errors(train: WindowSet, test: WindowSet, fs: float) -> dict[str, dict[str, float]]:
    """MAE in BPM on the test windows: {"fft_peak" | "training_median": {"all" or a data set: MAE}}."""
    predictions = {
        "fft_peak": fft_peak(test.x, fs),
        "training_median": training_median(train.bpm, len(test)),
    }
    groups = {"all": np.ones(len(test), bool)} | {str(d): test.dataset == d for d in np.unique(test.dataset)}
    return {
        name: {group: float(np.abs(predicted - test.bpm)[mask].mean()) for group, mask in groups.items()}
        for name, predicted in predictions.items()
    }
