"""Everything a sweep's directory says of one point. Knows plan, store and progress; loads no model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from kd.errors import InputError
from orchestrator.run.status import is_running
from orchestrator.space.plan import Plan
from orchestrator.store.find import find_point
from orchestrator.store.metric import headline
from orchestrator.store.store import Store, warn


def everything_of(folder: Path, point: str) -> dict[str, Any]:
    """What `kdsweep show --json` prints. Raises InputError when no point, or several, match.

    state: done, failed, running, paused or open. planned: its entry in plan.json, None if the plan has it no
    more.
    error_bpm: of the result, by the sweep's metric. result, error, paused: the content of its files, or None.
    history: a dict an epoch. files: name -> bytes.
    students: ids of the points that learn, or are pruned, from it.
    """
    store = Store(folder)
    plan = Plan.load(folder / "plan.json").points if (folder / "plan.json").is_file() else []
    id = find_point({*store.ids(), *(p.id for p in plan)}, point, str(folder))
    planned = next((asdict(p) for p in plan if p.id == id), None)
    judge = headline(folder)
    result = store.result(id) if store.is_done(id) else None
    error = store.errors([id]).get(id)
    paused = store.paused([id]).get(id)
    beat = store.progress()
    running = is_running(beat) and any(where["point"] == id for where in (beat or {})["running"])
    teacher = (result or planned or {}).get("teacher")
    files = store.folder(id).iterdir() if store.folder(id).is_dir() else []
    states = (
        *(("done", result), ("failed", error), ("running", running), ("paused", paused)),
        ("open", True),
    )
    return {
        "sweep": folder.resolve().name,
        "point": id,
        "state": next(state for state, holds in states if holds),
        "planned": planned,
        "result": result,
        "error_bpm": judge(result) if result else None,
        "metric": str(judge),
        "error": error,
        "paused": paused,
        "teacher": _teacher(store, plan, teacher),
        "students": sorted(p.id for p in plan if p.teacher == id),
        "history": store.history(id),
        "files": {path.name: path.stat().st_size for path in sorted(files)},
    }


def _teacher(store: Store, plan: Any, id: str | None) -> dict[str, Any] | None:
    if id is None:
        return None
    found = next((asdict(p) for p in plan if p.id == id), {})
    try:
        found = store.result(id) if store.is_done(id) else found
    except InputError as error:  # another point's file: this one is shown all the same
        warn(str(error))
    return {"point": id, **{key: found.get(key) for key in ("arch", "depth", "width", "params", "mae_bpm")}}
