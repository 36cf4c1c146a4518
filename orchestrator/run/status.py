"""Status of a sweep, read from its directory alone: by any process, at any time, without a lock.

Imports nothing heavy, since `kdsweep status` is typed often and on login nodes.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator.run.belief import answered, last_decision, verdict
from orchestrator.run.best import Best
from orchestrator.run.usage import by_kind
from orchestrator.run.usage import left as hours_left
from orchestrator.space.plan import Plan
from orchestrator.store.metric import Headline
from orchestrator.store.mixed import mixed
from orchestrator.store.parts import many_objects
from orchestrator.store.store import Store

SILENT_S = 60.0  # a heartbeat comes every 3 s; one this old means that the driver is gone


def is_running(beat: Mapping[str, Any] | None) -> bool:
    """Whether the driver that wrote this heartbeat is still there."""
    if not beat or beat.get("state") != "RUNNING" or time.time() - beat["time"] > SILENT_S:
        return False
    if beat["host"] != socket.gethostname():
        return True
    try:
        os.kill(beat["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@many_objects()
def standing(folder: Path, jobs: Callable[[], list[dict[str, Any]]] | None = None) -> dict[str, Any]:
    """What `kdsweep status --json` prints. jobs: gives the sweep's Slurm jobs; default: asks Slurm now."""
    store = Store(folder)
    plan = Plan.load(folder / "plan.json")
    ids = {p.id for p in plan.points}
    results = {r["id"]: r for r in store.figures() if r["id"] in ids}
    ledger = list(store.ledger())
    done = set(results)
    failed = {id: error for id, error in store.failures().items() if id in ids}
    blocked = blocked_of(plan, set(failed), done)
    paused = store.paused(ids - done - failed.keys())
    asked = last_decision(store)
    beat = store.progress()
    running = is_running(beat)
    left = len(ids) - len(done) - len(failed) - len(blocked)
    open_ = left - len(paused)
    now = beat["running"] if running and beat else []
    out: dict[str, Any] = {
        "sweep": plan.name,
        "folder": str(folder),
        "state": state_of(running, left, len(failed), len(ids) - len(done), asked),
        "total": len(ids),
        "done": len(done),
        "failed": len(failed),
        "blocked": len(blocked),
        "paused": len(paused),
        "left": open_,
        "running": now,
        "rate_per_h": beat["rate_per_h"] if running and beat else None,
        "eta_s": beat["eta_s"] if running and beat else None,
        "slots": beat["slots"] if running and beat else 0,
        "heartbeat": beat["time"] if beat else None,
        "host": beat["host"] if beat else None,
        "failures": {id: f"{e['type']}: {e['message']}" for id, e in failed.items()},
        "metric": plan.headline.metric,
        "metric_words": str(plan.headline),
        "folds": plan.folds,
        "best": _best(plan, results),
        "mixed": mixed(results.values()),
        "points": _points(plan, results, set(failed), blocked, set(paused), {row["point"] for row in now}),
        "answer": _answer(asked),
        "used": usage(ledger),
        "used_by": by_kind(plan, ledger),
        "hours_left": hours_left(plan, done | failed.keys() | blocked, ledger, beat, paused.values()),
    }
    if (folder / "slurm").is_dir():
        from orchestrator.run.jobs import excluded_nodes, jobs_of, last_link, ray_nodes

        out["last_link"], out["excluded"] = last_link(folder), excluded_nodes(folder)
        out["jobs"], out["ray_nodes"] = jobs() if jobs else jobs_of(folder), ray_nodes(folder)
        out["state"] = with_jobs(out["state"], out["jobs"])
    return out


