"""What a node takes from its allocation, its ports, its directory."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm import node, ports
from slurm.node import Share
from slurm.ports import Ports


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
    first, lock = node.make_directory(str(scratch), "1234567890")
    try:
        assert stat.S_IMODE(first.stat().st_mode) == 0o700
        assert len(str(first / "r").encode()) + 64 <= 107
        second, other = node.make_directory(str(scratch), "1234567890")
        assert first.exists(), "its owner lives"
        os.close(other)
        third, last = node.make_directory(str(scratch), "1234567890")
        assert not second.exists(), "its owner is gone"
        assert third.exists()
        os.close(last)
    finally:
        os.close(lock)


def test_another_job_that_clears_meanwhile_leaves_a_new_directory(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, others = node.fcntl.flock, []

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(node.fcntl, "flock", lock)
        others.append(node.make_directory(str(scratch), "2"))
        lock(fd, how)

    monkeypatch.setattr(node.fcntl, "flock", late)
    directory, held = node.make_directory(str(scratch), "1")
    assert directory.is_dir()
    os.close(held)
    os.close(others[0][1])


def test_a_scratch_too_deep_for_sockets_is_not_used(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    directory, lock = node.make_directory(str(deep), "1")
    os.close(lock)
    node.shutil.rmtree(directory)
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
