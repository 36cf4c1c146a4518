"""The accelerometer in windows that are cut: its scale, and windows whose accelerometer is left out.

Both belong to a split, so that nothing of who is tested reaches training. Knows no recording.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from kd.errors import InputError
from kd.signals.pool import Array, Part

UNITS_APART = (
    20.0  # data sets whose RMS differs more are in different units; ours: running is 10 times walking
)


def scale_of(parts: Iterable[tuple[Part, Array, Array]], axes: int) -> float:
    """RMS of the accelerometer over training windows x (n, C, S), of which the last `axes` channels are its.

    Windows without one (zeros) don't count. Raises InputError when none has one, or data sets seem to be in
    different units.
    """
    squares: dict[str, float] = {}
    values: dict[str, int] = {}
    for part, x, _ in parts:
        acc = np.asarray(x[:, -axes:], np.float64)
        there = acc[acc.any(axis=(1, 2))]
        squares[part.dataset] = squares.get(part.dataset, 0.0) + float(np.square(there).sum())
        values[part.dataset] = values.get(part.dataset, 0) + there.size
    rms = {name: (squares[name] / n) ** 0.5 for name, n in values.items() if n}
    if not rms:
        raise InputError(
            "no training window has accelerometer data: set data.preprocess.channels.acc to none, or train "
            "on recordings that have it"
        )
    low, high = min(rms, key=lambda name: rms[name]), max(rms, key=lambda name: rms[name])
    if rms[high] > UNITS_APART * rms[low]:
        raise InputError(
            f"the accelerometer's RMS is {rms[high]:.3g} in {high} and {rms[low]:.3g} in {low}: they seem to "
            "be in different units: bring their recordings into one, as an .npz (NAME/acc)"
        )
    return float((sum(squares.values()) / sum(values.values())) ** 0.5)


def scaled(x: Array, axes: int, scale: float) -> Array:
    """Windows (n, C, S) with their last `axes` channels divided by the scale; a copy, float32."""
    x = np.array(x, np.float32)
    x[:, -axes:] /= np.float32(scale)
    return x


def left_out(part: Part, windows: int, share: float) -> np.ndarray:
    """Which windows (n,) of a recording are trained on without accelerometer: a share of each 50 or so.

    Drawn once, by name, so that a teacher's outputs are those of what its students see.
    """
    text = f"{part.subject}/{windows}".encode()
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:16], "big"))
    return rng.random(windows) < share
