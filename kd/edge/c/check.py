"""Whether a student in C answers as it should, on this machine: needs cc and make."""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kd.edge.c.source import decoded, logits_of
from kd.edge.int8.student import Student8
from kd.errors import InputError

NEEDS = ("cc", "make")
TOLERANCE = 1e-5  # of the largest logit, over many windows; of the vectors main.c asks 1e-6
TOLERANCE_BPM = 1e-2


class Rate(ctypes.Structure):
    """kds_rate."""

    _fields_ = (("bpm", ctypes.c_float), ("sd", ctypes.c_float))


def check(folder: Path, model: nn.Module | Student8, windows: Any, centres: Any) -> dict[str, Any] | None:
    """`make test`, and `windows` (N, C, S) through the C; None where cc or make is missing.

    A float model's logits may differ by rounding, an 8-bit student's not by a bit.

    Returns windows, off (largest difference of logits, a share of the largest logit) and off_bpm. Raises
    InputError with what the compiler or the test said if either fails or differs by more than the tolerances.
    """
    if any(shutil.which(tool) is None for tool in NEEDS):
        return None
    windows = np.ascontiguousarray(windows, np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        there = Path(temporary) / "c"
        shutil.copytree(folder, there)
        _run(["make", "-s", "test"], there)
        library = there / "student.so"
        options = ["-std=c99", "-O2", "-fno-math-errno", "-shared", "-fPIC"]
        _run(["cc", *options, "-o", str(library), "kdsweep_student.c", "-lm"], there)
        logits, bpm = _answers(library, windows, len(centres))
    wanted = logits_of(model, windows)
    tolerance = 0.0 if isinstance(model, Student8) else TOLERANCE
    off = float(np.max(np.abs(logits - wanted).max(1) / np.abs(wanted).max(1)))
    off_bpm = float(np.abs(bpm - decoded(wanted, np.asarray(centres))[0]).max())
    if not (off <= tolerance and off_bpm <= TOLERANCE_BPM):
        raise InputError(
            f"the C code differs from the model by {off:.2g} of the largest logit and {off_bpm:.2g} BPM on "
            f"{len(windows)} windows: this compiler's arithmetic is not IEEE's; try another as cc"
        )
    return {"windows": len(windows), "off": off, "off_bpm": off_bpm}


def _answers(library: Path, windows: Any, classes: int) -> tuple[Any, Any]:
    """Logits (N, K) and BPM (N,) of the C code."""
    student = ctypes.CDLL(str(library))
    student.kds_logits.restype = ctypes.POINTER(ctypes.c_float)
    student.kds_decode.restype = Rate
    logits, bpm = np.empty((len(windows), classes), np.float32), np.empty(len(windows))
    for i, window in enumerate(windows):
        said = student.kds_logits(window.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
        logits[i] = np.ctypeslib.as_array(said, (classes,))
        bpm[i] = student.kds_decode(said).bpm
    return logits, bpm


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise InputError(f"the C code fails here, at {' '.join(command)}:\n{said}")
