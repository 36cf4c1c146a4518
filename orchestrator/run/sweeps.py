"""The sweeps in a directory, a line each. Reads files; asks neither Slurm nor Ray."""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kd.errors import InputError
from orchestrator.run.belief import last_decision
from orchestrator.run.best import Best
from orchestrator.run.status import blocked_of, is_running, state_of
from orchestrator.space.plan import Plan
from orchestrator.store.metric import headline
from orchestrator.store.parts import many_objects
from orchestrator.store.store import Store

MARKS = ("space.yaml", "plan.json", "progress.json", "ledger.jsonl", "points", "laws.json", "report.html")


def sweeps_in(folder: Path) -> list[dict[str, Any]]:
    """What `kdsweep ls --json` prints: `overview` of every sweep in a directory, the latest active first.

    A directory that is a sweep itself is the only one. Raises InputError when there is no such directory.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such directory: give the one that holds your sweeps, or run a search space first"
        )
    folders = [folder] if _is_sweep(folder) else sorted(f for f in folder.iterdir() if _is_sweep(f))
    found = [overview(f) for f in folders]
    return sorted(found, key=lambda sweep: sweep["last_activity"] or "", reverse=True)


def overview(folder: Path) -> dict[str, Any]:
    """One sweep in short: state, counts, best point, last_activity (UTC); `why` when it can't be read.

    best is the student of least test error, a teacher where there is none. total is None without a plan.
    """
    out: dict[str, Any] = {"sweep": folder.resolve().name, "folder": str(folder), "state": "unreadable"}
    out |= dict.fromkeys(("done", "failed", "blocked", "total", "best", "why"))
    out["last_activity"] = _last_activity(folder)
    try:
        return out | _read(folder)
    except InputError as error:
        return out | {"why": str(error)}


@many_objects()
def _read(folder: Path) -> dict[str, Any]:
    store = Store(folder)
    results = list(store.figures())
    errors = store.failures()
    blocked: set[str] = set()
    beat = store.progress()
    running = is_running(beat)
    total = _all_done(folder, beat, len(results)) if not errors else None
    if total is None and (folder / "plan.json").is_file():
        plan = Plan.load(folder / "plan.json")
        ids = {p.id for p in plan.points}
        results = [r for r in results if r["id"] in ids]
        errors = {id: error for id, error in errors.items() if id in ids}
        blocked = blocked_of(plan, set(errors), {r["id"] for r in results})
        total = len(plan.points)
    missing = (total or 0) - len(results)
    pool = [r for r in results if r["role"] == "student"] or results
    best = _best(folder, pool)
    left = missing - len(errors) - len(blocked)
    asked = last_decision(store)
    planned = total is not None or running
    return {
        "state": state_of(running, left, len(errors), missing, asked) if planned else "no plan",
        "done": len(results),
        "failed": len(errors),
        "blocked": len(blocked),
        "total": total,
        "best": best,
    }


def _best(folder: Path, pool: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The result of the least error by the sweep's metric; with folds of the least mean over them."""
    if not pool:
        return None
    judge = headline(folder)
    errors = {r["id"]: judge(r) for r in pool}
    leader = min(pool, key=lambda r: (errors[r["id"]], r["params"], r["id"]))
    error = errors[leader["id"]]
    if any(r["fold"] is not None for r in pool) and (folder / "plan.json").is_file():
        over = Best()
        for point in Plan.load(folder / "plan.json").points:
            if point.id in errors:
                over.add(point, errors[point.id])
        leaders = list(over.by_kind().values())
        if leaders:
            first = min(leaders, key=lambda one: (-one.folds, one.error_bpm))
            leader, error = next(r for r in pool if r["id"] == first.point), first.error_bpm
    keys = ("id", "arch", "depth", "width", "strategy", "params", "mae_bpm")
    return {**{key: leader[key] for key in keys}, "error_bpm": error, "metric": judge.metric}


def _all_done(folder: Path, beat: Mapping[str, Any] | None, done: int) -> int | None:
    """Points of the plan, if its driver ended with all of them trained and they are: plans are long."""
    if not beat or beat.get("state") != "SUCCEEDED" or not beat.get("total") == beat.get("done") == done:
        return None
    with contextlib.suppress(FileNotFoundError):
        planned, told = ((folder / name).stat().st_mtime_ns for name in ("plan.json", "progress.json"))
        return done if planned <= told else None
    return None


def _is_sweep(folder: Path) -> bool:
    return (folder / "space.yaml").is_file() or (folder / "points").is_dir()


def _last_activity(folder: Path) -> str | None:
    times = [(folder / name).stat().st_mtime for name in MARKS if (folder / name).exists()]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None
