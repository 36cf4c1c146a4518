"""A run's directory: private, short, and cleared by the next run when its owner was killed."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.run import run_directory
from orchestrator.run.run_directory import LONGEST_TEMP_DIR, RunDirectory, remove_dead

OWNER = """
import os, subprocess, sys
from pathlib import Path
from orchestrator.run import run_directory
run_directory._parents = lambda: [Path(sys.argv[1])]
directory = run_directory.RunDirectory.make()
os.environ.update(directory.env())
child = subprocess.Popen(["sleep", "600"])
log = open(directory.path / "agent.log", "w", encoding="utf-8")
titled = subprocess.Popen(["sleep", "600"], env={}, stdout=log)  # a title overwrites the environment
print(directory.path, child.pid, titled.pid, flush=True)
input()
"""


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_directory, "_parents", lambda: [tmp_path])
    return tmp_path


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


def test_it_is_private_and_short_also_where_tmpdir_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(run_directory.tempfile, "gettempdir", lambda: str(deep))
    directory = RunDirectory.make()
    try:
        assert len(str(directory.path / "ray")) <= LONGEST_TEMP_DIR
        assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory.path / "token").stat().st_mode) == 0o600
        assert Path(directory.env()["TMPDIR"]).parent == directory.path
    finally:
        directory.remove()
    assert not directory.path.exists()


def test_another_run_that_clears_meanwhile_leaves_it(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = run_directory.fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(run_directory.fcntl, "flock", lock)
        assert remove_dead() == []
        lock(fd, how)

    monkeypatch.setattr(run_directory.fcntl, "flock", late)
    directory = RunDirectory.make()
    assert directory.path.exists()
    assert remove_dead() == []
    directory.remove()


def test_a_killed_owner_leaves_nothing_and_a_live_one_everything(temp: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(temp)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    name, *pids = owner.stdout.readline().split()
    child, titled = map(int, pids)
    reader = [sys.executable, "-c", "import time; time.sleep(600)", f"{name}/ray/log"]
    bystander = subprocess.Popen(reader)  # mentions it, and isn't of it
    try:
        assert remove_dead() == []
        assert alive(child)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert remove_dead() == [Path(name)]
        assert not Path(name).exists()
        assert not alive(child)
        assert not alive(titled)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_directory_without_a_lock_goes_when_it_is_old_and_nobody_names_it(temp: Path) -> None:
    young, old = temp / "kds-12345678", temp / "kds-87654321"
    young.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    code = "import time; time.sleep(600)"
    user = subprocess.Popen([sys.executable, "-c", code, f"--temp-dir={old}/ray"])
    try:
        assert remove_dead() == []
    finally:
        user.kill()
        user.wait()
    assert remove_dead() == [old]
    assert young.exists()
