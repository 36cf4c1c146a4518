"""GalaxyPPG: Galaxy Watch at 25 Hz and Empatica E4 at 64 Hz on the wrist; heart rate from a Polar H10 strap.

Layout: `P02/GalaxyWatch/PPG.csv` (`timestamp` in ms, `ppg`), `P02/E4/BVP.csv` (`timestamp` in us, `value`),
`P02/PolarH10/HR.csv` (`phoneTimestamp` in ms of Korean time, `hr` at 1 Hz), `P02/Event.csv` (`timestamp` in
ms, `session`, `status` ENTER or EXIT). Windows count when they lie within a session, as in the authors' code;
their label is the mean of the strap's heart rate.
"""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.datasets.reading import matching, read_columns
from kd.errors import InputError
from kd.recordings import Recording

FloatArray = npt.NDArray[np.floating]

LABEL = "a folder with GalaxyPPG participants: P02/GalaxyWatch/PPG.csv, P02/PolarH10/HR.csv, ..."
OPTIONS = {"device": "watch"}  # or e4; the set is named after the watch
# device -> its file, its column of values, Hz, and clock ticks in a second
DEVICES = {
    "watch": ("GalaxyWatch/PPG.csv", "ppg", 25.0, 1e3),
    "e4": ("E4/BVP.csv", "value", 64.0, 1e6),
}
KOREA_S = 32_400.0  # the strap's clock runs in Korean time, 9 hours ahead of the others
GAP_S = 1.0  # a longer silence is missing signal, not a straight line
WINDOW_S, STRIDE_S = 8.0, 2.0
NAME = re.compile(r"P\d+")


def files(path: Path) -> list[Path]:
    """Every file of these names in a folder P<number>."""
    wanted = ["PPG.csv", "BVP.csv", "HR.csv", "Event.csv"]
    return [f for f in matching(path, *wanted) if any(NAME.fullmatch(p.name) for p in list(f.parents)[:2])]


def load(path: Path, *, device: str) -> list[Recording]:
    """One recording for each participant who wore `device`. Raises InputError naming the file."""
    if device not in DEVICES:
        raise InputError(f"data.options.device is {device!r}: use one of {', '.join(DEVICES)}")
    relative = DEVICES[device][0]
    folders = sorted({p for f in files(path) for p in list(f.parents)[:2] if NAME.fullmatch(p.name)})
    worn = [folder for folder in folders if (folder / relative).is_file()]
    if not worn:
        raise InputError(f"{path}: no participant has {relative}: choose another data.options.device")
    return [_recording(folder, device) for folder in worn]


def _recording(folder: Path, device: str) -> Recording:
    relative, column, fs, ticks = DEVICES[device]
    time, value = read_columns(folder / relative, ["timestamp", column])
    start, ppg = on_grid(time / ticks, value, fs)
    if len(ppg) < WINDOW_S * fs:
        raise InputError(f"{folder / relative}: shorter than one window of {WINDOW_S:g} s: remove it")
    shown, hr = read_columns(folder / "PolarH10/HR.csv", ["phoneTimestamp", "hr"])
    windows = int((len(ppg) / fs - WINDOW_S) // STRIDE_S) + 1
    starts = start + STRIDE_S * np.arange(windows)
    labels = mean_within(shown / 1e3 - KOREA_S, hr, starts, WINDOW_S)
    inside = np.zeros(windows, bool)
    for enter, leave in _sessions(folder / "Event.csv"):
        inside |= (starts >= enter) & (starts + WINDOW_S <= leave)
    return Recording(
        name=f"{folder.name}_{device}",
        dataset="GalaxyPPG",
        subject=folder.name,
        ppg=ppg[None].astype(np.float32),
        fs=fs,
        hr=np.where(inside, labels, np.nan).astype(np.float32),
    )


def on_grid(time: FloatArray, value: FloatArray, fs: float) -> tuple[float, FloatArray]:
    """Samples at uneven times (s) put on an even grid of fs Hz: its first time, its values; NaN in gaps."""
    known = np.isfinite(time) & np.isfinite(value)
    time, first = np.unique(time[known], return_index=True)
    value = value[known][first]
    if len(time) < 2:
        return 0.0, np.zeros(0)
    grid = np.arange(time[0], time[-1], 1.0 / fs)
    even = np.interp(grid, time, value)
    after = np.clip(np.searchsorted(time, grid, side="right"), 1, len(time) - 1)
    even[time[after] - time[after - 1] > GAP_S] = np.nan
    return float(time[0]), even


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
    if not path.is_file():
        raise InputError(f"{path}: no such file: copy or download the data set again")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file, skipinitialspace=True))
    sessions: list[tuple[float, float]] = []
    entered: dict[str, float] = {}
    try:
        for row in sorted(rows, key=lambda r: float(r["timestamp"])):
            at, status = float(row["timestamp"]) / 1e3, row["status"].strip().upper()
            if status == "ENTER":
                entered[row["session"]] = at
            elif status == "EXIT" and row["session"] in entered:
                sessions.append((entered.pop(row["session"]), at))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: needs the columns timestamp, session and status ({error!r})") from error
    return sessions
