"""Parts of Ray that aren't public: they are there in the Ray that is installed, and nothing needs them."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.run import ray_internals
from orchestrator.run.progress import Display
from orchestrator.run.ray_dashboard import Dashboard

FIGURES: dict[str, Any] = dict.fromkeys(("done", "failed", "blocked", "total", "slots"), 0) | {
    "running": [],
    "eta_s": None,
}


@pytest.mark.parametrize("name", ray_internals.NAMES)
def test_the_installed_ray_has_it(name: str) -> None:
    module, _, path = name.partition(":")
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)


def test_no_other_module_uses_private_parts_of_ray() -> None:
    here = Path(ray_internals.__file__).parents[1]
    private = ("ray._", "internal_kv", "ray.dashboard.", "from ray import _")
    users = {p.name for p in here.rglob("*.py") if any(word in p.read_text("utf-8") for word in private)}
    assert users == {"ray_internals.py"}


def test_a_dashboard_that_fails_is_told_once_and_ends_nothing() -> None:
    said: list[str] = []
    dashboard = Dashboard("x", "kdsweep run", said.append)  # there is no Ray: every part of it fails
    for _ in range(3):
        dashboard.publish("1/2 done", FIGURES)
        dashboard.write("a line")
    (only,) = said
    assert "training goes on" in only
    assert dashboard.logs is None
    assert not ray.is_initialized(), "it started a Ray to tell it"


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    class Gone:
        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            raise BrokenPipeError

        flush = write

    display = Display(Gone())  # type: ignore[arg-type]
    display.say("a line")
    display.say("another")
    display.close()


TWO_NODES = """
import os
from orchestrator.run.ray_cluster import DRIVER_ENV, METRICS_ENV
from orchestrator.run.run_directory import RunDirectory
directory = RunDirectory.make()
os.environ.update(DRIVER_ENV | METRICS_ENV | directory.env())
import ray
from ray.cluster_utils import Cluster
from orchestrator.run.ray_internals import node_of_actor
from orchestrator.run.tune import place
from orchestrator.space.slot import Slot

class Broken:
    def __init__(self):
        raise RuntimeError("no torch")

(directory.path / "tmp" / "ray").mkdir()  # where Cluster writes its address
head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": str(directory.path / "ray")}
cluster = Cluster(initialize_head=True, head_node_args=head)
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
nodes = [node["NodeID"] for node in ray.nodes()]
for here, other in (nodes, nodes[::-1]):
    group = place(Slot(), {"avoid": [other]}).to_placement_group()
    assert group.wait(60)
    actor = ray.remote(Broken).options(num_cpus=1, placement_group=group).remote()
    try:
        ray.get(actor.__ray_ready__.remote())
    except ray.exceptions.RayActorError as error:
        print(error.actor_init_failed, node_of_actor(error.actor_id) == here)
nowhere = place(Slot(), {"avoid": nodes}).to_placement_group()
print(nowhere.wait(1))
ray.shutdown()
cluster.shutdown()
directory.remove()
"""


@pytest.mark.cluster
def test_packs_can_be_kept_off_a_node_and_a_dead_worker_be_found() -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.stdout.split() == ["True", "True", "True", "True", "False"], done.stderr
