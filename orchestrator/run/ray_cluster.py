"""Ray for one sweep: started here, or joined by address. Knows processes and ports, not points.

Started here: own 0700 directory, own token, dashboard on loopback, no metrics, explicit CPUs and GPUs.
Joined: the address is given, never guessed, and authentication comes from the environment. `ray stop` is
never used.
"""

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kd.errors import InputError, Unavailable
from orchestrator.run.out_of_memory import Memory, read_memory
from orchestrator.run.ray_internals import reread_environment
from orchestrator.run.run_directory import RunDirectory, remove_dead
from orchestrator.space.slot import Slot

# Nothing big passes through Ray: data and teacher outputs are memory-mapped files. Ray's least is 75 MiB.
OBJECT_STORE_BYTES = 100 * 2**20
MEMORY_S = 10.0  # how long the driver waits for what a node says of its memory, after a worker died there

# Ray serves metrics on all interfaces and without a token: each of its three servers is off, unless the
# environment says otherwise. There is no port -1, and the two that have no switch go on without their server.
METRICS_ENV = {
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}

# The driver's environment; every Ray process it starts inherits it. See `reread_environment`.
DRIVER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a call after the cluster's end must not start another one
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks without a GPU keep CUDA_VISIBLE_DEVICES; quiet default
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints nothing: progress.py does
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON, TensorBoard: half the driver's CPU
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep has its own, see events.py
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the store is the truth; Tune's own state is never read
    # How long to wait for the reason of a worker's end. Ray's 1 s is less than it takes to notice that a
    # node is gone, and that must not count as the point's failure.
    "RAY_timeout_ms_task_wait_for_death_info": "20000",
    # With a search algorithm Tune would start one worker at a time, seconds each; the scheduler bounds them.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # failures go to error.json
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",  # waiting for elastic nodes is normal
}


def worker_env(threads: int) -> dict[str, str]:
    """The environment of every process that trains, in this one place.

    glibc keeps freed blocks instead of handing them back to the kernel at every step, and asks for huge
    pages: measured on steps of a ResNet-1D, 7 times fewer page faults.
    """
    return {
        **{f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # glibc's ceiling
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
        "MALLOC_TOP_PAD_": str(64 * 2**20),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
    }


@contextlib.contextmanager
def environment_kept() -> Iterator[None]:
    """Give the environment back at the end as it was, so that a Ray started later finds its own token."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        if "ray" in sys.modules:
            reread_environment()


def refuse_second_ray() -> None:
    """InputError if this process is in a Ray already: Ray knows one cluster a process."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise InputError(
            "Ray is already started in this process, and a sweep needs its own: call ray.shutdown() first, "
            "or run the sweep in another process (kdsweep run)"
        )


def local_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def local_gpus() -> int:
    """GPUs that torch can use here, in this environment."""
    import torch

    return torch.cuda.device_count()


def local_resources(slot: Slot, slots: int | None) -> tuple[int, int]:
    """(CPUs, GPUs) that a Ray started here offers: what there is, or what `slots` need of it.

    slots may ask for more CPUs than there are, never for more GPUs. Raises InputError when nothing fits.
    """
    cpus, gpus = local_cpus(), local_gpus() if slot.gpus else 0
    if slot.gpus and not gpus:
        raise InputError(
            f"resources.gpus: a point takes {slot.gpus:g} of a GPU, and torch finds none here "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'is not set')}): "
            "install torch for this GPU's driver, or train on CPUs with resources.gpus=0"
        )
    if slots:
        cpus = _whole(slots * slot.cpus)
        gpus = min(gpus, _whole(slots * slot.gpus))
    if not slot.fit_in({"CPU": cpus, "GPU": gpus}):
        raise InputError(
            f"no point fits on this machine: one takes {slot.cpus:g} CPUs and {slot.gpus:g} GPUs, there are "
            f"{cpus} CPUs and {gpus} GPUs for it: lower resources.cpus or resources.gpus"
        )
    return cpus, gpus


@dataclass(frozen=True)
class Node:
    """A node of the cluster that is alive. slots: packs it can run at once; name: as Slurm calls it."""

    id: str
    host: str
    ip: str
    slots: int
    name: str = ""


