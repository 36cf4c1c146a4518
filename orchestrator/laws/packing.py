"""Numbers too many to write out in laws.json: little-endian int16 times a step, in base64. numpy only."""

import base64
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.laws.forms import Array

STEP = 2e-4  # of ln error: 0.02 %; int16 then spans errors from 1e-3 to 1e3 times the unit


def pack(values: npt.ArrayLike, step: float = STEP) -> dict[str, Any]:
    """{dtype, shape, step, data}; values are rounded to `step`."""
    array = np.asarray(values, dtype=float)
    whole = np.clip(np.rint(array / step), -32767, 32767).astype("<i2")
    return {
        "dtype": "<i2",
        "shape": list(array.shape),
        "step": step,
        "data": base64.b64encode(whole.tobytes()).decode("ascii"),
    }


def unpack(packed: dict[str, Any]) -> Array:
    """The array that `pack` was given, to within half a step."""
    return np.asarray(_whole(packed) * float(packed["step"]))


def unpack_at(packed: dict[str, Any], position: Array) -> Array:
    """`unpack`, linearly interpolated along its last axis at fractional indices (m,)."""
    whole, step = _whole(packed), float(packed["step"])
    left = np.clip(np.floor(position).astype(int), 0, whole.shape[-1] - 2)
    weight = position - left
    return np.asarray(whole[..., left] * step * (1 - weight) + whole[..., left + 1] * step * weight)


def _whole(packed: dict[str, Any]) -> npt.NDArray[np.int16]:
    return np.frombuffer(_decoded(packed["data"]), dtype=packed["dtype"]).reshape(packed["shape"])


@lru_cache(maxsize=4096)  # a query looks at an arm's draws several times
def _decoded(data: str) -> bytes:
    return base64.b64decode(data)
