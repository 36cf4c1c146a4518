"""The commit that a result names is that of the code, or none."""

import subprocess
from pathlib import Path

import pytest

from orchestrator.run.commit import git_commit


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()


def packages(root: Path) -> Path:
    for name in ("kd", "orchestrator"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text("", encoding="utf-8")
    return root


@pytest.fixture
def checkout(tmp_path):
    root = packages(tmp_path / "checkout")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    return root


def test_a_checkout_says_its_commit_and_whether_the_code_differs(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert git_commit(checkout) == head
    (checkout / "notes.txt").write_text("not code", encoding="utf-8")
    assert git_commit(checkout) == head
    (checkout / "kd" / "__init__.py").write_text("changed = True", encoding="utf-8")
    assert git_commit(checkout) == f"{head}-dirty"
    git(checkout, "checkout", "-q", "kd")
    (checkout / "orchestrator" / "new" / "deep").mkdir(parents=True)
    (checkout / "orchestrator" / "new" / "deep" / "more.py").write_text("", encoding="utf-8")
    assert git_commit(checkout) == f"{head}-dirty"


def test_somebody_elses_repository_is_not_named(checkout, tmp_path, monkeypatch):
    inside = packages(checkout / ".venv" / "lib" / "site-packages")
    assert git_commit(inside) is None
    assert git_commit(packages(tmp_path / "nowhere")) is None
    head = git(checkout, "rev-parse", "HEAD")
    other = packages(tmp_path / "other")
    git(other, "init", "-q")
    git(other, "add", ".")
    git(other, "commit", "-qm", "two")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))  # as in a hook
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert git_commit(checkout) == head


def test_without_git_there_is_none(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(checkout) is None
