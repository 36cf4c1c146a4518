"""A real Slurm on one machine: several nodes, each with its own address, host name, processes and fake GPUs.

A node is a process in namespaces of its own (net, uts, mount, pid); when its init dies, the kernel takes
everything with it. The controller runs on the machine itself and listens on the bridge's address only.
Needs root and Debian's slurmctld, slurmd, slurm-client, munge, iproute2. No systemd, no cgroups, no slurmdbd.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare", "setpriv")

# What runs in jobs, where it lies below /tmp, of which each node has its own.
PROGRAM = [
    str(path)
    for path in dict.fromkeys((Path(__file__).resolve().parents[2], Path(sys.prefix), Path(sys.base_prefix)))
    if path.is_relative_to("/tmp")
]

# Runs as process 1 of a node. The resolver is one that refuses at once: an unreachable one costs 10 s a name.
INIT = """
set -eu
name=$1 root=$2 address=$3
shift 3
hostname "$name"
mount --bind "$root/hosts" /etc/hosts
mount --bind "$root/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o size=4g,mode=1777 tmpfs /dev/shm
mkdir -p "$root/tmp/$name" && chmod 1777 "$root/tmp/$name"
for kept in "$@"; do  # of the machine's own /tmp
  mkdir -p "$root/tmp/$name/${kept#/tmp/}"
  mount --rbind "$kept" "$root/tmp/$name/${kept#/tmp/}"
