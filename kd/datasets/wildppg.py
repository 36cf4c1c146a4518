"""WildPPG: 16 participants, a day outdoors, PPG at four places on the body; heart rate from a sternum ECG.

Two layouts:
(a) one .mat for each participant with `id` and `sternum`, `head`, `wrist`, `ankle`, each a struct of sensors
    `ppg_g`, `ppg_ir`, `ppg_r`, `acc_x`, `acc_y`, `acc_z`, ... and (sternum) `ecg`, each sensor a struct of
    values `v` and rate `fs` (128 Hz); files without the accelerometer are read, too. No heart rate: it is
    computed from the ECG (kd.datasets.ecg).
(b) `WildPPG.mat` (16 cells): `data_ppg_wrist` or `data_ppg_g_wrist`, each (windows, 200), and
    `data_bpm_values`, each (windows, 1), 0 = no valid ECG: filtered windows of 8 s one after the other, so
    that the recording is the rows in a row.
Meier, Demirel, Holz, NeurIPS 2024 (arXiv 2412.17540); stretches its authors exclude are excluded here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd.datasets import checks, ecg
from kd.datasets.matlab import Read, Value, mat_reader, read_with
from kd.datasets.reading import numbers
from kd.errors import InputError
from kd.recordings import Recording

LABEL = "WildPPG.mat, or a folder with WildPPG_Part_*.mat"
LOCATIONS = ("sternum", "head", "wrist", "ankle")
OPTIONS = {
    "location": "wrist",  # where a watch is worn
    "sensors": ("ppg_g",),  # green, as in the authors' baselines; also ppg_ir, ppg_r; layout (a) only
    "rows_fs": 25.0,  # Hz of WildPPG.mat's rows of 200 samples (8 s); layout (b) only
}
WHOLE = "WildPPG.mat"
NAME = re.compile(r"WildPPG_Part_\w+\.mat")
EXCLUDED = {  # (participant, location) -> samples without a usable signal, from the authors' code
    ("l38", "wrist"): slice(4337572, 4545543),
    ("k2s", "wrist"): slice(3786939, 4194810),
    ("an0", "ankle"): slice(284543, 286400),
}


def files(found: Sequence[Path]) -> list[Path]:
    """Participants' files; WildPPG.mat only where there are none (it is made from them)."""
    return [p for p in found if NAME.fullmatch(p.name)] or [p for p in found if p.name == WHOLE]


def load(
    files: Sequence[Path], *, location: str, sensors: str | Sequence[str], rows_fs: float
) -> Iterator[Recording]:
    """One recording for each participant. Raises InputError naming the file."""
    if location not in LOCATIONS:
        raise InputError(f"data.options.location is {location!r}: use one of {', '.join(LOCATIONS)}")
    checks.number("data.options.rows_fs", rows_fs, checks.RATES_HZ, "Hz")
    chosen = (sensors,) if isinstance(sensors, str) else tuple(sensors)
    if not chosen:
        raise InputError("data.options.sensors is empty: name at least one, as ppg_g")
    with mat_reader() as read:
        for file in files:
            if file.name == WHOLE:
                yield from _cells(file, read, location, rows_fs)
            else:
                yield _participant(file, read, location, chosen)


def _participant(file: Path, read: Read, location: str, sensors: tuple[str, ...]) -> Recording:
    """Layout (a)."""
    signals = [f"{location}.{sensor}" for sensor in sensors]
    axes = [f"{location}.acc_{axis}" for axis in "xyz"]
    wanted, more = (
        [f"{s}.{part}" for s in some for part in ("v", "fs")] for some in (("sternum.ecg", *signals), axes)
    )
    content = read_with(read, file, ("id", *wanted), more)
    name = checks.name(f"{file}: id", content["id"])
    heart, heart_fs = _sensor(file, content, "sternum.ecg", ecg.RATES_HZ)
    ppg, fs = _together(file, content, signals, "choose one sensor")
    if (name, location) in EXCLUDED:
        ppg[:, EXCLUDED[name, location]] = np.nan
    recording = Recording(
        name=file.stem,
        dataset="WildPPG",
        subject=name,
        ppg=ppg,
        fs=fs,
        hr=ecg.heart_rate(heart, heart_fs),
    )
    checks.checked(recording, f"{file}: {signals[0]}.v", f"{file}: sternum.ecg.v")
    if f"{axes[0]}.v" not in content:
        return recording
    acc, fs = _together(file, content, axes, "use the original file")
    return checks.accelerometer(f"{file}: {location}.acc_x.v", acc, fs, recording)


def _together(
    file: Path, content: Mapping[str, Value], sensors: Sequence[str], remedy: str
) -> tuple[npt.NDArray[np.float32], float]:
    """Values (sensors, n) and rate of sensors that share one."""
    values, rates = zip(*(_sensor(file, content, s, checks.RATES_HZ) for s in sensors), strict=True)
    if len(set(rates)) > 1 or len({len(v) for v in values}) > 1:
        raise InputError(f"{file}: {', '.join(sensors)} differ in rate or length: {remedy}")
    return np.stack(values), rates[0]


def _sensor(
    file: Path, content: Mapping[str, Value], sensor: str, limits: tuple[float, float]
) -> tuple[npt.NDArray[np.float32], float]:
    """Values (n,) and rate of one sensor."""
    fs = checks.numeric(f"{file}: {sensor}.fs", content[f"{sensor}.fs"]).ravel()
    if len(fs) != 1:
        raise InputError(f"{file}: {sensor}.fs has {len(fs)} values, not one: use the original file")
    rate = checks.number(f"{file}: {sensor}.fs", fs[0], limits, "Hz")
    return numbers(file, f"{sensor}.v", content[f"{sensor}.v"], (None,)), rate


def _cells(file: Path, read: Read, location: str, rows_fs: float) -> Iterator[Recording]:
    """Layout (b)."""
    for name in (f"data_ppg_{location}", f"data_ppg_g_{location}"):
        try:
            content = read(file, name, "data_bpm_values")
            break
        except InputError as error:
            missing = error
    else:
        raise missing
    signals, heart_rates = content[name], content["data_bpm_values"]
    for key, value in content.items():
        if not isinstance(value, list):
            raise InputError(f"{file}: {key} has no cell for each participant: use the original file")
    if len(signals) != len(heart_rates):
        raise InputError(
            f"{file}: {name} has {len(signals)} participants and data_bpm_values {len(heart_rates)}: "
            "use the original file"
        )
    for i, (rows, labels) in enumerate(zip(signals, heart_rates, strict=True), start=1):
        ppg = numbers(file, f"{name}[{i}]", rows, (None, None))
        hr = numbers(file, f"data_bpm_values[{i}]", labels, (None,))
        if abs(len(hr) - len(ppg)) > 1:  # the last, partial window may have a label and no row
            raise InputError(f"{file}: participant {i} has {len(ppg)} rows of signal and {len(hr)} labels")
        row_s = ppg.shape[1] / rows_fs
        recording = Recording(
            name=f"participant_{i:02d}",
            dataset="WildPPG",
            subject=f"p{i:02d}",
            ppg=ppg.reshape(1, -1),
            fs=rows_fs,
            hr=np.where(hr > 0, hr, np.nan)[: len(ppg)].astype(np.float32),
            hr_window_s=row_s,
            hr_stride_s=row_s,
        )
        yield checks.checked(recording, f"{file}: {name}[{i}]", f"{file}: data_bpm_values[{i}]")
