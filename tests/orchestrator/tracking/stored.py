"""A small sweep's store, filled without training; what MLflow shows of it; writers that are killed."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import sqlalchemy

from kd.signals.prepare import Data
from kd.signals.windows import Dropped, WindowSet
from orchestrator.space.plan import Plan
from orchestrator.space.planning import make_plan
from orchestrator.space.schema import SearchSpace
from orchestrator.store.store import Store

SPACE = {
    "name": "tracked",
    "teachers": [{"arch": "resnet1d", "depth": 2, "width": 8}],
    "students": [{"arch": "mlp", "depth": 2, "width": [4, 8]}],
    "strategies": {"scratch": None, "soft": {"temperature": 2}},
}
EPOCHS = 3


def plan() -> Plan:
    names = np.array(["a"] * 10)
    side = WindowSet(np.zeros((10, 1, 200), np.float32), np.zeros(10, np.float32), names, names)
    return make_plan(SearchSpace.model_validate(SPACE), Data(side, side, side, "f", Dropped(), 30, 180))


def finish(store: Store, plan: Plan, index: int, mae: float = 5.0, at: str = "12:00:00") -> str:
    point = plan.points[index]
    folder = store.folder(point.id)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"epoch": e, "train_loss": 1.0 / e, "val_mae_bpm": 9.0 - e, "lr": 1e-3, "train_seconds": float(e)}
        for e in range(1, EPOCHS + 1)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store.write_result(
        point.id,
        {
            **asdict(point),
            "mae_bpm": mae,
            "val_mae_bpm": 6.0,
            "train_seconds": 3.5,
            "params": point.params,
            "mae_by_subject": {"a/1": mae - 2, "a/2": mae},
            "git_commit": "c0ffee",
            "finished_at": f"2026-01-01T{at}+00:00",
        },
    )
    return point.id


def runs_of(client: Any, plan: Plan) -> tuple[Any, dict[str, Any]]:
    """The parent run and, by point, its children: one each."""
    experiment = client.get_experiment_by_name(plan.name)
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    children = {r.data.tags["kdsweep.point"]: r for r in runs if "kdsweep.point" in r.data.tags}
    assert len(children) == sum("kdsweep.point" in r.data.tags for r in runs), "two runs for one point"
    (parent,) = [r for r in runs if "kdsweep.point" not in r.data.tags]
    return parent, children


def in_child(work: Callable[[], object]) -> int:
    """Do something in a fork; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def killed(work: Callable[[], object], statement: int) -> bool:
    """Do something in a fork that gets SIGKILL before its n-th SQL statement; False if it has fewer."""

    def until_killed() -> None:
        seen = 0

        @sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "before_cursor_execute")
        def count(*_: object) -> None:
            nonlocal seen
            seen += 1
            if seen == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        work()

    return os.waitstatus_to_exitcode(in_child(until_killed)) == -signal.SIGKILL
