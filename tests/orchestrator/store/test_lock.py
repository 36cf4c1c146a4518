"""One driver per sweep, one process per point; locks end with their process, however it ends."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.lock import DRIVER, SweepLock, byte_of

HOLDER = """
import sys, time
from pathlib import Path
from orchestrator.store.lock import SweepLock
lock = SweepLock(Path(sys.argv[1]))
assert lock.take(int(sys.argv[2]))
print("holding", flush=True)
time.sleep(60)
"""


def hold(folder: Path, what: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(what)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process


def test_another_process_cannot_take_what_is_held_until_it_dies(tmp_path: Path) -> None:
    other = hold(tmp_path, DRIVER)
    try:
        lock = SweepLock(tmp_path)
        assert not lock.take(DRIVER)
        assert lock.take(byte_of("some point"))
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert lock.take(DRIVER, wait_s=5)
    lock.close()


def test_a_freed_point_can_be_taken_by_another_process(tmp_path: Path) -> None:
    lock = SweepLock(tmp_path)
    assert lock.take(byte_of("p"))
    lock.free(byte_of("p"))
    other = hold(tmp_path, byte_of("p"))
    try:
        assert not lock.take(byte_of("p"), wait_s=0.2)
    finally:
        other.kill()
        other.wait()
    lock.close()


def test_points_have_bytes_of_their_own() -> None:
    bytes_ = {byte_of(f"{i:012x}") for i in range(10_000)}
    assert len(bytes_) == 10_000
    assert DRIVER not in bytes_
    assert max(bytes_) < 2**63


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_heartbeat_keeps_a_second_driver_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from orchestrator.run.driver import Busy, run_sweep
    from orchestrator.run.outcome import Options
    from orchestrator.run.progress import Display
    from orchestrator.run.submission import alone
    from orchestrator.store.store import Store

    def no_locks(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", no_locks)
    store = Store(tmp_path)
    store.write_progress({"state": "RUNNING", "time": time.time(), "host": "another", "pid": 1})
    nothing: Any = None
    with pytest.raises(Busy, match="process 1 on another"):
        run_sweep(nothing, nothing, store, tmp_path, nothing, Options(), Display())
    with alone(tmp_path):  # submit and cancel work
        pass
