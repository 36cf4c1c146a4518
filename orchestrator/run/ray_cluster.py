"""Ray for one sweep: started here, or joined by address. Knows processes and ports, not points.

Started here: own 0700 directory, own token, dashboard on loopback, explicit CPUs and GPUs. Joined: the
address is given, never guessed, and authentication comes from the environment. `ray stop` is never used.
"""

import contextlib
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kd.errors import InputError
from orchestrator.space.slot import Slot

# Nothing big passes through Ray: data and teacher outputs are memory-mapped files. Ray's least is 75 MiB.
OBJECT_STORE_BYTES = 100 * 2**20
# AF_UNIX paths end at 107 bytes, of which Ray's own "/session_.../sockets/plasma_store" takes 64.
LONGEST_TEMP_DIR = 43

# The driver's environment; every Ray process it starts inherits it. See `reread_environment`.
DRIVER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
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


def reread_environment() -> None:
    """Have Ray's core read RAY_* again: it did when ray was imported, which a notebook may have done before.

    Without this a Ray imported before RAY_AUTH_MODE was set starts a cluster that it can't talk to itself.
    Ray's own ray.init does the same. It is a private part of Ray: one without it is left alone.
    """
    from ray import _raylet

    core: Any = _raylet
    if hasattr(core, "Config") and hasattr(core, "AuthenticationTokenLoader"):
        core.Config.initialize("")
        core.AuthenticationTokenLoader.instance().reset_cache()


def local_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))


class Cluster:
    """A connection to Ray. Make it with `start` or `join`, from the main thread; leave it with `close`."""

    def __init__(self, context: Any, slot: Slot, directory: Path | None) -> None:
        self.slot = slot
        self.directory = directory
        self.address: str = context.address_info["address"]
        url = context.dashboard_url
        self.dashboard_url: str | None = f"http://{url}" if url else None
        self.token_path = os.environ.get("RAY_AUTH_TOKEN_PATH")

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
        """Start Ray on this machine with room for `slots` (default: what the CPUs and GPUs give)."""
        refuse_second_ray()
        directory = make_run_directory()
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(_write_token(directory / "token")))
        os.environ.pop("RAY_ADDRESS", None)
        import ray

        reread_environment()
        try:
            context = ray.init(
                address="local",
                num_cpus=_whole(slots * slot.cpus) if slots else local_cpus(),
                num_gpus=_whole(slots * slot.gpus) if slots and slot.gpus else (None if slot.gpus else 0),
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(directory / "ray"),
                **_common(env, metadata),
            )
        except BaseException:
            remove_run_directory(directory)
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

    def slots(self) -> int:
        """How many packs the nodes alive now can run at once."""
        import ray

        return sum(self.slot.fit_in(node["Resources"]) for node in ray.nodes() if node["Alive"])

    def has_node(self, ip: str) -> bool:
        """Whether a node with this address is alive."""
        import ray

        return any(node["Alive"] and node["NodeManagerAddress"] == ip for node in ray.nodes())

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
        if self.directory:
            remove_run_directory(self.directory)


def make_run_directory() -> Path:
    """A new 0700 directory, short enough for Ray's sockets."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent / "kds-12345678" / "ray")) > LONGEST_TEMP_DIR:
        parent = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="kds-", dir=parent))


def remove_run_directory(directory: Path, patience_s: float = 3.0) -> None:
    """Remove a run directory; Ray's last processes may still be writing their logs."""
    deadline = time.monotonic() + patience_s
    while directory.exists():
        shutil.rmtree(directory, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _write_token(path: Path) -> Path:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(os.urandom(32).hex())
    return path


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
