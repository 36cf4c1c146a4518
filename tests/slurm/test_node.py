"""What a node takes from its allocation, its ports, its directory."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm import head, node, node_directory, ports
from slurm.head import joined_file, write_head
from slurm.node_directory import make_directory, recorded, remove_directory
from slurm.ports import Ports
from slurm.ray_process import Share


@pytest.mark.parametrize(
    ("env", "share"),
    [
        (
            {
                "SLURM_CPUS_PER_TASK": "4",
                "SLURM_CPUS_ON_NODE": "64",
                "SLURM_GPUS_ON_NODE": "2",
                "SLURM_MEM_PER_NODE": "4000",
            },
            Share(4, 2, 4000),
        ),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_CPU": "500"}, Share(8, 0, 4000)),
        ({"SLURM_CPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,3"}, Share(8, 2, 0)),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, Share(1, 0, 0)),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1a-2,MIG-1b"}, Share(1, 2, 0)),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, Share(1, 0, 0)),
    ],
)
def test_the_allocation_and_not_the_host(env: dict[str, str], share: Share) -> None:
    assert Share.of(env) == share


def test_ports_are_explicit_distinct_and_within_their_block() -> None:
    block = Ports(20000, 50)
    values = [int(flag.partition("=")[2]) for flag in block.flags(head=True)]
    assert len(set(values)) == len(values)
    assert min(values) == 20000
    assert max(values) == 20049
    assert len(block.flags(head=False)) == len(values) - 3


def test_taken_ports_are_avoided() -> None:
    free, reserved = ports.find_ports("127.0.0.1", 35, seed=5)
    assert free.count == 40, "whole units"
    for name in reserved:
        name.close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free.first + 17))
        other, names = ports.find_ports("127.0.0.1", 35, seed=5)
    assert not other.first <= free.first + 17 < other.first + other.count
    assert other.first + other.count <= ports.LAST_PORT
    for name in names:
        name.close()


def test_reserved_ports_are_avoided_before_anybody_listens() -> None:
    found = [ports.find_ports("127.0.0.1", count, seed=5) for count in (20, 60, 35, 20)]
    blocks = [p for p, _ in found]
    assert all(apart(a, b) for i, a in enumerate(blocks) for b in blocks[:i])
    for _, names in found:
        for name in names:
            name.close()
    again, names = ports.find_ports("127.0.0.1", 20, seed=5)
    assert again == blocks[0]
    for name in names:
        name.close()


def apart(a: Ports, b: Ports) -> bool:
    return a.first + a.count <= b.first or b.first + b.count <= a.first


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Short, and nobody else's."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        yield Path(folder)


def test_the_directory_is_private_short_and_orphans_go(scratch: Path) -> None:
    first, lock = make_directory(str(scratch), "1234567890")
    try:
        assert stat.S_IMODE(first.stat().st_mode) == 0o700
        assert len(str(first / "r").encode()) + 64 <= 107
        second, other = make_directory(str(scratch), "1234567890")
        assert first.exists(), "its owner lives"
        os.close(other)
        third, last = make_directory(str(scratch), "1234567890")
        assert not second.exists(), "its owner is gone"
        assert third.exists()
        os.close(last)
    finally:
        os.close(lock)
        shutil.rmtree(first)


def test_what_a_killed_node_left_is_recorded_until_any_job_there_removes_it(tmp_path: Path) -> None:
    sweeps = [tmp_path / name for name in ("a", "b")]
    for here in sweeps:
        here.mkdir()
    killed, lock = make_directory("/tmp", "11", sweeps[0])
    stray = subprocess.Popen(["sleep", "600"], env=os.environ | {"KDSWEEP_NODE_DIR": str(killed)})
    with (killed / "agent.log").open("w") as log:  # one with a title, which has overwritten its environment
        titled = subprocess.Popen(["sleep", "600"], stdout=log)
    (known,) = recorded(sweeps[0])
    assert known["path"] == str(killed)
    assert (known["host"], known["job"]) == (socket.gethostname(), "11")
    os.close(lock)
    unlocked = Path(tempfile.mkdtemp(prefix="kds12-", dir="/tmp"))  # killed before it had a lock
    os.utime(unlocked, (0, 0))
    young = Path(tempfile.mkdtemp(prefix="kds13-", dir="/tmp"))
    scratch = Path(tempfile.mkdtemp(dir="/tmp"))  # another than the killed one's
    other, lock = make_directory(str(scratch), "14", sweeps[1])
    try:
        assert other.parent == scratch
        for process in (stray, titled):
            assert process.wait(5) == -signal.SIGKILL, "a process that its node's end did not reach goes on"
        assert not killed.exists()
        assert not list(recorded(sweeps[0]))
        assert not unlocked.exists()
        assert young.exists(), "it may be in the making"
        assert len(list(recorded(sweeps[1]))) == 1
        other.rename(scratch / "gone")  # as after a reboot
        os.close(lock)
        last, lock = make_directory(str(scratch), "15", sweeps[1])
        assert [known["path"] for known in recorded(sweeps[1])] == [str(last)]
        remove_directory(last)
        assert not list(recorded(sweeps[1]))
    finally:
        os.close(lock)
        shutil.rmtree(young)
        shutil.rmtree(scratch)


def test_a_folder_that_takes_no_record_stops_no_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, lock = make_directory("/tmp", "16", tmp_path / "absent")
    os.close(lock)
    remove_directory(directory)
    assert "is not recorded" in capsys.readouterr().err


def test_another_job_that_clears_meanwhile_leaves_a_new_directory(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, others = node_directory.fcntl.flock, []

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(node_directory.fcntl, "flock", lock)
        others.append(make_directory(str(scratch), "2"))
        lock(fd, how)

    monkeypatch.setattr(node_directory.fcntl, "flock", late)
    directory, held = make_directory(str(scratch), "1")
    assert directory.is_dir()
    os.close(held)
    os.close(others[0][1])


def test_a_scratch_too_deep_for_sockets_is_not_used(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    directory, lock = make_directory(str(deep), "1")
    os.close(lock)
    shutil.rmtree(directory)
    assert directory.parent == Path("/tmp")


def test_the_address_that_other_nodes_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's /etc/hosts has the host's own name at 127.0.1.1."""
    named = ["127.0.1.1"]
    monkeypatch.setattr(
        ports.socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", (address, 0)) for address in named]
    )
    there = [("eth0", "192.0.2.7"), ("ib0", "10.4.1.9"), ("lo", "127.0.0.1")]
    monkeypatch.setattr(ports, "addresses", lambda: there)
    assert ports.own_ip() == "192.0.2.7"
    named[:] = ["127.0.1.1", "198.51.100.3"]
    assert ports.own_ip() == "198.51.100.3", "what the name says comes first"
    assert ports.own_ip(interface="ib0") == "10.4.1.9"
    assert ports.own_ip("192.0.2.1:1", network="10.4.0.0/16") == "10.4.1.9"
    with pytest.raises(OSError, match=r"eth0 192\.0\.2\.7.*correct interface"):
        ports.own_ip(interface="eth1")
    named.clear()
    monkeypatch.setattr(ports, "addresses", lambda: there[2:])
    assert ports.own_ip() == "127.0.0.1", "a machine without a network"


