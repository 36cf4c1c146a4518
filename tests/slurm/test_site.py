"""Site profiles: what they take, what they refuse, and how they say so."""

from pathlib import Path

import pytest
import yaml

from slurm.errors import SiteError
from slurm.site import EXAMPLES, LONGEST_SCRATCH, MANAGED, load_site, seconds

LEAST = {"memory": "4G", "cpus_per_node": 4}


def write(tmp_path: Path, **content: object) -> str:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({**LEAST, **content}))
    return str(path)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.yaml")))
def test_examples_load_by_name(name: str) -> None:
    assert load_site(name).cpus >= 1


def test_there_is_an_example_for_each_kind() -> None:
    assert load_site("cpu").gpus == 0
    assert load_site("gpu1").gpus == 1
    assert load_site("multi_gpu").gpus == 4
    preemptible = load_site("preemptible")
    assert (preemptible.mode, preemptible.preempt, preemptible.head.preempt) == (
        "elastic",
        "cancel",
        "requeue",
    )


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 5400), ("1:30", 90), ("1:30:00", 5400), ("2-12", 216000), ("1-00:30", 88200), ("0-00:01:30", 90)],
)
def test_time_limits_as_slurm_reads_them(time: str, expected: int) -> None:
    assert seconds(time) == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"partitoin": "gpu"}, "partitoin: unknown key; did you mean partition"),
        ({"head": {"cpu": 1}}, "head.cpu: unknown key; did you mean cpus"),
        ({"partition": "gpu\n#SBATCH --uid=0"}, "partition"),
        ({"partition": "a b"}, "partition"),
        ({"account": "$(id)"}, "account"),
        ({"qos": "-x"}, "qos"),
        ({"mail_user": "me@x;rm"}, "mail_user"),
        ({"time": "soon"}, "minutes, HH:MM:SS"),
        ({"time": "0:30"}, "shorter than a minute"),
        ({"memory": "lots"}, "memory"),
        ({"gres": "gpu:2; id"}, "gres"),
        ({"gres": "tmpfs:2"}, "gpu:2"),
        ({"clusters": ["a", "b"]}, "clusters: a sweep lives on one cluster"),
        ({"clusters": "a,b"}, "clusters: a sweep lives on one cluster"),
        ({"clusters": "all"}, "clusters: a sweep lives on one cluster"),
        ({"clusters": "a b"}, "clusters"),
        ({"options": {"clusters": "a"}}, "kdsweep sets clusters itself: use the profile's own keys"),
        ({"gres": "gpu:2", "gpus_per_node": 2}, "not both"),
        ({"cpus_per_gpu": 4}, "not both"),
        ({"cpus_per_node": None, "cpus_per_gpu": 4}, "needs GPUs"),
        ({"options": {"signal": "B:TERM@1"}}, "kdsweep sets signal itself"),
        ({"options": {"--constraint": "a"}}, "without its dashes"),
        ({"options": {"constraint": "a b"}}, "options"),
        ({"options": {"constraint\n": "a|touch"}}, "without its dashes"),  # would end the #SBATCH block
        ({"options": {"constraint": "a\n"}}, "options"),
        ({"gres": "gpu:2\n"}, "gres"),
        ({"time": "90\n"}, "time"),
        ({"head": {"options": {"requeue": ""}}}, "kdsweep sets requeue itself"),
        ({"setup": ["module load x\nrm"]}, "one shell line"),
        ({"scratch": "tmp"}, "absolute"),
        ({"scratch": "/" + "s" * LONGEST_SCRATCH}, "107"),
        ({"max_links": 0}, "max_links"),
        ({"nodes": 2**64}, "site.yaml:3: nodes: "),
        ({"nodes": True}, "nodes: a number is needed; YAML reads yes"),
        ({"nodes": float("inf")}, "nodes: "),
        ({"patience_s": float("nan")}, "patience_s: Input should be a finite number"),
        ({"gres": "gpu:" + "9" * 99}, "gres"),
        ({"time": "9" * 99 + "-0"}, "time"),
        ({"memory": "9" * 99 + "G"}, "memory"),
        ({"options": {1: "a"}}, "options.1"),
        ({"head": None}, "head"),
    ],
)
def test_refused(tmp_path: Path, content: dict[str, object], says: str) -> None:
    with pytest.raises(SiteError) as error:
        load_site(write(tmp_path, **content))
    assert says in str(error.value)
    assert "site.yaml" in str(error.value)


@pytest.mark.parametrize("option", sorted(MANAGED))
def test_managed_options_cannot_be_overridden(tmp_path: Path, option: str) -> None:
    with pytest.raises(SiteError, match=option):
        load_site(write(tmp_path, options={option: "1"}))


def test_a_profile_that_is_not_there_names_the_examples() -> None:
    with pytest.raises(SiteError, match="cpu, gpu1, multi_gpu, preemptible"):
        load_site("nowhere")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"memory: 4G\nmemory: 5G", "site.yaml:2: memory is given twice"),
        (b"setup: &a [*a]", "site.yaml:1: an alias stands inside"),
        (b"setup: " + b"[" * 9999, "site.yaml:1: nested deeper"),
        (b"memory: \xff", "site.yaml is not UTF-8"),
        ("memory: 4G".encode("utf-16"), "site.yaml is not UTF-8"),
        (b"", "is a mapping"),
        (b"- a", "is a mapping"),
    ],
)
def test_files_that_are_no_profile(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "site.yaml").write_bytes(content)
    with pytest.raises(SiteError, match=says):
        load_site(str(tmp_path / "site.yaml"))


def test_a_time_limit_needs_no_quotes(tmp_path: Path) -> None:
    """YAML 1.1 reads it as a number of seconds."""
    (tmp_path / "site.yaml").write_text("memory: 4G\ncpus_per_node: 4\ntime: 1:30:00\n", encoding="utf-8")
    assert seconds(load_site(str(tmp_path / "site.yaml")).time) == 5400


def test_the_command_line_changes_a_profile_and_is_checked_alike(tmp_path: Path) -> None:
    path = write(tmp_path, nodes=2)
    assert load_site(path, nodes=5, time=None).nodes == 5
    with pytest.raises(SiteError, match="time"):
        load_site(path, time="x'; id")
