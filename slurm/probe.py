"""What `kdsweep doctor` asks of a node: `python -P -m slurm.probe FOLDER WORD SCRATCH` prints one JSON line.

Standard library only; torch is asked in a process of its own.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from slurm.node import SERVICES, Share, find_ports, own_ip

TORCH = "import torch; print(torch.__version__, torch.cuda.is_available(), torch.cuda.device_count())"


def probe(folder: Path, word: str, scratch: str) -> dict[str, Any]:
    """What this node sees: the shared folder, ports, scratch, what it was given, torch."""
    seen: dict[str, Any] = {"host": socket.gethostname(), "share": Share.of(os.environ).__dict__}
    try:
        seen["read"] = (folder / "word").read_text() == word
        (folder / "answer").write_text(word)
        seen["written"] = True
    except OSError as error:
        seen["shared_error"] = str(error)
    path = Path(os.path.expandvars(scratch))
    seen["scratch"] = {"path": str(path), "writable": path.is_dir() and os.access(path, os.W_OK | os.X_OK)}
    try:
        ip = own_ip(None)
        ports, _ = find_ports(ip, SERVICES + 24, os.getpid())
        seen["ip"], seen["first_port"] = ip, ports.first
    except (OSError, RuntimeError) as error:
        seen["ports_error"] = str(error)
    asked = subprocess.run([sys.executable, "-P", "-c", TORCH], capture_output=True, text=True, check=False)
    seen["torch"] = asked.stdout.split() or asked.stderr.strip().splitlines()[-1:]
    return seen


if __name__ == "__main__":
    print(json.dumps(probe(Path(sys.argv[1]), sys.argv[2], sys.argv[3])))
