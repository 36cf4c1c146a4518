"""Nodes that failed: who says so, how many are excluded, and that every way to another job keeps off them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from pretended_commands import Pretended

from slurm import chain
from slurm.excluded import exclude_option, excluded
from slurm.job import Job, scripts
from slurm.site import Site

TOO_FEW = "sbatch: error: allocation failure: Requested node configuration is not available"
LIMIT = "sbatch: error: AssocMaxSubmitJobLimit"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A submission whose driver has shut out node2, and one of whose jobs found no Python on node3."""
    made = tmp_path / "slurm" / "1-a"
    made.mkdir(parents=True)
    record = {"created": 100.0, "max_links": 9}
    (made / "submission.json").write_text(json.dumps(record), encoding="utf-8")
    (made / "unfit").write_text("node3\nnode3\n", encoding="utf-8")
    lines = [
        json.dumps({"event": "shut_out", "time": 99.0, "node": "node1", "why": "an earlier submission's"}),
        json.dumps({"event": "shut_out", "time": 101.0, "node": "node2", "why": "no torch"}),
        json.dumps({"event": "shut_out", "time": 102.0, "node": "node2", "why": "no torch, again"}),
        json.dumps({"event": "shut_out", "time": 103.0, "node": "$(id)", "why": "no name of a node"}),
        json.dumps({"event": "shut_out", "time": 104.0, "node": "node4"}),
        '{"event": "shut_out", "time": 105.0, "node": "no',
    ]
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return made


def test_who_is_excluded_and_why(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_python = "no Python, or no Ray, could be started there"
    assert excluded(here) == {"node3": no_python, "node2": "no torch"}
    assert excluded(here.parent / "2-b") == {}, "a new submission forgets them"
    assert chain.begin(here, "7-0") == chain.GO
    assert "excluded: node2: no torch" in capsys.readouterr().err


def refusing(said: str, enough: str) -> str:
    """A sbatch that takes one option alone."""
    return f'[[ " $* " == *" {enough} "* ]] || {{ echo "{said}" >&2; exit 1; }}'


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("true", "--exclude=node3,node2,node9"),
        (refusing(TOO_FEW, "--exclude=node2,node9"), "--exclude=node2,node9"),
        (refusing(TOO_FEW, "--exclude=node9"), None),
        (refusing(LIMIT, "nothing"), "--exclude=node3,node2,node9"),
    ],
    ids=["all", "the last found", "none", "refused for another reason"],
)
def test_enough_nodes_are_left(answer: str, option: str | None, here: Path, tmp_path: Path) -> None:
    """The same in Python, for `submit`, and in the script of a job."""
    pretended = Pretended(tmp_path)
    pretended.answer("sbatch", answer)
    expected = [option] if option else []
    assert exclude_option(pretended.slurm(), here, "worker.sbatch", "node9") == expected
    text = scripts(job(here, mode="elastic"))["worker.sbatch"]
    begin = text.index("excluded() {")
    code = text[begin : text.index("\n}\n", begin) + 3] + "excluded worker.sbatch node9"
    code = f"HERE={here}\nPYTHON=(python3)\n{code}"
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(["bash", "-uc", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected, done.stderr


def job(here: Path, **changes: object) -> Job:
    profile = Site(cpus_per_node=1, memory="1G", python=str(here / "python"), nodes=2, **changes)
    return Job("1-a", "x", here, profile, (str(here / "python"), "run"))


@pytest.mark.parametrize("preempt", ["requeue", "cancel"])
@pytest.mark.parametrize("role", ["gang", "head", "worker"])
def test_the_next_job_keeps_off_them(role: str, preempt: str, here: Path, tmp_path: Path) -> None:
    pretended = Pretended(tmp_path)
    for name in ("sbatch", "scontrol", "squeue", "scancel", "srun"):
        pretended.answer(name, "echo 9" if name == "sbatch" else "true")
    (tmp_path / "sleep").symlink_to("/bin/true")
    again, off = "echo again", "echo node3,node2"
    words = {"chain begin": "exit 0", "chain end": again, "chain worker": again, "excluded": off}
    cases = " ".join(f'*"slurm.{word}"*) {answer} ;;' for word, answer in words.items())
    cases += ' *"slurm.node worker"*) exit 75 ;;'
    (here / "python").write_text(f'#!/bin/bash\ncase "$*" in {cases} esac\n', encoding="utf-8")
    (here / "python").chmod(0o755)
    (here / "links.jsonl").write_text('{"event": "begin"}\n' * 2, encoding="utf-8")
    mode = "gang" if role == "gang" else "elastic"
    text = scripts(job(here, mode=mode, preempt=preempt, options={"exclude": "node9"}))[f"{role}.sbatch"]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}
    env |= {"SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NUM_NODES": "2"}
    subprocess.run(["bash", "-c", text], env=env, capture_output=True, timeout=30, check=False)
    sent = [call for call in pretended.calls("sbatch") if "--parsable" in call]
    updates = [call for call in pretended.calls("scontrol") if "ExcNodeList" in call]
    excludes = {"head": "node3,node2"}.get(role, "node3,node2,node9")  # that one is for workers
    assert all(f"--exclude={'node3,node2,node9' if 'worker' in call else excludes}" in call for call in sent)
    assert len(sent) == (role != "worker" or preempt == "cancel") + (role == "head")
    updated = {"requeue": ["JobId=7"], "cancel": [] if role == "worker" else ["JobId=9"]}[preempt]
    assert updates == [f"update {id} ExcNodeList={excludes}" for id in updated]
