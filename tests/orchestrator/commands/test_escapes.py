"""What files and workers said is printed as it stands: no control character, no markup is obeyed."""

import re
from pathlib import Path

import pytest

from orchestrator.commands import main
from orchestrator.commands.echo import echo
from orchestrator.commands.show import show
from orchestrator.commands.tables import Column, console
from orchestrator.commands.tables import show as show_table
from orchestrator.laws.table import print_table

HOSTILE = "[red]a[/red] [link=x]b[/link] \x1b]0;t\x07 \u202e c"
SAFE = "[red]a[/red] [link=x]b[/link] \\x1b]0;t\\x07 \\u202e c"


def test_a_table(capsys) -> None:
    show_table(console(), [Column("name", [HOSTILE])])
    assert SAFE in capsys.readouterr().out


def test_markup_of_a_console_is_text(capsys) -> None:
    console().print("[bold]x[/bold] [/]")
    assert capsys.readouterr().out == "[bold]x[/bold] [/]\n"


def test_an_error(capsys) -> None:
    with pytest.raises(SystemExit):
        main._fail(f"{HOSTILE}\nsecond", 2)
    assert capsys.readouterr().err == f"error: {SAFE}\nsecond\n"


def test_a_point(monkeypatch, capsys) -> None:
    class Api:
        def point(self, point: str) -> dict:
            failed = {"type": "Diverged", "message": HOSTILE}
            empty = {
                "result": None,
                "planned": None,
                "teacher": None,
                "students": [],
                "history": [],
                "paused": None,
            }
            return {"point": "p", "sweep": "s", "state": "failed", "error": failed, "files": {}, **empty}

    monkeypatch.setattr("orchestrator.commands.show.open_sweep", lambda sweep: Api())
    show.main(["s", "p"], standalone_mode=False)
    assert SAFE in capsys.readouterr().out


def test_text_for_people(capsys) -> None:
    echo(f"{HOSTILE}\nsecond", err=True)
    echo(HOSTILE)
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{SAFE}\n", f"{SAFE}\nsecond\n")


def test_commands_print_text_by_no_other_way() -> None:
    """What goes past `echo` is JSON, whole files, and scripts for a shell."""
    folder = Path(main.__file__).parent
    allowed = re.compile(r"click\.echo\((json\.dumps|file\.read_text\()")
    for file in folder.glob("*.py"):
        if file.name not in ("echo.py", "schema.py", "completion.py", "main.py"):
            text = allowed.sub("", file.read_text(encoding="utf-8"))
            assert "click.echo(" not in text, file.name


def test_the_table_of_laws(capsys) -> None:
    arm = {
        "key": HOSTILE,
        "runs": [],
        "smallest": 1,
        "largest": 2,
        "forms": [],
        "verdict": "no",
        "why": HOSTILE,
    }
    print_table({"sweep": HOSTILE, "arms": [arm]})
    assert not set(capsys.readouterr().out) & {"\x1b", "\x07", "\u202e"}
