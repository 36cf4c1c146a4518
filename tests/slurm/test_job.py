"""Job scripts: golden texts, valid bash, shellcheck, and no user text that a shell could read."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pretended_commands import Pretended

from slurm.errors import SiteError
from slurm.job import Job, parsed_options, requests, scripts, slug, split_array
from slurm.site import EXAMPLES, Site, load_site

GOLDEN = Path(__file__).parent / "golden"
EXAMPLE_NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
HOSTILE = '/home/a\'; echo foo; "$(touch x)" `touch y` ünï*?\\ %j #{{x}}'


def job(
    site: Site, here: str = "/home/me/sweeps/paper/slurm/20260101-120000-abc123", sweep: str = "paper"
) -> Job:
    folder = Path(here)
    driver = ("/opt/kd/bin/python", "-P", "-m", "orchestrator.commands.main", "run", f"{folder}/space.yaml")
    return Job("20260101-120000-abc123", sweep, folder, site, (*driver, "--out", str(folder.parent.parent)))


def site(name: str) -> Site:
    return load_site(name, python="/opt/kd/bin/python")


@pytest.mark.parametrize("name", EXAMPLE_NAMES)
def test_golden(name: str) -> None:
    """To accept a change: KDSWEEP_WRITE_GOLDEN=1 pytest tests/slurm/test_job.py, and read the diff."""
    for file, text in scripts(job(site(name))).items():
        golden = GOLDEN / f"{name}-{file}"
        if os.environ.get("KDSWEEP_WRITE_GOLDEN"):
            golden.parent.mkdir(exist_ok=True)
            golden.write_text(text)
        assert text == golden.read_text()


def every_script() -> list[tuple[str, str]]:
    texts = []
    for name in EXAMPLE_NAMES:
        for mode in ("gang", "elastic"):
            for preempt in ("requeue", "cancel"):
                s = load_site(name, mode=mode, preempt=preempt, setup=["module load cuda"])
                s = s.model_copy(update={"clusters": "blue"}) if name == "cpu" else s
                texts += [
                    (f"{name} {mode} {preempt} {file}", text)
                    for file, text in scripts(job(s, HOSTILE)).items()
                ]
    return texts


@pytest.mark.parametrize("text", [pytest.param(text, id=id) for id, text in every_script()])
def test_bash_and_shellcheck_find_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(text)
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    if shutil.which("shellcheck") is None:
        assert not os.environ.get("CI"), "CI has shellcheck"
        pytest.skip("no shellcheck here")
    checked = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert checked.stdout == ""


@pytest.mark.parametrize("mode", ["gang", "elastic"])
def test_hostile_words_arrive_as_they_are(mode: str, tmp_path: Path) -> None:
    """bash itself is asked what it makes of the quoted words, in a folder where a touched file would show."""
    for text in scripts(job(load_site("cpu", mode=mode), HOSTILE, sweep=HOSTILE)).values():
        assignment = next(line for line in text.splitlines() if line.startswith("HERE="))
        probe = f'{assignment}\nprintf %s "$HERE"'
        assert (
            subprocess.run(
                ["bash", "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True
            ).stdout
            == HOSTILE
        )
        lines = [line for line in text.splitlines() if line.startswith("#SBATCH")]
        assert not any(c in line for line in lines for c in "'\"$`;\\ü")
        quoted = shlex.quote(HOSTILE)
        assert quoted in text
        rest = text.replace(quoted, "").replace(shlex.quote(f"{HOSTILE}/space.yaml"), "")
        rest = rest.replace(shlex.quote(str(Path(HOSTILE).parent.parent)), "")
        assert "touch " not in rest
    assert list(tmp_path.iterdir()) == []


def test_options_end_before_the_first_word_a_user_wrote() -> None:
    text = scripts(job(load_site("cpu")))["gang.sbatch"]
    lines = text.splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first_command for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert "/home/me" not in "\n".join(lines[:first_command])


def test_control_characters_are_refused() -> None:
    with pytest.raises(SiteError, match="control characters"):
        scripts(job(load_site("cpu"), "/home/me\n#SBATCH --uid=0"))


@pytest.mark.parametrize("c", ["\n", "\r", "\x85", "\u2028", "\u2029", "\x1b", "\x7f", "\udcff"])
def test_line_breaks_of_any_kind_are_refused(c: str) -> None:
    with pytest.raises(SiteError, match="control characters"):
        scripts(job(load_site("cpu"), f"/home/me{c}x"))
    with pytest.raises(SiteError, match="control characters"):
        scripts(job(load_site("cpu", python=f"python{c}")))


# what a profile would write if nothing were checked before: (its part, what the message names)
UNCHECKED = [
    ({"options": {"constraint\n": "a|touch x"}}, "options.constraint"),
    ({"options": {"constraint": "a\ntouch x"}}, "options.constraint"),
    ({"options": {"constraint": "a\n#SBATCH --uid=0"}}, "uid"),
    ({"options": {"constraint": "a\n#PBS -u root"}}, "#PBS"),
    ({"options": {"constraint": "a --uid=0"}}, "options.constraint"),
    ({"options": {"constraint": "a b"}}, "options.constraint"),
    ({"options": {"constraint": "'a"}}, "options.constraint"),
    ({"options": {"constraint": '"a"'}}, "options.constraint"),
    ({"options": {"constraint": "a\\b"}}, "options.constraint"),
    ({"options": {"constraint": "a #b"}}, "options.constraint"),
    ({"options": {"constraint=a --uid": "0"}}, "options.constraint"),
    ({"partition": "gpu\n\ntouch x\n"}, "partition"),
    ({"account": "'"}, "account"),
    ({"memory": "4G 5G"}, "memory"),
    ({"time": "10\nid"}, "time"),
    ({"mail_user": "a b"}, "mail_user"),
]


@pytest.mark.parametrize(("part", "names"), UNCHECKED)
@pytest.mark.parametrize("mode", ["gang", "elastic"])
def test_a_script_that_says_something_else_is_never_made(mode: str, part: dict, names: str) -> None:
    """The profile's own checks are left out here: the script is read again whatever they let pass."""
    changed = load_site("cpu", mode=mode, mail_user="me@x.org").model_copy(update=part)
    with pytest.raises(SiteError, match="would read") as error:
        scripts(job(changed))
    assert names in str(error.value)
    assert "cpu.yaml" in str(error.value)


