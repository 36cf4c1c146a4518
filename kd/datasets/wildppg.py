"""WildPPG: 16 participants, a day outdoors, PPG at four places on the body; heart rate from a sternum ECG.

Two layouts:
(a) one .mat for each participant with `id` and `sternum`, `head`, `wrist`, `ankle`, each a struct of
    sensors `ppg_g`, `ppg_ir`, `ppg_r`, ... and (sternum) `ecg`, each sensor a struct of values `v` and rate
    `fs` (128 Hz). No heart rate: it is computed from the ECG (kd.datasets.ecg).
(b) `WildPPG.mat` (16 cells): `data_ppg_wrist` or `data_ppg_g_wrist`, each (windows, 200), and
    `data_bpm_values`, each (windows, 1), 0 = no valid ECG: filtered windows of 8 s one after the other, so
    that the recording is the rows in a row.
Meier, Demirel, Holz, NeurIPS 2024 (arXiv 2412.17540); stretches its authors exclude are excluded here.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd.datasets import ecg
from kd.datasets.reading import numbers, read_mat
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
) -> list[Recording]:
    """One recording for each participant. Raises InputError naming the file."""
    if location not in LOCATIONS:
        raise InputError(f"data.options.location is {location!r}: use one of {', '.join(LOCATIONS)}")
    recordings: list[Recording] = []
    for file in files:
        if file.name == WHOLE:
            recordings.extend(_cells(file, location, rows_fs))
        else:
            chosen = (sensors,) if isinstance(sensors, str) else tuple(sensors)
            recordings.append(_participant(file, location, chosen))
    return recordings


def _participant(file: Path, location: str, sensors: tuple[str, ...]) -> Recording:
    """Layout (a)."""
    content = read_mat(file, *dict.fromkeys(("id", "sternum", location)))
    name = str(content["id"])
    heart, heart_fs = _sensor(file, content, "sternum", "ecg")
    channels, rates = zip(*(_sensor(file, content, location, s) for s in sensors), strict=True)
    if len(set(rates)) > 1 or len({len(c) for c in channels}) > 1:
        raise InputError(f"{file}: {', '.join(sensors)} differ in rate or length: choose one sensor")
    ppg = np.stack(channels)
    if (name, location) in EXCLUDED:
        ppg[:, EXCLUDED[name, location]] = np.nan
    return Recording(
        name=file.stem,
        dataset="WildPPG",
        subject=name,
        ppg=ppg,
        fs=rates[0],
        hr=ecg.heart_rate(heart, heart_fs),
    )


def _sensor(file: Path, content: dict[str, Any], location: str, sensor: str) -> tuple[np.ndarray, float]:
    """Values (n,) and rate of one sensor."""
    try:
        part = content[location][sensor]
        values, fs = part["v"], float(part["fs"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{file}: no {location}.{sensor} with v and fs in it ({error!r}): use the original file"
        ) from error
    return numbers(file, f"{location}.{sensor}.v", values, (None,)), fs


def _cells(file: Path, location: str, rows_fs: float) -> Iterator[Recording]:
    """Layout (b)."""
    for name in (f"data_ppg_{location}", f"data_ppg_g_{location}"):
        try:
            content = read_mat(file, name, "data_bpm_values")
            break
        except InputError as error:
            missing = error
    else:
        raise missing
    signals, heart_rates = list(content[name]), list(content["data_bpm_values"])
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
        yield Recording(
            name=f"participant_{i:02d}",
            dataset="WildPPG",
            subject=f"p{i:02d}",
            ppg=ppg.reshape(1, -1),
            fs=rows_fs,
            hr=np.where(hr > 0, hr, np.nan)[: len(ppg)].astype(np.float32),
            hr_window_s=row_s,
            hr_stride_s=row_s,
        )
