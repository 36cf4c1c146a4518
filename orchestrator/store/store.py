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
from kd.files import append_json_line, read_json_lines, write_json

RESULT, ERROR = "result.json", "error.json"
OLD_NAMES = {"birth": "init"}  # keys of results that earlier versions wrote


class Store:
    """One sweep's directory: `points/<id>/`, `ledger.jsonl`, `progress.json`. Reading needs no lock."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def folder(self, id: str) -> Path:
        """Where a point's files are."""
        return self.path / "points" / id

    def ids(self) -> list[str]:
        """Ids of all points that have a folder: trained, failed or begun."""
        try:
            with os.scandir(self.path / "points") as entries:
                return [entry.name for entry in entries if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []

    def is_done(self, id: str) -> bool:
        """Whether a point is trained."""
        return (self.folder(id) / RESULT).exists()

    def done(self) -> set[str]:
        """Ids of all trained points."""
        return {id for id in self.ids() if self.is_done(id)}

    def result(self, id: str) -> dict[str, Any]:
        """A trained point's result. Raises InputError if the file is damaged."""
        result = _read(self.folder(id) / RESULT)
        return {OLD_NAMES.get(key, key): value for key, value in result.items()}

    def results(self) -> Iterator[dict[str, Any]]:
        """The results of all trained points, in the order of their ids."""
        for id in sorted(self.ids()):
            with contextlib.suppress(FileNotFoundError):
                yield self.result(id)

    def errors(self) -> dict[str, dict[str, Any]]:
        """Errors of the points that failed and were not trained since, by id."""
        found = {}
        for id in sorted(self.ids()):
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

    def write_progress(self, beat: dict[str, Any]) -> None:
        """Replace the heartbeat; not flushed to disk, because one that a crash loses is no loss."""
        write_json(self.path / "progress.json", beat, durable=False)

    def append_ledger(self, entry: dict[str, Any]) -> None:
        """Add a line to ledger.jsonl."""
        append_json_line(self.path / "ledger.jsonl", entry)

    def ledger(self) -> Iterator[dict[str, Any]]:
        """All whole lines of the ledger."""
        return read_json_lines(self.path / "ledger.jsonl")

    def history(self, id: str) -> list[dict[str, Any]]:
        """The epochs that a point has trained, a dict of scalars each; empty before the first."""
        return list(read_json_lines(self.folder(id) / "history.jsonl"))

    def _write(self, id: str, name: str, content: dict[str, Any]) -> None:
        folder = self.folder(id)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, content, indent=1)


def _read(path: Path) -> dict[str, Any]:
    text = path.read_text()
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); delete its folder and run the sweep again") from error
