"""GalaxyPPG: Galaxy Watch at 25 Hz and Empatica E4 at 64 Hz on the wrist; heart rate from a Polar H10 strap.

Layout: `P02/GalaxyWatch/PPG.csv` (`timestamp` in ms, `ppg`), `P02/E4/BVP.csv` (`timestamp` in us, `value`),
`P02/PolarH10/HR.csv` (`phoneTimestamp` in ms of Korean time, `hr` at 1 Hz), `P02/Event.csv` (`timestamp` in
ms, `session`, `status` ENTER or EXIT); beside the PPG maybe `ACC.csv` (`timestamp` as there, `x`, `y`, `z`;
25 Hz, of the E4 32), which is missing signal where it is silent. Windows count when they lie within a
session, as in the authors' code; their label is the mean of the strap's heart rate.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.datasets import checks
from kd.datasets.reading import read_columns, read_lines
from kd.errors import InputError
from kd.recordings import Recording, readings

FloatArray = npt.NDArray[np.floating]

LABEL = "a folder with GalaxyPPG participants: P02/GalaxyWatch/PPG.csv, P02/PolarH10/HR.csv, ..."
OPTIONS = {"device": "watch"}  # or e4; the set is named after the watch
# device -> its file, its column of values, Hz, and clock ticks in a second
DEVICES = {
    "watch": ("GalaxyWatch/PPG.csv", "ppg", 25.0, 1e3),
    "e4": ("E4/BVP.csv", "value", 64.0, 1e6),
}
ACC, ACC_FS = "ACC.csv", {"watch": 25.0, "e4": 32.0}  # beside that file
KOREA_S = 32_400.0  # the strap's clock runs in Korean time, 9 hours ahead of the others
MOST_S = 7 * 86_400.0  # ours, of a recording; sessions of the set last hours
GAP_S = 1.0  # a longer silence is missing signal, not a straight line
WINDOW_S, STRIDE_S = 8.0, 2.0
NAME = re.compile(r"P\d+")
STRAP, EVENTS = "PolarH10/HR.csv", "Event.csv"
WANTED = (*(device[0] for device in DEVICES.values()), STRAP, EVENTS)
NAMES = {relative.rpartition("/")[2] for relative in WANTED}


def files(found: Sequence[Path]) -> list[Path]:
    """Every file of WANTED in a folder P<number>."""
    return [p for p in found if p.name in NAMES and _participant(p) is not None]


def sensor_files(files: Sequence[Path]) -> list[Path]:
    """What is read besides, where there is an accelerometer."""
    folders = {f.parent for f in files if f.name != EVENTS and f.parent.name != STRAP.partition("/")[0]}
    return sorted(folder / ACC for folder in folders if (folder / ACC).is_file())


def load(files: Sequence[Path], *, device: str, bpm_range: tuple[float, float]) -> Iterator[Recording]:
    """One recording for each participant who wore `device`. Raises InputError naming the file."""
    if device not in DEVICES:
        raise InputError(f"data.options.device is {device!r}: use one of {', '.join(DEVICES)}")
    relative = DEVICES[device][0]
    worn = [folder for f in files if (folder := _participant(f)) and f == folder / relative]
    if not worn:
        raise InputError(
            f"{files[0].parent}: no participant has {relative}: choose another data.options.device"
        )
    for folder in worn:
        yield _recording(folder, device, bpm_range)


def _participant(file: Path) -> Path | None:
    """The participant's folder of one of the files WANTED, else None."""
    for relative in WANTED:
        folder = file.parents[relative.count("/")] if len(file.parents) > relative.count("/") else None
        if folder is not None and NAME.fullmatch(folder.name) and file == folder / relative:
            return folder
    return None


