"""What a sweep has used and will use, from its own ledger and plan: no Slurm accounting, no torch, no Ray."""

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.space.plan import Plan


def by_kind(plan: Plan, ledger: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Hours that finished points took: "teacher", or the strategy -> points, slot_, cpu_ and gpu_hours.

    A point's seconds are all that went into it, over every link of a chain; epochs that a kill lost are in
    `status.usage`, which counts what the sweep held.
    """
    points = {p.id: p for p in plan.points}
    used: dict[str, dict[str, float]] = {}
    for entry in ledger:
        point = points.get(entry.get("id", "")) if entry["event"] == "point" else None
        if point is None:
            continue
        kind = "teacher" if point.role == "teacher" else point.strategy
        hours = entry["train_seconds"] / 3600
        row = used.setdefault(kind, dict.fromkeys(("points", "slot_hours", "cpu_hours", "gpu_hours"), 0.0))
        row["points"] += 1
        row["slot_hours"] += hours
        row["cpu_hours"] += hours * entry["cpus_per_slot"]
        row["gpu_hours"] += hours * entry["gpus_per_slot"]
    return {kind: {name: round(value, 6) for name, value in row.items()} for kind, row in used.items()}


def left(
    plan: Plan,
    over: set[str],
    ledger: Iterable[Mapping[str, Any]],
    beat: Mapping[str, Any] | None,
    paused: Iterable[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """Hours that the points not in `over` are estimated to take: slot_hours, gpu_hours.

    The plan's costs, scaled by what finished points took; GPUs of a slot as last seen in the ledger.
    paused: how far those are that wait.
    """
    cost = {p.id: p.cost_s for p in plan.points}
    estimated = took = gpus = 0.0
    for entry in ledger:
        gpus = entry.get("gpus_per_slot", gpus)
        if entry["event"] == "point" and entry["id"] in cost:
            estimated += cost[entry["id"]]
            took += entry["train_seconds"]
    behind = {where["id"]: where["epoch"] / where["max_epochs"] for where in paused}
    behind |= {row["point"]: row["epoch"] / row["max_epochs"] for row in (beat or {}).get("running", [])}
    rest = sum(c * (1 - behind.get(id, 0.0)) for id, c in cost.items() if id not in over)
    hours = rest * (took / estimated if estimated else 1.0) / 3600
    return {"slot_hours": round(hours, 4), "gpu_hours": round(hours * gpus, 4)}
