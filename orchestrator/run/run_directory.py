"""The directory of a Ray started here: private, short, gone afterwards, also what a killed run left of one.

Its owner holds the lock in it as long as it lives, whatever kills it. Knows processes, not Ray.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# AF_UNIX paths end at 107 bytes, of which Ray's own "/session_.../sockets/plasma_store" takes 64.
LONGEST_TEMP_DIR = 43
MARK = "KDSWEEP_RUN_DIR"  # names the directory in the environment of all processes that belong to it
UNLOCKED_S = 60.0  # a directory without a lock may be one that is being made; older, its maker was killed


@dataclass
class RunDirectory:
    """A 0700 directory of this process. lock: the file in it, open and locked."""

    path: Path
    lock: int

    @classmethod
    def make(cls) -> "RunDirectory":
        """A new one, short enough for Ray's sockets."""
        path = Path(tempfile.mkdtemp(prefix="kds-", dir=_parents()[0]))
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # no locks on this file system: `remove_dead` leaves it alone
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (path / ".lock").rename(path / "lock")  # nobody finds it before it is locked
        (path / "tmp").mkdir()
        fd = os.open(path / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(os.urandom(32).hex())
        return cls(path, lock)

    def env(self) -> dict[str, str]:
        """What the processes of this directory need to be told.

        Their temporary files lie in it: multiprocessing's `pymp-*` stay behind when a process is killed, and
        its sockets fail where the user's TMPDIR is long.
        """
        return {
            MARK: str(self.path),
            "TMPDIR": str(self.path / "tmp"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.path / "token"),
        }

    def remove(self) -> None:
        """Remove it, then let go of it."""
        _remove(self.path)
        os.close(self.lock)


def remove_dead(*, dry_run: bool = False) -> list[Path]:
    """End what killed runs of this user left on this host: their processes, their directories; which ones."""
    found = []
    for path in [path for parent in set(_parents()) for path in parent.glob("kds-????????")]:
        with contextlib.suppress(OSError):  # somebody else removes it, or it is in use
            if path.stat().st_uid != os.getuid() or path.is_symlink():
                continue
            try:
                lock = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError:
                if time.time() - path.stat().st_mtime > UNLOCKED_S and not _mentioned(path):
                    found.append(path)
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while the owner lives
                found.append(path)
                for pidfd in () if dry_run else _processes(path):
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not dry_run:
                    _remove(path)
            finally:
                os.close(lock)
    for path in () if dry_run else found:
        _remove(path)
    return found


def _parents() -> list[Path]:
    """Where run directories may lie, the one for a new one first."""
    parents = [Path(tempfile.gettempdir()), Path("/tmp")]
    return [p for p in parents if len(str(p / "kds-12345678" / "ray")) <= LONGEST_TEMP_DIR]


def _processes(directory: Path) -> Iterator[int]:
    """Descriptors, valid until the next one is asked for, of this user's processes of a run directory.

    Their environment names it; those that have given themselves a title have overwritten it, but their logs
    are open there.
    """
    mark = f"{MARK}={directory}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone, or not ours
            pidfd = os.pidfd_open(int(entry.name))  # first, so that what is looked at is what is ended
            try:
                owned = entry.stat().st_uid == os.getuid()
                named = owned and mark in (entry / "environ").read_bytes().split(b"\0")
                if named or (owned and _has_open(entry, directory)):
                    yield pidfd
            finally:
                os.close(pidfd)


def _has_open(process: Path, directory: Path) -> bool:
    """Whether a process has a file of the directory open, removed ones too."""
    opened = (os.readlink(fd) for fd in (process / "fd").iterdir())
    return any(name.startswith(f"{directory}/") for name in opened)


def _mentioned(directory: Path) -> bool:
    """Whether any process of this user names a directory: a run of an earlier version holds no lock."""
    name = str(directory).encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if name in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                return True
    return False


def _remove(directory: Path, patience_s: float = 3.0) -> None:
    """Remove a run directory; Ray's last processes may still be writing their logs."""
    deadline = time.monotonic() + patience_s
    while directory.exists():
        shutil.rmtree(directory, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
