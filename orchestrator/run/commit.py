"""Which commit of the training code is running? Asked once by a driver; a result says it as `git_commit`."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # what kd and orchestrator lie in
CODE = ("kd", "orchestrator")  # what can change a result
PATIENCE_S = 20.0  # on a slow file system


def git_commit(root: Path = ROOT) -> str | None:
    """The commit of the repository that tracks this code, "-dirty" added if the code differs from it.

    None without git, outside a repository, and in one that doesn't track the code: an environment often lies
    inside somebody's repository, which has nothing to say of the packages installed there.
    """
    try:
        _git(root, "ls-files", "--error-unmatch", *(f"{name}/__init__.py" for name in CODE))
        commit = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "-uall", "--", *(f"{name}/*.py" for name in CODE))
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    # A hook or a user's shell may name another repository; reading must not wait for the index's lock.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", env=env, timeout=PATIENCE_S
    )
    return done.stdout