def test_loopback_comes_last() -> None:
    assert ports.addresses()[-1][1].startswith("127.")


def test_starting_costs_no_heavy_import() -> None:
    heavy = ("ray", "torch", "numpy", "pydantic", "jinja2")
    code = f"import sys, slurm.node, slurm.chain; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class FakeRay:
    """Ray on a node, without Ray."""

    exists = runs = up = False

    def start(self, *_: object) -> None:
        self.exists = self.runs = self.up = True

    def end(self) -> None:
        self.exists = self.runs = self.up = False

    def last_words(self) -> str:
        return ""


def until(what: Callable[[], object], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_leaves_a_dead_head_and_one_that_says_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name, value in (
        (head, "LOOK_S", 0.05),
        (head, "HEAD_SILENT_S", 0.3),
        (node, "POLL_S", 0.02),
    ):
        monkeypatch.setattr(module, name, value)
    args = Namespace(here=tmp_path, scratch="/tmp", role="worker", no_slots=False, stay=False)
    worker = node.Node(Namespace(**vars(args), interface="", network="", grace=9.0, patience=60.0))
    worker.ray = ray = FakeRay()  # type: ignore[assignment]
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(worker.run_worker()), daemon=True)

    def head_of(link: str, state: str = "up") -> None:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        write_head(tmp_path, {"link": link, "state": state, "address": address, "token": "t", "host": "h"})

    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            head_of("1-0")
            thread.start()
            until(joined_file(tmp_path, "1-0").exists)
            time.sleep(0.5)
            (tmp_path / "head.json").write_text("{", encoding="utf-8")  # as a file system may show it
            time.sleep(0.5)
            assert ray.runs, "a head that answers is left alone"
            head_of("1-0")
        until(lambda: not ray.exists)
        assert not joined_file(tmp_path, "1-0").exists()
        assert "does not answer any more" in capsys.readouterr().err
        with socket.create_server(("127.0.0.1", 0)) as listener:
            head_of("1-1")
            until(joined_file(tmp_path, "1-1").exists)
            head_of("1-1", "gone")
            until(lambda: not ray.exists)
            head_of("1-1", "over")
            thread.join(10)
        assert codes == [node.DONE]
    finally:
        worker.leave = 0.0
        worker.close()


