"""One .npz with recordings of several data sets: `NAME/ppg`, `NAME/hr` and `meta_json`, which lists them.

meta_json: uint8 bytes of a UTF-8 JSON list of {name, dataset, subject, fs, ...}. NAME/ppg: any number type,
(channels, samples). NAME/hr: (windows,), BPM; window k starts at 2k seconds and lasts 8, unless the entry has
hr_window_s, hr_stride_s or hr_start_s. NAME/acc, if there is an accelerometer: (3, samples), axes x, y, z in
one unit, at the PPG's rate unless the entry has acc_fs; an entry may say acc_axes: 3. Names, data sets and
subjects are text or whole numbers, all other entries finite numbers.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kd.datasets import checks
from kd.datasets.npz import Npz, names_in, open_npz
from kd.errors import InputError
from kd.recordings import Recording

LABEL = "an .npz with NAME/ppg, NAME/hr and meta_json"
OPTIONS = {
    "bidmc_lag_s": 6.0,  # notes on the data: BIDMC's monitor shows a heart rate 6 s late; 0 = leave as it is
    "datasets": (),  # only these; () = all
}
META = "meta_json"
TIMES = {"hr_window_s": checks.STEPS_S, "hr_stride_s": checks.STEPS_S, "hr_start_s": checks.STARTS_S}


def files(found: Sequence[Path]) -> list[Path]:
    """Every .npz that holds meta_json; beside them, or alone, a broken one too, for its loader to say how."""
    names = {p: _names(p) for p in found if p.suffix == ".npz" and p.is_file()}  # a pipe would be waited for
    told = len(found) == 1 or any(META in inside for inside in names.values() if inside is not None)
    return [p for p, inside in names.items() if (told if inside is None else META in inside)]


def load(
    files: Sequence[Path], *, bidmc_lag_s: float, datasets: str | Sequence[str], labelled: bool = True
) -> Iterator[Recording]:
    """Every recording of the files; unless labelled, without reading NAME/hr, its hr NaN.

    Raises InputError naming file and recording.
    """
    chosen = {datasets} if isinstance(datasets, str) else set(datasets)
    there = set()
    for file in files:
        for recording in _recordings(file, bidmc_lag_s, labelled):
            there.add(recording.dataset)
            if not chosen or recording.dataset in chosen:
                yield recording
    if missing := sorted(chosen - there):
        raise InputError(
            f"{files[0]}: no recording of {', '.join(missing)}: it has {', '.join(sorted(there)) or 'none'}"
        )


def _names(path: Path) -> set[str] | None:
    """The arrays of an .npz; None if it is broken."""
    try:
        return names_in(path)
    except InputError:
        return None


def _recordings(path: Path, bidmc_lag_s: float, labelled: bool) -> Iterator[Recording]:
    with open_npz(path) as archive:
        if META not in archive.names:
            raise InputError(f"{path}: no {META} in it, which lists the recordings: build the file again")
        entries = _entries(path, archive.read(META))
        names = [entry["name"] for entry in entries]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            dataset = next(entry["dataset"] for entry in entries if entry["name"] == twice)
            raise InputError(f"{path}: {META}: two recordings are called {dataset}/{twice}: rename one")
        for entry in entries:
            yield _recording(path, archive, entry, bidmc_lag_s, labelled)


def _entries(path: Path, meta: Any) -> list[dict[str, Any]]:
    """The entries of meta_json, with name, dataset, subject, rate and times checked."""
    try:
        if meta.dtype != np.uint8:
            raise ValueError(f"an array of {meta.dtype}, not of uint8")
        entries = json.loads(meta.tobytes().decode(), object_pairs_hook=_unique, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: {META} is not UTF-8 JSON in uint8 ({error}): build the file again"
        ) from error
    found = []
    for i, entry in enumerate(entries if isinstance(entries, list) else [None]):
        where = f"{path}: {META} entry {i}"
        missing = [
            k for k in ("name", "dataset", "subject", "fs") if not isinstance(entry, dict) or k not in entry
        ]
        if missing:
            raise InputError(f"{where} has no {', '.join(missing)}: add it")
        texts = {key: checks.name(f"{where}: {key}", entry[key]) for key in ("name", "dataset", "subject")}
        fs = checks.number(f"{where}: fs", entry["fs"], checks.RATES_HZ, "Hz")
        times = {
            key: checks.number(f"{where}: {key}", entry[key], limits, "s")
            for key, limits in TIMES.items()
            if key in entry
        }
        found.append({**texts, "fs": fs, **times})
        if "acc_fs" in entry:
            found[-1]["acc_fs"] = checks.number(f"{where}: acc_fs", entry["acc_fs"], checks.RATES_HZ, "Hz")
        if "acc_axes" in entry:
            axes = checks.number(f"{where}: acc_axes", entry["acc_axes"], (0, checks.MOST_CHANNELS), "")
            found[-1]["acc_axes"] = axes
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice in one entry")
    return dict(pairs)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _recording(
    path: Path, archive: Npz, entry: dict[str, Any], bidmc_lag_s: float, labelled: bool
) -> Recording:
    name, entry = entry["name"], dict(entry)
    axes, acc_fs = entry.pop("acc_axes", None), entry.pop("acc_fs", entry["fs"])
    keys = (f"{name}/ppg", f"{name}/hr")
    for key in keys[: 1 + labelled]:
        if key not in archive.names:
            more = "" if key == keys[0] else ", or give recordings without labels as data.unlabelled"
            raise InputError(
                f"{path}: {META} lists {name}, but {key} is missing: add it or remove the entry{more}"
            )
    ppg = checks.float32(archive.read(keys[0]))
    if labelled:
        recording = Recording(**entry, ppg=ppg, hr=checks.float32(archive.read(keys[1])))
        checks.checked(recording, *(f"{path}: {key}" for key in keys))
    else:
        checks.signal_shape(f"{path}: {keys[0]}", ppg.shape)
        times = {key: value for key, value in entry.items() if key not in TIMES}
        recording = Recording(**times, ppg=ppg, hr=np.full(1, np.nan, np.float32))
        checks.checked(recording, f"{path}: {keys[0]}", f"{path}: {name}")
    recording = _with_acc(path, archive, recording, axes, acc_fs)
    if labelled and recording.dataset == "BIDMC" and bidmc_lag_s:
        # What the monitor shows for a window was true that much earlier: move the labels back in time.
        return replace(recording, hr_start_s=recording.hr_start_s - bidmc_lag_s)
    return recording


def _with_acc(path: Path, archive: Npz, recording: Recording, axes: float | None, fs: float) -> Recording:
    """The recording with its accelerometer, if it has one. axes: as the entry says."""
    key = f"{recording.name}/acc"
    there = archive.read(key) if key in archive.names else None
    if axes is not None and (int(axes),) != ((0,) if there is None else there.shape[:1]):
        said = "is missing" if there is None else f"has shape {there.shape}"
        raise InputError(f"{path}: {META} says acc_axes {axes:g} of {recording.name}, and {key} {said}")
    if there is None:
        return recording
    return checks.accelerometer(f"{path}: {key}", there, fs, recording)