def usage(ledger: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Hours of slots, CPUs and GPUs the sweep held, from its ledger: also after a kill, without Slurm."""
    hours = dict.fromkeys(("slot_hours", "cpu_hours", "gpu_hours", "train_hours"), 0.0)
    before: Mapping[str, Any] | None = None
    for entry in ledger:
        if entry["event"] == "point":
            hours["train_hours"] += entry["train_seconds"] / 3600
        if entry["event"] != "start" and before is not None:
            slot_hours = (entry["time"] - before["time"]) * before["slots"] / 3600
            hours["slot_hours"] += slot_hours
            hours["cpu_hours"] += slot_hours * before["cpus_per_slot"]
            hours["gpu_hours"] += slot_hours * before["gpus_per_slot"]
        before = None if entry["event"] == "end" else entry
    return {name: round(value, 4) for name, value in hours.items()}


def _answer(asked: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The question that a sweep is trained for, and what is believed of it."""
    if asked is None:
        return None
    found = {
        key: asked.get(key) for key in ("question", "until_regret", "gpu_hours", "stop", "belief", "time")
    }
    words = verdict(asked["belief"], asked["stop"], asked.get("until_regret"), asked["gpus_per_slot"])
    return {**found, "in_words": words}


def state_of(
    running: bool, left: int, failed: int, missing: int, asked: Mapping[str, Any] | None = None
) -> str:
    """running, done, answered, not reached, partly failed or stopped.

    left: not done, failed or blocked; missing: not done. asked: the last decision, if a question is asked.
    """
    if running:
        return "running"
    if not missing:
        return "done"
    if asked and asked["stop"]:
        return "answered" if answered(asked["stop"], asked.get("until_regret")) else "not reached"
    return "partly failed" if failed and not left else "stopped"


def with_jobs(state: str, jobs: Iterable[Mapping[str, Any]]) -> str:
    """The state of a sweep with Slurm jobs: one that would be stopped is queued, starting, or unknown."""
    active = [job for job in jobs if job["active"] is not False]
    if state != "stopped" or not active:
        return state
    if any(job["active"] is None for job in active):
        return "unknown"
    return "starting" if any(job["state"] == "RUNNING" for job in active) else "queued"


def blocked_of(plan: Plan, failed: set[str], done: set[str]) -> set[str]:
    """Points that wait for a teacher that failed, or for a mean of such a one."""
    out: set[str] = set()
    for point in plan.points:  # means follow their members, and students their teachers
        if point.id not in done and point.id not in failed and (failed | out).intersection(point.needs):
            out.add(point.id)
    return out


def _points(
    plan: Plan,
    results: Mapping[str, Mapping[str, Any]],
    failed: set[str],
    blocked: set[str],
    paused: set[str],
    running: set[str],
) -> list[dict[str, Any]]:
    """Every point of the plan, in its order; state: done, failed, blocked, paused, running or left."""
    states = dict.fromkeys(paused, "paused") | dict.fromkeys(blocked, "blocked")
    states |= dict.fromkeys(failed, "failed")
    states |= dict.fromkeys(running, "running") | dict.fromkeys(results, "done")
    return [
        {
            "id": p.id,
            "role": p.role,
            "arch": p.arch,
            "depth": p.depth,
            "width": p.width,
            "strategy": p.strategy,
            "fold": p.fold,
            "seed": p.seed,
            "state": states.get(p.id, "left"),
            "mae_bpm": results[p.id]["mae_bpm"] if p.id in results else None,
            "error_bpm": plan.headline(results[p.id]) if p.id in results else None,
            "tracked_bpm": plan.headline.if_tracked(results[p.id]) if p.id in results else None,
        }
        for p in plan.points
    ]


def _tracked(headline: Headline, results: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean error with the tracker; None if one has none."""
    errors = [headline.if_tracked(result) for result in results]
    known = [error for error in errors if error is not None]
    return fmean(known) if known and len(known) == len(errors) else None


def _best(plan: Plan, results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The best trained of each strategy, teachers apart; see `Leader`."""
    best = Best()
    for point in plan.points:
        if point.id in results:
            best.add(point, plan.headline(results[point.id]))
    return {
        kind: {
            "error_bpm": leader.error_bpm,
            "mae_bpm": results[leader.point]["mae_bpm"],
            "tracked_bpm": _tracked(plan.headline, [results[id] for id in leader.ids]),
            "point": leader.point,
            "folds": leader.folds,
            "params": results[leader.point]["params"],
            "model": f"{results[leader.point]['arch']}-{results[leader.point]['depth']}x"
            f"{results[leader.point]['width']}",
        }
        for kind, leader in best.by_kind().items()
    }