def test_a_short_silence_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answered = [0.0], [True]
    monkeypatch.setattr(head.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(head, "answers", lambda *_: answered[0])
    watch = head.HeadWatch("10.0.0.1:1")

    def gone(at: float, answers: bool) -> bool:
        now[0], answered[0] = at, answers
        return watch.gone()

    assert not any(gone(t, answers=t % 8 == 0) for t in range(2, 98, 2))
    assert not gone(5000.0, answers=False), "one look, however long ago the last one was"
    assert not gone(5001.0, answers=False)
    assert not gone(5006.0, answers=False)
    assert gone(5008.0, answers=False)
    assert gone(5008.5, answers=False)


def test_an_address_that_nobody_waits_for_any_more_makes_no_noise(tmp_path: Path) -> None:
    """As when a job is killed while its script waits for the head."""
    write_head(
        tmp_path, {"link": "7-0", "state": "up", "address": "10.0.0.1:6379", "token": "/t", "host": "h"}
    )
    command = [sys.executable, "-P", "-m", "slurm.node", "address", str(tmp_path), "--link=7-0"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    heard = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (heard.returncode, heard.stdout) == (0, "10.0.0.1:6379\n/t\n/tmp\n")
    reader, writer = os.pipe()
    os.close(reader)
    alone = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=env)
    os.close(writer)
    assert (alone.returncode, alone.stderr) == (1, "")


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits to be waited for."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_a_script_started_ends_with_it() -> None:
    """Also by SIGKILL, of which no trap hears."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sleeper.py").write_text("import time; time.sleep(600)", encoding="utf-8")
        command = f'"{sys.executable}" -P -m slurm.mortal sleeper & echo $!; wait'
        paths = f"{Path(__file__).resolve().parents[2]}:{folder}"
        script = subprocess.Popen(
            ["bash", "-c", command], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
        )
        assert script.stdout is not None
        pid = int(script.stdout.readline())
        became = b"\0-P\0-m\0sleeper\0"  # nothing in between: in the middle of an exec it is empty
        until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().endswith(became))
        script.kill()
        script.wait()
        until(lambda: ended(pid))