def _recording(folder: Path, device: str, bpm_range: tuple[float, float]) -> Recording:
    relative, column, fs, ticks = DEVICES[device]
    time, value = read_columns(folder / relative, ["timestamp", column])
    known = time[np.isfinite(time)]
    if len(known) and known.max() - known.min() > MOST_S * ticks:
        days = (known.max() - known.min()) / ticks / 86_400
        raise InputError(
            f"{folder / relative}: its timestamps span {days:,.0f} days, so that some must be damaged: "
            "copy or download it again"
        )
    start, ppg = on_grid(time / ticks, value, fs)
    if len(ppg) < WINDOW_S * fs:
        raise InputError(f"{folder / relative}: shorter than one window of {WINDOW_S:g} s: remove it")
    shown, hr = read_columns(folder / STRAP, ["phoneTimestamp", "hr"])
    if not len(shown):
        raise InputError(f"{folder / STRAP}: no heart rate in it: copy or download it again")
    hr, left_out = readings(np.where(hr == 0, np.nan, hr), bpm_range)
    windows = int((len(ppg) / fs - WINDOW_S) // STRIDE_S) + 1
    starts = start + STRIDE_S * np.arange(windows)
    labels = mean_within(shown / 1e3 - KOREA_S, hr, starts, WINDOW_S)
    inside = np.zeros(windows, bool)
    for enter, leave in _sessions(folder / EVENTS):
        inside |= (starts >= enter) & (starts + WINDOW_S <= leave)
    recording = Recording(
        name=f"{folder.name}_{device}",
        dataset="GalaxyPPG",
        subject=folder.name,
        ppg=ppg[None].astype(np.float32),
        fs=fs,
        hr=np.where(inside, labels, np.nan).astype(np.float32),
        readings_left_out=left_out,
    )
    checks.checked(recording, f"{folder / relative}: {column}", f"{folder / STRAP}: hr")
    path = (folder / relative).with_name(ACC)
    if not path.is_file():
        return recording
    time, *axes = read_columns(path, ["timestamp", "x", "y", "z"])
    acc_fs = ACC_FS[device]
    grid = start + np.arange(round(len(ppg) / fs * acc_fs)) / acc_fs
    acc = np.stack([_at(*_known(time / ticks, axis), grid) for axis in axes])
    return checks.accelerometer(str(path), acc, acc_fs, recording)


def on_grid(time: FloatArray, value: FloatArray, fs: float) -> tuple[float, FloatArray]:
    """Samples at uneven times (s) put on an even grid of fs Hz: its first time, its values; NaN in gaps."""
    time, value = _known(time, value)
    if len(time) < 2:
        return 0.0, np.zeros(0)
    return float(time[0]), _at(time, value, np.arange(time[0], time[-1], 1.0 / fs))


def _known(time: FloatArray, value: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Finite samples by time, one for each."""
    known = np.isfinite(time) & np.isfinite(value)
    time, first = np.unique(time[known], return_index=True)
    return time, value[known][first]


def _at(time: FloatArray, value: FloatArray, grid: FloatArray) -> FloatArray:
    """The values at these times, linear between samples; NaN in gaps, before the first and after the last."""
    if len(time) < 2:
        return np.full(len(grid), np.nan)
    even = np.interp(grid, time, value, left=np.nan, right=np.nan)
    after = np.clip(np.searchsorted(time, grid, side="right"), 1, len(time) - 1)
    even[time[after] - time[after - 1] > GAP_S] = np.nan
    return even


def mean_within(time: FloatArray, value: FloatArray, starts: FloatArray, window_s: float) -> FloatArray:
    """Mean of the values whose times lie in [start, start + window_s), (windows,).

    Values come once a second; NaN where more than half of them are missing.
    """
    known = np.isfinite(time) & np.isfinite(value) & (value > 0)  # 0 = the strap has lost the skin
    order = np.argsort(time[known], kind="stable")
    time, value = time[known][order], value[known][order]
    first, last = np.searchsorted(time, starts), np.searchsorted(time, starts + window_s)
    total = np.concatenate([[0.0], np.cumsum(value)])
    count = last - first
    return np.divide(
        total[last] - total[first], count, out=np.full(len(starts), np.nan), where=count >= window_s / 2
    )


def _sessions(path: Path) -> list[tuple[float, float]]:
    """Start and end of each session, seconds."""
    lines = read_lines(path)
    sessions: list[tuple[float, float]] = []
    entered: dict[str, float] = {}
    try:
        rows: list[dict[str, Any]] = list(csv.DictReader(lines, skipinitialspace=True))
        for row in sorted(rows, key=lambda r: float(r["timestamp"])):
            at, status = float(row["timestamp"]) / 1e3, row["status"].strip().upper()
            if status == "ENTER":
                entered[row["session"]] = at
            elif status == "EXIT" and row["session"] in entered:
                sessions.append((entered.pop(row["session"]), at))
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise InputError(
            f"{path}: needs the columns timestamp, session and status ({error!r}): use the original file"
        ) from error
    return sessions