@pytest.mark.parametrize("value", ["$(touch${IFS}x)", "`touch${IFS}x`", "a;touch", "é\u2028", "-x", "|touch"])
def test_what_sbatch_takes_as_it_stands_no_shell_sees(value: str, tmp_path: Path) -> None:
    """A header is a comment to bash."""
    changed = load_site("cpu").model_copy(update={"options": {"constraint": value}})
    text = scripts(job(changed))["gang.sbatch"]
    assert f"--constraint={value}" in parsed_options(text)
    header = text[: text.index("set -u")]
    done = subprocess.run(["bash", "-c", header], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr, list(tmp_path.iterdir())) == ("", "", [])


@pytest.mark.parametrize("mode", ["gang", "elastic"])
def test_the_whole_script_runs_with_hostile_words(mode: str, tmp_path: Path) -> None:
    """A fake python notes how it is called; the folder's name, the scratch and the driver arrive whole."""
    here = tmp_path / 'it\'s; $(touch a) `touch b` "q" # %j é'
    here.mkdir()
    python = tmp_path / "fake python"
    python.write_text(
        '#!/bin/bash\nprintf "%s\\0" "$@" >>"$CALLS"; printf "\\n" >>"$CALLS"\nexit 0\n', encoding="utf-8"
    )
    python.chmod(0o755)
    (tmp_path / "bin").mkdir()
    for command in ("srun", "sbatch", "scancel", "scontrol"):
        (tmp_path / "bin" / command).symlink_to(python)
    profile = load_site("cpu", mode=mode, python=str(python), scratch="/tmp/$(touch c)", setup=["cd ."])
    one = Job("1-a", "x", here, profile, (str(python), "run", f"{here}/space.yaml"))
    for name, text in scripts(one).items():
        path, calls = tmp_path / name, tmp_path / f"{name}.calls"
        path.write_text(text, encoding="utf-8")
        env = {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NAME": "n",
            "CALLS": str(calls),
        }
        env |= {"SLURMD_NODENAME": "n", "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NUM_NODES": "2"}
        subprocess.run(
            ["bash", str(path)], cwd=tmp_path, env=env, capture_output=True, timeout=60, check=False
        )
        called = calls.read_text(encoding="utf-8")
        assert f"{here}\0" in called
        assert not {"a", "b", "c", "foo"} & {p.name for p in (*tmp_path.iterdir(), *here.iterdir())}


