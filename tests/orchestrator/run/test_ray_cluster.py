"""Ray for one sweep: slots, environment, and what is (not) left to chance or to neighbours."""

import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kd.errors import InputError
from orchestrator.run import ray_cluster as cluster
from orchestrator.run.out_of_memory import read_memory
from orchestrator.run.ray_cluster import Cluster
from orchestrator.space.slot import Slot


@pytest.mark.parametrize(
    ("slot", "resources", "slots"),
    [
        (Slot(), {"CPU": 2.0}, 2),
        (Slot(cpus=2), {"CPU": 5.0}, 2),
        (Slot(), {}, 0),  # a head without CPUs
        (Slot(cpus=1, gpus=0.25), {"CPU": 16.0, "GPU": 2.0}, 8),
        (Slot(cpus=4, gpus=0.25), {"CPU": 16.0, "GPU": 2.0}, 4),
        (Slot(cpus=1, gpus=0.1), {"CPU": 64.0, "GPU": 3.0}, 30),  # 3 / 0.1 is 29.999...
        (Slot(cpus=1, gpus=1), {"CPU": 8.0}, 0),
    ],
)
def test_slots_of_a_node(slot: Slot, resources: dict[str, float], slots: int) -> None:
    assert slot.fit_in(resources) == slots


def test_a_machine_where_nothing_fits_is_an_error_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "local_cpus", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray was started"))
    with pytest.raises(InputError, match=r"takes 8 CPUs.*there are 2 CPUs.*resources\.cpus"):
        Cluster.start(Slot(cpus=8), slots=None, dashboard=False, env={})
    for slots in (None, 4):
        with pytest.raises(InputError, match=r"CUDA_VISIBLE_DEVICES=0.*resources\.gpus=0"):
            Cluster.start(Slot(gpus=0.25), slots=slots, dashboard=False, env={})


@pytest.mark.parametrize(
    ("slots", "offered"), [(None, (2, 2)), (1, (1, 1)), (4, (4, 1)), (9, (9, 2))], ids=str
)
def test_slots_may_ask_for_more_cpus_never_for_more_gpus(
    slots: int | None, offered: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "local_cpus", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert cluster.local_resources(Slot(gpus=0.25), slots) == offered


def test_worker_env_bounds_every_thread_pool() -> None:
    env = cluster.worker_env(3)
    assert {env[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")} == {"3"}
    assert all(isinstance(value, str) for value in env.values())


@pytest.mark.parametrize("address", ["auto", "10.0.0.1", "ray://10.0.0.1:x", ""])
def test_an_address_is_never_guessed(address: str) -> None:
    with pytest.raises(InputError, match="IP:PORT"):
        Cluster.join(address, Slot(), env={})


def test_joining_needs_explicit_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(InputError, match="RAY_AUTH_MODE"):
        Cluster.join("10.0.0.1:6379", Slot(), env={})


STARTED = """
import json, os
from orchestrator.run import ray_cluster
from orchestrator.run.ray_cluster import DRIVER_ENV, Cluster, worker_env
from orchestrator.space.slot import Slot
os.environ.update(DRIVER_ENV)
ray_cluster.MEMORY_S = 60.0  # a busy machine
import torch; torch.cuda.device_count = lambda: 2
cluster = Cluster.start(Slot(cpus=1, gpus=0.5), slots=4, dashboard=True, env=worker_env(1))
import ray

@ray.remote(num_cpus=1, num_gpus=0.5)
def worker():
    return {"environ": dict(os.environ), "gpus": ray.get_gpu_ids()}

seen = ray.get([worker.remote() for _ in range(4)])
own, cluster._run_directory = cluster._run_directory, None  # as if it were joined
memory = [cluster.memory_of(cluster.nodes()[0].id) is not None, cluster.memory_of("ab" * 28)]
cluster._run_directory = own
print(json.dumps({"slots": cluster.slots(), "seen": seen, "memory": memory, **cluster.as_json()}), flush=True)
input()
cluster.close()
"""


def open_to_all(mark: str) -> set[str]:
    """Processes with this environment that listen on 0.0.0.0; gRPC, which asks for the token, uses [::]."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:]]
    inodes = {row[9] for row in rows if row[3] == "0A" and row[1].startswith("00000000:")}
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                held = {os.readlink(fd) for fd in (process / "fd").iterdir()}
                if held & {f"socket:[{inode}]" for inode in inodes}:
                    found.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.cluster
def test_a_started_ray_is_private_bounded_and_gone_afterwards(tmp_path: Path) -> None:
    import json

    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-c", STARTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**env, "HOME": str(tmp_path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    started = json.loads(process.stdout.readline())
    assert started["memory"] == [read_memory() is not None, None]  # of a node, and of one that isn't there
    assert started["slots"] == 4  # two (pretended) GPUs, half of one each
    for worker in started["seen"]:
        assert worker["environ"]["OMP_NUM_THREADS"] == "1"
        assert "MALLOC_TRIM_THRESHOLD_" in worker["environ"]
        assert worker["environ"]["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    token = Path(started["token"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert started["dashboard"].startswith("http://127.0.0.1:")
    url = started["dashboard"] + "/api/v0/actors"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=20)
    assert refused.value.code in (401, 403)
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {token.read_text(encoding='utf-8')}"}
    )
    assert urllib.request.urlopen(request, timeout=20).status == 200
    assert not open_to_all(f"KDSWEEP_RUN_DIR={started['directory']}")
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert not Path(started["directory"]).exists()
    assert not (tmp_path / "ray_results").exists()
    assert not (tmp_path / ".ray").exists()
