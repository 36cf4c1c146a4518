"""MATLAB files up to version 7, read by scipy in a process of their own: broken ones crash scipy or hang it.

`mat_reader` starts `kd.datasets.matlab_child` and asks it for one file after another. That process has limits
on memory and time, and hands back plain arrays and text; its death is an error of the file that it read.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from kd.errors import InputError

# Limits of one file. Real ones unpack to less than 10 times their size, at more than 10 MB a second.
MEMORY, MEMORY_RATIO = 2 * 2**30, 20  # bytes, and bytes for each of the file's
SECONDS, SECONDS_PER_MB = 60, 1
WAIT = 5  # times that, on the clock: a busy machine, a slow disk
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
KINDS = "iufb"  # numbers; nothing that holds pointers passes between the processes
Array = npt.NDArray[Any]
Value = Array | list[Array] | str


class Read(Protocol):
    """What `mat_reader` gives: variables of a file, each an array, a list of a cell array's, or text.

    `a.b.c` is a field of a structure. Raises InputError naming the file that isn't readable, that lacks a
    variable, or that the reading process can't take.
    """

    def __call__(self, path: Path, *names: str) -> dict[str, Value]: ...


@contextmanager
def mat_reader() -> Iterator[Read]:
    """A process that reads MATLAB files, one after another: its start takes as long as reading many."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            # -P: modules come from where ours do, not from the folder that we happen to be in
            [sys.executable, "-P", "-m", "kd.datasets.matlab_child"],
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        try:
            yield lambda path, *names: _asked(child, said, path, names)
        finally:
            child.kill()
            child.communicate()


def read_with(read: Read, path: Path, names: Sequence[str], more: Sequence[str]) -> dict[str, Value]:
    """Variables of a file with others that it may lack: all of `more`, or none. Raises InputError as Read."""
    try:
        return read(path, *names, *more)
    except InputError:  # which of them was it?
        return read(path, *names)


def _asked(
    child: "subprocess.Popen[bytes]", said: IO[bytes], file: Path, names: tuple[str, ...]
) -> dict[str, Value]:
    """What the child reads of one file."""
    if not file.is_file():
        raise InputError(f"{file}: no such file: copy or download the data set again")
    size = file.stat().st_size
    assert child.stdin is not None
    assert child.stdout is not None
    seconds = int(SECONDS + SECONDS_PER_MB * size / 2**20)
    memory = MEMORY + MEMORY_RATIO * size
    request = {"path": os.fspath(file), "names": names, "memory": memory, "seconds": seconds}
    clock = threading.Timer(WAIT * seconds, child.kill)
    clock.start()
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        answer = json.loads(child.stdout.readline())
        if "error" in answer:
            raise InputError(answer["error"])
        return {name: _received(child.stdout, answer[name], memory) for name in names}
    except (OSError, EOFError, json.JSONDecodeError):
        end = _end(child)
        said.seek(0)
        last = said.read()[-500:].decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(
            f"{file}: reading it {end}{f' ({last})' if last else ''}: download it again"
        ) from None
    finally:
        clock.cancel()


def _end(child: "subprocess.Popen[bytes]") -> str:
    """How a process ended that had more to say."""
    try:
        code = child.wait(timeout=5)  # it says nothing more before it is quite gone
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait()
    names = {-9: "took too long or too much memory", -24: "took too long"}  # SIGKILL, SIGXCPU
    return names.get(code, f"crashed with signal {-code}" if code < 0 else f"failed with exit code {code}")


def _received(pipe: IO[bytes], value: Any, memory: int) -> Value:
    """A value from its description and, for arrays, the bytes that follow."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [_array(pipe, part, memory) for part in value]
    return _array(pipe, value, memory)


def _array(pipe: IO[bytes], part: Mapping[str, Any], memory: int) -> Array:
    dtype, shape = np.dtype(part["dtype"]), tuple(part["shape"])
    count = int(np.prod(shape, dtype=object))
    if dtype.kind not in KINDS or not 0 <= count * dtype.itemsize <= memory:
        raise EOFError
    content = pipe.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise EOFError
    return np.frombuffer(content, dtype).reshape(shape).copy()