@pytest.mark.parametrize(
    ("dies", "moves"),
    [("exit 127", True), ("kill -USR1 $PPID; /bin/sleep 0.5; exit 138", False)],
    ids=["no python there", "stopped before it listened"],
)
@pytest.mark.parametrize("role", ["head", "worker"])
def test_only_a_node_that_cannot_run_python_is_left(
    role: str, dies: str, moves: bool, tmp_path: Path
) -> None:
    """What a signal ends while Python starts has been cancelled or preempted: the node is not to blame."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(f"#!/bin/bash\n{dies}\n", encoding="utf-8")
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/bash\necho "$1" >>{calls}\n', encoding="utf-8")
    for path in (python, tool):
        path.chmod(0o755)
    for name in ("sleep", "scancel"):
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    profile = Site(cpus_per_node=1, memory="1G", mode="elastic", python=str(python))
    text = scripts(Job("1-a", "x", tmp_path, profile, (str(python), "run")))[f"{role}.sbatch"]
    env = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}
    subprocess.run(["bash", "-c", text], env=env, capture_output=True, timeout=30, check=False)
    said = calls.read_text(encoding="utf-8").split() if calls.exists() else []
    assert ("requeuehold" in said) == moves


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("paper", "paper"),
        ("a b/c", "a-b-c"),
        ("$(touch x)", "touch-x"),
        ("Übung", "Ubung"),
        ("日本", "sweep"),
        ("x" * 99, "x" * 40),
    ],
)
def test_job_names(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_elastic_asks_for_a_head_and_arrays_within_slurms_limit() -> None:
    calls = requests(job(load_site("preemptible", nodes=5)), max_array=3)
    assert [(c.role, c.script, c.args) for c in calls] == [
        ("head", "head.sbatch", ()),
        ("workers-0", "worker.sbatch", ("--output=%x-%A_%a.out", "--array=0-1")),
        ("workers-1", "worker.sbatch", ("--output=%x-%A_%a.out", "--array=0-1")),
        ("workers-2", "worker.sbatch", ("--output=%x-%A_%a.out", "--array=0-0")),
    ]


def asked(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH --mem")]


@pytest.mark.parametrize(
    ("changes", "worker", "head"),
    [
        ({"memory": "16G"}, ["mem=16G"], ["mem=4G"]),
        ({"memory": "none"}, [], []),
        ({"memory_per_cpu": "2G"}, ["mem-per-cpu=2G"], ["mem-per-cpu=2G"]),
        ({"memory": "none", "head": {"memory": "3G"}}, [], ["mem=3G"]),
    ],
)
def test_memory_is_asked_for_as_the_site_wants_it(
    changes: dict[str, Any], worker: list[str], head: list[str]
) -> None:
    texts = scripts(job(Site(cpus_per_node=2, mode="elastic", python="/p", **changes)))
    assert (asked(texts["worker.sbatch"]), asked(texts["head.sbatch"])) == (worker, head)


def test_how_many_workers_run_at_once_is_bounded() -> None:
    profile = Site(cpus_per_node=2, memory="1G", mode="elastic", python="/p", nodes=5, max_running=3)
    assert requests(job(profile), max_array=1001)[1].args[-1] == "--array=0-4%3"
    assert '--array="0-$((tasks - 1))%3"' in scripts(job(profile))["head.sbatch"]


@pytest.mark.parametrize(
    ("gres", "gpus"), [("gpu:a100_3g.20gb:1", 1), ("shard:4", 1), ("gpu:2", 2), ("gpu:a100:4", 4)]
)
def test_gpus_of_a_gres(gres: str, gpus: int) -> None:
    assert Site(cpus_per_node=2, memory="1G", gres=gres).gpus == gpus


@pytest.mark.parametrize("memory", [{}, {"memory": "1G", "memory_per_cpu": "1G"}])
def test_memory_is_said_once(memory: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="memory_per_cpu"):
        Site(cpus_per_node=2, **memory)


@pytest.mark.parametrize("tasks", [1, 2, 999, 1000, 1001, 2500])
def test_arrays_hold_every_task_once(tasks: int) -> None:
    arrays = split_array(tasks, 1001)
    assert sum(arrays) == tasks
    assert max(arrays) <= 1000


@pytest.mark.parametrize(("id", "federated"), [("7", False), (str((1 << 26) + 7), True)])
@pytest.mark.parametrize("role", ["head", "worker", "gang"])
def test_what_a_job_submits_stays_on_its_cluster(role: str, id: str, federated: bool, tmp_path: Path) -> None:
    """On a node plain commands reach its own controller; only a federation would look elsewhere, too."""
    pretended, python = Pretended(tmp_path), tmp_path / "python"
    word = 'case "$*" in *"chain begin"*) exit 0 ;; *"chain worker"*) echo again ;; *) exit 75 ;; esac'
    python.write_text(f"#!/bin/bash\n{word}\n", encoding="utf-8")
    python.chmod(0o755)
    for name in ("sbatch", "scancel", "scontrol", "squeue"):
        said = f'echo "${{SLURM_CLUSTERS:-}}" >>{tmp_path}/environment'
        pretended.answer(name, said + ("; echo '9;blue'" if name == "sbatch" else ""))
    for name in ("sleep", "srun"):
        (tmp_path / name).symlink_to("/bin/true")
    mode = "gang" if role == "gang" else "elastic"
    profile = Site(
        cpus_per_node=1, memory="1G", mode=mode, preempt="cancel", clusters="blue", python=str(python)
    )
    (tmp_path / "links.jsonl").write_text('{"event": "begin"}\n' * 2, encoding="utf-8")
    text = scripts(Job("1-a", "x", tmp_path, profile, (str(python), "run")))[f"{role}.sbatch"]
    assert "#SBATCH --clusters" not in text
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": id, "SLURMD_NODENAME": "n1"}
    env |= {"SLURM_CLUSTERS": "red", "SLURM_CPUS_PER_TASK": "1"}
    subprocess.run(["bash", "-c", text], env=env, capture_output=True, timeout=30, check=False)
    submitted = pretended.calls("sbatch")
    assert submitted
    assert all(("--clusters=blue" in call) == federated for call in submitted)
    assert "red" not in (tmp_path / "environment").read_text(encoding="utf-8")
    assert not any("9;blue" in call for call in pretended.calls("scancel"))  # only the id goes on
