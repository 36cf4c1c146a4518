"""The 0700 directory that a node's Ray runs in: made at its start, removed at its end.

What a killed one leaves is removed by the user's next job on the same host, whichever sweep that one is of;
until then HERE/directory-HOST-NAME.json says that it is there. Standard library only, like `node.py`.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slurm.head import say

NAMES = "kds*-????????"
KEYS = ("host", "path", "job")  # of a record
RECORD = "record"  # in the directory: where its record is
UNLOCKED_S = 60.0  # a directory without a lock may be one that is being made; older, its maker was killed


def make_directory(scratch: str, job: str, here: Path | None = None) -> tuple[Path, int]:
    """A new 0700 directory in `scratch`, and the descriptor of its lock; removes what killed ones left.

    here: the submission's folder, which gets the record.
    """
    parent = Path(os.path.expandvars(scratch))
    longest = 107 - 64 - len("/kds1234567-abcdefgh/r")
    if not parent.is_dir() or len(str(parent)) > longest:
        parent = Path("/tmp")
    for old in [old for place in {parent, Path("/tmp")} for old in place.glob(NAMES)]:
        with contextlib.suppress(OSError):  # somebody else removes it, or it is in use
            _remove_dead(old)
    directory = Path(tempfile.mkdtemp(prefix=f"kds{job[-7:]}-", dir=parent))
    fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (directory / ".lock").rename(directory / "lock")  # nobody finds it before it is locked
    (directory / "trainers").mkdir()
    (directory / "tmp").mkdir()
    if here is not None:
        _record(directory, job, here)
    return directory, fd


def remove_directory(directory: Path) -> None:
    """Remove a node's directory, and the record of it."""
    record = None
    with contextlib.suppress(OSError, ValueError):
        record = Path((directory / RECORD).read_text(encoding="utf-8"))
    shutil.rmtree(directory, ignore_errors=True)
    if record and record.name.startswith("directory-") and not directory.exists():
        with contextlib.suppress(OSError):  # the sweep may be gone
            record.unlink()


def recorded(here: Path) -> Iterator[dict[str, str]]:
    """Directories not removed so far, of running and of killed jobs: {host, path, job, record}."""
    for record in sorted(here.glob("directory-*.json")):
        content: Any = None
        with contextlib.suppress(OSError, ValueError):  # just removed, or just being written
            content = json.loads(record.read_text(encoding="utf-8"))
        if isinstance(content, dict) and all(isinstance(content.get(key), str) for key in KEYS):
            yield {key: content[key] for key in KEYS} | {"record": str(record)}


def processes_of(directory: Path) -> Iterator[int]:
    """Processes of this user that Ray started for this node: their environment names its directory.

    Those that have given themselves a title have overwritten it, but their logs are open there.
    """
    mark = f"KDSWEEP_NODE_DIR={directory}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes() or _has_open(entry, directory):
                    yield int(entry.name)


def _has_open(process: Path, directory: Path) -> bool:
    """Whether a process has a file of the directory open, removed ones too."""
    opened = (os.readlink(fd) for fd in (process / "fd").iterdir())
    return any(name.startswith(f"{directory}/") for name in opened)


def end_processes(directory: Path, patience_s: float = 10.0) -> None:
    """End the processes that Ray started for this node, which hold nothing that isn't on disk."""
    deadline = time.monotonic() + patience_s
    for pid in processes_of(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while list(processes_of(directory)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _remove_dead(old: Path) -> None:
    """Remove a directory of this user whose owner is gone. Raises OSError while the owner lives."""
    found = old.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        return
    try:
        fd = os.open(old / "lock", os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        if time.time() - found.st_mtime > UNLOCKED_S:
            remove_directory(old)
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held as long as its owner lives
        end_processes(old)  # Slurm may have lost sight of some; they would go on writing there
        remove_directory(old)
    finally:
        os.close(fd)


def _record(directory: Path, job: str, here: Path) -> None:
    """Write that the directory is there; forget those on this host that are not any more (a reboot)."""
    host = socket.gethostname()
    try:
        for known in list(recorded(here)):
            if known["host"] == host and not Path(known["path"]).exists():
                Path(known["record"]).unlink(missing_ok=True)
        record = here.resolve() / f"directory-{host}-{directory.name}.json"
        (directory / RECORD).write_text(str(record), encoding="utf-8")
        content = {"host": host, "path": str(directory), "job": job}
        record.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        say(f"{directory} is not recorded in {here}: {error}")
