"""One real Slurm for all tests of this room that want it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file

from cluster import SlurmCluster, missing
from world import FAST, SLOW, STRATEGIES, Login, Sweep


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Nodes of 4 CPUs and 2 fake GPUs, node4 in a partition of its own; arrays hold at most two tasks."""
    if lacking := missing():
        text = f"a real Slurm needs {', '.join(lacking)}; .ci/run installs it"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    root = Path(tempfile.mkdtemp(prefix="kdsweep-slurm-", dir="/var/tmp"))  # nodes see a /tmp of their own
    small = root / "small"
    small.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
        with SlurmCluster(root, MaxArraySize=3) as cluster:
            yield cluster
    finally:
        subprocess.run(["umount", str(small)], check=False)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def login(slurm_cluster: SlurmCluster) -> Iterator[Login]:
    """The login node; afterwards no job is left."""
    yield Login(slurm_cluster)
    slurm_cluster.end_all_jobs("batch", "scavenge", "urgent")


@pytest.fixture(scope="session")
def chain(slurm_cluster: SlurmCluster) -> Sweep:
    """A sweep whose job is too short for it. It takes minutes on node4, so it begins before all else.

    Slurm counts in minutes and may warn half a minute before the time asked for: a link lasts 90 to 120 s,
    and the points, one after the other, 208 s.
    """
    login = Login(slurm_cluster)
    login.env["PACE_S"] = "1.3"
    site = login.site(partition="apart", time="2", warn_s=1)
    return login.submit(login.space(SLOW), site, "chain")


@pytest.fixture(scope="session")
def gang(slurm_cluster: SlurmCluster, chain: Sweep) -> Sweep:
    """The sweep that others are compared with, on two nodes with two GPUs each; never interrupted."""
    login = Login(slurm_cluster)
    login.env["PACE_S"] = "0.6"  # so that the other node's workers, too, have started before all is done
    space = login.space(SLOW, {**FAST, "strategies": STRATEGIES}, {**FAST, "seeds": [1]})
    sweep = login.submit(space, login.site(nodes=2, cpus_per_node=4, gpus_per_node=2), "gang")
    sweep.until_over(timeout=300)
    slurm_cluster.wait_for(sweep.jobs[0], "COMPLETED")
    return sweep
