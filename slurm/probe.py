"""What `kdsweep doctor` asks of nodes: `python -P -m slurm.probe FOLDER WORD SCRATCH ...`, a JSON line each.

Of two nodes the second one also calls the first, as Ray will. Standard library only; torch is asked in a
process of its own.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from slurm.ports import SERVICES, find_ports, own_ip
from slurm.ray_process import Share

PATIENCE_S = 20.0
TORCH = "import torch; print(torch.__version__, torch.cuda.is_available(), torch.cuda.device_count())"


def probe(folder: Path, word: str, scratch: str, interface: str = "", network: str = "") -> dict[str, Any]:
    """What this node sees: the shared folder, ports, scratch, what it was given, the other node, torch."""
    rank, ranks = int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_NTASKS", "1"))
    seen: dict[str, Any] = {
        "rank": rank,
        "host": socket.gethostname(),
        "share": Share.of(os.environ).__dict__,
    }
    try:
        seen["read"] = (folder / "word").read_text(encoding="utf-8") == word
        (folder / f"answer-{rank}").write_text(word, encoding="utf-8")
        seen["written"] = True
    except OSError as error:
        seen["shared_error"] = str(error)
    path = Path(os.path.expandvars(scratch))
    seen["scratch"] = {"path": str(path), "writable": path.is_dir() and os.access(path, os.W_OK | os.X_OK)}
    try:
        ip = own_ip(None, interface, network)
        ports, _ = find_ports(ip, SERVICES + 24, os.getpid())
        seen["ip"], seen["first_port"] = ip, ports.first
        if ranks > 1:
            seen["peer"] = _listen(folder, ip) if rank == 0 else _call(folder)
    except (OSError, RuntimeError) as error:
        seen["ports_error"] = str(error)
    asked = subprocess.run(
        [sys.executable, "-P", "-c", TORCH], capture_output=True, encoding="utf-8", check=False
    )
    seen["torch"] = asked.stdout.split() or asked.stderr.strip().splitlines()[-1:]
    return seen


def _listen(folder: Path, ip: str) -> str:
    """Be called by the other node; empty, or what went wrong."""
    with socket.create_server((ip, 0)) as server:
        server.settimeout(PATIENCE_S)
        (folder / "address.new").write_text(f"{ip} {server.getsockname()[1]}", encoding="utf-8")
        (folder / "address.new").rename(folder / "address")
        try:
            server.accept()[0].close()
        except OSError:
            return f"no other node reached {ip} of {socket.gethostname()}"
    return ""


def _call(folder: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / "address").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        ip, port = (folder / "address").read_text(encoding="utf-8").split()
        socket.create_connection((ip, int(port)), timeout=5).close()
    except OSError as error:
        return f"{socket.gethostname()} can't reach the other node: {error}"
    return ""


if __name__ == "__main__":
    print(json.dumps(probe(Path(sys.argv[1]), *sys.argv[2:])))
