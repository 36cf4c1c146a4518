"""Want of memory, told from other deaths: by planted words and files, and where there is too little."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from pretended import pretended, record

from orchestrator.commands import status
from orchestrator.commands.logs import logs
from orchestrator.run.jobs import jobs_of
from orchestrator.run.out_of_memory import Memory, Shortage, read_memory
from orchestrator.run.worker import describe
from slurm.states import JobState, ended_badly

GIB = 2**30

MONITOR = (  # Ray 2.60
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.1, "
    "ID: 7ae6) was 15.30GB used / 16.00GB limit (0.956250)\nOOM kill reason: Memory usage 16428304384B"
)


def shortage(now: Memory | None = None) -> Shortage:
    return Shortage(lambda node: now, "ask for more")


def cgroup(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def proc(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cgroup").write_text(text, encoding="utf-8")
    return folder


def test_the_second_version_s_cgroup_and_the_narrowest_limit_above_it(tmp_path: Path) -> None:
    step = "system.slice/slurmstepd.scope/job_7/step_0"
    root = cgroup(
        tmp_path / "fs",
        {
            f"{step}/memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n",
            f"{step}/memory.max": "max\n",
            "system.slice/slurmstepd.scope/job_7/memory.max": "4096\n",
            "system.slice/slurmstepd.scope/job_7/memory.peak": "4000\n",
            "system.slice/memory.max": "9999\n",
        },
    )
    assert read_memory(proc(tmp_path / "p", f"0::/{step}\n"), root) == Memory(2, 4000, 4096)


def test_the_first_version_s_cgroup(tmp_path: Path) -> None:
    files = {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"}
    files |= {"memory.limit_in_bytes": "4096\n", "memory.max_usage_in_bytes": "4096\n"}
    root = cgroup(tmp_path / "fs", {f"memory/slurm/job_7/{name}": text for name, text in files.items()})
    lines = "4:memory:/slurm/job_7\n1:cpu,cpuacct:/\n0::/\n"
    assert read_memory(proc(tmp_path / "p", lines), root) == Memory(3, 4096, 4096)


def test_a_container_has_its_own_at_the_root_and_no_limit_is_none(tmp_path: Path) -> None:
    root = cgroup(tmp_path / "fs", {"memory.events": "oom_kill 1\n", "memory.max": "max\n"})
    assert read_memory(proc(tmp_path / "p", "0::/docker/abc\n"), root) == Memory(1, None, None)
    files = {"memory/memory.oom_control": "oom_kill 0\n", "memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}
    old = cgroup(tmp_path / "old", files)
    assert read_memory(proc(tmp_path / "p", "4:memory:/docker/abc\n"), old) == Memory(0, None, None)


def test_what_can_not_be_read_is_not_known(tmp_path: Path) -> None:
    assert read_memory(tmp_path / "none", tmp_path) is None
    assert read_memory(proc(tmp_path / "p", "0::/a\n"), tmp_path / "none") is None


def test_ray_s_memory_monitor_is_believed() -> None:
    found = shortage().of_death("n", "h", RuntimeError(MONITOR))
    assert found is not None
    assert found.certain
    assert found.text == "h ran out of memory (15.30 of 16.00 GB): ask for more"


def test_only_new_kills_are_evidence() -> None:
    watch, died = shortage(Memory(kills=5)), RuntimeError("the process was killed by the OOM killer, or not")
    watch.known("n", 4)
    first = watch.of_death("n", "h", died)
    assert first is not None
    assert first.certain
    assert watch.of_death("n", "h", died) is None, "the same kill explains one death"
    assert shortage(Memory(kills=5)).of_death("n", "h", RuntimeError("no torch")) is None


def test_a_gpu_s_memory_has_its_own_remedy() -> None:
    error = {"type": "OutOfMemoryError", "message": "CUDA out of memory. Tried to allocate 2.00 GiB"}
    found = shortage().of_error("n", "h", error)
    assert found is not None
    assert "resources.gpus" in found.text
    assert (
        shortage().of_error("n", "h", {"type": "RuntimeError", "message": "CUDA error: illegal access"})
        is None
    )


@pytest.fixture
def little_memory() -> Iterator[None]:
    """This process may have 1 GB more than it has."""
    import torch  # noqa: F401  # its libraries are mapped before

    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_process_that_gets_no_memory_is_recognised(little_memory: None) -> None:
    import numpy
    import torch

    for allocate in (torch.empty, numpy.empty, bytearray):
        with pytest.raises((RuntimeError, MemoryError)) as error:
            allocate(4 * GIB)
        found = shortage().of_error("n", "h", describe(error.value))
        assert found is not None
        assert found.text == "h ran out of memory: ask for more"


CGROUPS = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(not os.access(CGROUPS / "cgroup.procs", os.W_OK), reason="needs cgroups of its own")
def test_the_kernel_counts_whom_it_kills() -> None:
    group = CGROUPS / f"kdsweep-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(64 * 2**20), encoding="utf-8")
        code = (
            "import os, sys; from orchestrator.run.out_of_memory import read_memory\n"
            f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "if not os.fork(): x = b'1' * 2**28\n"
            "else: print(os.wait()[1], (m := read_memory()).kills, m.peak == m.limit == 2**26)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["9", "1", "True"], done.stderr
    finally:
        group.rmdir()


def test_status_tells_what_to_do_about_a_job_that_slurm_ended_for_memory(here: Path) -> None:
    record(here, "7")
    slurm = pretended(JobState("7", "7", "OUT_OF_MEMORY"))
    (job,) = jobs_of(here.parent.parent, slurm)
    assert status.job_line(job).startswith("  job      7  head  OUT_OF_MEMORY: out of memory: ask for more")
    assert ended_badly("TIMEOUT") == ""


@pytest.mark.parametrize(
    ("line", "memory"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks", True),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in step 7.batch cgroup.", True),
        ("slurmstepd: error: Exceeded job memory limit", True),
        ("srun: error: node1: task 0: Out Of Memory\nslurmstepd: some have been OOM Killed.", True),
        ("python: command not found", False),
        ("(1) the process was killed by the OOM killer due to high memory usage, (2) ray stop", False),
    ],
)
def test_logs_tell_it_from_a_job_s_output(here: Path, line: str, memory: bool) -> None:
    record(here, "7")
    sweep = here.parent.parent
    (sweep / "space.yaml").touch()
    (here / "kds-s-7.out").write_text(f"{line}\n", encoding="utf-8")
    for more in ([], ["--job", "7"]):
        said = CliRunner().invoke(logs, [str(sweep), *more]).output
        assert line.splitlines()[0] in said
        assert ("this job ran out of memory: ask for more" in said) == memory
