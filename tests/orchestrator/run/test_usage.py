"""Hours by stage and strategy, from the ledger alone."""

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.run import usage as account

POINTS = [
    SimpleNamespace(id="t", role="teacher", strategy="scratch", cost_s=10.0),
    SimpleNamespace(id="a", role="student", strategy="soft", cost_s=20.0),
    SimpleNamespace(id="b", role="student", strategy="soft", cost_s=20.0),
]
PLAN: Any = SimpleNamespace(points=POINTS)


def done(id: str, seconds: float) -> dict[str, Any]:
    return {"event": "point", "id": id, "train_seconds": seconds, "cpus_per_slot": 2.0, "gpus_per_slot": 0.25}


def test_hours_by_kind() -> None:
    ledger = [{"event": "start"}, done("t", 3600.0), done("a", 7200.0), done("gone", 1.0), {"event": "end"}]
    used = account.by_kind(PLAN, ledger)
    assert used == {
        "teacher": {"points": 1, "slot_hours": 1, "cpu_hours": 2, "gpu_hours": 0.25},
        "soft": {"points": 1, "slot_hours": 2, "cpu_hours": 4, "gpu_hours": 0.5},
    }


def test_hours_left_follow_what_finished_points_took() -> None:
    ledger = [done("t", 7200.0)]  # 720 times the plan's estimate
    beat = {"running": [{"point": "a", "epoch": 1, "max_epochs": 4}]}
    rest = account.left(PLAN, {"t"}, ledger, beat)
    assert rest["slot_hours"] == pytest.approx(720 * (20 * 0.75 + 20) / 3600)
    assert rest["gpu_hours"] == pytest.approx(rest["slot_hours"] / 4)


def test_nothing_done_yet() -> None:
    assert account.by_kind(PLAN, []) == {}
    assert account.left(PLAN, set(), [], None) == {"slot_hours": round(50 / 3600, 4), "gpu_hours": 0.0}
