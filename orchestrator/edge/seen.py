"""What a point's model sees: its sensors' channels, the accelerometer scaled as where it was trained."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kd.errors import InputError
from kd.signals.motion import scaled
from kd.signals.prepare import Data
from kd.signals.preprocess import ACC, PPG, Preprocess
from kd.signals.windows import WindowSet
from orchestrator.space.resolve import Opened


def sensor_of(result: Mapping[str, Any]) -> str:
    """The one sensor that a point's model sees; "" where that is all."""
    return str((result.get("recipe") or {}).get("channels", ""))


def windows_for(data: Data, result: Mapping[str, Any]) -> Data:
    """The windows as a point's model takes them; a refitted student has another scale than the sweep's."""
    seen = data.seen_by(sensor_of(result))
    factor = result.get("acc_scale", seen.acc_scale) / seen.acc_scale
    if not seen.axes or factor == 1:
        return seen

    def of(windows: WindowSet) -> WindowSet:
        return dataclasses.replace(windows, x=scaled(windows.x, seen.axes, factor))

    return dataclasses.replace(
        seen, train=of(seen.train), val=of(seen.val), test=of(seen.test), acc_scale=result["acc_scale"]
    )


def opened_for(opened: Opened, result: Mapping[str, Any]) -> Opened:
    """A sweep with the windows of a point's fold as its model takes them."""
    return dataclasses.replace(opened, prepared=windows_for(opened.windows, result))


def preprocess_for(preprocess: Preprocess, result: Mapping[str, Any]) -> Preprocess:
    """How a point's windows are cut of other recordings. Raises InputError for one without the PPG."""
    if sensor_of(result) == ACC:
        raise InputError(
            f"point {result['id']} sees the accelerometer alone, as a teacher may: choose one that sees the "
            "PPG"
        )
    if sensor_of(result) == PPG:
        return dataclasses.replace(preprocess, acc="none", acc_band_hz=None, acc_dropout=0.0)
    return preprocess
