"""BAMI-1 and BAMI-2: wrist, rest, walking and running on a treadmill, 3 PPG channels at 50 Hz.

Layout: `BAMI1_1.mat` with `rawPPG` (3, n), maybe `rawAcc` (3, n), and `bpm_ecg`, one heart rate for each 8 s
every 2 s. A few files have one label too many or too few: labels and signal then end together (BeliefPPG's
rule). Chung, Lee, Lee, IEEE Access, 2020.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kd.datasets.checks import accelerometer, checked
from kd.datasets.matlab import Read, mat_reader, read_with
from kd.datasets.reading import numbers
from kd.errors import InputError
from kd.recordings import Recording

LABEL = "a folder with BAMI files: BAMI1_1.mat ... or BAMI2_1.mat ..."
OPTIONS: dict[str, object] = {}
FS, WINDOW_S, STRIDE_S = 50.0, 8.0, 2.0
NAME = re.compile(r"BAMI([12])_\w+\.mat")


def files(found: Sequence[Path]) -> list[Path]:
    """Every BAMI file."""
    return [p for p in found if NAME.fullmatch(p.name)]


def load(files: Sequence[Path]) -> Iterator[Recording]:
    """One recording for each file; each is another subject. Raises InputError naming the file."""
    with mat_reader() as read:
        for file in files:
            yield _recording(file, read)


def _recording(file: Path, read: Read) -> Recording:
    content = read_with(read, file, ("rawPPG", "bpm_ecg"), ("rawAcc",))
    ppg = numbers(file, "rawPPG", content["rawPPG"], (3, None))
    hr = numbers(file, "bpm_ecg", content["bpm_ecg"], (None,))
    windows = int((ppg.shape[1] / FS - WINDOW_S) // STRIDE_S) + 1
    if abs(windows - len(hr)) > 1:
        raise InputError(
            f"{file}: {len(hr)} labels for {windows} windows of signal: use the labels of this recording"
        )
    match = NAME.fullmatch(file.name)
    assert match is not None
    recording = Recording(
        name=file.stem,
        dataset=f"BAMI-{match.group(1)}",
        subject=file.stem,
        ppg=ppg,
        fs=FS,
        hr=hr[-windows:],  # one too many: the first goes
        hr_start_s=STRIDE_S * max(windows - len(hr), 0),  # one too few: the first window has none
    )
    checked(recording, f"{file}: rawPPG", f"{file}: bpm_ecg")
    if "rawAcc" not in content:
        return recording
    acc = numbers(file, "rawAcc", content["rawAcc"], (3, None))
    return accelerometer(f"{file}: rawAcc", acc, FS, recording)
