"""What is damaged in a sweep's directory, and how to mend it. Knows files, no plan and no MLflow.

Nothing is thrown away: what is damaged gets the ending .broken. Call `repair` only while no driver runs.
"""

import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import read_json, read_json_lines, sha256, write_text
from orchestrator.store import parts, records
from orchestrator.store.store import DECISIONS, ERROR, PAUSE, RESULT, Store, own_seconds

CHECKPOINT, HISTORY, MODEL = "checkpoint.pt", "history.jsonl", "model.safetensors"
LEDGER, PROGRESS = "ledger.jsonl", "progress.json"
OUTPUTS = ("logits.npy", "features.npy")  # of a teacher
BROKEN = ".broken"
AGAIN, ASIDE, REMOVE, LINES, ACCOUNT = "train again", "set aside", "remove", "drop lines", "add lines"
YOUNG_S = 60.0  # a temporary file this young may still be written to


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. path: the file, or the folder of a point that is to be trained again."""

    path: Path
    what: str
    how: str

    @property
    def point(self) -> str:
        """The id of the point that is to be trained again."""
        return self.path.name


def check(store: Store) -> list[Finding]:
    """Everything that is damaged or left over. Reads every model: some seconds for thousands of points."""
    found = [finding for id in sorted(store.ids()) for finding in _point(store, id)]
    found += [f for name in (".", "points", parts.FOLDER) for f in _left_over(store.path / name)]
    found += [Finding(path, why, REMOVE) for path, why in parts.damaged(store.path)]
    if why := _unreadable(store.path / PROGRESS, records.PROGRESS):
        found.append(Finding(store.path / PROGRESS, why, ASIDE))
    ledger = store.path / LEDGER
    if n := len(_broken_lines(ledger, records.ledger_problem)):
        found.append(Finding(ledger, f"{n} damaged lines", LINES))
    decisions = store.path / DECISIONS
    if n := len(_broken_lines(decisions, records.decision_problem)):
        found.append(Finding(decisions, f"{n} damaged lines", LINES))
    if missing := unaccounted(store):
        found.append(Finding(ledger, f"no line for {len(missing)} trained points", ACCOUNT))
    return found


def repair(store: Store, found: list[Finding]) -> None:
    """Mend what was found."""
    for finding in found:
        if finding.how == AGAIN:
            train_again(finding.path)
        elif finding.how == REMOVE:
            finding.path.unlink(missing_ok=True)
        elif finding.how == ASIDE:
            set_aside(finding.path)
        elif finding.how == LINES:
            _drop_lines(finding.path)
    if any(finding.how in (AGAIN, LINES, ACCOUNT) for finding in found):
        account(store)


def damage_of(store: Store, id: str) -> str | None:
    """Why a trained point has to be trained again; None if its result, model and outputs are sound."""
    try:
        result = store.result(id)
    except InputError as error:
        return str(error)
    outputs = [store.folder(id) / name for name in OUTPUTS] if result["role"] == "teacher" else []
    missing = (f"{path} is missing" for path in outputs if not path.is_file())
    return _model_damage(store, result) or next(missing, None)


def check_model(store: Store, result: dict[str, Any]) -> None:
    """Raise InputError, naming the point and the remedy, if its model is not the one that was trained.

    Also of a brought teacher: what takes the sweep's windows are only models that were trained on them.
    """
    brought = result.get("brought") or {}
    if brought and not (brought["kind"] == "model" and brought["same_input"]):
        raise InputError(
            f"point {result['id']} is the brought teacher {brought['name']}, no model of this sweep: choose "
            "a student"
        )
    if why := _model_damage(store, result):
        id = result["id"]
        raise InputError(f"point {id}: {why}: train it again with {store.retry(id)}, then `kdsweep run`")


def _model_damage(store: Store, result: dict[str, Any]) -> str | None:
    model = store.folder(result["id"]) / MODEL
    if not model.is_file():
        return f"{model} is missing"
    known = result.get("model_sha256")
    if known and sha256(model) != known:
        return f"{model} is damaged: it is not the file that {RESULT} was written with"
    return None


def train_again(folder: Path) -> None:
    """Make a point count as not trained; its result and model are kept aside."""
    for name in (RESULT, MODEL):  # the result first: with it the point counts as done
        set_aside(folder / name)
    if not checkpoint_is_sound(folder):
        set_aside(folder / CHECKPOINT)
    for name in (ERROR, "log.txt"):
        (folder / name).unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Rename a file to <name>.broken, if it is there."""
    if path.exists():
        path.replace(path.with_name(path.name + BROKEN))


