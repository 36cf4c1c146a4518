"""The sweep directory, which is the truth: a point is done when its result.json exists. Knows files, not Ray.

`result.json` is written last and atomically, so that killing anything at any moment loses no finished point
and never shows half a one.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import append_json_line, read_json, read_json_lines, write_json
from kd.training.stem import CONTINUED
from orchestrator.store import parts, records
from orchestrator.store.metric import by_metric
from orchestrator.words import quoted

RESULT, ERROR, PAUSE = "result.json", "error.json", "paused.json"
DECISIONS = "decisions.jsonl"
PRETRAINED = "pretrain_loss"  # in the rows of pre-training that come first in a history
OLD_NAMES = {"birth": "init"}  # keys of results that earlier versions wrote


class Store:
    """One sweep's directory: `points/<id>/`, `ledger.jsonl`, `progress.json`. Reading needs no lock."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.damaged: dict[str, str] = {}  # id -> what is wrong with its result.json, as `results` found it
        self._seen: set[str] | None = None  # ids that have a result.json, as `results` found them

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
        points = str(self.path / "points")
        return {id for id in self.ids() if os.path.exists(f"{points}/{id}/{RESULT}")}

    def result(self, id: str) -> dict[str, Any]:
        """A trained point's result, checked (`records.RESULT`). Raises InputError if the file is damaged."""
        path, remedy = self.folder(id) / RESULT, f"train the point again with {self.retry(id)}"
        found = read_json(path, remedy)
        result = {OLD_NAMES.get(key, key): value for key, value in found.items()}
        if why := records.problem(result, records.RESULT):
            raise InputError(f"{path}: {why}: {remedy}")
        return result

    def results(self) -> Iterator[dict[str, Any]]:
        """The results of all trained points, in the order of their ids.

        Damaged ones are left out, with a warning on stderr; `damaged` then says which.
        """
        return self._read(whole=True)

    def figures(self) -> Iterator[dict[str, Any]]:
        """As `results`, but only `parts.FIGURES`, versions (None = absent), and `by_metric`, from which alone
        `metric.error_of` tells their error: much faster for many.
        """
        return self._read(whole=False)

    def compact(self) -> None:
        """Have the results of a big sweep in parts, so that who reads them next does so fast."""
        if len(self.ids()) >= parts.MANY:
            for _ in self._read(whole=False, least=1):
                pass

    def _read(self, whole: bool, least: int | None = None) -> Iterator[dict[str, Any]]:
        """Results or figures, from parts where there are many. least: so many in none make another."""
        self.damaged, self._seen = {}, None
        ids, points = sorted(self.ids()), str(self.path / "points")
        many = parts.Parts(self.path, whole, warn) if len(ids) >= parts.MANY else None
        seen: dict[str, parts.Key] = {}
        for id in ids:
            key = parts.key_of(points, id, RESULT)
            if key is None:
                continue
            seen[id] = key
            if many and (found := many.get(key)):
                yield found
                continue
            try:
                result = self.result(id)
            except FileNotFoundError:
                continue
            except InputError as error:
                self.damaged[id] = str(error)
                warn(str(error))
                continue
            if many and parts.key_of(points, id, RESULT) == key:
                many.add(key, result)
            yield result if whole else _figures(result)
        self._seen = set(seen)
        if many:
            many.close(seen.values(), parts.MANY if least is None else least)

    def errors(self, ids: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Errors of the points (default: all) that failed and were not trained since, by id.

        A point whose error.json is damaged failed all the same: its error says so.
        """
        if ids is None:
            return self._errors(set(self.ids()) - self.done())
        return self._errors({id for id in ids if not self.is_done(id)})

    def failures(self) -> dict[str, dict[str, Any]]:
        """`errors`, and those of the damaged results that the last `results` left out."""
        damaged = {id: {"id": id, "type": "InputError", "message": why} for id, why in self.damaged.items()}
        return self._errors(set(self.ids()) - (self.done() if self._seen is None else self._seen)) | damaged

    def _errors(self, ids: set[str]) -> dict[str, dict[str, Any]]:
        found = {}
        for id in sorted(ids):
            with contextlib.suppress(FileNotFoundError):
                found[id] = self._error(id)
        return found

    def _error(self, id: str) -> dict[str, Any]:
        path = self.folder(id) / ERROR
        found = path.stat()
        key = (found.st_size, found.st_mtime_ns, found.st_ino)
        known, error = _errors.get(path, (None, {}))
        if known == key:  # `status --watch` asks again and again
            return error
        try:
            error = read_json(path, "see its log.txt")
            if why := records.problem(error, records.ERROR):
                raise InputError(f"{path}: {why}: see its log.txt")
        except InputError as damage:
            warn(str(damage))
            return {"id": id, "type": "InputError", "message": str(damage)}
        _errors[path] = key, error
        return error

    def retry(self, id: str) -> str:
        """The command that trains a point again."""
        return f"`kdsweep retry {quoted(self.path)} {id}`"

    def write_result(self, id: str, result: dict[str, Any]) -> None:
        """Make a point done. An error of an earlier try is forgotten."""
        self._write(id, RESULT, result)
        for name in (ERROR, "log.txt", PAUSE):
            (self.folder(id) / name).unlink(missing_ok=True)

    def write_error(self, id: str, error: dict[str, Any]) -> None:
        """Say why a point failed."""
        self._write(id, ERROR, error)

    def write_pause(self, id: str, where: dict[str, Any]) -> None:
        """Say that a point waits after an epoch, by a decision; the caller holds its checkpoint and its lock.

        where: epoch, max_epochs, val_mae_bpm and train_seconds, as in its history.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._write(id, PAUSE, {"id": id, **where, "paused_at": at})

    def forget_pause(self, id: str) -> None:
        """A point goes on."""
        (self.folder(id) / PAUSE).unlink(missing_ok=True)

    def paused(self, ids: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Where the points (default: all) stand that wait for a decision, by id.

        What can't be read is left out, with a warning on stderr: such a point is one that was interrupted.
        """
        found = {}
        for id in sorted(self.ids() if ids is None else ids):
            path = self.folder(id) / PAUSE
            try:
                where = read_json(path, "the next run writes it anew")
                if why := records.problem(where, records.PAUSE):
                    raise InputError(f"{path}: {why}: the next run writes it anew")
            except FileNotFoundError:
                continue
            except InputError as error:
                warn(str(error))
                continue
            if not self.is_done(id):
                found[id] = where
        return found

    @property
    def stems(self) -> Path:
        """Where checkpoints lie that longer trainings of a point go on from (schedule wsd)."""
        return self.path / "stems"

    def continued(self, id: str) -> dict[str, float]:
        """What a point took over from a shorter one: continued_epochs and continued_seconds, or {}."""
        try:
            found = read_json(self.folder(id) / CONTINUED, "train the point again")
        except FileNotFoundError:
            return {}
        return {"continued_epochs": found.get("epoch", 0), "continued_seconds": found.get("seconds", 0.0)}

    def append_decision(self, entry: dict[str, Any]) -> None:
        """Add a line to decisions.jsonl."""
        append_json_line(self.path / DECISIONS, entry)

    def decisions(self) -> Iterator[dict[str, Any]]:
        """What was decided when, and what became of it; damaged lines are left out, with a warning."""
        return self._lines(self.path / DECISIONS, records.decision_problem)

    def progress(self) -> dict[str, Any] | None:
        """The running or last driver's heartbeat; None before the first, or if it can't be read."""
        path = self.path / "progress.json"
        try:
            beat = read_json(path, "the next run writes it anew")
            if why := records.problem(beat, records.PROGRESS):
                raise InputError(f"{path}: {why}: the next run writes it anew")
        except FileNotFoundError:
            return None
        except InputError as error:
            warn(str(error))
            return None
        found = {name: value for name, value in beat.items() if value is not None}
        return {"running": [], "rate_per_h": None, "eta_s": None, "slots": 0, **found}

    def write_progress(self, beat: dict[str, Any]) -> None:
        """Replace the heartbeat; not flushed to disk, because one that a crash loses is no loss."""
        write_json(self.path / "progress.json", beat, durable=False)

    def append_ledger(self, entry: dict[str, Any]) -> None:
        """Add a line to ledger.jsonl."""
        append_json_line(self.path / "ledger.jsonl", entry)

    def ledger(self) -> Iterator[dict[str, Any]]:
        """All whole lines of the ledger; damaged ones are left out, with a warning on stderr."""
        return self._lines(self.path / "ledger.jsonl", records.ledger_problem)

    def history(self, id: str) -> list[dict[str, Any]]:
        """The epochs that a point has trained, a dict of scalars each; empty before the first."""
        return [row for row in self._epochs(id) if PRETRAINED not in row]

    def pretraining(self, id: str) -> list[dict[str, Any]]:
        """The same of the epochs that it was pre-trained for."""
        return [row for row in self._epochs(id) if PRETRAINED in row]

    def _epochs(self, id: str) -> Iterator[dict[str, Any]]:
        path = self.folder(id) / "history.jsonl"
        return self._lines(path, lambda row: records.problem(row, records.EPOCH))

    def _lines(
        self, path: Path, problem: Callable[[Mapping[str, Any]], str | None]
    ) -> Iterator[dict[str, Any]]:
        for entry in read_json_lines(path):
            if why := problem(entry):
                remedy = f"`kdsweep check {quoted(self.path)} --repair` sets such lines aside"
                warn(f"{path}: a line is left out, {why}: {remedy}")
            else:
                yield entry

    def _write(self, id: str, name: str, content: dict[str, Any]) -> None:
        folder = self.folder(id)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, content, indent=1)


def own_seconds(result: Mapping[str, Any]) -> float:
    """What training took that no shorter training of the point had done before."""
    return max(float(result["train_seconds"]) - float(result.get("continued_seconds") or 0.0), 0.0)


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    figures = {name: result.get(name) for name in (*parts.FIGURES, "versions")}
    return {**figures, "by_metric": by_metric(result)}


_errors: dict[Path, tuple[tuple[int, int, int] | None, dict[str, Any]]] = {}  # as they were last read
_warned: set[str] = set()


def warn(text: str) -> None:
    """A line on stderr about a part that is left out; the same one once in a process."""
    if text not in _warned:
        _warned.add(text)
        print(f"warning: {text}", file=sys.stderr)
