"""Job scripts: golden texts, valid bash, shellcheck, and no user text that a shell could read."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm.errors import SiteError
from slurm.job import Job, requests, scripts, slug, split_array
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


@pytest.mark.parametrize("tasks", [1, 2, 999, 1000, 1001, 2500])
def test_arrays_hold_every_task_once(tasks: int) -> None:
    arrays = split_array(tasks, 1001)
    assert sum(arrays) == tasks
    assert max(arrays) <= 1000
