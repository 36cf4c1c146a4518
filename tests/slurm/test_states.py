"""What Slurm prints, to rows. recorded/ holds outputs of a Slurm 22.05 without accounting, as they were."""

from pathlib import Path

import pytest

from slurm import pending, states

RECORDED = Path(__file__).parent / "recorded"


def test_squeue_of_22_05() -> None:
    rows = {row.id: row for row in states.parse_squeue((RECORDED / "squeue-22.05.txt").read_text("utf-8"))}
    assert {id: row.state for id, row in rows.items()} == {
        "1_0": "RUNNING",
        "1_[1-3%1]": "PENDING",
        "2": "COMPLETED",
        "3": "FAILED",
        "4": "PENDING",
        "5": "CANCELLED",
        "6": "PENDING",
        "7_[0-399:3]": "PENDING",
    }
    waiting, task = rows["1_[1-3%1]"], rows["1_0"]
    assert (waiting.active, waiting.reason, states.tasks(waiting.id)) == (True, "JobArrayTaskLimit", 3)
    assert task.base == waiting.base == "1"
    assert task.comment == waiting.comment == "kdsweep/x/workers-0"
    assert (task.nodes, waiting.nodes, waiting.start) == ("node1", "", None)
    assert task.start is not None
    assert task.end is not None
    assert task.end - task.start == 3600
    assert (rows["4"].name, rows["6"].name, rows["4"].comment) == ("né 日本", "a | b", "")
    assert not any(rows[id].active for id in ("2", "3", "5"))


def test_an_empty_queue_is_none() -> None:
    """slurmctld that is away makes squeue fail, which is another answer."""
    assert states.parse_squeue("") == states.parse_squeue("\n") == []


def test_squeue_of_a_named_cluster() -> None:
    """With --clusters squeue of 22.05 names the cluster first, --noheader or not."""
    text = (RECORDED / "squeue-22.05.txt").read_text("utf-8")
    assert states.parse_squeue(f"CLUSTER: blue\n{text}") == states.parse_squeue(text)
    assert states.parse_squeue("CLUSTER: blue\n") == []


def test_sacct_as_documented() -> None:
    text = "\n".join(
        [
            "12|COMPLETED|node[1-2]|kdsweep/x/gang|kds-a",
            "13_4|CANCELLED by 1000|node3|kdsweep/x/workers-0|kds-w",
            "14|PREEMPTED|None assigned||kds-b",
            "a banner of the site",
        ]
    )
    assert [(r.id, r.base, r.state, r.nodes) for r in states.parse_sacct(text)] == [
        ("12", "12", "COMPLETED", "node[1-2]"),
        ("13_4", "13", "CANCELLED", "node3"),
        ("14", "14", "PREEMPTED", ""),
    ]


@pytest.mark.parametrize("text", ["17\n", "17;cluster\n", "Welcome to X!\nquota: 12 of 100\n17\n"])
def test_the_job_id_survives_banners(text: str) -> None:
    assert states.parse_sbatch(text) == "17"


@pytest.mark.parametrize("text", ["", "Submitted batch job 17\n", "17 18\n"])
def test_no_job_id_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no job id"):
        states.parse_sbatch(text)


def test_config_values() -> None:
    text = "MaxArraySize            = 1001\nMaxJobCount             = 10000\n"
    assert states.parse_config(text, "MaxArraySize") == "1001"
    assert states.parse_config(text, "Nothing") is None


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("Resources", "free nodes"),
        ("Priority", "higher priority"),
        ("ReqNodeNotAvail, UnavailableNodes:node7", "free nodes"),
        ("AssocGrpGRES", "at a limit"),
        ("QOSMaxJobsPerUserLimit", "at a limit"),
        ("Dependency", "another job"),
        ("JobHeldUser", "scontrol release"),
        ("PartitionTimeLimit", "lower `time`"),
        ("QOSMaxWallDurationPerJobLimit", "lower `time`"),
        ("AssocMaxCpuPerJobLimit", "than a job may have"),
        ("BadConstraints", "no node has"),
    ],
)
def test_why_a_job_waits(reason: str, said: str) -> None:
    assert said in pending.why(reason)
    never = ("PartitionTimeLimit", "BadConstraints")
    assert pending.why(reason).startswith("can never start") == (reason in never or "PerJob" in reason)


def test_an_unknown_reason_is_left_as_it_is() -> None:
    assert pending.why("SomethingNew") == ""
