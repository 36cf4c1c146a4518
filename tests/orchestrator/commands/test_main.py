"""The command line's frame: it is light, every command is there, and errors say what to do."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from orchestrator.commands import main as cli

HEAVY = ("torch", "ray", "mlflow", "matplotlib")


def kdsweep(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.commands.main", *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


def loaded_by(code: str, heavy: tuple[str, ...] = HEAVY) -> set[str]:
    """Which heavy packages a piece of code pulls in."""
    program = f"{code}\nimport sys\nprint(*[m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(out.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "command",
    [
        None,
        "status",
        "query",
        "plan",
        "logs",
        "fit",
        "dashboard",
        "cancel",
        "run",
        "ls",
        "results",
        "show",
        "compare",
        "retry",
        "init",
        "completion",
    ],
)
def test_help_imports_nothing_heavy(command: str | None) -> None:
    args = [command, "--help"] if command else ["--help"]
    code = "from orchestrator.commands.main import cli\n"
    code += f"try:\n    cli.main({args!r})\nexcept SystemExit:\n    pass"
    assert loaded_by(code) == set()


@pytest.mark.parametrize("command", ["status", "ls"])
def test_status_of_a_sweep_imports_neither_numpy_nor_pydantic(fitted_sweep: Path, command: str) -> None:
    code = "from orchestrator.commands.main import cli\n"
    code += f"try:\n    cli.main({[command, str(fitted_sweep)]!r})\nexcept SystemExit:\n    pass"
    assert loaded_by(code, (*HEAVY, "numpy", "pydantic", "pandas", "pyarrow", "yaml", "jinja2")) == set()


def test_a_schema_is_printed_without_anything_heavy() -> None:
    code = "from orchestrator.commands.main import cli\ncli.main(['schema'], standalone_mode=False)"
    assert loaded_by(code) == set()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_there_and_explains_itself(name: str) -> None:
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    assert command.name == name
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} is not explained"


def test_help_lists_every_command() -> None:
    text = kdsweep("--help").stdout
    assert all(name in text for name in cli.COMMANDS)


def test_readme_and_help_open_with_the_same_sentence() -> None:
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    assert cli.cli.help
    assert readme.split("\n\n")[1] == f"**{' '.join(cli.cli.help.split())}**"


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    out = kdsweep("qurey")
    assert out.returncode == 2
    assert "did you mean query?" in out.stderr


def test_no_memory_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**options: object) -> None:
        bytearray(2**62)

    monkeypatch.setattr(cli.cli, "main", full)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: out of memory: free some, or use a larger machine\n"


def test_an_error_names_the_remedy_and_ends_with_2(tmp_path: Path) -> None:
    out = kdsweep("status", "nowhere", cwd=tmp_path)
    assert out.returncode == 2
    assert out.stdout == ""
    assert out.stderr.startswith("error: no sweep at nowhere")
    assert "run the search space first" in out.stderr
