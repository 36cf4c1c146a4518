"""Prepared windows copied once to a node's own disk, so that its workers don't all read a shared file system.

Never into memory (tmpfs): a copy there counts against the job's memory, while pages of mapped files are the
kernel's to drop. Teachers' outputs are not copied: each is read by few workers, when its students begin.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

IN_MEMORY = ("tmpfs", "ramfs")
LEFT_FREE = 0.1  # of the node's disk, and LEAST_FREE bytes at least: others write there, too
LEAST_FREE = 2**30


def staged(shared: Path, node_dir: Path, say: Callable[[str], None]) -> Path:
    """The node's copy of the folder `shared`, made by whoever comes first while others wait; or `shared`.

    node_dir: goes with the job. The copy is in it whole or not at all, its files as long as the shared ones.
    When there is no room, or the copy fails or is damaged, that is said once a node and `shared` is used.
    """
    copy = node_dir / "data" / shared.name
    refused = copy.with_suffix(".refused")
    try:
        if not worth_it(shared, node_dir):
            return shared
        copy.parent.mkdir(exist_ok=True)
        with copy.with_suffix(".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a kill
            if refused.exists():
                return shared
            try:
                if not copy.exists():
                    _copy(shared, copy, say)
                if _sizes(copy) != _sizes(shared):
                    raise OSError(f"{copy} is damaged")
            except OSError as error:
                say(f"the data is read from {shared}, without a copy on this node: {error}")
                refused.touch()
                return shared
        return copy
    except OSError as error:  # the node's directory itself
        say(f"the data is read from {shared}, without a copy on this node: {error}")
        return shared


def worth_it(shared: Path, node_dir: Path) -> bool:
    """Whether a copy in `node_dir` is on another disk than `shared`, and on a disk at all."""
    return shared.stat().st_dev != node_dir.stat().st_dev and file_system(node_dir) not in IN_MEMORY


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, such as ext4, nfs4 or tmpfs; empty if unknown."""
    device = path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        mount, _, rest = line.partition(" - ")
        if mount.split()[2] == name:
            return rest.split()[0]
    return ""


def _copy(shared: Path, copy: Path, say: Callable[[str], None]) -> None:
    """Copy aside, then rename. Raises OSError when there is no room for it."""
    started, size = time.monotonic(), sum(_sizes(shared).values())
    disk = shutil.disk_usage(copy.parent)
    if disk.free - size < max(LEFT_FREE * disk.total, LEAST_FREE):
        raise OSError(f"{copy.parent} has {disk.free / 1e9:.1f} GB free, the data takes {size / 1e9:.1f} GB")
    aside = copy.with_name(f".{copy.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of one who was killed
    try:
        shutil.copytree(shared, aside, copy_function=shutil.copyfile)
        aside.rename(copy)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    say(f"the data is copied to {copy}: {size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}
