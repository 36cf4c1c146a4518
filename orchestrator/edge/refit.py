"""A configuration trained once more, on all subjects, with the epochs that its points found best.

Nobody is left to validate or test on: the last epoch's weights are the model, and its error is that of the
points that were trained without the people they were tested on. Its schedule is the points' own, stopped
early: their best weights, too, are of a rate that had not yet decayed, so that this is what was measured.
Of schedule wsd it is that of their median length, since patience may have begun their cooldown early.
"""

import dataclasses
import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from kd.files import read_json, write_json
from kd.signals.prepare import Data, DataConfig, prepare
from kd.signals.splits import EVERYBODY, Split
from kd.teachers.source import source_of
from kd.training import tracking
from kd.training.recipe import RECIPE_VERSION, Recipe, Spec
from orchestrator.run.alone import alone
from orchestrator.run.commit import git_commit
from orchestrator.run.worker import compiled_engine, versions
from orchestrator.space.plan import trained_members
from orchestrator.space.resolve import cache_of
from orchestrator.space.schema import load_space
from orchestrator.store.configuration import configuration
from orchestrator.store.metric import Headline, headline
from orchestrator.store.refits import REFITTED, Refits
from orchestrator.store.store import RESULT, Store

WATCHED = 256  # training windows on which each epoch must be finite
DRAWS = 1000
Say = Callable[[str], None]
Tick = Callable[[str, int, int], None]  # id, epoch, of how many


def refit_point(
    folder: Path,
    point: str,
    seed: int | None = None,
    *,
    dry_run: bool = False,
    say: Say = lambda line: None,
    tick: Tick = lambda id, epoch, epochs: None,
) -> dict[str, Any]:
    """Train the configuration of `point`, and its teacher's, on everybody; what result.json says.

    seed: of the student, default that of the point. dry_run: only say what would be trained. What is trained
    already is kept; what was killed goes on from its checkpoint. Raises InputError, also while a driver runs.
    """
    store, refits = Store(folder), Refits(folder)
    with alone(store, dry_run):
        results = list(store.results())
        config, data = everybody(folder, say)
        chosen = store.result(point)
        made = [_described(chosen, results, data, headline(folder), seed)]
        if chosen["teacher"]:
            taught = store.result(chosen["teacher"])
            members = [
                _described(store.result(id), results, data, headline(folder), None)
                for id in trained_members(taught.get("brought", {}))
            ]
            teacher = _described(taught, results, data, headline(folder), None)
            if members:
                teacher["brought"] = _of(teacher["brought"], [member["id"] for member in members])
                teacher["id"] = _id(teacher)
            made[0]["teacher"] = teacher["id"]
            made = [*members, teacher, *made]
        made[-1]["id"] = _id(made[-1])
        if dry_run:
            return made[-1] | {"done": refits.is_done(made[-1]["id"])}
        for one in made:
            if refits.is_done(one["id"]):
                continue
            if one.get("brought"):
                _bring(one, data, config, cache_of(folder), refits, say)
            else:
                if tracker := tracker_of(one["of_points"], store, data):
                    refits.folder(one["id"]).mkdir(parents=True, exist_ok=True)
                    write_json(refits.folder(one["id"]) / tracking.FILE, {"tracker": tracker})
                _train(one, data, refits, say, tick)
        return refits.result(made[-1]["id"])


def everybody(folder: Path, say: Say) -> tuple[DataConfig, Data]:
    """A sweep's data with all subjects' windows for training; some of the same ones stand for the rest."""
    config = load_space(folder / "space.yaml", []).data_config()
    config = dataclasses.replace(config, split=Split(EVERYBODY))
    data = prepare(config, cache_of(folder), say)
    some = data.train.take(np.unique(np.linspace(0, len(data.train) - 1, WATCHED).astype(int)))
    return config, dataclasses.replace(data, val=some, test=some)


