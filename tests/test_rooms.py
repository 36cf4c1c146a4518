"""The house: which rooms there are, who may import whom, and that no modules import each other in a circle.

Every import is read, those inside functions and under TYPE_CHECKING, too.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "kd": {"orchestrator", "slurm", "ray", "mlflow"},
    "slurm": {"orchestrator", "kd", "ray", "mlflow", "torch"},
}
# A room imports only from rooms below it; rooms of one floor don't know each other.
FLOORS = {
    "orchestrator": [
        ["__init__", "commands"],
        ["api"],
        ["report"],
        ["answers"],
        ["laws"],
        ["edge"],
        ["run"],
        ["tracking"],
        ["space"],
        ["store"],
        ["words"],
    ],
    "kd": [
        ["teachers"],
        ["edge"],
        ["training"],
        ["models", "signals"],
        ["datasets", "shipped"],
        ["recordings"],
        ["files"],
        ["errors"],
    ],
}
GROUND = {"orchestrator": {"__init__", "api", "words"}, "kd": {"__init__", "recordings", "files", "errors"}}
Imports = Mapping[str, set[str]]


def name_of(path: Path, root: Path) -> str:
    """The dotted name of a module; a package's is its folder's."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, known: Iterable[str] = ()) -> set[str]:
    """Dotted names that a module imports anywhere; `from package import module` is the module, if known."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = whole & set(known)
            names |= inside or {str(node.module)}
    return names


def house(root: Path, package: str) -> dict[str, set[str]]:
    """Every module of a package, and which of them it imports."""
    paths = {name_of(path, root): path for path in sorted((root / package).rglob("*.py"))}
    return {name: imported(path, paths) & set(paths) - {name} for name, path in paths.items()}


def room_of(module: str) -> str:
    """`run` of orchestrator.run.driver; `__init__` of the package itself."""
    return module.split(".")[1] if "." in module else "__init__"


def circle(imports: Imports) -> list[str]:
    """Some circle of imports, its first name again at the end; empty if there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(imports[name]):
            if found := walk(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in imports if (found := walk(name, []))), [])


def upward(imports: Imports, floors: list[list[str]]) -> list[str]:
    """Imports that don't lead down from one room to another below it."""
    floor = {room: level for level, rooms in enumerate(floors) for room in rooms}
    return [
        f"{name} -> {other}"
        for name, others in imports.items()
        for other in sorted(others)
        if room_of(name) != room_of(other) and not floor[room_of(name)] < floor[room_of(other)]
    ]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_knows_only_what_it_may(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert len(modules) > 1
    known = {str(m.relative_to(ROOT)): {n.partition(".")[0] for n in imported(m)} for m in modules}
    assert not {name: bad for name, names in known.items() if (bad := names & FORBIDDEN[package])}


@pytest.mark.parametrize("package", [*FLOORS, "slurm"])
def test_no_import_circle(package: str) -> None:
    imports = house(ROOT, package)
    assert sum(map(len, imports.values())) > 5
    assert not circle(imports)


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_downwards_only(package: str) -> None:
    assert not upward(house(ROOT, package), FLOORS[package])


@pytest.mark.parametrize("package", FLOORS)
def test_every_module_is_in_a_room(package: str) -> None:
    here = ROOT / package
    assert {p.stem for p in here.glob("*.py")} == GROUND[package]
    rooms = {p.name for p in here.iterdir() if p.is_dir() and p.name != "__pycache__"}
    named = {room for floor in FLOORS[package] for room in floor}
    assert rooms | GROUND[package] == named | {"__init__"}


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_says_what_it_answers_and_what_it_must_not_know(package: str) -> None:
    for init in (ROOT / package).glob("*/__init__.py"):
        said = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
        assert said, init
        assert len(said.split("\n\n")[0]) > 20, init
        assert "know" in said.lower(), init


def test_tests_mirror_the_rooms() -> None:
    for package in FLOORS:
        rooms = {p.name for p in (ROOT / package).iterdir() if p.is_dir()}
        tested = {p.name for p in (ROOT / "tests" / package).iterdir() if p.is_dir()} - {"__pycache__"}
        assert tested <= rooms, package
        assert {p.name for p in (ROOT / "tests" / package).glob("*.py")} <= {
            "conftest.py",
            "test_api.py",
            "test_files.py",
        }


def test_search_spaces_are_yaml_only() -> None:
    files = [p for p in (ROOT / "search_spaces").rglob("*") if p.is_file()]
    assert files
    assert {p.suffix for p in files} == {".yaml"}


def planted(folder: Path, files: Mapping[str, str]) -> dict[str, set[str]]:
    """A small house of these modules."""
    for name, text in files.items():
        path = folder / "orchestrator" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return house(folder, "orchestrator")


@pytest.mark.parametrize(
    "back",
    [
        "from orchestrator.laws import fit\n",
        "def late():\n    from orchestrator.laws.fit import x\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import orchestrator.laws.fit\n",
    ],
)
def test_a_planted_circle_is_found(tmp_path: Path, back: str) -> None:
    files = {"laws/fit.py": "from orchestrator.laws import holdout\n", "laws/holdout.py": back}
    assert set(circle(planted(tmp_path, files))) == {"orchestrator.laws.fit", "orchestrator.laws.holdout"}


def test_a_planted_upward_import_is_found(tmp_path: Path) -> None:
    files = {"store/find.py": "def f():\n    from orchestrator.space.plan import Plan\n", "space/plan.py": ""}
    assert upward(planted(tmp_path, files), FLOORS["orchestrator"]) == [
        "orchestrator.store.find -> orchestrator.space.plan"
    ]
