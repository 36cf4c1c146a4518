"""Pickles of arrays and plain Python values, opened without ever running what is in them.

A pickle is a program: it names functions and calls them. Here it can name only what ADMITTED lists. Numpy's
own entry points are not in it, since a crafted dtype makes numpy take numbers for memory addresses; stand-ins
build the array after having looked at what they were given.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kd.errors import InputError

KINDS = "biufcSUO"  # of dtypes: numbers, text, and lists of the values that ADMITTED allows


class _Dtype:
    """A dtype as a pickle writes it: its name, then its state, of which the byte order alone is used."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(name, str) or np.dtype(name).kind not in KINDS:
            raise pickle.UnpicklingError(f"an array of {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"an array in byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An array that takes its shape and content from a pickle only if they fit each other."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, kind, fortran, content = state[-4:]
        if not isinstance(kind, _Dtype) or (
            kind.dtype.kind == "O" and not (isinstance(content, list) and len(content) == math.prod(shape))
        ):
            raise pickle.UnpicklingError("an array whose content doesn't fit its shape")
        super().__setstate__((1, shape, kind.dtype, fortran, content))


def _reconstruct(cls: Any, shape: Any, kind: Any) -> _Array:
    """An empty array, to be filled by its state."""
    return _Array((0,), np.uint8)


def _scalar(kind: _Dtype, content: Any) -> Any:
    return _frombuffer(_bytes(content), kind, (1,), "C")[0]


def _frombuffer(content: Any, kind: _Dtype, shape: Any, order: Any) -> Any:
    """How protocol 5 writes an array. Numpy itself refuses objects here."""
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order).view(_Array)


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes in the old protocols; Python 2's are text already."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return text if isinstance(text, bytes) else str(text).encode("latin1")


_NUMPY: dict[tuple[str, str], Callable[..., Any]] = {
    ("multiarray", "_reconstruct"): _reconstruct,
    ("multiarray", "scalar"): _scalar,
    ("numeric", "_frombuffer"): _frombuffer,
}
_BUILTINS = (set, frozenset, bytes, bytearray, complex, list, dict, tuple, int, float, bool, str)
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    # numpy 1 called this package core, numpy 2 calls it _core
    **{(f"numpy.{core}.{module}", n): f for core in ("core", "_core") for (module, n), f in _NUMPY.items()},
    **{(module, t.__name__): t for module in ("builtins", "__builtin__") for t in _BUILTINS},
    ("_codecs", "encode"): _bytes,
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
            "download it again from its authors"
        ) from error
    except Exception as error:  # broken bytes lead a pickle anywhere: EOF, attribute errors
        raise InputError(f"{path}: not a readable pickle ({error}): download it again") from error
