"""One lock file for a sweep: one driver, and one process per point, on any number of machines.

Byte ranges of `<sweep>/lock` are locked with POSIX record locks: they end with the process, whatever killed
it, cost no file per point, and unlike flock also hold between machines on NFS. What outlives a killed driver
for a second or two (its workers) can't write to a point that the next run already trains.
"""

import errno
import fcntl
import hashlib
import os
import time
from pathlib import Path

DRIVER = 0
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class SweepLock:
    """This process's hold on a sweep's lock file. Make at most one per process and sweep.

    POSIX releases every lock of a process on a file when *any* of its descriptors on it is closed.
    """

    def __init__(self, sweep_dir: Path) -> None:
        self._fd = os.open(sweep_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.supported = True

    def take(self, what: int, wait_s: float = 0.0) -> bool:
        """Take a byte, waiting for at most `wait_s`; False if another process holds it.

        On a file system without locks it always succeeds, and `supported` becomes False.
        """
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, what)
                return True
            except OSError as error:
                if error.errno in UNSUPPORTED:
                    self.supported = False
                    return True
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)

    def free(self, what: int) -> None:
        """Give a byte back."""
        if self.supported:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, what)

    def close(self) -> None:
        """Give everything back."""
        os.close(self._fd)


def byte_of(point_id: str) -> int:
    """The byte that stands for a point; two points share one with probability 2^-56 or so."""
    return 1 + int.from_bytes(hashlib.blake2b(point_id.encode(), digest_size=7).digest())
