"""What the loaders share: finding files, reading MATLAB and CSV files with errors a user can act on."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError


def listing(path: Path) -> list[Path]:
    """Every file below `path` (or `path` itself), sorted; hidden files and folders are left out.

    One walk over the folders and no look at any file: cheap on a network disk too.
    """
    if not path.is_dir():
        return [path] if path.exists() else []
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(folder, name) for name in names if not name.startswith(".")]
    return [Path(name) for name in sorted(found)]


def read_mat(path: Path, *names: str) -> dict[str, Any]:
    """The variables `names` of a MATLAB file up to version 7, structs as dicts; runs no code."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=names, simplify_cells=True)
    except NotImplementedError as error:
        raise InputError(f"{path}: a MATLAB 7.3 (HDF5) file: save it again with save(..., '-v7')") from error
    except Exception as error:  # scipy raises whatever the broken bytes lead to: struct, zlib errors
        raise InputError(f"{path}: not a readable MATLAB file ({error}): download it again") from error
    missing = [name for name in names if name not in content]
    if missing:
        raise InputError(f"{path}: no variable {', '.join(missing)}: use the original file")
    return {name: content[name] for name in names}


def read_columns(path: Path, columns: Sequence[str]) -> list[npt.NDArray[np.float64]]:
    """The named columns of a CSV file with a header, each (rows,); an empty cell is NaN."""
    if not path.is_file():
        raise InputError(f"{path}: no such file: copy or download the data set again")
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = [name.strip() for name in file.readline().split(",")]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file ({error}): copy or download it again") from error
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(header)}")
    at = [header.index(name) for name in columns]
    try:
        table = _table(path, at)
    except ValueError as error:
        raise InputError(f"{path}: a cell isn't a number ({error}): copy or download it again") from error
    return list(table.reshape(-1, len(at)).T)


def numbers(path: Path, name: str, value: Any, shape: Sequence[int | None]) -> npt.NDArray[np.float32]:
    """`value` as float32 of that shape (None = any length); one-dimensional values may be rows or columns."""
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {name} doesn't hold numbers ({error}): use the original file") from error
    if len(shape) == 1:
        array = np.atleast_1d(array.squeeze())
    fits = array.ndim == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = tuple("n" if n is None else n for n in shape)
        raise InputError(f"{path}: {name} has shape {array.shape}, not {wanted}: use the original file")
    return array


def _table(path: Path, at: Sequence[int]) -> npt.NDArray[np.float64]:
    """The columns at these positions, (rows, columns)."""
    read = {"delimiter": ",", "skiprows": 1, "usecols": at, "ndmin": 2, "encoding": "utf-8-sig"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")  # no rows are rows of length 0
        return _numbers_in(path, read)


def _numbers_in(path: Path, read: dict[str, Any]) -> npt.NDArray[np.float64]:
    try:
        return np.loadtxt(path, **read)
    except ValueError:  # perhaps only an empty cell: ten times slower, since Python then sees every cell
        return np.loadtxt(path, converters=_number, **read)


def _number(cell: str) -> float:
    return float(cell) if cell.strip() else np.nan
