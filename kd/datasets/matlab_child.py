"""The process that `kd.datasets.matlab` starts: it reads MATLAB files by scipy, within limits.

A request is a line of JSON: path, names, memory (bytes), seconds. The answer is a line of JSON, {"error":
text} or by name a text, an array {"dtype", "shape"} or a list of them; then the arrays' bytes in that order.
"""

import json
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kd.datasets.matlab import KINDS, Value
from kd.errors import InputError


def main() -> None:
    """Answer requests, a line of JSON each, until there are no more."""
    with suppress(OSError):  # where there is such a file: if memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit(resource.RLIMIT_AS, request["memory"])
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + request["seconds"])
        try:
            values = _read(request["path"], request["names"])
            header: dict[str, Any] = {name: _described(value) for name, value in values.items()}
        except InputError as error:
            header, values = {"error": str(error)}, {}
        sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
        for value in values.values():
            for part in value if isinstance(value, list) else [value]:
                if not isinstance(part, str):
                    sys.stdout.buffer.write(part.tobytes())
        sys.stdout.buffer.flush()


def _limit(what: int, most: int) -> None:
    """Bound what this process may use; raised again for a larger file, as far as the system allows."""
    hard = resource.getrlimit(what)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError):  # macOS knows no limit of memory
        resource.setrlimit(what, (soft, hard))


def _read(path: str, names: list[str]) -> dict[str, Value]:
    from scipy.io import loadmat

    variables = list(dict.fromkeys(name.partition(".")[0] for name in names))
    try:
        content = loadmat(path, appendmat=False, variable_names=variables, simplify_cells=True)
    except NotImplementedError:
        raise InputError(f"{path}: a MATLAB 7.3 (HDF5) file: save it again with save(..., '-v7')") from None
    except MemoryError:
        raise InputError(f"{path}: needs more memory than its size explains: download it again") from None
    except Exception as error:  # scipy raises whatever the broken bytes lead to: struct, zlib errors
        why = str(error) or type(error).__name__
        raise InputError(f"{path}: not a readable MATLAB file ({why}): download it again") from None
    return {name: _plain(path, name, content) for name in names}


def _plain(path: str, name: str, content: Any) -> Value:
    """One variable, or a structure's field: numbers or text, or a list of such arrays."""
    value = content
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise InputError(f"{path}: no variable {name}: use the original file")
        value = value[part]
    if isinstance(value, str):
        return value
    parts = [np.asarray(part) for part in value] if _is_cells(value) else [np.asarray(value)]
    if any(part.dtype.kind not in KINDS for part in parts):
        raise InputError(f"{path}: {name} doesn't hold numbers: use the original file")
    return parts if _is_cells(value) else parts[0]


def _is_cells(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype.kind == "O")


def _described(value: Value) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [_described(part) for part in value]
    return {"dtype": value.dtype.str, "shape": value.shape}


if __name__ == "__main__":
    main()
