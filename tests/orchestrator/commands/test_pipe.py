"""`kdsweep ... | head`: when nobody reads on, the command ends with 0 and says nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
KDSWEEP = f"{sys.executable} -m orchestrator.commands.main"


def codes(command: str, cwd: Path, said: str = "/dev/null", **env: str) -> tuple[list[int], str]:
    """PIPESTATUS of a pipeline, and its stderr."""
    done = subprocess.run(
        ["bash", "-c", f'{command} >{said}; echo "${{PIPESTATUS[*]}}"'],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        check=True,
    )
    return [int(code) for code in done.stdout.split()], done.stderr


@pytest.fixture
def sweeps(fitted_sweep, tmp_path: Path) -> Path:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "fitted").symlink_to(fitted_sweep)
    return tmp_path


# the first line already finds nobody: through click, the csv module, and rich
@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "schema",
        "results fitted",
        "results fitted --csv -",
        "status fitted --all",
        "logs fitted",
    ],
)
def test_nobody_reads(sweeps: Path, command: str) -> None:
    assert codes(f"{KDSWEEP} {command} | (exec <&-; sleep 0.1)", sweeps) == ([0, 0], "")


def test_head_reads_the_first_line_only(sweeps: Path) -> None:
    assert codes(f"{KDSWEEP} results fitted --json | head -1", sweeps, PYTHONUNBUFFERED="1") == ([0, 0], "")


def test_an_error_keeps_its_code(sweeps: Path) -> None:
    assert codes(f"{KDSWEEP} status nowhere 2>&1 | (exec <&-; sleep 0.1)", sweeps)[0] == [2, 0]


def test_a_connection_that_breaks_is_an_error_still(tmp_path: Path) -> None:
    """Only stdout and stderr may end unread; the pipe to a server may not."""
    program = (
        "import click, sys\nfrom orchestrator.commands import main\n"
        "@click.command()\ndef away():\n    raise BrokenPipeError(32, 'Broken pipe')\n"
        "main.cli.get_command = lambda ctx, name: away\nmain.COMMANDS['away'] = ''\n"
        "sys.argv = ['kdsweep', 'away']\nmain.main()\n"
    )
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    (code, _), said = codes(f"{sys.executable} program.py | cat", tmp_path)
    assert code == 1
    assert "a connection broke" in said


def test_a_full_disk_is_an_error_still(tmp_path: Path) -> None:
    (code,), said = codes(f"{KDSWEEP} schema", tmp_path, said="/dev/full")
    assert code == 1
    assert said == "error: the system: No space left on device\n"
