"""A node's own copy of the prepared windows: made once, whole, and only where it is worth it."""

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from kd.signals import stage
from kd.signals.prepare import DataConfig, prepare


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "0123456789abcdef"
    folder.mkdir(parents=True)
    for name, size in (("train_x.npy", 5000), ("labels.json", 13)):
        (folder / name).write_bytes(os.urandom(size))
    return folder


@pytest.fixture
def node_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On a disk of its own, as far as `stage` knows."""
    monkeypatch.setattr(stage, "worth_it", lambda *_: True)
    (tmp_path / "node").mkdir()
    return tmp_path / "node"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_workers_that_start_at_once_copy_once(
    shared: Path, node_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_a_killed_one = node_dir / "data" / f".{shared.name}" / "half"
    left_by_a_killed_one.mkdir(parents=True)
    copytree, copies, said, got = shutil.copytree, [], [], []

    def slow(*args, **more):
        copies.append(args)
        time.sleep(0.3)
        return copytree(*args, **more)

    monkeypatch.setattr(stage.shutil, "copytree", slow)
    work = [
        threading.Thread(target=lambda: got.append(stage.staged(shared, node_dir, said.append)))
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(20)
    assert got == [node_dir / "data" / shared.name] * 4
    assert files(got[0]) == files(shared)
    assert len(copies) == 1
    assert len(said) == 1
    assert {p.name for p in (node_dir / "data").iterdir()} == {shared.name, f"{shared.name}.lock"}


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda _: usage._replace(free=usage.total // 11))


def full_while_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(source: str, target: str) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(stage.shutil, "copyfile", fails)


@pytest.mark.parametrize(("what", "words"), [(no_room, "GB free"), (full_while_copying, "No space left")])
def test_without_room_the_shared_files_are_used(shared, node_dir, monkeypatch, what, words):
    what(monkeypatch)
    said: list[str] = []
    assert [stage.staged(shared, node_dir, said.append) for _ in range(2)] == [shared, shared]
    (line,) = said
    assert words in line
    assert str(shared) in line
    assert not list((node_dir / "data").glob(f"*{shared.name}/*"))


@pytest.mark.parametrize("how", ["shorter", "missing"])
def test_a_damaged_copy_is_not_used(shared: Path, node_dir: Path, how: str) -> None:
    said: list[str] = []
    copy = stage.staged(shared, node_dir, said.append)
    if how == "shorter":
        os.truncate(copy / "train_x.npy", 4999)
    else:
        (copy / "labels.json").unlink()
    assert [stage.staged(shared, node_dir, said.append) for _ in range(2)] == [shared, shared]
    assert "damaged" in said[1]
    assert len(said) == 2


def test_a_node_directory_that_is_gone_is_no_failure(shared: Path, node_dir: Path) -> None:
    node_dir.rmdir()
    said: list[str] = []
    assert stage.staged(shared, node_dir, said.append) == shared
    assert len(said) == 1


@pytest.mark.skipif(stage.file_system(Path("/dev/shm")) != "tmpfs", reason="needs a /dev/shm in memory")
def test_no_copy_on_the_same_disk_nor_in_memory(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not stage.worth_it(shared, shared.parent)
    assert not stage.worth_it(shared, Path("/dev/shm"))
    monkeypatch.setattr(stage, "file_system", lambda _: "xfs")
    assert stage.worth_it(shared, Path("/dev/shm"))


def test_the_copy_is_mapped_and_equal(tmp_path: Path, node_dir: Path) -> None:
    config = DataConfig(options={"subjects": 4, "minutes": 1.0})
    plain = prepare(config, tmp_path / "cache")
    local = prepare(config, tmp_path / "cache", node_dir=node_dir)
    assert isinstance(local.train.x, np.memmap)
    assert Path(str(local.train.x.filename)).is_relative_to(node_dir)
    assert local.fingerprint == plain.fingerprint
    for side in ("train", "val", "test"):
        assert getattr(local, side).x.tobytes() == getattr(plain, side).x.tobytes()