def checkpoint_is_sound(folder: Path) -> bool:
    """Whether training can go on from the checkpoint: a whole zip file, as torch writes, and its history."""
    try:
        with zipfile.ZipFile(folder / CHECKPOINT) as file:
            return file.testzip() is None and (folder / HISTORY).is_file()
    except (zipfile.BadZipFile, EOFError, FileNotFoundError, NotImplementedError, RuntimeError):
        return False


def unaccounted(store: Store) -> list[str]:
    """Trained points that the ledger has no line of: a kill came between."""
    accounted = {
        entry.get("id") for entry in read_json_lines(store.path / LEDGER) if entry.get("event") == "point"
    }
    return sorted(id for id in store.done() if id not in accounted)


def account(store: Store) -> int:
    """Add what the ledger lacks, marked as repaired, from the results; how many lines.

    A line is put where its time belongs, with the slots of the line before it: they were held then.
    """
    lines: list[tuple[float, str]] = []
    used: list[tuple[float, dict[str, Any]]] = []
    for text in _texts(store.path / LEDGER):
        entry = _parsed(text)
        sound = entry is not None and records.ledger_problem(entry) is None
        at = float(entry["time"]) if entry and sound else (lines[-1][0] if lines else 0.0)
        lines.append((at, text))
        if entry and sound:
            used.append((at, {key: entry[key] for key in ("slots", "cpus_per_slot", "gpus_per_slot")}))
    added = 0
    for id in unaccounted(store):
        try:
            result = store.result(id)
        except (InputError, FileNotFoundError):
            continue
        at = _finished(store.folder(id) / RESULT, result)
        gpu = result.get("device") not in (None, "cpu")
        slots = next((of for when, of in reversed(used) if when <= at), None)
        slots = slots or {"slots": 0, "cpus_per_slot": 1, "gpus_per_slot": int(gpu)}
        entry = {"event": "point", "time": at, **slots, "id": id, "train_seconds": own_seconds(result)}
        lines.append((at, json.dumps(entry | {"repaired": True})))
        added += 1
    if added:
        lines.sort(key=lambda line: line[0])
        write_text(store.path / LEDGER, "".join(f"{text}\n" for _, text in lines))
    return added


def _point(store: Store, id: str) -> Iterator[Finding]:
    folder = store.folder(id)
    yield from _left_over(folder)
    if store.is_done(id):
        if why := damage_of(store, id):
            yield Finding(folder, why, AGAIN)
    elif why := _unreadable(folder / ERROR, records.ERROR):
        yield Finding(folder, why, AGAIN)
    elif (folder / CHECKPOINT).exists() and not checkpoint_is_sound(folder):
        yield Finding(folder / CHECKPOINT, "damaged, or its history is missing", ASIDE)
    if why := _unreadable(folder / PAUSE, records.PAUSE):
        yield Finding(folder / PAUSE, why, ASIDE)
    if n := len(_broken_lines(folder / HISTORY, _bad_epoch)):
        yield Finding(folder / HISTORY, f"{n} damaged lines", LINES)


def _bad_epoch(row: dict[str, Any]) -> str | None:
    return records.problem(row, records.EPOCH)


def _left_over(folder: Path) -> Iterator[Finding]:
    """Temporary files of processes that were killed."""
    for path in sorted(folder.glob(".*.tmp")) if folder.is_dir() else ():
        try:
            old = time.time() - path.stat().st_mtime > YOUNG_S
        except FileNotFoundError:
            continue
        if old or not _alive(path.name.split(".")[-2]):
            yield Finding(path, "left by a process that was killed", REMOVE)


def _alive(pid: str) -> bool:
    return pid.isdecimal() and Path(f"/proc/{pid}").exists()


def _unreadable(path: Path, spec: Any) -> str | None:
    try:
        return records.problem(read_json(path), spec)
    except FileNotFoundError:
        return None
    except InputError as error:
        return str(error)


def _texts(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.split("\n") if line]


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _broken_lines(path: Path, problem: Any) -> list[str]:
    parsed = ((text, _parsed(text)) for text in _texts(path))
    return [text for text, entry in parsed if entry is None or problem(entry)]


def _drop_lines(path: Path) -> None:
    """Keep the sound lines; the whole file stays beside it."""
    problem = {LEDGER: records.ledger_problem, DECISIONS: records.decision_problem}.get(path.name, _bad_epoch)
    texts, broken = _texts(path), set(_broken_lines(path, problem))
    shutil.copyfile(path, path.with_name(path.name + BROKEN))
    write_text(path, "".join(f"{text}\n" for text in texts if text not in broken))


def _finished(path: Path, result: dict[str, Any]) -> float:
    """When a point was finished: as its result says, else when the file was written."""
    said = result.get("finished_at")
    return datetime.fromisoformat(said).timestamp() if said else path.stat().st_mtime
