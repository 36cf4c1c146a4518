"""From the device's rate to the model's, in C: the polyphase filter of `kd.shipped.stream` as a table."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd.errors import InputError
from kd.shipped import grid
from kd.shipped.example import low_pass

MOST_TAPS = 16_384  # 64 kB of flash


def device_fs(config: Mapping[str, Any]) -> float:
    """The rate at which samples come, Hz: preprocess.json's own unless "device_fs" says otherwise."""
    return float(config.get("device_fs", config["fs"]))


def resampler(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates ask of it: up, down, half and reach, and `taps` (up, reach), newest sample first.

    reach: raw samples that one of the model's is made of; 0 where nothing is resampled. Raises InputError for
    a rate below the filter's band, or one whose table would be too large.
    """
    fs, to = device_fs(config), float(config["fs"])
    high = config["filter"]["band_hz"][1]
    if not (math.isfinite(fs) and fs > 2 * high):
        raise InputError(
            f"--device-fs {fs:g}: the filter's band ends at {high:g} Hz, and takes more than {2 * high:g} Hz"
        )
    ratio = grid.ratio(fs, to)
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        return {"up": 1, "down": 1, "half": 0, "reach": 0, "taps": np.zeros((1, 0))}
    taps, half = low_pass(up, down)
    reach = 2 * half // up + 1
    if up * reach > MOST_TAPS:
        raise InputError(
            f"--device-fs {fs:g}: from there to {to:g} Hz takes a table of {up * reach:,} numbers (at most "
            f"{MOST_TAPS:,}): choose a rate in a simpler ratio to {to:g}"
        )
    fewest = -(-up // down) + 1
    if config["stride_s"] * to < fewest:
        raise InputError(
            f"--device-fs {fs:g}: a window every {config['stride_s']:g} s is more than one a sample: choose "
            "a higher rate, or train with a longer preprocess.stride_s"
        )
    table = np.zeros(up * reach)
    table[: len(taps)] = taps  # phase p has taps p, p + up, ...
    return {"up": up, "down": down, "half": half, "reach": reach, "taps": table.reshape(reach, up).T}


def inputs_until(output: int, numbers: Mapping[str, Any]) -> int:
    """How many raw samples must have come for the model's sample number `output`, counted from 0."""
    if not numbers["reach"]:
        return output + 1
    return int((output * numbers["down"] + numbers["half"]) // numbers["up"]) + 1
