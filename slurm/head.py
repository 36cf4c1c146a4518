"""Where the head of the Ray cluster is: HERE/head.json, which the head writes and all nodes read.

HERE is the submission's folder, on a file system that all nodes see. Standard library only, like `node.py`.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = "head.json"
NODES_PATIENCE_S = 60.0
LOOK_S = 2.0  # how often a node looks whether the head still answers
CONNECT_S = 2.0  # and for how long at most
HEAD_SILENT_S = 7.0  # a head that has not answered for so long is gone; Ray itself takes 20 to 50 s


def write_head(here: Path, content: Mapping[str, Any]) -> None:
    """Publish where the head is: whole or not at all."""
    temporary = here / f".{HEAD}.{socket.gethostname()}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, here / HEAD)


def read_head(here: Path) -> dict[str, Any] | None:
    """What the last head wrote; None if there was none yet, or it can't be read."""
    try:
        head = json.loads((here / HEAD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # also what NFS says while the file is replaced
        return None
    keys = {"state": str, "link": str}
    if isinstance(head, dict) and head.get("state") == "up":
        keys |= {"address": str, "token": str, "host": str}
    whole = isinstance(head, dict) and all(isinstance(head.get(key), kind) for key, kind in keys.items())
    return head if whole else None


def joined_file(here: Path, link: str) -> Path:
    """Says that this node is part of a link's Ray cluster."""
    return here / f"joined-{link}-{socket.gethostname()}"


def wait_for_address(here: Path, link: str, patience_s: float, nodes: int) -> int:
    """Print address, token file and temporary directory of this link's head, a line each, once it is up.

    nodes: how many others to wait for before, for NODES_PATIENCE_S at most.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        head = read_head(here)
        if head and head["link"] == link and head["state"] == "up":
            more = time.monotonic() + NODES_PATIENCE_S
            while (there := len(list(here.glob(f"joined-{link}-*")))) < nodes and time.monotonic() < more:
                time.sleep(0.5)
            if there < nodes:
                say(f"{there} of {nodes} other nodes have joined so far; the sweep begins")
            return _answer(head["address"], head["token"], head.get("tmp", "/tmp"))
        if head and head["link"] == link:
            break
        time.sleep(0.2)
    say("there is no head to connect to")
    return 1


def _answer(*lines: str) -> int:
    """Print these for the job's script; 1, and not a word, where that was killed and nobody reads."""
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 1
    return 0


class HeadWatch:
    """Looks now and then whether the head at IP:PORT still answers.

    The kernel answers for a process that listens, however busy that one is: only a dead process, or a network
    that is away, is silent.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._looked = time.monotonic()
        self._silent_since: float | None = None

    def gone(self) -> bool:
        """Whether it has been silent for HEAD_SILENT_S, at each of several looks; takes CONNECT_S at most."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            if answers(self.address, CONNECT_S):
                self._silent_since = None
            elif self._silent_since is None:
                self._silent_since = now
        return self._silent_since is not None and self._looked - self._silent_since >= HEAD_SILENT_S


def answers(address: str, timeout_s: float = 5.0) -> bool:
    """Whether something listens at IP:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s):
            return True
    except OSError:
        return False


def say(text: str) -> None:
    """A line in the job's output."""
    print(f"{time.strftime('%H:%M:%S')} {socket.gethostname()}: {text}", file=sys.stderr, flush=True)
