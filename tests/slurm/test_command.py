"""Slurm's commands against a pretended Slurm on PATH: patience, refusals, and never a job twice."""

from pathlib import Path

import pytest
from pretended_commands import Pretended

from slurm.command import Slurm
from slurm.errors import Away, Refused
from slurm.states import COLUMNS

RECORDED = Path(__file__).parent / "recorded"

BUSY = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"


@pytest.fixture
def pretended(tmp_path: Path) -> Pretended:
    made = Pretended(tmp_path)
    made.answer("squeue", "true")
    return made


def queued(comment: str) -> str:
    fields = {"JobArrayID": "41", "ArrayJobID": "41", "State": "PENDING", "Comment": comment}
    return "echo '" + "".join(fields.get(k, "(null)").ljust(n) for k, n in COLUMNS.items()) + "'"


def test_a_busy_controller_is_asked_again(pretended: Pretended, tmp_path: Path) -> None:
    pretended.answer("sbatch", f"echo '{BUSY}' >&2; exit 1", "echo 7")
    assert pretended.slurm().sbatch(["x.sbatch"], comment="c", cwd=tmp_path) == "7"
    assert pretended.calls("sbatch") == ["--parsable --comment=c x.sbatch"] * 2
    assert len(pretended.calls("squeue")) == 1, "before the second time the queue was asked"


def test_an_answer_that_got_lost_is_no_second_job(pretended: Pretended, tmp_path: Path) -> None:
    pretended.answer("sbatch", "sleep 20")
    pretended.answer("squeue", queued("c"))
    assert pretended.slurm(limit_s=1.0).sbatch(["x.sbatch"], comment="c", cwd=tmp_path) == "41"
    assert len(pretended.calls("sbatch")) == 1


def test_without_an_answer_from_the_queue_nothing_is_sent_again(pretended: Pretended, tmp_path: Path) -> None:
    pretended.answer("sbatch", f"echo '{BUSY}' >&2; exit 1")
    pretended.answer("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(Away):
        pretended.slurm(patience_s=4.0).sbatch(["x.sbatch"], comment="c", cwd=tmp_path)
    assert len(pretended.calls("sbatch")) == 1


def test_a_refusal_is_final(pretended: Pretended, tmp_path: Path) -> None:
    pretended.answer("sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(Refused, match="invalid partition"):
        pretended.slurm().sbatch(["x.sbatch"], comment="c", cwd=tmp_path)
    assert len(pretended.calls("sbatch")) == 1


def test_a_machine_without_slurm_says_so(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="login node"):
        Slurm(0, {"PATH": str(tmp_path)}).run("sbatch")


def test_options_from_the_environment_do_not_reach_sbatch(pretended: Pretended) -> None:
    pretended.answer("sbatch", "env | grep -E '^(SBATCH|SLURM)'; exit 0")
    inside = {"SBATCH_PARTITION": "other", "SLURM_JOB_ID": "1", "SLURM_CONF": "/etc/slurm.conf"}
    said = pretended.slurm(**inside).run("sbatch").split()
    assert sorted(said) == ["SLURM_BITSTR_LEN=0", "SLURM_CONF=/etc/slurm.conf"]


def test_no_accounting_is_no_answer(pretended: Pretended) -> None:
    pretended.answer("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert pretended.slurm().accounted(["1"]) == []
    assert pretended.slurm().accounted([]) == []


def test_every_command_goes_to_the_cluster_of_the_profile(pretended: Pretended, tmp_path: Path) -> None:
    pretended.answer("sbatch", f"echo '{BUSY}' >&2; exit 1", "echo '67108871;blue'")
    pretended.answer("squeue", "true", f"echo 'CLUSTER: blue'; {queued('c')}")
    pretended.answer("scontrol", "echo 'MaxArraySize = 7'")
    for other in ("scancel", "sacct", "srun"):
        pretended.answer(other, "true")
    slurm = pretended.slurm(cluster="blue", SLURM_CLUSTERS="red")
    assert slurm.sbatch(["x.sbatch"], comment="c", cwd=tmp_path) == "67108871"
    assert slurm.submitted("c") == "41"
    assert slurm.max_array() == 7
    assert slurm.accounted(["41"]) == []
    slurm.run("scancel", "--quiet", "41")
    slurm.run("srun", "true")
    for command in ("sbatch", "squeue", "scontrol", "sacct", "scancel", "srun"):
        assert all(call.startswith("--clusters=blue ") for call in pretended.calls(command)), command
        assert pretended.calls(command)


@pytest.mark.parametrize(("said", "kind"), [("no-slurmdbd", Refused), ("slurmdbd-down", Away)])
@pytest.mark.parametrize("command", ["sbatch", "squeue", "scontrol"])
def test_a_cluster_that_nobody_can_find_is_told_with_its_key(
    said: str, kind: type[Exception], command: str, pretended: Pretended
) -> None:
    """recorded/: what 22.05 prints without slurmdbd, and with one that is down."""
    pretended.answer(command, f"sed s/^squeue:/{command}:/ {RECORDED}/clusters-{said}-22.05.txt >&2; exit 1")
    with pytest.raises(kind, match="clusters: other` in the site profile; it needs slurmdbd"):
        pretended.slurm(patience_s=0, cluster="other").run(command)
