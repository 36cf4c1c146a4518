"""What every recording must be, whoever read it. Each error names the file and what is wrong in it."""

import reprlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.recordings import ACC, Recording, Signal

RATES_HZ = (5.0, 10_000.0)  # below, fast hearts can't be seen; no sensor samples faster
STEPS_S = (0.01, 3600.0)  # of labels
STARTS_S = (-1e6, 1e6)  # of labels; Unix time, for one, isn't a time since the first sample
MOST_CHANNELS = 64  # ours; the largest set has 4
AXES = 3  # of an accelerometer
APART_S, APART = 2.0, 0.05  # seconds, and share, that sensors of one device may differ in length; ours
Array = npt.NDArray[Any]


def number(where: str, value: Any, limits: tuple[float, float], unit: str) -> float:
    """A finite number within limits. where: file and key."""
    low, high = limits
    if isinstance(value, np.integer | np.floating):
        value = float(value)
    if type(value) in (int, float) and low <= value <= high:
        return float(value)
    wanted = f"give a number from {low:g} to {high:g} {unit}".rstrip()
    raise InputError(f"{where} is {reprlib.repr(value)}: {wanted}")


def name(where: str, value: Any) -> str:
    """Text, or a whole number as text, that tells one from another. where: file and key."""
    text = str(value) if type(value) in (str, int) else ""
    if not text or text != text.strip() or not text.isprintable():
        raise InputError(
            f"{where} is {reprlib.repr(value)}: give printable text without blanks around it, or a number"
        )
    return text


def numeric(where: str, value: Any) -> Array:
    """`value` as an array of integers or floats; InputError for anything else. where: file and key."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:  # ragged lists
        raise InputError(f"{where} doesn't hold numbers ({error}): use the original file") from None
    if array.dtype.kind not in "iuf":
        raise InputError(f"{where} doesn't hold numbers, but {array.dtype}: use the original file")
    return array


def float32(array: Array) -> npt.NDArray[np.float32]:
    """Numbers in single precision; those too large for it become infinite, which is missing signal."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def signal_shape(where: str, shape: tuple[int, ...]) -> None:
    """Raise InputError unless a signal is (channels, samples). where: file and key."""
    if len(shape) != 2:
        raise InputError(
            f"{where} has shape {shape}, not (channels, samples): save one channel as (1, samples)"
        )
    if 0 in shape:
        raise InputError(f"{where} is empty, of shape {shape}: remove this recording, or copy it again")
    if shape[0] > min(shape[1], MOST_CHANNELS):
        raise InputError(
            f"{where} has shape {shape}, {shape[0]} channels of {shape[1]} samples: it looks transposed; "
            "save it as (channels, samples)"
        )


def accelerometer(where: str, values: Array, fs: float, recording: Recording) -> Recording:
    """The recording with an accelerometer's values (3, samples at fs). where: file and key.

    Raises InputError for another shape, and for a rate by which it lasts much longer or shorter than the PPG.
    """
    signal_shape(where, values.shape)
    if len(values) != AXES:
        raise InputError(f"{where} has shape {values.shape}, not (3, samples): save the axes x, y and z")
    acc = Signal(float32(values), number(f"{where}: its rate", fs, RATES_HZ, "Hz"))
    apart = abs(acc.seconds - recording.seconds)
    if apart > max(APART_S, APART * max(acc.seconds, recording.seconds)):
        raise InputError(
            f"{where}: {values.shape[1]} samples at {acc.fs:g} Hz last {acc.seconds:g} s, the PPG's "
            f"{recording.ppg.shape[1]} at {recording.fs:g} Hz {recording.seconds:g} s: the rates contradict "
            "each other, or one signal is cut: check both"
        )
    return replace(recording, sensors={**recording.sensors, ACC: acc})


def checked(recording: Recording, signal: str, labels: str) -> Recording:
    """The recording, if it can be cut into windows. signal, labels: file and key of ppg and hr.

    Raises InputError for a signal that isn't (channels, samples), labels that aren't (windows,), a rate or
    times that can't be, and labels most of which lie outside the signal.
    """
    r = recording
    signal_shape(signal, r.ppg.shape)
    number(f"{signal}: its rate", r.fs, RATES_HZ, "Hz")
    if r.hr.ndim != 1:
        raise InputError(f"{labels} has shape {r.hr.shape}, not (windows,): save one label for each window")
    if len(r.hr) == 0:
        raise InputError(f"{labels} is empty, or the signal shorter than a window: remove this recording")
    for key, limits in (("hr_window_s", STEPS_S), ("hr_stride_s", STEPS_S), ("hr_start_s", STARTS_S)):
        number(f"{labels}: {key}", getattr(r, key), limits, "s")
    starts = r.hr_start_s + r.hr_stride_s * np.arange(len(r.hr))
    inside = int(((starts < r.seconds) & (starts + r.hr_window_s > 0)).sum())
    if 3 * inside < len(r.hr):  # recordings that end a few windows early are ordinary
        raise InputError(
            f"{labels} has {len(r.hr)} labels from {starts[0]:g} to {starts[-1] + r.hr_window_s:g} s, but "
            f"its {r.ppg.shape[1]} samples at {r.fs:g} Hz last {r.seconds:g} s: check rate and times"
        )
    return r
