"""One node of the Ray cluster in an allocation: `python -P -m slurm.node head|worker|address HERE ...`.

Runs on the nodes, under the job's script; standard library only, so that it starts at once. It keeps one
`ray start --block` alive, with explicit address, ports, CPUs, GPUs and memory, in a 0700 directory of its own
that it removes. The head's address travels through HERE/head.json, its token through a 0600 file beside it.
`ray stop` is never used: it would end other sweeps' Ray on the node.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.ports import SERVICES, Ports, find_ports, own_ip

HEAD = "head.json"
DONE, LEAVING, FAILED = 0, 75, 1  # exit codes: the sweep is over; this node's time is; Ray can't be started
TRIES, HEAD_PATIENCE_S, NODES_PATIENCE_S, POLL_S = 6, 300.0, 60.0, 0.5
ALONE_S = 120.0  # how long a worker job holds its node without a head
OBJECT_STORE_MB = 100  # nothing big passes through Ray; its least is 75 MB
RAY_SHARE = 0.9  # of the allocation's memory is offered to Ray; the rest is for Ray's own processes

RAY_ENV = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Slurm bounds the job's memory; Ray would judge the whole host's, neighbours included.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 would give the CPUs of this allocation to neighbours on the node
    # A node that is gone is noticed after 5 s if it refuses connections, after a minute if it is merely slow.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # how long a node outlives its head
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray's three servers of metrics listen on all interfaces, without a token: off, unless the job's environment
# says otherwise. There is no port -1; Ray goes on without them.
METRICS_ENV = {
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}


@dataclass(frozen=True)
class Share:
    """What the allocation gives on this node, and not what the host has."""

    cpus: int
    gpus: int
    memory_mb: int

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "Share":
        """From the environment Slurm gives a job."""
        cpus = env.get("SLURM_CPUS_PER_TASK") or env.get("SLURM_CPUS_ON_NODE") or "1"
        gpus = env.get("SLURM_GPUS_ON_NODE")
        if gpus is None:  # Slurm before 21.08
            visible = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
            gpus = str(sum(re.fullmatch(r"\d+|(GPU|MIG)-.+", name) is not None for name in visible))
        if "SLURM_MEM_PER_NODE" in env:
            memory = int(env["SLURM_MEM_PER_NODE"])
        else:
            memory = int(env.get("SLURM_MEM_PER_CPU", "0")) * int(cpus)
        return cls(int(cpus), int(gpus), memory)


def make_directory(scratch: str, job: str) -> tuple[Path, int]:
    """A new 0700 directory in `scratch`, and the descriptor of its lock; removes what killed ones left."""
    parent = Path(os.path.expandvars(scratch))
    longest = 107 - 64 - len("/kds1234567-abcdefgh/r")
    if not parent.is_dir() or len(str(parent)) > longest:
        parent = Path("/tmp")
    for old in parent.glob("kds*-????????"):
        with contextlib.suppress(OSError):
            if old.stat().st_uid == os.getuid():
                fd = os.open(old / "lock", os.O_RDWR)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held as long as its owner lives
                    shutil.rmtree(old, ignore_errors=True)
                finally:
                    os.close(fd)
    directory = Path(tempfile.mkdtemp(prefix=f"kds{job[-7:]}-", dir=parent))
    fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (directory / ".lock").rename(directory / "lock")  # nobody finds it before it is locked
    (directory / "trainers").mkdir()
    (directory / "tmp").mkdir()
    return directory, fd


def write_head(here: Path, content: Mapping[str, Any]) -> None:
    """Publish where the head is: whole or not at all."""
    temporary = here / f".{HEAD}.{socket.gethostname()}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, here / HEAD)


def read_head(here: Path) -> dict[str, Any] | None:
    """What the last head wrote; None if there was none yet, or the file is damaged."""
    try:
        head = json.loads((here / HEAD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    keys = {"state": str, "link": str}
    if isinstance(head, dict) and head.get("state") == "up":
        keys |= {"address": str, "token": str, "host": str}
    whole = isinstance(head, dict) and all(isinstance(head.get(key), kind) for key, kind in keys.items())
    return head if whole else None


class Node:
    """One node's Ray, from start to end."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.here: Path = args.here
        self.job = os.environ.get("SLURM_JOB_ID", str(os.getpid()))
        self.args = args
        self.share = Share.of(os.environ)
        self.directory, self._lock = make_directory(args.scratch, self.job)
        self.leave: float | None = None  # when this node must be gone
        self.ray: subprocess.Popen[bytes] | None = None
        self._ports: list[socket.socket] = []

    def on_signal(self, number: int, frame: Any) -> None:
        """USR1: the time limit is near. TERM: Slurm kills in a moment; to a gang it says so by its script."""
        grace = self.args.grace if number == signal.SIGUSR1 else min(self.args.grace, 20.0)
        if not self.args.stay and self.leave is None:
            self.leave = time.monotonic() + grace

    def start(self, flags: list[str], ip: str, token: Path, attempt: int) -> Ports:
        """Start Ray's processes; the ports they were given.

        They don't see TERM, which Slurm sends to all processes of a job at once: it would end Ray while
        points are being checkpointed. The kernel ends Ray's processes with this one.
        """
        seed = int(self.job) if self.job.isdigit() else os.getpid()
        ports, self._ports = find_ports(ip, SERVICES + 16 + 8 * self.share.cpus, seed + attempt)
        env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "ROCR_VISIBLE_DEVICES")}
        env.pop("GPU_DEVICE_ORDINAL", None)
        env = METRICS_ENV | env | RAY_ENV
        env |= {"RAY_AUTH_TOKEN_PATH": str(token), "KDSWEEP_NODE_DIR": str(self.directory)}
        env["TMPDIR"] = str(self.directory / "tmp")  # short, for sockets; and what is killed leaves nothing
        store = OBJECT_STORE_MB * 2**20
        resources = [f"--num-cpus={self.share.cpus}", f"--num-gpus={self.share.gpus}"]
        if self.args.no_slots:
            resources = ["--num-cpus=0", "--num-gpus=0"]
        memory = int(self.share.memory_mb * 2**20 * RAY_SHARE) - store
        if memory > 0:
            resources.append(f"--memory={memory}")
        (self.directory / "ray.log").unlink(missing_ok=True)
        command = [
            sys.executable,
            "-P",
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            "--disable-usage-stats",
        ]
        command += [f"--temp-dir={self.directory / 'r'}", f"--object-store-memory={store}"]
        self.ray = subprocess.Popen(
            [*command, *flags, *resources, *ports.flags(self.args.role == "head")],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=(self.directory / "ray.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_deaf_and_mortal,
        )
        return ports

    def end_ray(self) -> None:
        """End this node's Ray processes, which hold nothing that isn't on disk."""
        if self.ray is None:
            return
        self.ray.kill()
        self.ray.wait()
        self.ray = None
        deadline = time.monotonic() + 10
        for pid in _processes_of(self.directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while list(_processes_of(self.directory)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for name in self._ports:
            name.close()
        self._ports = []

    def close(self) -> None:
        """End Ray, remove the directory."""
        self.end_ray()
        for path in self.here.glob(f"joined-*-{socket.gethostname()}"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)

    def last_words(self) -> str:
        """The end of what `ray start` printed."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(
                (self.directory / "ray.log").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            )
        return ""

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
            ports = self.start(flags, ip, token, attempt)
            if self._started():
                break
            if self._over():
                token.unlink(missing_ok=True)
                return DONE
            say(f"ray start failed, try {attempt + 1} of {TRIES}:\n{self.last_words()}")
            self.end_ray()
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
            while self.ray is not None and self.ray.poll() is None:
                if self._over():
                    return DONE
                time.sleep(POLL_S)
            say(f"Ray's head has ended:\n{self.last_words()}")
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
        while self.leave is None:
            head = read_head(self.here)
            if (head and head["state"] == "over") or (self.args.stay and self._over()):
                return DONE
            if self.ray is not None and (self.ray.poll() is not None or not head or head["link"] != joined):
                joined_file(self.here, joined).unlink(missing_ok=True)
                if self.ray.poll() is not None:
                    failures += 1
                    say(f"Ray has ended on this node:\n{self.last_words()}")
                self.end_ray()
                waited_since = time.monotonic()
                time.sleep(min(2.0**failures, 30.0))
            elif self.ray is None and head and head["state"] == "up" and failures < TRIES:
                if _answers(head["address"]):
                    joined = head["link"]
                    self._join(head, failures)
                    if self._started():
                        say(f"joined {head['address']}")
                        joined_file(self.here, joined).touch()
                else:
                    time.sleep(2.0)
            if self.ray is not None and time.monotonic() - waited_since > 60:
                failures = 0
            if self.ray is None and time.monotonic() - waited_since > self.args.patience:
                say(f"no head for {self.args.patience:.0f} s: leaving; the head's next link submits workers")
                return DONE
            if failures >= TRIES:
                return FAILED
            time.sleep(POLL_S)
        self._drain()
        return LEAVING

    def _join(self, head: Mapping[str, Any], failures: int) -> None:
        ip = own_ip(head["address"], self.args.interface, self.args.network)
        flags = [f"--address={head['address']}", f"--node-ip-address={ip}"]
        self.start(flags, ip, Path(head["token"]), failures)

    def _started(self) -> bool:
        """Whether Ray came up; waits for that."""
        deadline = time.monotonic() + 120
        while self.ray is not None and self.ray.poll() is None and time.monotonic() < deadline:
            if "Ray runtime started" in (self.directory / "ray.log").read_text(
                encoding="utf-8", errors="replace"
            ):
                return True
            if self.leave is not None or self._over():
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


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except OSError:
        return False


def _deaf_and_mortal() -> None:
    """In the child: block TERM (inherited by all that Ray starts), and die with the parent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _processes_of(directory: Path) -> Iterator[int]:
    """Processes of this user that Ray started for this node: their environment names its directory."""
    mark = f"KDSWEEP_NODE_DIR={directory}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    yield int(entry.name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
            print(head["address"], head["token"], head.get("tmp", "/tmp"), sep="\n")
            return 0
        if head and head["link"] == link:
            break
        time.sleep(0.2)
    say("there is no head to connect to")
    return 1


def say(text: str) -> None:
    """A line in the job's output."""
    print(f"{time.strftime('%H:%M:%S')} {socket.gethostname()}: {text}", file=sys.stderr, flush=True)


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