done
mount --rbind "$root/tmp/$name" /tmp
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip addr add "$address/24" dev eth0
ip link set eth0 up
slurmd -D -N "$name" -f "$root/slurm.conf" &
daemon=$!
trap 'kill "$daemon"' TERM
while kill -0 "$daemon" 2>/dev/null; do wait || true; done
"""


def missing() -> list[str]:
    """What this machine lacks to run a cluster; empty if it can."""
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    return lacking if os.geteuid() == 0 else [*lacking, "root"]


class SlurmCluster:
    """Use as a context manager. `root` may not be under /tmp, of which each node has its own."""

    def __init__(self, root: Path, *, nodes: int = 4, cpus: int = 4, gpus: int = 2, **conf: Any) -> None:
        self.root, self.cpus, self.gpus = Path(root), cpus, gpus
        self.nodes = [f"node{i + 1}" for i in range(nodes)]
        self.settings = conf
        self.bridge = f"kds{os.getpid() % 10**7}"
        self.net = f"10.{87 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
        self.inits: dict[str, subprocess.Popen[bytes]] = {}
        self.controller: subprocess.Popen[bytes] | None = None
        self.munged: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "SlurmCluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def env(self) -> dict[str, str]:
        """The environment in which sbatch and its kin find this cluster."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "RAY_"))}
        return {**clean, "SLURM_CONF": str(self.root / "slurm.conf")}

    def run(self, *command: str, check: bool = True, timeout: float = 60, **more: Any) -> str:
        """Run a command on the login node (this machine); its stdout."""
        env = self.env | more.pop("env", {})
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=timeout, check=False, **more
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout.strip()

    def start(self) -> None:
        """Boot; returns when every node is idle."""
        for folder in ("state", "log", "tmp", "munge", "dev"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        for i in range(self.gpus):
            os.mknod(self.root / "dev" / f"nvidia{i}", 0o666 | 0o020000, os.makedev(1, 3))  # like /dev/null
        (self.root / "init.sh").write_text(INIT)
        (self.root / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        hosts = [f"{self.net}.{i + 1} {node}" for i, node in enumerate(self.nodes)]
        lines = ["127.0.0.1 localhost", *hosts, f"{self.net}.254 {socket.gethostname()}"]
        (self.root / "hosts").write_text("".join(f"{line}\n" for line in lines))
        (self.root / "slurm.conf").write_text(self.conf())
        gres = f"NodeName=node[1-{len(self.nodes)}] Name=gpu File={self.root}/dev/nvidia[0-{self.gpus - 1}]\n"
        (self.root / "gres.conf").write_text("AutoDetect=off\n" + gres)
        self._munge()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)  # a killed run's
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"{self.net}.254/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        self.start_controller()
        for i, node in enumerate(self.nodes):
            self._start_node(node, f"{self.net}.{i + 1}", f"{self.bridge}n{i + 1}")
        deadline = time.monotonic() + 60
        while self.run(
            "sinfo", "-h", "-N", "-p", "batch,apart", "-t", "idle", "-o", "%N", check=False
        ).split() != (self.nodes):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nodes are not idle: {self.run('sinfo', '-N', '-l', check=False)}")
            time.sleep(0.2)

    def conf(self) -> str:
        """slurm.conf. Jobs of batch and scavenge make room for urgent, by REQUEUE and by CANCEL.

        They have all nodes but the last, which is in a partition `apart`.
        """
        host, rest = socket.gethostname(), f"node[1-{len(self.nodes) - 1}]"
        settings: dict[str, Any] = {
            "ClusterName": "kdsweep",
            "SlurmctldHost": f"{host}({self.net}.254)",
            "SlurmctldPort": 16817,
            "CommunicationParameters": "NoCtldInAddrAny",
            "SlurmUser": "root",
            "AuthType": "auth/munge",
            # A requeued job waits until its old credential has expired: 120 s, if one doesn't say so.
            "AuthInfo": f"socket={self.root}/munge/sock,cred_expire=5",
            "CredType": "cred/munge",
            "StateSaveLocation": f"{self.root}/state",
            "SlurmdSpoolDir": f"{self.root}/spool/%n",
            "SlurmctldPidFile": f"{self.root}/slurmctld.pid",
            "SlurmdPidFile": f"{self.root}/slurmd-%n.pid",
            "SlurmctldLogFile": f"{self.root}/log/slurmctld.log",
            "SlurmdLogFile": f"{self.root}/log/slurmd-%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "MpiDefault": "none",
            "MailProg": "/bin/true",
            "ReturnToService": 2,
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU_Memory",
            "SlurmdParameters": "config_overrides",
            "GresTypes": "gpu",
            "DefMemPerCPU": 500,
            "KillWait": 20,
            "MinJobAge": 300,
            "MessageTimeout": 10,
            "SlurmdTimeout": 120,
            "InactiveLimit": 0,
            "SchedulerParameters": "sched_interval=2,bf_interval=2,batch_sched_delay=0",
            "JobRequeue": 1,
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "AccountingStorageType": "accounting_storage/none",
            **self.settings,
        }
        lines = [f"{key}={value}" for key, value in settings.items()]
        for i, node in enumerate(self.nodes):
            lines.append(
                f"NodeName={node} NodeHostname={node} NodeAddr={self.net}.{i + 1} Port=16818 "
                f"CPUs={self.cpus} RealMemory=16000 Gres=gpu:{self.gpus} State=UNKNOWN"
            )
        for name, nodes, tier, mode in (
            ("batch", rest, 1, "REQUEUE"),
            ("scavenge", rest, 1, "CANCEL"),
            ("urgent", rest, 10, "OFF"),
            ("apart", self.nodes[-1], 1, "OFF"),
        ):
            default = "YES" if name == "batch" else "NO"
            lines.append(
                f"PartitionName={name} Nodes={nodes} Default={default} MaxTime=1:00:00 State=UP "
                f"PriorityTier={tier} PreemptMode={mode} OverSubscribe=NO"
            )
        return "".join(f"{line}\n" for line in lines)

    def start_controller(self) -> None:
        """Start slurmctld, with the state it left."""
        names = " && ".join(f'mount --bind "$1/{file}" /etc/{file}' for file in ("hosts", "resolv.conf"))
        self.controller = subprocess.Popen(
            [
                *WITH_US,
                "unshare",
                "--mount",
                "bash",
                "-c",
                f'{names} && exec slurmctld -D -f "$1/slurm.conf"',
                "_",
                self.root,
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "log" / "slurmctld.err").open("ab"),
        )

    def until_nodes_answer(self, timeout: float = 60) -> None:
        """Wait until a controller that was started again has heard of every node."""
        deadline = time.monotonic() + timeout
        while not (seen := self.run("sinfo", "-h", "-N", "-o", "%T", check=False).split()) or any(
            state == "unknown" or state.endswith("*") for state in seen
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nodes are {seen}")
            time.sleep(0.2)

    def stop_controller(self) -> None:
        """End slurmctld and nothing else."""
        if self.controller:
            _end(self.controller)
            self.controller = None

    def in_node(self, node: str, *command: str) -> str:
        """Run a command in a node's namespaces; its stdout."""
        init = (
            Path(f"/proc/{self.inits[node].pid}/task/{self.inits[node].pid}/children")
            .read_text(encoding="utf-8")
            .split()[0]
        )
        return self.run("nsenter", "-t", init, "-n", "-u", "-m", "-p", *command)

    def job(self, id: str) -> dict[str, str]:
        """What `scontrol show job` says of a job (of an array: its first task)."""
        text = self.run("scontrol", "-o", "show", "job", id).splitlines()[0]
        return dict(word.partition("=")[::2] for word in text.split() if "=" in word)

    def wait_for(self, id: str, *states: str, timeout: float = 120) -> dict[str, str]:
        """Wait until a job is in one of the states; what scontrol says then."""
        deadline = time.monotonic() + timeout
        while (job := self.job(id))["JobState"] not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"job {id} is {job['JobState']} ({job.get('Reason')}), not {' or '.join(states)}"
                )
            time.sleep(0.5)
        return job

    def end_all_jobs(self, *partitions: str) -> None:
        """Cancel every job (in these partitions) and wait until the nodes are free."""
        which = [f"--partition={','.join(partitions)}"] if partitions else []
        deadline = time.monotonic() + 60
        while self.run("squeue", "-h", *which, check=False) and time.monotonic() < deadline:
            for name in partitions or ("batch", "scavenge", "urgent", "apart"):
                self.run("scancel", "--quiet", "--signal=KILL", "--full", f"--partition={name}", check=False)
                self.run("scancel", "--quiet", f"--partition={name}", check=False)
            time.sleep(0.5)

    def stop(self) -> None:
        """End everything that was started, by process; safe to call at any stage."""
        if self.controller and self.controller.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.end_all_jobs()
        for process in self.inits.values():
            process.kill()  # --kill-child: the node's init goes too, and with it all its processes
        for process in (*self.inits.values(), self.controller, self.munged):
            if process:
                _end(process)
        self.inits.clear()
        self.controller = self.munged = None
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)

    def _munge(self) -> None:
        folder = self.root / "munge"
        (folder / "key").write_bytes(os.urandom(256))
        (folder / "key").chmod(0o400)
        for path in (folder, folder / "key"):
            shutil.chown(path, "munge", "munge")
        self.munged = subprocess.Popen(
            [
                *WITH_US,
                "--reuid=munge",
                "--regid=munge",
                "--init-groups",
                "munged",
                "--foreground",
                "--force",
            ]
            + [f"--{name}={folder}/{file}" for name, file in MUNGE_FILES.items()],
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "log" / "munged.err").open("ab"),
        )
        deadline = time.monotonic() + 20
        while not (folder / "sock").exists():
            if time.monotonic() > deadline or self.munged.poll() is not None:
                raise RuntimeError((self.root / "log" / "munged.err").read_text())
            time.sleep(0.05)

    def _start_node(self, node: str, address: str, link: str) -> None:
        (self.root / "spool" / node).mkdir(parents=True)
        inside = ["bash", str(self.root / "init.sh"), node, str(self.root), address, *PROGRAM]
        namespaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self.root / "log" / f"init-{node}.log").open("ab") as log:
            process = subprocess.Popen(
                [*WITH_US, "unshare", *namespaces, *inside], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.inits[node] = process
        host_net = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{process.pid}/ns/net") == host_net:
            if process.poll() is not None:
                raise RuntimeError((self.root / "log" / f"init-{node}.log").read_text())
            time.sleep(0.01)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        _ip("link", "set", link, "master", self.bridge, "up")


WITH_US = ("setpriv", "--pdeathsig=KILL")  # however this process ends, its daemons end too
MUNGE_FILES = {
    "socket": "sock",
    "key-file": "key",
    "pid-file": "pid",
    "seed-file": "seed",
    "log-file": "log",
}


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
