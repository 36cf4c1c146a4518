"""One node of the Ray cluster in an allocation: `python -P -m slurm.node head|worker|address HERE ...`.

Runs on the nodes, under the job's script; standard library only, so that it starts at once. It keeps one
`ray start --block` alive, with explicit address, ports, CPUs, GPUs and memory, in a 0700 directory of its own
that it removes. The head's address travels through HERE/head.json, its token through a 0600 file beside it.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slurm.head import HeadWatch, answers, joined_file, read_head, say, wait_for_address, write_head
from slurm.node_directory import make_directory, remove_directory
from slurm.ports import own_ip
from slurm.ray_process import RayProcess

DONE, LEAVING, FAILED = 0, 75, 1  # exit codes: the sweep is over; this node's time is; Ray can't be started
TRIES, HEAD_PATIENCE_S, POLL_S = 6, 300.0, 0.5
ALONE_S = 120.0  # how long a worker job holds its node without a head


class Node:
    """One node's Ray, from start to end."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.here: Path = args.here
        self.job = os.environ.get("SLURM_JOB_ID", str(os.getpid()))
        self.args = args
        self.directory, self._lock = make_directory(args.scratch, self.job, self.here)
        self.leave: float | None = None  # when this node must be gone
        self.watch: HeadWatch | None = None  # of a worker: on the head it joined
        self.ray = RayProcess(self.directory, self.job, args.role == "head", args.no_slots)

    def on_signal(self, number: int, frame: Any) -> None:
        """USR1: the time limit is near. TERM: Slurm kills in a moment; to a gang it says so by its script."""
        grace = self.args.grace if number == signal.SIGUSR1 else min(self.args.grace, 20.0)
        if not self.args.stay and self.leave is None:
            self.leave = time.monotonic() + grace

    def close(self) -> None:
        """End Ray, remove the directory."""
        self.ray.end()
        for path in self.here.glob(f"joined-*-{socket.gethostname()}"):
            path.unlink(missing_ok=True)
        remove_directory(self.directory)
        os.close(self._lock)

    # the head

    def run_head(self) -> int:
        """Keep the head up until head.json says that it is over, or Ray dies."""
        token = self.here / f"token-{self.args.link}"
        token.unlink(missing_ok=True)
        fd = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(os.urandom(32).hex())
        ip = own_ip(None, self.args.interface, self.args.network)
        for attempt in range(TRIES):
            flags = ["--head", f"--node-ip-address={ip}", "--dashboard-host=127.0.0.1"]
            flags.append(f"--include-dashboard={'true' if self.args.dashboard else 'false'}")
            ports = self.ray.start(flags, ip, token, attempt)
            if self._started():
                break
            if self._over():
                token.unlink(missing_ok=True)
                return DONE
            say(f"ray start failed, try {attempt + 1} of {TRIES}:\n{self.ray.last_words()}")
            self.ray.end()
        else:
            write_head(self.here, {"state": "gone", "link": self.args.link})
            return FAILED
        head = {
            "state": "up",
            "address": f"{ip}:{ports.first}",
            "token": str(token),
            "link": self.args.link,
            "host": socket.gethostname(),
            "tmp": str(self.directory / "tmp"),
            "job": self.job,
            "time": time.time(),
        }
        if self.args.dashboard:
            head["dashboard_port"] = ports.first + 1
        write_head(self.here, head)
        say(f"Ray's head is at {head['address']}")
        if self.args.dashboard:
            to = f"-J {self.args.login} {head['host']}" if self.args.login else head["host"]
            say(f"dashboard: ssh -N -L 8265:127.0.0.1:{ports.first + 1} {to}   token: {token}")
        try:
            while self.ray.runs:
                if self._over():
                    return DONE
                time.sleep(POLL_S)
            say(f"Ray's head has ended:\n{self.ray.last_words()}")
            return FAILED
        finally:
            token.unlink(missing_ok=True)

    def _over(self) -> bool:
        """Whether the job's script has ended this link, be its head up or not."""
        now = read_head(self.here)
        return bool(now and now["link"] == self.args.link and now["state"] != "up")

    # a worker

    def run_worker(self) -> int:
        """Be part of whatever head there is, until the sweep is over or this node's time is."""
        waited_since, failures, joined = time.monotonic(), 0, ""
        head: dict[str, Any] | None = None
        while self.leave is None:
            head = read_head(self.here) or head
            if (head and head["state"] == "over") or (self.args.stay and self._over()):
                return DONE
            if self.ray.exists and (why := self._why_end(head, joined)):
                joined_file(self.here, joined).unlink(missing_ok=True)
                say(why)
                failures += not self.ray.runs
                self.ray.end()
                waited_since = time.monotonic()
                time.sleep(min(2.0**failures, 30.0))
            elif not self.ray.exists and head and head["state"] == "up" and failures < TRIES:
                if answers(head["address"]):
                    joined = head["link"]
                    self._join(head, failures)
                    if self._started():
                        say(f"joined {head['address']}")
                        joined_file(self.here, joined).touch()
                else:
                    time.sleep(2.0)
            if self.ray.exists and time.monotonic() - waited_since > 60:
                failures = 0
            if not self.ray.exists and time.monotonic() - waited_since > self.args.patience:
                say(f"no head for {self.args.patience:.0f} s: leaving; the head's next link submits workers")
                return DONE
            if failures >= TRIES:
                return FAILED
            time.sleep(POLL_S)
        self._drain()
        return LEAVING

    def _why_end(self, head: Mapping[str, Any] | None, joined: str) -> str:
        """Why Ray on this node has ended, or is to end now that its head has; empty if it goes on."""
        if not self.ray.runs:
            return f"Ray has ended on this node:\n{self.ray.last_words()}"
        if not head or head["link"] != joined or head["state"] != "up":
            return "the head has ended"
        if self.watch and self.watch.gone():
            return f"the head at {self.watch.address} is gone: it does not answer any more"
        return ""

    def _join(self, head: Mapping[str, Any], failures: int) -> None:
        self.watch = HeadWatch(head["address"])
        ip = own_ip(head["address"], self.args.interface, self.args.network)
        flags = [f"--address={head['address']}", f"--node-ip-address={ip}"]
        self.ray.start(flags, ip, Path(head["token"]), failures)

    def _started(self) -> bool:
        """Whether Ray came up; waits for that."""
        deadline = time.monotonic() + 120
        while self.ray.runs and time.monotonic() < deadline:
            if self.ray.up:
                return True
            if self.leave is not None or self._over() or (self.watch and self.watch.gone()):
                break
            time.sleep(POLL_S)
        return False

    def _drain(self) -> None:
        """Have the points here checkpointed; each process that trains has entered itself in trainers/.

        Such a process checkpoints at the end of its epoch and says so; the driver then ends it.
        """
        assert self.leave is not None
        say("leaving: points here are checkpointed and go on elsewhere")
        (self.directory / "leave").touch()
        while time.monotonic() < self.leave:
            if not any(_alive(int(p.name)) for p in (self.directory / "trainers").iterdir()):
                break
            time.sleep(0.1)
        else:
            say("some points did not reach the end of an epoch; they go on from their last checkpoint")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main(argv: list[str] | None = None) -> int:
    """The three roles."""
    parser = argparse.ArgumentParser(prog="python -m slurm.node", description=__doc__)
    parser.add_argument("role", choices=["head", "worker", "address"])
    parser.add_argument("here", type=Path, help="the submission's folder, on a file system all nodes see")
    parser.add_argument("--link", default="", help="names this run of the job")
    parser.add_argument("--scratch", default="/tmp")
    parser.add_argument("--no-slots", action="store_true", help="offer no CPU and no GPU")
    parser.add_argument("--dashboard", action="store_true")
    parser.add_argument("--interface", default="", help="the network interface that other nodes reach")
    parser.add_argument("--network", default="", help="its network, such as 10.4.0.0/16")
    parser.add_argument("--login", help="host for the ssh -L line")
    parser.add_argument(
        "--stay", action="store_true", help="signals change nothing; the head says when it's over"
    )
    parser.add_argument(
        "--nodes", type=int, default=0, help="how many other nodes to wait for, within reason"
    )
    parser.add_argument("--grace", type=float, default=90.0, help="seconds from USR1 to the end")
    parser.add_argument("--patience", type=float, help="seconds without a head")
    args = parser.parse_args(argv)
    if args.patience is None:
        args.patience = ALONE_S if args.role == "worker" and not args.stay else HEAD_PATIENCE_S
    if args.role == "address":
        return wait_for_address(args.here, args.link, args.patience, args.nodes)
    node = Node(args)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, node.on_signal)
    try:
        return node.run_head() if args.role == "head" else node.run_worker()
    finally:
        node.close()


if __name__ == "__main__":
    sys.exit(main())