def _described(
    result: dict[str, Any], results: list[dict[str, Any]], data: Data, judge: Headline, seed: int | None
) -> dict[str, Any]:
    """What is known before it is trained."""
    alike = [r for r in results if configuration(r) == configuration(result)]
    epochs = max(1, int(statistics.median(r["best_epoch"] for r in alike) + 0.5))
    subjects = sorted({str(s) for s in np.unique(data.train.subject)})
    kept = ("role", "arch", "depth", "width", "init", "strategy", "strategy_args", "recipe", "params")
    sizes = ("macs", "activation_bytes", "weight_bytes", "weight_bytes_int8")
    described = {
        **{key: result[key] for key in (*kept, *sizes)},
        "seed": result["seed"] if seed is None else seed,
        "teacher": None,
        "epochs": epochs,
        "epochs_by": f"median best epoch of {len(alike)} point(s) of the sweep",
        "of_point": result["id"],
        "of_points": sorted(r["id"] for r in alike),
        "data_fingerprint": data.fingerprint,
        "trained_on": subjects,
        "subjects_by_dataset": dict(Counter(s.partition("/")[0] for s in subjects)),
        "estimate": estimate_of(alike, judge),
    }
    if (result.get("recipe") or {}).get("schedule") == "wsd":
        whole = max(epochs, int(statistics.median(r["epochs"] for r in alike) + 0.5))
        described["recipe"] = {**result["recipe"], "max_epochs": whole}
    if result.get("brought"):
        described["brought"] = result["brought"]
    return described | {"id": _id(described)}


def _of(brought: dict[str, Any], ids: Sequence[str]) -> dict[str, Any]:
    """A mean whose members that are trained here are these points."""
    left = iter(ids)
    of = [one | {"content": [next(left)]} if one["kind"] == "trained" else one for one in brought["of"]]
    return brought | {"of": of}


def tracker_of(points: list[str], store: Store, data: Data) -> dict[str, Any] | None:
    """A tracker for what is refitted: what it was for the sweep's points, in the median; None without any.

    How the heart rate changes it learns from everybody; nobody is left to choose the rest on.
    """
    files = [store.folder(id) / tracking.FILE for id in points]
    known = [read_json(path)["tracker"] for path in files if path.is_file()]
    if not known:
        return None
    chosen = ("temperature", "weight", "belief_temperature", "unsure_above_bpm")
    medians = {key: statistics.median(t[key] for t in known) for key in chosen}
    return {**known[0], **medians, "change": tracking.changes(tracking.steps_of(data.train))}


def _id(described: dict[str, Any]) -> str:
    """Hash of all that can change its weights; the same for every fold's point."""
    keys = ("role", "arch", "depth", "width", "init", "strategy", "strategy_args", "recipe", "seed")
    identity: list[Any] = [described[key] for key in (*keys, "teacher", "epochs", "data_fingerprint")]
    if described.get("brought"):
        identity.append(source_of(described["brought"]).identity())
    return REFITTED + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:11]


def estimate_of(alike: list[dict[str, Any]], judge: Headline) -> dict[str, Any]:
    """The error of a configuration over its folds and seeds, BPM, all of people it was not trained on.

    interval_90: by drawing the subjects of each data set again; None for fewer than 3.
    """
    said, tracked = str(judge), {}
    if judge.tracked:
        alike, judge = [judge.judged(r) for r in alike], judge.with_tracker(False)
    elif all(judge.if_tracked(r) is not None for r in alike):
        tracked = {"tracked_bpm": estimate_of(alike, judge.with_tracker(True))["error_bpm"]}
    sums: dict[str, list[float]] = {}
    for result in alike:
        known = result.get("subjects")
        rows = known or {s: {"abs_sum": m, "windows": 1} for s, m in result["mae_by_subject"].items()}
        for subject, row in rows.items():
            total = sums.setdefault(subject, [0.0, 0.0])
            total[0] += row["abs_sum"]
            total[1] += row["windows"]
    names = sorted(sums)
    folds = {r["fold"] for r in alike if r.get("fold") is not None}
    rng, among = np.random.default_rng(0), []
    groups = [
        [s for s in names if s.startswith(f"{d}/")] for d in sorted({s.partition("/")[0] for s in names})
    ]
    for _ in range(DRAWS if len(names) >= 3 else 0):
        drawn = [str(s) for group in groups for s in rng.choice(group, len(group))]
        among.append(judge(_as_result({f"{s}/{i}": sums[s] for i, s in enumerate(drawn)})))
    merged = _as_result(sums)
    people = f"{len(names)} test subjects of one split, by models trained without them"
    return {
        "metric": said,
        "error_bpm": judge(merged),
        **tracked,
        "mae_bpm": merged["mae_bpm"],
        "interval_90": [float(q) for q in np.quantile(among, [0.05, 0.95])] if among else None,
        "how": f"by {len(folds)}-fold cross-validation" if len(folds) > 1 else f"on the {people}",
        "folds": sorted(folds),
        "seeds": len({r["seed"] for r in alike}),
        "mae_by_subject": {s: sums[s][0] / sums[s][1] for s in names},
    }