class Cluster:
    """A connection to Ray. Make it with `start` or `join`, from the main thread; leave it with `close`."""

    def __init__(self, context: Any, slot: Slot, run_directory: RunDirectory | None) -> None:
        self.slot = slot
        self._run_directory = run_directory
        self.directory = run_directory.path if run_directory else None
        self.address: str = context.address_info["address"]
        url = context.dashboard_url
        self.dashboard_url: str | None = f"http://{url}" if url else None
        self.token_path = os.environ.get("RAY_AUTH_TOKEN_PATH")
        memory = read_memory() if run_directory else None
        self.oom_kills = memory.kills if memory else None  # here, before any worker; elsewhere workers tell

    @classmethod
    def start(
        cls,
        slot: Slot,
        *,
        slots: int | None,
        dashboard: bool,
        env: dict[str, str],
        metadata: dict[str, str] | None = None,
    ) -> "Cluster":
        """Start Ray on this machine with room for `slots` (default: what the CPUs and GPUs give).

        Raises InputError when no point fits here.
        """
        refuse_second_ray()
        cpus, gpus = local_resources(slot, slots)
        remove_dead()
        directory = RunDirectory.make()
        os.environ.update(directory.env())
        os.environ.pop("RAY_ADDRESS", None)
        for name, value in METRICS_ENV.items():
            os.environ.setdefault(name, value)
        import ray

        reread_environment()
        try:
            context = ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(directory.path / "ray"),
                **_common(env, metadata),
            )
        except BaseException as error:
            directory.remove()
            if isinstance(error, Exception):  # Ray gives its processes half a minute
                first = str(error).strip().partition("\n")[0] or type(error).__name__
                raise Unavailable(f"Ray did not start on this machine ({first}): try again later") from error
            raise
        return cls(context, slot, directory)

    @classmethod
    def join(
        cls, address: str, slot: Slot, *, env: dict[str, str], metadata: dict[str, str] | None = None
    ) -> "Cluster":
        """Connect to the Ray at `address`, IP:PORT. InputError if it or authentication is left to chance."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InputError(f"--address {address}: give it as IP:PORT; `auto` may find another user's Ray")
        if "RAY_AUTH_MODE" not in os.environ:
            raise InputError(
                "--address needs that cluster's authentication in the environment: RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN_PATH=<its token file>"
            )
        refuse_second_ray()
        import ray

        reread_environment()
        return cls(ray.init(address=address, **_common(env, metadata)), slot, None)

    def nodes(self) -> list[Node]:
        """The nodes that are alive now."""
        import ray

        return [
            Node(
                n["NodeID"],
                n["NodeManagerHostname"],
                n["NodeManagerAddress"],
                self.slot.fit_in(n["Resources"]),
                n.get("NodeName", ""),
            )
            for n in ray.nodes()
            if n["Alive"]
        ]

    def memory_of(self, node: str) -> Memory | None:
        """Of the workers on a node: read there, by a process of its own, since Slurm parts their cgroups."""
        if self._run_directory:
            return read_memory()  # they share this process's
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        try:
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            read = ray.remote(num_cpus=0, max_retries=0)(read_memory).options(scheduling_strategy=here)
            memory: Memory | None = ray.get(read.remote(), timeout=MEMORY_S)
        except Exception:  # the node is gone or slow, or not known: then it can't be said
            return None
        return memory

    @property
    def more_memory(self) -> str:
        """What to do where it is short."""
        if self._run_directory:
            return "run fewer slots at once (--slots), or free some memory"
        return "ask for more memory (in the site profile), or for fewer slots (resources.cpus)"

    def slots(self) -> int:
        """How many packs the nodes alive now can run at once."""
        return sum(node.slots for node in self.nodes())

    @property
    def elastic(self) -> bool:
        """Whether nodes come from elsewhere, at any time: joined, from a head that offers nothing itself."""
        import ray

        own = ray.get_runtime_context().get_node_id()
        return self.directory is None and not any(n.slots for n in self.nodes() if n.id == own)

    def as_json(self) -> dict[str, str | None]:
        """How another process finds it; part of progress.json."""
        return {
            "address": self.address,
            "dashboard": self.dashboard_url,
            "token": self.token_path,
            "directory": str(self.directory) if self.directory else None,
        }

    def wait_for_slots(self, waiting: Callable[[], bool], poll_s: float = 1.0) -> int:
        """Wait until there is a slot; `waiting` is called at each poll and returns False to give up."""
        while not (slots := self.slots()) and waiting():
            time.sleep(poll_s)
        return slots

    def close(self) -> None:
        """Leave Ray; if it was started here, end it and remove its directory."""
        import ray

        # Tune leaves cycles that hold actor handles. Collected in another thread while Ray shuts down, such a
        # handle makes Ray end the process with 1: so collect them here, and nothing until it is over.
        gc.collect()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            gc.enable()
        if self._run_directory:
            self._run_directory.remove()


def _common(env: dict[str, str], metadata: dict[str, str] | None) -> dict[str, Any]:
    from ray.job_config import JobConfig

    return {
        "runtime_env": {"env_vars": env},
        "job_config": JobConfig(metadata=metadata) if metadata else None,
        "logging_level": "ERROR",
        "log_to_driver": False,
    }


def _whole(amount: float) -> int:
    """Ray counts a machine in whole CPUs and GPUs; a started one is taken whole."""
    return int(-(-amount // 1))
