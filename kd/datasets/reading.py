"""What the loaders share: finding files, reading CSV files and arrays with errors a user can act on."""

import itertools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.datasets import checks
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


def read_columns(path: Path, columns: Sequence[str]) -> list[npt.NDArray[np.float64]]:
    """The named columns of a CSV file with a header, each (rows,); an empty cell is NaN."""
    header = [name.strip() for name in read_lines(path, 1)[0].split(",")]
    shown = ", ".join(name if name.isprintable() else repr(name) for name in header)[:200]
    for name in columns:
        if header.count(name) != 1:
            said = f"the column {name} twice" if name in header else f"no column {name}"
            raise InputError(f"{path}: {said}; it has {shown or 'no header'}: use the original file")
    at = [header.index(name) for name in columns]
    try:
        table = _table(path, at)
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from None
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: a cell isn't a number or is missing ({error}): copy or download it again"
        ) from error
    return list(table.reshape(-1, len(at)).T)


def read_lines(path: Path, most: int | None = None) -> list[str]:
    """The first lines of a text file, or all; one empty line of an empty file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file: copy or download the data set again")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(itertools.islice(file, most)) or [""]
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from None


def _no_text(path: Path, error: UnicodeDecodeError) -> InputError:
    return InputError(f"{path}: not a text file in UTF-8 ({error}): copy or download it again, or save it so")


def numbers(path: Path, name: str, value: Any, shape: Sequence[int | None]) -> npt.NDArray[np.float32]:
    """`value` as float32 of that shape (None = any length); one-dimensional values may be rows or columns."""
    array = checks.numeric(f"{path}: {name}", value)
    if len(shape) == 1:
        array = np.atleast_1d(array.squeeze())
    if not _fits(array, shape):
        wanted = tuple("n" if n is None else n for n in shape)
        turned = array.ndim == 2 and _fits(array.T, shape)
        raise InputError(
            f"{path}: {name} has shape {array.shape}, not {wanted}: "
            + ("it looks transposed; " if turned else "")
            + "use the original file"
        )
    return checks.float32(array)


def _fits(array: npt.NDArray[Any], shape: Sequence[int | None]) -> bool:
    return array.ndim == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))


def _table(path: Path, at: Sequence[int]) -> npt.NDArray[np.float64]:
    """The columns at these positions, (rows, columns)."""
    read = {"delimiter": ",", "skiprows": 1, "usecols": at, "ndmin": 2, "comments": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")  # no rows are rows of length 0
        return _numbers_in(path, read)


def _numbers_in(path: Path, read: dict[str, Any]) -> npt.NDArray[np.float64]:
    try:
        return np.loadtxt(path, encoding="utf-8-sig", **read)
    except ValueError:  # perhaps only an empty cell: ten times slower, since Python then sees every cell
        return np.loadtxt(path, encoding="utf-8-sig", converters=_number, **read)


def _number(cell: str) -> float:
    return float(cell) if cell.strip() else np.nan
