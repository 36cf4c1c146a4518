"""What was believed when a point was started, paused, resumed or left: decisions.jsonl, for one point."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd.errors import InputError
from orchestrator.run.belief import last_decision
from orchestrator.run.point import everything_of
from orchestrator.store.store import Store
from orchestrator.words import quoted

# What of a decision is told beside each thing that became of the point.
KEPT = (
    "number",
    "time",
    "spent_s",
    "gpus_per_slot",
    "stop",
    "belief",
    "until_regret",
    "gpu_hours",
    "question",
)


def why(folder: Path, point: str) -> dict[str, Any]:
    """What `kdsweep why --json` prints. Raises InputError when no point, or several, match, or nothing was
    chosen.

    events: what became of the point, in order: started, resumed, paused (from decisions.jsonl), then done or
    failed; each with the decision that it followed: what was believed, `place` of the point among what that
    one named (1: the most valuable; None: not named, or beyond what is logged) and `until` which epoch.
    last: the last decision, for what it thinks of the point now; None once everything is trained.
    named: by how many decisions, of `decisions`.
    """
    found = everything_of(folder, point)
    store, id = Store(folder), found["point"]
    decisions: dict[int, dict[str, Any]] = {}
    events, named = [], 0
    for entry in store.decisions():
        if entry["event"] == "decision":
            decisions[entry["number"]] = entry
            named += any(one["id"] == id for one in entry["train"])
        elif entry.get("id") == id:
            by = decisions.get(entry["decision"])
            events.append({**entry, "decision": _of(by, id) if by else None})
    if not decisions:
        raise InputError(
            f"{folder}: every point is trained, nothing was chosen: decisions are taken by "
            f'`kdsweep run {quoted(folder)} --answer "max-params=60000"`'
        )
    last = last_decision(store)
    return {
        "sweep": found["sweep"],
        "point": id,
        "state": "left" if found["state"] == "open" else found["state"],
        "what": found["result"] or found["planned"],
        "error_bpm": found["error_bpm"],
        "events": events,
        "named": named,
        "decisions": len(decisions),
        "last": _of(last, id) if last else None,
    }


def _of(decision: Mapping[str, Any], id: str) -> dict[str, Any]:
    """A decision as far as it concerns a point."""
    place = next((k for k, one in enumerate(decision["train"], 1) if one.get("id") == id), None)
    until = decision["train"][place - 1]["until"] if place else None
    return {
        **{key: decision.get(key) for key in KEPT},
        "named": decision["named"],
        "place": place,
        "until": until,
    }
