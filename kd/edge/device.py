"""What a latency was measured on: it means nothing without. Torch-free."""

import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

# CPU features that decide how fast, and how exactly, float and int8 kernels run
FLAGS = (
    *("sse4_1", "avx", "fma", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "sve"),
)


def device(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """This machine's CPU: key (a short name, equal for equal CPUs), cpu, flags, machine, system."""
    fields: dict[str, str] = {}
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    cpu = fields.get("model name") or platform.processor() or platform.machine()
    there = (fields.get("flags") or fields.get("Features") or "").split()
    flags = [flag for flag in FLAGS if flag in there]
    # virtual machines hide the model's name: family, model and stepping still tell CPUs apart
    stepping = [fields.get(name, "") for name in ("cpu family", "model", "stepping")]
    digest = hashlib.sha256(repr([cpu, stepping, flags]).encode()).hexdigest()[:4]
    name = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(r\)|\(tm\)|cpu|@.*", "", cpu.lower())).strip("-")
    return {
        "key": f"{name}-{digest}",
        "cpu": cpu,
        "family_model_stepping": "/".join(stepping),
        "flags": flags,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
    }
