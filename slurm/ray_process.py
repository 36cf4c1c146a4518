"""`ray start --block` on one node: what it is given, its end, and the end of what it left.

Standard library only, like `node.py`. `ray stop` is never used: it would end other sweeps' Ray on the node.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slurm.node_directory import end_processes
from slurm.ports import SERVICES, Ports, find_ports

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
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # HeadWatch is faster
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


class RayProcess:
    """Ray on this node, in the node's `directory`; one at a time, ended and started again as often as needed.

    head: whether it is the cluster's head; no_slots: offer no CPU and no GPU.
    """

    def __init__(self, directory: Path, job: str, head: bool, no_slots: bool) -> None:
        self.directory, self.job, self.head, self.no_slots = directory, job, head, no_slots
        self.share = Share.of(os.environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[socket.socket] = []

    @property
    def exists(self) -> bool:
        """Whether it was started and not ended by `end`; it may have died since."""
        return self._process is not None

    @property
    def runs(self) -> bool:
        """Whether it was started and has not died."""
        return self._process is not None and self._process.poll() is None

    @property
    def up(self) -> bool:
        """Whether `ray start` has said that all of its processes are up."""
        log = (self.directory / "ray.log").read_text(encoding="utf-8", errors="replace")
        return "Ray runtime started" in log

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
        name = os.environ.get("SLURMD_NODENAME")  # what Slurm calls it: how the driver names a bad node
        flags = [*flags, f"--node-name={name}"] if name else flags
        resources = [f"--num-cpus={self.share.cpus}", f"--num-gpus={self.share.gpus}"]
        if self.no_slots:
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
        self._process = subprocess.Popen(
            [*command, *flags, *resources, *ports.flags(self.head)],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=(self.directory / "ray.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_deaf_and_mortal,
        )
        return ports

    def end(self) -> None:
        """End this node's Ray processes, which hold nothing that isn't on disk."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        end_processes(self.directory)
        for name in self._ports:
            name.close()
        self._ports = []

    def last_words(self) -> str:
        """The end of what `ray start` printed."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(
                (self.directory / "ray.log").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            )
        return ""


def _deaf_and_mortal() -> None:
    """In the child: block TERM (inherited by all that Ray starts), and die with the parent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
