"""What Slurm prints, to rows. recorded/ holds outputs of a Slurm 22.05 without accounting, as they were."""

import json
from pathlib import Path

import pytest

from slurm import states
from slurm.errors import Away
from slurm.states import JobState

RECORDED = Path(__file__).parent / "recorded"


def test_squeue_of_22_05() -> None:
    rows = {row.id: row for row in states.parse_squeue((RECORDED / "squeue-22.05.json").read_text())}
    assert {id: row.state for id, row in rows.items()} == json.loads((RECORDED / "expected.json").read_text())
    waiting = next(row for row in rows.values() if "[" in row.id)
    assert waiting.active
    assert waiting.reason == "JobArrayTaskLimit"
    task = next(row for row in rows.values() if row.base == waiting.base and row.state == "RUNNING")
    assert task.comment == waiting.comment == "kdsweep/x/workers-0"
    assert task.nodes
    assert task.start is not None
    assert task.end is not None
    assert task.end > task.start
    assert not any(row.active for row in rows.values() if row.state in ("COMPLETED", "CANCELLED", "FAILED"))


def test_scontrol_says_the_same_as_squeue() -> None:
    queue = states.parse_squeue((RECORDED / "squeue-22.05.json").read_text())
    shown = states.parse_scontrol((RECORDED / "scontrol-22.05.txt").read_text())
    key = ("id", "base", "state", "reason", "comment", "name", "restarts")
    assert {tuple(getattr(r, k) for k in key) for r in shown} == {
        tuple(getattr(r, k) for k in key) for r in queue
    }


def test_a_controller_that_is_away_is_no_empty_queue() -> None:
    """squeue exits with 0 there."""
    with pytest.raises(Away, match="doesn't answer"):
        states.parse_squeue((RECORDED / "squeue-22.05-away.json").read_text())
    with pytest.raises(Away, match="no list of jobs"):
        states.parse_squeue("")


def test_the_shapes_of_later_versions() -> None:
    """After the manual of 23.11 (data_parser v0.0.40): states are lists, numbers and comments are objects."""
    number = {"set": True, "infinite": False, "number": 7}
    unset = {"set": False, "infinite": False, "number": 0}
    job = {
        "job_id": 9,
        "array_job_id": {**number, "number": 5},
        "array_task_id": number,
        "array_task_string": "",
        "job_state": ["RUNNING", "COMPLETING"],
        "state_reason": "None",
        "comment": {"administrator": "", "job": "kdsweep/x/workers-0", "system": ""},
        "name": "w",
        "nodes": "n1",
        "start_time": {**number, "number": 1795549565},
        "end_time": unset,
        "restart_cnt": 1,
    }
    (row,) = states.parse_squeue(json.dumps({"jobs": [job]}))
    assert row == JobState(
        "5_7", "5", "COMPLETING", "", "kdsweep/x/workers-0", "w", "n1", 1795549565, None, 1
    )


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
