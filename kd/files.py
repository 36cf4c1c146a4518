"""Files that are either whole or not there, and logs of JSON lines. All text is UTF-8."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], Any], *, durable: bool = True) -> None:
    """Have `write` fill a temporary file beside `path`, flush it to disk and rename it to `path`.

    durable=False: not flushed, for what a crash of the machine may take (a heartbeat).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as .npy, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, numpy would append ".npy"
            np.save(file, array)

    write_atomically(path, write)


def load_array(path: Path, remedy: str) -> npt.NDArray[Any]:
    """An array of a .npy, as a memory map. Raises InputError, ending with `remedy`, for a damaged file."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except Exception as error:  # numpy raises whatever the broken header leads to: also errors of tokens
        raise InputError(f"{path} is not a readable array ({error}): {remedy}") from None


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), durable=durable)


def write_json(path: Path, content: Any, *, indent: int | None = None, durable: bool = True) -> None:
    """Write a JSON file, atomically. Raises ValueError for NaN and infinity, which are not JSON."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(content, indent=indent, separators=separators, allow_nan=False)
    write_text(path, text, durable=durable)


def read_text(path: Path) -> str:
    """A text file. Raises InputError for one that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}): save it with the encoding UTF-8"
        ) from None


def read_json(path: Path, remedy: str = "restore the file, or remove it") -> dict[str, Any]:
    """A JSON file that holds one mapping. Raises InputError, ending with `remedy`, for anything else."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): {remedy}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not a JSON mapping: {remedy}")
    return content


def append_json_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to a log: one write, so that lines of two processes never mix."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(fd).st_size
        cut = size and os.pread(fd, 1, size - 1) != b"\n"  # by a full disk, which spoils that line only
        line = ("\n" * bool(cut) + json.dumps(entry) + "\n").encode()
        if os.write(fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(fd)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log, none without a file; one that a full disk or a kill cut short is left out."""
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry
