"""The sweep directory, which is the truth: a point is done when its result.json exists. Knows files, not Ray.

`result.json` is written last and atomically, so that killing anything at any moment loses no finished point
and never shows half a one.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import write_atomically

RESULT, ERROR = "result.json", "error.json"
OLD_NAMES = {"birth": "init"}  # keys of results that earlier versions wrote


class Store:
    """One sweep's directory: `points/<id>/`, `ledger.jsonl`, `progress.json`. Reading needs no lock."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def folder(self, id: str) -> Path:
        """Where a point's files are."""
        return self.path / "points" / id

    def is_done(self, id: str) -> bool:
        """Whether a point is trained."""
        return (self.folder(id) / RESULT).exists()

    def done(self) -> set[str]:
        """Ids of all trained points."""
        return {id for id in self._ids() if self.is_done(id)}

    def result(self, id: str) -> dict[str, Any]:
        """A trained point's result. Raises InputError if the file is damaged."""
        result = _read(self.folder(id) / RESULT)
        return {OLD_NAMES.get(key, key): value for key, value in result.items()}

    def results(self) -> Iterator[dict[str, Any]]:
        """The results of all trained points, in the order of their ids."""
        for id in sorted(self._ids()):
            with contextlib.suppress(FileNotFoundError):
                yield self.result(id)

    def errors(self) -> dict[str, dict[str, Any]]:
        """Errors of the points that failed and were not trained since, by id."""
        found = {}
        for id in sorted(self._ids()):
            if not self.is_done(id):
                with contextlib.suppress(FileNotFoundError):
                    found[id] = _read(self.folder(id) / ERROR)
        return found

    def write_result(self, id: str, result: dict[str, Any]) -> None:
        """Make a point done. An error of an earlier try is forgotten."""
        self._write(id, RESULT, result)
        for name in (ERROR, "log.txt"):
            (self.folder(id) / name).unlink(missing_ok=True)

    def write_error(self, id: str, error: dict[str, Any]) -> None:
        """Say why a point failed."""
        self._write(id, ERROR, error)

    def progress(self) -> dict[str, Any] | None:
        """The running or last driver's heartbeat; None before the first."""
        try:
            return dict(json.loads((self.path / "progress.json").read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def append_ledger(self, entry: dict[str, Any]) -> None:
        """Add a line to ledger.jsonl: one write, so that lines of two processes never mix."""
        fd = os.open(self.path / "ledger.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(fd).st_size
            cut = size and os.pread(fd, 1, size - 1) != b"\n"  # by a full disk, which spoils that line only
            os.write(fd, ("\n" * bool(cut) + json.dumps(entry) + "\n").encode())
        finally:
            os.close(fd)

    def ledger(self) -> Iterator[dict[str, Any]]:
        """All lines of the ledger; a line that a full disk or a crash cut short is left out."""
        with contextlib.suppress(FileNotFoundError), (self.path / "ledger.jsonl").open() as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def _ids(self) -> list[str]:
        try:
            with os.scandir(self.path / "points") as entries:
                return [entry.name for entry in entries if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []

    def _write(self, id: str, name: str, content: dict[str, Any]) -> None:
        folder = self.folder(id)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, allow_nan=False)
        write_atomically(folder / name, lambda path: path.write_text(text))


def _read(path: Path) -> dict[str, Any]:
    text = path.read_text()
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); delete its folder and run the sweep again") from error
