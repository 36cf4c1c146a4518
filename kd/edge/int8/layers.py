"""The arithmetic of an 8-bit student, exact in numpy: what the C code must say to the bit.

Maps after a ReLU are uint8, others (residual sums) int8, both with zero as 0, so that what lies beyond a
map's ends is 0, too. Weights are int8, with one scale for each output channel. A sum of products is int32; it
becomes a map again by one multiplication whose upper 32 bits are kept, and one shift: no float rounds it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
LEVEL = 128  # the window's zero: it is uint8, too
NOISE = 3e-5  # of a window's deviation: what filters in single precision may differ by
MOST_TERMS = 60_000  # of a sum: so many products of 255 and 127 stay below 2^31


def upper(sums: Integers, multiplier: Integers) -> Integers:
    """The upper 32 bits of 32-bit products, towards minus infinity."""
    return (sums * multiplier) >> 32


@dataclass(frozen=True)
class Window:
    """A window of floats to uint8 about LEVEL, and how a C program does it.

    Clamped to +-`limit`, times `factor` (a power of two, so that no compiler's contraction changes a bit) to
    an integer towards zero, then (integer * multiplier + offset) >> shift. scale: real value of one step.
    """

    limit: float
    factor: float
    multiplier: int
    offset: int
    shift: int
    scale: float

    def __call__(self, windows: Any) -> Integers:
        """Floats to integers of the same shape; NaN becomes the least."""
        x = np.asarray(windows, np.float32)
        limit = np.float32(self.limit)
        x = np.where(x > -limit, np.where(x < limit, x, limit), -limit)
        whole = np.trunc(x * np.float32(self.factor)).astype(np.int64)
        return np.clip((whole * self.multiplier + self.offset) >> self.shift, 0, 255)

    def real(self, windows: Any) -> npt.NDArray[np.float32]:
        """What is left of windows, as floats of the same shape."""
        return ((self(windows) - LEVEL) * self.scale).astype(np.float32)

    def certain(self, windows: Any) -> bool:
        """Whether no value's step depends on a rounding beyond a float filter's."""
        off = NOISE * float(np.std(windows))
        return bool((self(windows + off) == self(windows - off)).all())


@dataclass(frozen=True)
class Rescale:
    """Sums to a map: (upper(sum << left, multiplier) + kept * keep + offset) >> shift, clamped to 8 bits.

    multiplier, offset: (C,). keep: (C,), of the int8 map that a residual sum adds to; None if there is none.
    signed: int8, else uint8. scale: real value of one step of the result.
    """

    multiplier: Integers
    offset: Integers
    left: int
    shift: int
    signed: bool
    scale: float
    keep: Integers | None = None

    def __call__(self, sums: Integers, kept: Integers | None = None) -> Integers:
        """sums, kept: (N, L, C)."""
        value = upper(sums << self.left, self.multiplier) + self.offset
        if self.keep is not None:
            assert kept is not None
            value = value + kept * self.keep
        return np.clip(value >> self.shift, *((-128, 127) if self.signed else (0, 255)))


@dataclass(frozen=True)
class Convolution:
    """weights: (cout, kernel, cin), int8. to_kept: the int8 map for residual sums; to_map: what is read next.

    One of them may be missing. border: what lies beyond the ends is LEVEL instead of 0 (the window).
    """

    name: str
    weights: Integers
    stride: int
    to_kept: Rescale | None
    to_map: Rescale | None
    border: bool = False

    def sums(self, x: Integers) -> Integers:
        """(N, L, cin) -> (N, ceil(L / stride), cout)."""
        cout, kernel, cin = self.weights.shape
        x = x.astype(_float(kernel * cin))
        padded = np.pad(x, ((0, 0), (kernel // 2,) * 2, (0, 0)), constant_values=LEVEL if self.border else 0)
        columns = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=1)[:, :: self.stride]
        rows = columns.transpose(0, 1, 3, 2).reshape(-1, kernel * cin)
        return exact(rows, self.weights.reshape(cout, -1)).reshape(*columns.shape[:2], cout)

    def __call__(self, x: Integers, kept: Integers | None = None) -> tuple[Integers | None, Integers | None]:
        """(N, L, cin), and what a residual sum adds to -> the int8 and the uint8 map, (N, L', cout)."""
        sums = self.sums(x)
        return tuple(None if to is None else to(sums, kept) for to in (self.to_kept, self.to_map))  # type: ignore[return-value]


@dataclass(frozen=True)
class Dense:
    """weights: (outputs, inputs), int8."""

    name: str
    weights: Integers
    to_map: Rescale

    def __call__(self, x: Integers) -> Integers:
        """(N, inputs) -> (N, outputs)."""
        return self.to_map(exact(x, self.weights))


@dataclass(frozen=True)
class Average:
    """A map's sums over its length, shifted so that no class can overflow. scale: real value of a step."""

    shift: int
    scale: float

    def __call__(self, x: Integers) -> Integers:
        """(N, L, C) -> (N, C)."""
        return x.sum(1) >> self.shift


@dataclass(frozen=True)
class Classes:
    """Logits, float32: (sum + bias) as a float, times scale. weights: (K, F), int8; bias, scale: (K,)."""

    weights: Integers
    bias: Integers
    scale: npt.NDArray[np.float32]

    def __call__(self, features: Integers) -> npt.NDArray[np.float32]:
        """(N, F) -> (N, K)."""
        sums = exact(features, self.weights) + self.bias
        return sums.astype(np.int32).astype(np.float32) * self.scale


@dataclass(frozen=True)
class Block:
    """first: to the hidden map. second: adds to what is kept. shortcut: that, made of the block's input.

    A pre-activation block keeps an int8 map, a post-activation one a uint8: its input, or about LEVEL.
    """

    first: Convolution
    second: Convolution
    shortcut: Convolution | None


def exact(rows: npt.NDArray[Any], weights: Integers) -> Integers:
    """Integer products by a library for floats, many times faster than numpy's integers.

    rows: float32 where no sum can reach 2^24, else they are taken as float64, exact below 2^53.
    """
    kind = np.float32 if rows.dtype == np.float32 else np.float64
    return np.asarray(rows.astype(kind, copy=False) @ weights.T.astype(kind)).astype(np.int64)


def _float(terms: int) -> type:
    """The float in which sums of so many products of 255 and 127 are exact."""
    return np.float32 if terms * 255 * 127 < 2**24 else np.float64
