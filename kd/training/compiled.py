"""The compiled engine (`fused.cpp`), for the kind of CPU that asks for it. No torch.

Compiled when it is first asked for, once, and kept in the user's cache; whoever comes meanwhile waits.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("fused.cpp")
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-w"),
    # No trap and no errno is read; NaN and infinity stay what they are.
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
COMPILE_S = 300.0


class Unavailable(RuntimeError):
    """Why there is no compiled engine here."""


def cache() -> Path:
    """Where compiled engines are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdsweep" / "engine"


@functools.cache
def library(folder: Path | None = None) -> ctypes.CDLL:
    """The engine, compiled now if there is none for this kind of CPU yet. Raises Unavailable.

    folder: where it is kept; default: `cache`.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    try:
        path = (folder or cache()) / f"fused-{_key(compiler or '')}.so"
        if not path.exists():
            if compiler is None:
                raise Unavailable("no C++ compiler (g++ or clang++) was found")
            path.parent.mkdir(parents=True, exist_ok=True)
            _compile(compiler, path)
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(str(error)) from error
    found.kds_make.restype = ctypes.c_void_p
    found.kds_epoch.restype = found.kds_gradients.restype = ctypes.c_double
    return found


def _key(compiler: str) -> str:
    """What a compiled file depends on: the source, the flags, the compiler, the CPU's instructions."""
    said = ""
    with contextlib.suppress(OSError):
        said = subprocess.run(
            [compiler, "--version"], capture_output=True, encoding="utf-8", errors="replace", check=False
        ).stdout
    instructions = platform.machine() + platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        instructions += next(line for line in lines if line.startswith(("flags", "Features")))
    parts = [SOURCE.read_bytes(), repr(FLAGS).encode(), said.encode(), instructions.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    with open(path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: then each compiles its own
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():  # somebody else's work
            return
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            try:
                done = subprocess.run(
                    [compiler, *FLAGS, "-o", str(made), str(SOURCE)],
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=COMPILE_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Unavailable(f"{compiler}: {error}") from error
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                raise Unavailable(f"{compiler}: {last}")
            os.replace(made, path)
