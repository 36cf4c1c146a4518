"""One .npz with recordings of several data sets: `NAME/ppg`, `NAME/hr` and `meta_json`, which lists them.

meta_json: uint8 bytes of a UTF-8 JSON list of {name, dataset, subject, fs, ...}. NAME/ppg: any number type,
(channels, samples). NAME/hr: (windows,), BPM; window k starts at 2k seconds and lasts 8, unless the entry has
hr_window_s, hr_stride_s or hr_start_s.
"""

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kd.errors import InputError
from kd.recordings import Recording

LABEL = "an .npz with NAME/ppg, NAME/hr and meta_json"
OPTIONS = {
    "bidmc_lag_s": 6.0,  # notes on the data: BIDMC's monitor shows a heart rate 6 s late; 0 = leave as it is
    "datasets": (),  # only these; () = all
}
META = "meta_json"


def files(found: Sequence[Path]) -> list[Path]:
    """Every .npz that holds meta_json; a broken one only if it is all there is, for its loader to say how."""
    return [p for p in found if p.suffix == ".npz" and _holds_recordings(p, broken=len(found) == 1)]


def load(files: Sequence[Path], *, bidmc_lag_s: float, datasets: str | Sequence[str]) -> list[Recording]:
    """Every recording of the files. Raises InputError naming file and recording."""
    chosen = {datasets} if isinstance(datasets, str) else set(datasets)
    recordings = [recording for file in files for recording in _recordings(file, bidmc_lag_s)]
    there = {r.dataset for r in recordings}
    if missing := sorted(chosen - there):
        raise InputError(
            f"{files[0]}: no recording of {', '.join(missing)}: it has {', '.join(sorted(there)) or 'none'}"
        )
    return [r for r in recordings if not chosen or r.dataset in chosen]


def _holds_recordings(path: Path, *, broken: bool) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{META}.npy" in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return broken


def _recordings(path: Path, bidmc_lag_s: float) -> list[Recording]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [_recording(path, archive, e, bidmc_lag_s) for e in _entries(path, archive[META])]
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(
            f"{path}: not a readable .npz of recordings ({error}): copy or build it again"
        ) from error


def _entries(path: Path, meta: Any) -> list[dict[str, Any]]:
    try:
        entries = json.loads(bytes(np.asarray(meta, np.uint8)).decode())
    except ValueError as error:
        raise InputError(f"{path}: meta_json is not UTF-8 JSON ({error}): build the file again") from error
    for i, entry in enumerate(entries if isinstance(entries, list) else [None]):
        missing = [
            k for k in ("name", "dataset", "subject", "fs") if not isinstance(entry, dict) or k not in entry
        ]
        if missing:
            raise InputError(f"{path}: meta_json entry {i} has no {', '.join(missing)}: add it")
    return list(entries)


def _recording(path: Path, archive: Any, entry: dict[str, Any], bidmc_lag_s: float) -> Recording:
    name = entry["name"]
    for key in (f"{name}/ppg", f"{name}/hr"):
        if key not in archive:
            raise InputError(
                f"{path}: meta_json lists {name}, but {key} is missing: add it or remove the entry"
            )
    times: dict[str, Any] = {
        k: float(entry[k]) for k in ("hr_window_s", "hr_stride_s", "hr_start_s") if k in entry
    }
    recording = Recording(
        name=str(name),
        dataset=str(entry["dataset"]),
        subject=str(entry["subject"]),
        ppg=np.asarray(archive[f"{name}/ppg"], np.float32),
        fs=float(entry["fs"]),
        hr=np.asarray(archive[f"{name}/hr"], np.float32),
        **times,
    )
    if recording.dataset == "BIDMC" and bidmc_lag_s:
        # What the monitor shows for a window was true that much earlier: move the labels back in time.
        return replace(recording, hr_start_s=recording.hr_start_s - bidmc_lag_s)
    return recording
