"""`kdsweep export --c --precision int8 --qat`: a trained point fine-tuned with its integers in mind.

Kept in <sweep>/qat/<id>/, so that it is trained once and goes on where it was killed.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd.errors import InputError
from kd.files import read_json, sha256, write_json
from kd.signals.prepare import Data
from orchestrator.edge.profile import calibration_windows
from orchestrator.edge.refit import everybody
from orchestrator.edge.seen import windows_for
from orchestrator.run.alone import alone
from orchestrator.run.commit import git_commit
from orchestrator.run.worker import versions
from orchestrator.space.resolve import Opened
from orchestrator.store.check import MODEL
from orchestrator.store.refits import store_of
from orchestrator.store.store import RESULT

if TYPE_CHECKING:
    from torch import nn

FOLDER = "qat"
Say = Callable[[str], None]


def fine_tuned(
    opened: Opened, result: dict[str, Any], epochs: int, say: Say
) -> "tuple[nn.Module, dict[str, Any]]":
    """A point fine-tuned for its 8-bit student, and its record; trained unless it is already.

    `best_epoch` of the record: chosen by the 8-bit student's validation error, 0 where none was better than
    the point itself, which is the model then. A refitted point is validated on people it was trained on: it
    has no others. Raises InputError, also while a driver runs.
    """
    from kd.training.train import load_model

    store = opened.store
    id = _id(result, epochs, opened.windows)
    folder = store.path / FOLDER / id
    if not (folder / RESULT).exists():
        with alone(store, dry_run=False):
            data = opened.windows
            if "estimate" in result:
                data = windows_for(everybody(store.path, say)[1], result)
            _train(id, opened, result, epochs, data, folder, say)
    remedy = f"delete {folder} and export again"
    record = read_json(folder / RESULT, remedy)
    if record.get("model_sha256") != sha256(folder / MODEL):
        raise InputError(f"{folder / MODEL} is not what {RESULT} speaks of: {remedy}")
    channels, samples = opened.windows.test.x.shape[1:]
    shape = {"channels": channels, "samples": samples, "classes": opened.windows.classes}
    name = {key: result[key] for key in ("arch", "depth", "width")}
    return load_model(folder, **name, **shape), record


def _id(result: dict[str, Any], epochs: int, data: Data) -> str:
    """Hash of all that can change its weights."""
    from kd.edge.int8.aware import LR_SHARE

    identity = [result["id"], result["model_sha256"], epochs, LR_SHARE, data.fingerprint]
    return "q" + hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:11]


def _train(
    id: str, opened: Opened, result: dict[str, Any], epochs: int, data: Data, folder: Path, say: Say
) -> None:
    """Train it and write its model and, last, its result.json."""
    from kd.edge.int8.aware import AwareRun, aware_spec
    from kd.training.recipe import Recipe, Spec
    from kd.training.strategies import needs_teacher
    from kd.training.train import load_model, write

    kept = ("role", "arch", "depth", "width", "init", "strategy", "strategy_args", "teacher", "seed")
    spec = Spec(id=id, **{key: result[key] for key in kept}, recipe=Recipe(**result["recipe"]))
    store = store_of(opened.store.path, result["id"])
    channels, samples = data.train.x.shape[1:]
    shape = {"channels": channels, "samples": samples, "classes": data.classes}
    name = {key: result[key] for key in ("arch", "depth", "width")}
    weights = load_model(store.folder(result["id"]), **name, **shape).state_dict()
    run = AwareRun(
        aware_spec(spec, epochs),
        weights,
        data,
        calibration_windows(opened.windows),
        folder,
        teacher_folder=store.folder(result["teacher"]) if needs_teacher(spec.strategy) else None,
    )
    said = f"{id}: quantisation-aware epoch"
    say(f"{said} 0 of {epochs}: {run.before:.4f} BPM in int8 on the validation windows")
    try:
        while (row := run.step()) is not None:
            say(f"{said} {run.epoch} of {epochs}: {row['val_mae_bpm']:.4f} BPM")
    except KeyboardInterrupt:
        run.checkpoint()
        raise
    write(run.model_chosen(), run.shape, folder)
    member = run.members[0]
    record = {
        "id": id,
        "of_point": result["id"],
        "of_model_sha256": result["model_sha256"],
        "epochs": epochs,
        "best_epoch": run.chosen,
        "val_mae_bpm": min(member.best_mae, run.before),
        "val_mae_bpm_post_training": run.before,
        "lr": run.spec.recipe.lr,
        "train_seconds": round(member.train_seconds, 3),
        "model_sha256": sha256(folder / MODEL),
        "data_fingerprint": data.fingerprint,
        "versions": versions(),
        "git_commit": git_commit(),
        "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    write_json(folder / RESULT, record)
    run.discard_checkpoint()
