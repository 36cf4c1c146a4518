"""PPG-DaLiA: 15 subjects, wrist (Empatica E4) at 64 Hz during daily life; heart rate from a chest ECG.

Layout: `PPG_FieldStudy/S1/S1.pkl` .. S15: a pickled dict with `signal` -> `wrist` -> `BVP` (n, 1) and
`label`, one heart rate for each 8 s every 2 s from the start. A pickle can run any code when it is opened,
so these are read by an unpickler that knows numpy arrays, dtypes and scalars, Python's own containers and
scalars, and nothing else. Reiss et al., Sensors 19(14), 2019.
"""

import codecs
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar
from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

from kd.datasets.reading import matching, numbers
from kd.errors import InputError
from kd.recordings import Recording

LABEL = "a folder with PPG-DaLiA files: S1/S1.pkl ... S15/S15.pkl"
OPTIONS: dict[str, object] = {}
FS = 64.0
NAME = re.compile(r"S\d+\.pkl")

_NUMPY: list[tuple[str, Any]] = [
    ("multiarray", _reconstruct),
    ("multiarray", scalar),
    ("numeric", _frombuffer),
]
_BUILTINS: dict[str, Any] = {
    t.__name__: t for t in (set, frozenset, bytearray, complex, list, dict, tuple, int, float, bool, str)
}
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # numpy 1 called this package core, numpy 2 calls it _core
    **{(f"numpy.{core}.{module}", f.__name__): f for core in ("core", "_core") for module, f in _NUMPY},
    **{(module, n): t for module in ("builtins", "__builtin__") for n, t in _BUILTINS.items()},
    ("_codecs", "encode"): codecs.encode,  # how Python 3 writes bytes in the old protocols
    ("collections", "OrderedDict"): OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    """Opens what ADMITTED lists; anything else is refused before it is imported."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return ADMITTED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it wants to use {module_name}.{global_name}") from None


def read_pickle(path: Path) -> Any:
    """The content of a pickle of arrays and plain Python values. Raises InputError for anything else."""
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused to open this pickle ({error}): a data file holds arrays and numbers only; "
            "get it from its authors again"
        ) from error
    except Exception as error:  # broken bytes lead a pickle anywhere: EOF, attribute errors
        raise InputError(f"{path}: not a readable pickle ({error}): download it again") from error


def files(path: Path) -> list[Path]:
    """Every S<number>.pkl."""
    return [p for p in matching(path, "S*.pkl") if NAME.fullmatch(p.name)]


def load(path: Path) -> list[Recording]:
    """One recording for each subject. Raises InputError naming the file."""
    return [_recording(file) for file in files(path)]


def _recording(file: Path) -> Recording:
    content = read_pickle(file)
    try:
        bvp, label = content["signal"]["wrist"]["BVP"], content["label"]
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{file}: no signal/wrist/BVP or no label in it ({error!r}): is it PPG-DaLiA's own file? "
            "(WESAD's pickles look alike, but hold no heart rate)"
        ) from error
    return Recording(
        name=file.stem,
        dataset="PPG-DaLiA",
        subject=file.stem,
        ppg=numbers(file, "signal/wrist/BVP", bvp, (None,))[None],
        fs=FS,
        hr=numbers(file, "label", label, (None,)),
    )
