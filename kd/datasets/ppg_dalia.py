"""PPG-DaLiA: 15 subjects, wrist (Empatica E4) at 64 Hz during daily life; heart rate from a chest ECG.

Layout: `PPG_FieldStudy/S1/S1.pkl` .. S15: a pickled dict with `signal` -> `wrist` -> `BVP` (n, 1), maybe
`ACC` (n, 3) at 32 Hz, and `label`, one heart rate for each 8 s every 2 s from the start. They are opened by
`kd.datasets.pickles`, which runs nothing of what is in them. Reiss et al., Sensors 19(14), 2019.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kd.datasets.checks import accelerometer, checked
from kd.datasets.pickles import read_pickle
from kd.datasets.reading import numbers
from kd.errors import InputError
from kd.recordings import Recording

LABEL = "a folder with PPG-DaLiA files: S1/S1.pkl ... S15/S15.pkl"
OPTIONS: dict[str, object] = {}
FS, ACC_FS = 64.0, 32.0
NAME = re.compile(r"S\d+\.pkl")


def files(found: Sequence[Path]) -> list[Path]:
    """Every S<number>.pkl."""
    return [p for p in found if NAME.fullmatch(p.name)]


def load(files: Sequence[Path]) -> Iterator[Recording]:
    """One recording for each subject. Raises InputError naming the file."""
    for file in files:
        yield _recording(file)


def _recording(file: Path) -> Recording:
    content = read_pickle(file)
    try:
        wrist = content["signal"]["wrist"]
        bvp, acc, label = wrist["BVP"], wrist.get("ACC"), content["label"]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"{file}: no signal/wrist/BVP or no label in it ({error!r}): use PPG-DaLiA's original file "
            "(WESAD's pickles look alike, but hold no heart rate)"
        ) from error
    recording = Recording(
        name=file.stem,
        dataset="PPG-DaLiA",
        subject=file.stem,
        ppg=numbers(file, "signal/wrist/BVP", bvp, (None,))[None],
        fs=FS,
        hr=numbers(file, "label", label, (None,)),
    )
    checked(recording, f"{file}: signal/wrist/BVP", f"{file}: label")
    if acc is None:
        return recording
    values = numbers(file, "signal/wrist/ACC", acc, (None, 3)).T
    return accelerometer(f"{file}: signal/wrist/ACC", values, ACC_FS, recording)
