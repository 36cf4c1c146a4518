"""Numbers too many to write out in laws.json: little-endian int16 times a step, in base64. numpy only."""

import base64
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
    raw = np.frombuffer(base64.b64decode(packed["data"]), dtype=packed["dtype"])
    return raw.reshape(packed["shape"]) * float(packed["step"])
