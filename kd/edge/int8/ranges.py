"""Scales of 8-bit maps and weights from what calibration saw, and real factors as fixed-point numbers."""

import math
from typing import Any

import numpy as np

from kd.edge.int8.layers import LEVEL, Integers, Rescale, Window

CLIPS = np.linspace(1.0, 0.4, 25)  # shares of the largest value at which a map may be cut off
MOST_SHIFT = 16
SAMPLE = 200_000  # values of a map that a scale is chosen by
HALF_RANGE = 2**30  # of what a 32-bit sum may reach, so that several of them are still one


def map_scale(values: Any, signed: bool) -> float:
    """The step at which 8 bits hold `values` with the least squared error; 1 for a map of zeros."""
    values = np.ravel(np.asarray(values, np.float64))
    values = values[:: max(len(values) // SAMPLE, 1)]
    top = float(np.abs(values).max(initial=0.0)) if signed else float(values.max(initial=0.0))
    if not top > 0:
        return 1.0
    low, high = (-128, 127) if signed else (0, 255)

    def error(scale: float) -> float:
        return float(np.square(np.clip(np.rint(values / scale), low, high) * scale - values).sum())

    return min((float(top * clip / high) for clip in CLIPS), key=error)


def rows_to_int8(weights: Any) -> tuple[Integers, Any]:
    """Weights (C, ...) as int8 and the scale (C,) of each output channel; 1 for a row of zeros."""
    rows = np.abs(np.asarray(weights, np.float64)).reshape(len(weights), -1).max(1)
    scale = np.where(rows > 0, rows / 127, 1.0)
    return np.rint(weights / scale.reshape(-1, *[1] * (np.ndim(weights) - 1))).astype(np.int64), scale


def rescale(
    factor: Any, shift_by: Any, keep: Any, scale: float, signed: bool, most: Any, level: Any = 0
) -> Rescale:
    """real = factor * (sum - level) + keep * kept + shift_by, as a map of steps of about `scale`.

    factor, shift_by: (C,); keep: (C,) or None. most: the largest |sum| there can be, (C,); level: (C,), what
    a window's zero puts into a sum. The step grows where a sum's own unit is nearly as large as it.
    """
    factor, shift_by = (np.asarray(v, np.float64) for v in (factor, shift_by))
    keep = None if keep is None else np.asarray(keep, np.float64)
    largest = np.abs(factor) * most + (0 if keep is None else 256 * np.abs(keep))
    room = _bits(2**31, float(np.max(most)))  # how far a sum can go left
    while True:
        shift = min(_bits(HALF_RANGE, float(largest.max()) / scale), MOST_SHIFT)
        left = max(shift + 32 - _bits(2**31, np.abs(factor).max() / scale), 0)
        shift, left = shift - max(left - room, 0), min(left, room)
        if shift >= 1:
            break
        scale *= 2
    one = 2.0**shift / scale
    multiplier = np.rint(np.clip(factor * one * 2.0 ** (32 - left), -(2**31) + 1, 2**31 - 1)).astype(np.int64)
    offset = np.rint(np.clip(shift_by * one, -HALF_RANGE / 4, HALF_RANGE / 4)).astype(np.int64)
    offset += 2 ** (shift - 1) - (((np.asarray(level, np.int64) << left) * multiplier) >> 32)
    kept = None if keep is None else np.rint(keep * one).astype(np.int64)
    return Rescale(multiplier, offset, left, shift, signed, scale, kept)


def window(values: Any) -> Window:
    """How windows become uint8: by the range that calibration saw."""
    scale = map_scale(values, signed=True)
    limit = float(np.float32(128 * scale))
    factor = 2.0 ** _bits(2**15, limit)
    shift = _bits(2**15, 1 / (factor * scale))
    multiplier = round(2**shift / (factor * scale))
    return Window(limit, factor, multiplier, (LEVEL << shift) + 2**shift // 2, shift, scale)


def _bits(most: float, value: float) -> int:
    """The largest n with value * 2^n < most."""
    if not value > 0:
        return 62
    n = math.floor(math.log2(most / value))
    return n if value * 2.0**n < most else n - 1
