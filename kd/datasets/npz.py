"""Arrays of an .npz of unknown origin: numbers only, and their sizes are checked before anything is unpacked.

A zip archive of a few MB may unpack to many GB, and an array's header may claim any shape.
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError

# All arrays together may take so much: real signals pack to no less than a tenth of their size
UNPACKED, UNPACKED_RATIO = 2**28, 100  # bytes, and bytes for each of the file's
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes


class Npz:
    """An open .npz; `names` are its arrays."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        self._members = {m.filename.removesuffix(".npy"): m for m in members}
        self.names = set(self._members)
        size = sum(m.file_size for m in archive.infolist())
        if size > max(UNPACKED, UNPACKED_RATIO * path.stat().st_size):
            raise InputError(
                f"{path}: would unpack to {size / 2**30:,.1f} GiB, over {UNPACKED_RATIO} times its size: "
                "if that is meant, save it with np.savez, which doesn't pack"
            )
        if len(self._members) < len(members):
            names = [m.filename for m in members]
            twice = next(n for n in names if names.count(n) > 1)
            raise InputError(f"{path}: holds {twice!r} twice: build it again")

    def read(self, name: str) -> npt.NDArray[Any]:
        """One array of numbers; KeyError for a name that isn't there. Raises InputError for any other."""
        member = self._members[name]
        with _readable(self.path, name), self._archive.open(member) as file:
            if member.compress_type not in METHODS:
                raise ValueError(f"packed by method {member.compress_type}")
            version = np.lib.format.read_magic(file)
            if version not in HEADERS:
                raise ValueError(f"an array of version {version}")
            shape, by_column, dtype = HEADERS[version](file)
            if dtype.kind not in "iuf":
                raise ValueError(f"an array of {dtype}, not of numbers")
            size, there = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
            if min(shape, default=0) < 0 or size != there:
                raise ValueError(f"shape {shape} of {dtype} takes {size} bytes, and {there} are there")
            content = file.read(size)
            return np.frombuffer(content, dtype).reshape(shape, order="F" if by_column else "C")


def names_in(path: Path) -> set[str]:
    """The arrays of an .npz, also of one that would unpack to too much; InputError if it is damaged."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """Open an .npz. Raises InputError for one that is damaged, or that would unpack to too much."""
    with _readable(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield Npz(path, archive)


@contextmanager
def _readable(path: Path, name: str = "") -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # broken bytes lead to errors of zip, zlib, struct, text, tokens and memory
        what = f" ({name}: {error!r:.200})" if name else f" ({error!r:.200})"
        raise InputError(f"{path}: not a readable .npz of numbers{what}: copy or build it again") from None
