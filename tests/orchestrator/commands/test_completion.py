"""Completion in a shell: what the scripts ask for is answered, and quickly, in a process of its own."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from orchestrator.space.plan import Plan, Point

PROGRAM = """
import sys
from orchestrator.commands.main import main
try:
    main()
finally:
    heavy = [m for m in ("torch", "ray", "mlflow", "matplotlib") if m in sys.modules]
    assert not heavy, heavy
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the sweeps wrist and wide; wrist has two points."""
    for name in ("wrist", "wide", "other"):
        folder = tmp_path / "sweeps" / name
        folder.mkdir(parents=True)
        (folder / "space.yaml").write_text(f"name: {name}\n")
    (tmp_path / "sweeps" / "no_sweep").mkdir()
    empty = {f.name: f.type() for f in fields(Point) if f.type in (str, int, float)}
    empty |= {"recipe": {}, "strategy_args": {}, "teacher": None, "fold": None, "teacher_group": None}
    size = {"arch": "mlp", "depth": 1, "width": 4}
    points = [
        Point(**(empty | size | {"id": "ab12", "role": "teacher", "strategy": "scratch"})),
        Point(**(empty | size | {"id": "ab34", "role": "student", "strategy": "soft"})),
        Point(**(empty | size | {"id": "cd56", "role": "student", "strategy": "dkd"})),
    ]
    Plan("wrist", points).save(tmp_path / "sweeps" / "wrist" / "plan.json")
    return tmp_path


def complete(here: Path, words: str, shell: str = "bash") -> list[str]:
    """What the shell is told for a line whose last word is being written."""
    at = str(len(words.split(" ")) - 1)
    last = words.split(" ")[-1]
    env = os.environ | {"_KDSWEEP_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": at}
    if shell == "fish":
        env["COMP_CWORD"] = last
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), *sys.path) if p)
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=here,
        env=env | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert out.stderr == ""
    return out.stdout.splitlines()


def test_commands(here: Path) -> None:
    assert complete(here, "kdsweep ret") == ["plain,retry"]


@pytest.mark.parametrize("command", ["status", "logs", "fit", "query", "export", "retry"])
def test_sweeps_and_directories(here: Path, command: str) -> None:
    assert complete(here, f"kdsweep {command} w") == ["dir,w", "plain,wide", "plain,wrist"]


@pytest.mark.parametrize("command", ["plan", "run", "submit"])
def test_spaces_are_sweeps_or_files(here: Path, command: str) -> None:
    assert complete(here, f"kdsweep {command} o") == ["file,o", "plain,other"]


def test_sites_are_shipped_ones_or_files(here: Path) -> None:
    assert complete(here, "kdsweep submit wrist --site pre") == ["file,pre", "plain,preemptible"]


@pytest.mark.parametrize("command", ["logs", "export", "evaluate", "retry"])
def test_points_of_the_sweep(here: Path, command: str) -> None:
    assert complete(here, f"kdsweep {command} wrist ab") == ["plain,ab12", "plain,ab34"]


def test_a_point_is_offered_once(here: Path) -> None:
    assert complete(here, "kdsweep retry wrist ab12 ab") == ["plain,ab34"]


@pytest.mark.parametrize("words", ["kdsweep logs nowhere a", "kdsweep nonsense a", "kdsweep logs wide a"])
def test_what_does_not_exist_completes_to_nothing(here: Path, words: str) -> None:
    assert not any(complete(here, words))


def test_other_shells_see_what_a_point_is(here: Path) -> None:
    lines = complete(here, "kdsweep logs wrist ab3", "zsh")
    assert lines == ["plain", "ab34", "soft mlp-1x4"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_its_shell_can_read(shell: str, tmp_path: Path) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "orchestrator.commands.main", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"_KDSWEEP_COMPLETE={shell}_complete" in out.stdout
    assert "kdsweep" in out.stdout
    if program := shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(out.stdout)
        subprocess.run([program, "-n", str(script)], check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_with_the_script(here: Path) -> None:
    """The script in a real bash, with a kdsweep on the PATH."""
    command = here / "bin" / "kdsweep"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator.commands.main "$@"\n')
    command.chmod(0o755)
    line = """
    source <(kdsweep completion bash)
    COMP_WORDS=(kdsweep logs wrist c); COMP_CWORD=3
    _kdsweep_completion kdsweep
    echo "${COMPREPLY[@]}"
    """
    root = str(Path(__file__).resolve().parents[3])
    env = os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": root}
    out = subprocess.run(["bash", "-c", line], cwd=here, env=env, capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "cd56", out.stderr


def test_hosts_that_ssh_knows_are_offered(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / ".ssh").mkdir()
    (here / ".ssh" / "config").write_text(
        "Host login lab-* logbook\n  User me\nhost other\n", encoding="utf-8"
    )
    monkeypatch.setenv("HOME", str(here))
    assert complete(here, "kdsweep status wrist --host lo") == ["plain,login", "plain,logbook"]
