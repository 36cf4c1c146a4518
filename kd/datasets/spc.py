"""IEEE Signal Processing Cup 2015 (TROIKA): wrist, treadmill, 2 PPG channels at 125 Hz.

Layout: `DATA_01_TYPE01.mat` with `sig` (6, n): ECG, PPG1, PPG2, ACCx, ACCy, ACCz; beside it (or anywhere
below the path) `DATA_01_TYPE01_BPMtrace.mat` with `BPM0`, one heart rate for each 8 s every 2 s. Files of 5
rows lack the ECG. The Cup's test part has TEST_S01_T01.mat with True_S01_T01.mat, its extra part
DATA_S04_T01.mat with BPM_S04_T01.mat. Zhang, Pi, Liu, IEEE TBME 62(2), 2015.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kd.datasets.checks import accelerometer, checked
from kd.datasets.matlab import Read, mat_reader
from kd.datasets.reading import numbers
from kd.errors import InputError
from kd.recordings import Recording

LABEL = "a folder with IEEE SPC 2015 files: DATA_01_TYPE01.mat and DATA_01_TYPE01_BPMtrace.mat ..."
OPTIONS: dict[str, object] = {}
FS = 125.0
# The signal's name, with the subject; and the name of its reference.
NAMES = [
    (re.compile(r"DATA_(\d+)_TYPE\d+\.mat"), "SPC-train", lambda name: name.replace(".mat", "_BPMtrace.mat")),
    (re.compile(r"TEST_(S\d+)_T\d+\.mat"), "SPC-test", lambda name: name.replace("TEST", "True")),
    (re.compile(r"DATA_(S\d+)_T\d+\.mat"), "SPC-test", lambda name: name.replace("DATA", "BPM")),
]


def files(found: Sequence[Path]) -> list[Path]:
    """Signals and the references that are there."""
    signals = _signals(found)
    references = [r for s in signals if (r := _reference(found, s)) is not None]
    return sorted({*signals, *references})


def load(files: Sequence[Path]) -> Iterator[Recording]:
    """One recording for each signal file. Raises InputError naming the file."""
    with mat_reader() as read:
        for signal in _signals(files):
            yield _recording(signal, _reference(files, signal), read)


def _signals(found: Sequence[Path]) -> list[Path]:
    return [p for p in found if any(kind[0].fullmatch(p.name) for kind in NAMES)]


def _kind(signal: Path) -> tuple[str, str, str]:
    """Subject, data set and the reference's file name of a signal file."""
    for pattern, dataset, reference in NAMES:
        if match := pattern.fullmatch(signal.name):
            return match.group(1), dataset, reference(signal.name)
    raise AssertionError(signal)


def _reference(found: Sequence[Path], signal: Path) -> Path | None:
    """The reference beside its signal, or anywhere among the files."""
    name = _kind(signal)[2]
    if (beside := signal.with_name(name)).is_file():
        return beside
    return next((p for p in found if p.name == name), None)


def _recording(signal: Path, reference: Path | None, read: Read) -> Recording:
    subject, dataset, name = _kind(signal)
    if reference is None:
        raise InputError(f"{signal}: its reference heart rate {name} is missing: put it beside the signal")
    sig = numbers(signal, "sig", read(signal, "sig")["sig"], (None, None))
    if sig.shape[0] not in (5, 6):
        turned = "it looks transposed; " if sig.shape[1] in (5, 6) else ""
        raise InputError(
            f"{signal}: sig has shape {sig.shape}: {turned}expected 6 rows (with ECG) or 5 (without)"
        )
    first = sig.shape[0] - 5  # the row of PPG1: ECG, if it is there, comes first
    recording = Recording(
        name=signal.stem,
        dataset=dataset,
        subject=subject,
        ppg=sig[first : first + 2],
        fs=FS,
        hr=numbers(reference, "BPM0", read(reference, "BPM0")["BPM0"], (None,)),
    )
    checked(recording, f"{signal}: sig", f"{reference}: BPM0")
    return accelerometer(f"{signal}: sig", sig[first + 2 :], FS, recording)
