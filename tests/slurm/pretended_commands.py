"""Slurm's commands, pretended, for a PATH."""

import os
from pathlib import Path

from slurm.command import Slurm


class Pretended:
    """Commands that write down each call and answer as told, the last answer for ever."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answer(self, command: str, *answers: str) -> None:
        """Each answer is bash; call N gets the N-th."""
        cases = "".join(f"{i + 1}) {text} ;;\n" for i, text in enumerate(answers[:-1]))
        path = self.folder / command
        path.write_text(
            f"#!/bin/bash\nprintf '%s\\n' \"$*\" >> '{path}.calls'\n"
            f"case $(wc -l < '{path}.calls') in\n{cases}*) {answers[-1]} ;;\nesac\n"
        )
        path.chmod(0o755)

    def calls(self, command: str) -> list[str]:
        """What a command was called with."""
        path = self.folder / f"{command}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def slurm(
        self, patience_s: float = 10.0, limit_s: float = 10.0, cluster: str | None = None, **env: str
    ) -> Slurm:
        """As kdsweep uses it."""
        return Slurm(patience_s, {"PATH": f"{self.folder}:{os.environ['PATH']}", **env}, limit_s, cluster)
