"""BIDMC: 53 patients in intensive care, 8 min of finger PPG at 125 Hz each; the monitor's heart rate at 1 Hz.

Layout (PhysioNet bidmc 1.0.0): `bidmc_csv/bidmc_01_Signals.csv` with columns `Time [s], RESP, PLETH, V, AVR,
II` and `bidmc_01_Numerics.csv` with `Time [s], HR, PULSE, RESP, SpO2`; names may be padded with blanks.
Pimentel et al., IEEE TBME, 2016.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd.datasets import checks
from kd.datasets.reading import read_columns
from kd.errors import InputError
from kd.recordings import Recording, readings

LABEL = "a folder with BIDMC files: bidmc_01_Signals.csv and bidmc_01_Numerics.csv ..."
OPTIONS = {"lag_s": 6.0}  # the monitor shows the heart rate about 6 s late (measured); 0 = leave it
NAME = re.compile(r"(bidmc_\d+)_Signals\.csv")


def files(found: Sequence[Path]) -> list[Path]:
    """Signals and the numerics that are there."""
    signals = _signals(found)
    return sorted({*signals, *(n for s in signals if (n := _numerics(s)).is_file())})


def load(files: Sequence[Path], *, lag_s: float, bpm_range: tuple[float, float]) -> Iterator[Recording]:
    """One recording for each patient. Raises InputError naming the file."""
    for signal in _signals(files):
        yield _recording(signal, lag_s, bpm_range)


def _signals(found: Sequence[Path]) -> list[Path]:
    return [p for p in found if NAME.fullmatch(p.name)]


def _numerics(signal: Path) -> Path:
    return signal.with_name(signal.name.replace("_Signals", "_Numerics"))


def _recording(signal: Path, lag_s: float, bpm_range: tuple[float, float]) -> Recording:
    time, pleth = read_columns(signal, ["Time [s]", "PLETH"])
    seconds, shown = read_columns(_numerics(signal), ["Time [s]", "HR"])
    if len(time) < 2 or not time[-1] > time[0]:
        raise InputError(f"{signal}: {len(time)} samples, too few or out of order: download it again")
    fs = checks.number(
        f"{signal}: the rate by its Time [s]", (len(time) - 1) / (time[-1] - time[0]), checks.RATES_HZ, "Hz"
    )
    _check_times(_numerics(signal), seconds, 2 * len(time) / fs + 60)
    shown, left_out = readings(shown, bpm_range)
    # The mean of what was shown during [2k, 2k + 8), for every k that fits; NaN as soon as a second lacks it.
    starts = np.arange(0.0, max(seconds[-1] + 1 - 8.0, 0.0) + 1e-6, 2.0) if len(seconds) else np.zeros(0)
    within = (seconds >= starts[:, None]) & (seconds < starts[:, None] + 8.0)
    count = within.sum(axis=1)
    total = np.where(within, shown, 0.0).sum(axis=1)
    hr = np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)
    recording = Recording(
        name=signal.name.removesuffix("_Signals.csv"),
        dataset="BIDMC",
        subject=signal.name.removesuffix("_Signals.csv"),
        ppg=pleth[None].astype(np.float32),
        fs=round(float(fs), 3),
        hr=hr.astype(np.float32),
        # what was shown during a window was true that much earlier; both files share a clock
        hr_start_s=-lag_s - float(time[0]),
        readings_left_out=left_out,
    )
    return checks.checked(recording, f"{signal}: PLETH", f"{_numerics(signal)}: HR")


def _check_times(file: Path, seconds: npt.NDArray[np.float64], most_s: float) -> None:
    """Raise InputError unless the numerics come one after another, at most twice a second, until most_s."""
    ordered = np.isfinite(seconds).all() and (np.diff(seconds) >= 0).all()
    if not ordered or len(seconds) > 2 * most_s or (len(seconds) and not 0 <= seconds[-1] <= most_s):
        raise InputError(
            f"{file}: Time [s] is out of order, or ends long after the signal does: download it again"
        )
