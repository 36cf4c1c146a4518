"""The 0700 directory that a node's Ray runs in: made at its start, removed at its end.

Standard library only, like `node.py`.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def make_directory(scratch: str, job: str) -> tuple[Path, int]:
    """A new 0700 directory in `scratch`, and the descriptor of its lock; removes what killed ones left."""
    parent = Path(os.path.expandvars(scratch))
    longest = 107 - 64 - len("/kds1234567-abcdefgh/r")
    if not parent.is_dir() or len(str(parent)) > longest:
        parent = Path("/tmp")
    for old in parent.glob("kds*-????????"):
        with contextlib.suppress(OSError):
            if old.stat().st_uid == os.getuid():
                fd = os.open(old / "lock", os.O_RDWR)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held as long as its owner lives
                    shutil.rmtree(old, ignore_errors=True)
                finally:
                    os.close(fd)
    directory = Path(tempfile.mkdtemp(prefix=f"kds{job[-7:]}-", dir=parent))
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (directory / "trainers").mkdir()
    (directory / "tmp").mkdir()
    return directory, fd


def processes_of(directory: Path) -> Iterator[int]:
    """Processes of this user that Ray started for this node: their environment names its directory."""
    mark = f"KDSWEEP_NODE_DIR={directory}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    yield int(entry.name)
