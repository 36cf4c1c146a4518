"""`kdsweep init`: from a checkout and from an installed wheel; nothing that exists is touched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.commands.init import init
from orchestrator.space.schema import load_space
from slurm.site import load_site

ROOT = Path(__file__).resolve().parents[3]
EXPECTED = {
    *(f"search_spaces/{p.name}" for p in (ROOT / "search_spaces").iterdir()),
    *(f"slurm/sites/{p.name}" for p in (ROOT / "slurm" / "sites").iterdir()),
    "docs/search_space.schema.json",
    "docs/site.schema.json",
}


def call(*args: object) -> Result:
    out = CliRunner().invoke(init, [str(a) for a in args], catch_exceptions=False)
    assert out.exit_code == 0
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_everything_is_written_as_in_the_checkout(tmp_path: Path) -> None:
    out = call(tmp_path / "new" / "folder")
    written = files(tmp_path / "new" / "folder")
    assert set(written) == EXPECTED
    assert set(out.stdout.splitlines()) == {str(tmp_path / "new" / "folder" / name) for name in written}
    assert written == {name: (ROOT / name).read_bytes() for name in EXPECTED}
    for name in written:
        if name.startswith("search_spaces"):
            load_space(tmp_path / "new" / "folder" / name)
        elif name.startswith("slurm"):
            load_site(str(tmp_path / "new" / "folder" / name))


def test_a_file_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    mine = tmp_path / "search_spaces" / "wrist.yaml"
    mine.parent.mkdir()
    mine.write_text("mine")
    nowhere = tmp_path / "search_spaces" / "paper.yaml"
    nowhere.symlink_to(tmp_path / "nowhere")
    for args in ((tmp_path, "--dry-run"), (tmp_path,)):
        out = call(*args)
        assert f"exists, left as it is: {mine}\n" in out.stderr
        assert f"exists, left as it is: {nowhere}\n" in out.stderr
        assert str(mine) not in out.stdout
        assert str(tmp_path / "docs" / "site.schema.json") in out.stdout
    assert mine.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert call(tmp_path).stdout == ""


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    out = call(tmp_path / "new", "--dry-run")
    assert len(out.stdout.splitlines()) == len(EXPECTED)
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, installed without its dependencies into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    names = ["kd", "orchestrator", "slurm", "search_spaces", "pyproject.toml", "README.md", "LICENSE"]
    tree.mkdir()
    for name in names:  # built from a copy: setuptools writes into the tree
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(tree)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "installed"
    install = ["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    return target


def test_an_installed_wheel_writes_the_same(installed: Path, tmp_path: Path) -> None:
    program = "import orchestrator; print(orchestrator.__file__); from orchestrator.commands.main import main"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(installed)}
    out = subprocess.run(
        [sys.executable, "-c", f"{program}; main()", "init", "here"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines()[0].startswith(str(installed))
    assert files(tmp_path / "here") == {name: (ROOT / name).read_bytes() for name in EXPECTED}


def test_a_wheel_holds_no_tests_and_every_room(installed: Path) -> None:
    assert {p.name for p in installed.iterdir() if p.is_dir() and ".dist-info" not in p.name} <= {
        "kd",
        "orchestrator",
        "slurm",
        "search_spaces",
        "bin",
    }
    rooms = {str(p.relative_to(ROOT)) for p in (ROOT / "orchestrator").rglob("*.py")}
    assert rooms <= {str(p.relative_to(installed)) for p in (installed / "orchestrator").rglob("*.py")}
