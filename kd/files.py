"""Files that are either whole or not there, and logs of JSON lines. All text is UTF-8."""

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from kd.errors import InputError

if TYPE_CHECKING:  # `kdsweep status` reads files, and no arrays
    import numpy.typing as npt

LITTLE = 64 * 1024  # bytes left, on a disk that counts as full when a library cannot write
FULL = (errno.ENOSPC, errno.EDQUOT)  # no space left, on the disk or for this user


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], Any], *, durable: bool = True) -> None:
    """Have `write` fill a temporary file beside `path`, flush it to disk and rename it to `path`.

    durable=False: not flushed, for what a crash of the machine may take (a heartbeat). The file's mode
    follows the umask, whatever `write` does. Raises OSError, naming the file, when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        if stat.S_IMODE(temporary.stat().st_mode) != mode:  # safetensors makes files for their owner alone
            temporary.chmod(mode)
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        if full := _full(error, path):
            raise full from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_full(error: BaseException | None) -> TypeGuard[OSError]:
    """Whether an error says that there is no space left."""
    return isinstance(error, OSError) and error.errno in FULL


def _full(error: Exception, path: Path) -> OSError | None:
    """The error of a full disk, naming the file; libraries that write by themselves raise others."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and not isinstance(error, OSError):
        with contextlib.suppress(OSError):
            disk = os.statvfs(path.parent)
            number = errno.ENOSPC if disk.f_bavail * disk.f_frsize < LITTLE else None
    if number not in FULL:
        return None
    return OSError(number, f"{os.strerror(number)}; free some there, then run again", str(path))


def save_array(path: Path, array: "npt.NDArray[Any]") -> None:
    """Write an array as .npy, atomically."""
    import numpy as np

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, numpy would append ".npy"
            np.save(file, array)

    write_atomically(path, write)


def load_array(path: Path, remedy: str) -> "npt.NDArray[Any]":
    """An array of a .npy, as a memory map. Raises InputError, ending with `remedy`, for a damaged file."""
    import numpy as np

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
    """A JSON file that holds one mapping. InputError, ending with `remedy`, for anything else in it."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): {remedy}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not a JSON mapping: {remedy}")
    return content


def append_json_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to a log: one write, so that lines of two processes never mix."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(fd).st_size
        cut = size and os.pread(fd, 1, size - 1) != b"\n"  # by a full disk, which spoils that line only
        line = ("\n" * bool(cut) + json.dumps(entry) + "\n").encode()
        if os.write(fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    except OSError as error:
        raise _full(error, path) or error from None
    finally:
        os.close(fd)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log, none without a file; one that a full disk or a kill cut short is left out."""
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry
