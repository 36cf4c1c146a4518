"""Were results made with different versions of torch, engines, or on different devices? Plain Python."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def mixed(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line if the students among these were trained with several torches, engines or devices, else none.

    Such results differ a little for no reason that laws know of; they are compared all the same.
    """
    students = [r for r in results if r.get("role") == "student"]
    torch = Counter(str((r.get("versions") or {}).get("torch", "unknown")) for r in students)
    devices = Counter(str(r.get("device") or "unknown") for r in students)
    said = [f"with torch {counted(torch)}"] if len(torch) > 1 else []
    engines = Counter(str(r.get("engine") or "torch") for r in students)
    said += [f"on {counted(devices)}"] if len(devices) > 1 else []
    said += [f"by the engines {counted(engines)}"] if len(engines) > 1 else []
    if not said:
        return []
    return [f"trained {' and '.join(said)}: small differences between these may come from that"]


def counted(counts: Mapping[str, int]) -> str:
    """ "2.12 (12 students), 2.13 (70)"."""
    names = sorted(counts)
    return ", ".join(f"{name} ({counts[name]}{'' if i else ' students'})" for i, name in enumerate(names))
