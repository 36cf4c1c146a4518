"""Who may import whom: the design's third column, held by reading every import, nested ones too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "kd": {"orchestrator", "slurm", "ray", "mlflow"},
    "slurm": {"orchestrator", "kd", "ray", "mlflow", "torch"},
}


def imported(path: Path) -> set[str]:
    """Top-level packages that a module imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_knows_only_what_it_may(room: str) -> None:
    modules = sorted((ROOT / room).rglob("*.py"))
    assert len(modules) > 1
    wrong = {str(m.relative_to(ROOT)): bad for m in modules if (bad := imported(m) & FORBIDDEN[room])}
    assert not wrong


def test_search_spaces_are_yaml_only() -> None:
    files = [p for p in (ROOT / "search_spaces").rglob("*") if p.is_file()]
    assert files
    assert {p.suffix for p in files} == {".yaml"}
