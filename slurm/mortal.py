"""Run a module that ends when the job's script does, however it does: `python -P -m slurm.mortal MODULE ...`.

Where Slurm follows a job's processes by their parents (proctrack/linuxproc, pgid), those of a script that was
killed would go on without it, beside the job that takes over. Standard library only.
"""

import ctypes
import os
import signal
import sys


def main() -> None:
    """Become `python -P -m MODULE ...`, under the same process id."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; it outlives exec
    if parent != os.getppid():
        sys.exit(1)  # it died just now
    os.execv(sys.executable, [sys.executable, "-P", "-m", *sys.argv[1:]])


if __name__ == "__main__":
    main()
