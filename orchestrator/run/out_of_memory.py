"""Whether a worker died, or a point failed, for want of memory: what Ray, torch and the kernel say of it.

Certain are Ray's memory monitor, a failed allocation, and a kill that the kernel has counted in the node's
cgroup. That a process was killed, without more, is not. No torch: it is read on every node.
"""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.errors import GPU_MEMORY

MOST = 3  # a point whose worker was killed for memory so often is to blame itself from then on
# A failed allocation, as Python, numpy, C++, torch and the system word it; and Ray's memory monitor.
CERTAIN = (
    r"MemoryError\b|std::bad_alloc|can't allocate memory|not enough memory: you tried|Cannot allocate memory|"
    r"low on memory|exceeds the memory usage threshold"
)
PERHAPS = r"SIGKILL|OOM|connection error code 2"  # Ray's words for whatever ends a process at once


@dataclass(frozen=True)
class Memory:
    """Of the cgroup that a process is in. kills: processes that the kernel ended; bytes: most used, limit."""

    kills: int = 0
    peak: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Why something died, as a sentence; certain: whether memory is the cause beyond doubt."""

    text: str
    certain: bool


def read_memory(proc: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")) -> Memory | None:
    """This process's cgroup (v2 or v1) and the narrowest limit above it; None where it can't be read."""
    with contextlib.suppress(OSError):
        lines = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
        for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
            if "memory" in controllers.split(","):
                found = _read(root / "memory", path, V1)
            elif number == "0":
                found = _read(root, path, V2)
            else:
                continue
            if found:
                return found
    return None


# kills, most used, limit
V2 = ("memory.events", "memory.peak", "memory.max")
V1 = ("memory.oom_control", "memory.max_usage_in_bytes", "memory.limit_in_bytes")
NO_LIMIT = 2**60  # v1 writes nearly 2**63


def _read(root: Path, path: str, files: tuple[str, str, str]) -> Memory | None:
    """In a container the path may be the host's, and the root is what there is."""
    own = root / path.lstrip("/")
    own = own if (own / files[0]).exists() else root
    kills = re.search(r"^oom_kill (\d+)$", _text(own / files[0]), re.MULTILINE)
    if not kills:
        return None
    above = [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]
    limits = [(int(text), of) for of in above if (text := _text(of / files[2])).isdigit()]
    limit, of = min(limits, default=(NO_LIMIT, own), key=lambda pair: pair[0])
    if limit >= NO_LIMIT:
        return Memory(int(kills[1]))
    peak = _text(of / files[1])
    return Memory(int(kills[1]), int(peak) if peak.isdigit() else None, limit)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class Shortage:
    """Tells want of memory from other deaths, and how often a point may be its victim.

    read(node) -> Memory of the workers there, asked only after a death; None if it can't be had.
    """

    def __init__(self, read: Callable[[str], Memory | None], remedy: str) -> None:
        self._read, self._remedy = read, remedy
        self._kills: dict[str, int] = {}  # node -> kills known before
        self._victims: dict[str, int] = {}
        self._short: set[str] = set()

    def known(self, node: str, kills: int | None) -> None:
        """What a worker counted in its node's cgroup when it started."""
        if kills is not None:
            self._kills.setdefault(node, kills)

    def at(self, node: str) -> bool:
        """Whether memory was short there: the profile's fault, and no reason to do without the node."""
        return node in self._short

    def of_error(self, node: str, host: str, error: Mapping[str, Any]) -> Verdict | None:
        """Whether a point's error, as error.json has it, is a failed allocation."""
        text = f"{error['type']}: {error['message']}"
        if re.search(GPU_MEMORY, text):
            said = f"a GPU of {host} ran out of memory: fewer points on it (resources.gpus)"
        elif re.search(CERTAIN, text):
            said = self._said(host, None)
        else:
            return None
        self._short.add(node)
        return Verdict(said, True)

    def of_death(self, node: str, host: str, error: Any) -> Verdict | None:
        """Whether a worker's process died for want of memory; None: nothing hints at it."""
        text = f"{type(error).__name__}: {error}"
        if re.search(CERTAIN, text) or type(error).__name__ == "OutOfMemoryError":
            self._short.add(node)
            monitor = re.search(r"was ([\d.]+)GB used / ([\d.]+)GB", text)
            return Verdict(self._said(host, None, monitor), True)
        if not re.search(PERHAPS, text):
            return None
        now = self._read(node)
        if now is not None and now.kills > self._kills.get(node, 0):
            self._kills[node] = now.kills
            self._short.add(node)
            return Verdict(self._said(host, now), True)
        if now is not None:  # the kernel counts what it kills, and it killed nothing here
            return None
        return Verdict(f"killed or crashed on {host}, perhaps out of memory: if so, {self._remedy}", False)

    def spares(self, point: str) -> bool:
        """Whether a point that memory was short for is not to blame this time."""
        self._victims[point] = self._victims.get(point, 0) + 1
        return self._victims[point] < MOST

    def _said(self, host: str, memory: Memory | None, monitor: re.Match[str] | None = None) -> str:
        used = f" ({monitor[1]} of {monitor[2]} GB)" if monitor else ""
        if memory and memory.limit:
            peak = min(memory.peak or memory.limit, memory.limit)
            used = f" ({peak / 2**30:.1f} of {memory.limit / 2**30:.1f} GB)"
        return f"{host} ran out of memory{used}: {self._remedy}"
