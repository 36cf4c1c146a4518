"""What files and workers said is printed as it stands: no control character, no markup is obeyed."""

import pytest

from orchestrator.commands import main
from orchestrator.commands.show import show
from orchestrator.commands.tables import Column, console
from orchestrator.commands.tables import show as show_table

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
            empty = {"result": None, "planned": None, "teacher": None, "students": [], "history": []}
            return {"point": "p", "sweep": "s", "state": "failed", "error": failed, "files": {}, **empty}

    monkeypatch.setattr("orchestrator.commands.show.open_sweep", lambda sweep: Api())
    show.main(["s", "p"], standalone_mode=False)
    assert SAFE in capsys.readouterr().out