def _as_result(sums: dict[str, list[float]]) -> dict[str, Any]:
    errors, windows = zip(*sums.values(), strict=True)
    return {
        "mae_bpm": float(sum(errors) / sum(windows)),
        "subjects": {s: {"abs_sum": e, "windows": n} for s, (e, n) in sums.items()},
    }


def _bring(
    described: dict[str, Any], data: Data, config: DataConfig, cache_dir: Path, refits: Refits, say: Say
) -> None:
    """The outputs of a brought teacher for everybody's windows; its head, if it has one, fitted to them."""
    from kd.teachers.bring import Bringing

    id, source = described["id"], source_of(described["brought"])
    say(f"{id}: outputs of the brought teacher {source.name}")
    run = Bringing(
        *(id, source, data, config, cache_dir, refits.folder(id), "cpu"),
        judged=False,
        folder_of=refits.folder,
    )
    while run.step() != [None]:
        pass
    made = {"recipe_version": RECIPE_VERSION, "versions": versions(), "git_commit": git_commit()}
    made |= {"finished_at": datetime.now(UTC).isoformat(timespec="milliseconds")}
    write_json(refits.folder(id) / RESULT, described | run.finish() | made)


def _train(described: dict[str, Any], data: Data, refits: Refits, say: Say, tick: Tick) -> None:
    """Train it and write its model and, last, its result.json."""
    import torch

    from kd.training.train import Run, device_name, figures, write

    recipe = dataclasses.replace(Recipe(**described["recipe"]), patience=0)
    keys = ("id", "role", "arch", "depth", "width", "init", "strategy", "strategy_args", "teacher", "seed")
    spec = Spec(**{key: described[key] for key in keys}, recipe=recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    engine = compiled_engine(say) if device == "cpu" else None
    folder, epochs = refits.folder(spec.id), described["epochs"]
    teacher = refits.folder(spec.teacher) if spec.teacher else None
    run = Run(spec, data, folder, teacher_folder=teacher, device=device, engine=engine)
    try:
        while run.epoch < epochs:
            tick(spec.id, run.epoch, epochs)
            run.step()
    except KeyboardInterrupt:
        run.checkpoint()
        raise
    tick(spec.id, epochs, epochs)
    member = run.members[0]
    model = run.shape.build()
    model.load_state_dict(run.stack.state(member.place, epochs))
    model.to(run.device).eval()
    with run.stack.precise():
        write(model, run.shape, folder, run.x if spec.role == "teacher" else None)
    measured = figures(member, run.shape, model, {})
    for name in ("val_mae_bpm", "best_epoch", "epochs"):  # of windows it was trained on
        del measured[name]
    made = {"recipe_version": RECIPE_VERSION, "versions": versions(), "git_commit": git_commit()}
    made |= {"device": device_name(run.device), "engine": run.stack.engine}
    made |= {"finished_at": datetime.now(UTC).isoformat(timespec="milliseconds")}
    write_json(folder / RESULT, described | measured | made | run.data.scales)
    run.discard_checkpoint()
