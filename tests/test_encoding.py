"""Text is UTF-8 whatever the user's locale: every call that reads or writes text names its encoding."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = set("b")


def calls_without(path: Path) -> list[str]:
    """Calls that read or write text and leave the encoding to the locale."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name == "open" and owner in ("os", "self._archive"):  # a descriptor, a member of a zip file
            continue
        named = {keyword.arg for keyword in node.keywords}
        words = [
            a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)
        ]
        modes = {w for w in words if isinstance(w, str) and w and set(w) <= set("rwxab+t")}
        if (
            (name in ("read_text", "write_text") and len(node.args) < 1 + (name == "write_text"))
            or (name in ("open", "fdopen") and not any(set(mode) & BINARY for mode in modes))
            or (name in ("run", "Popen", "check_output") and {"text", "universal_newlines"} & named)
        ) and "encoding" not in named:
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}")
    return found


def test_every_read_and_write_names_its_encoding() -> None:
    files = [f for package in ("kd", "orchestrator", "slurm") for f in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    assert not [call for file in files for call in calls_without(file)]
