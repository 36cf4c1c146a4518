"""The store, shown in MLflow: a parent run per sweep, a child run per point. One process writes, by replay.

A child run is created only when its point has ended, found again by its tags, and completed if a kill left it
half written: writing twice changes nothing. mlflow is imported by the code that writes, never at import.
"""

import hashlib
import json
import logging
import os
import queue
import threading
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from kd.files import write_json
from orchestrator.space.plan import Plan
from orchestrator.space.spaces import documents
from orchestrator.store.store import Store
from orchestrator.tracking.tags import FINAL, FINISHED_AT, POINT, SPACE, SWEEP, space_tags

BATCH = 1000  # metrics MLflow takes in one log_batch; params and tags: 100
LABELS = {"id", "finished_at", "versions", "git_commit", "host", "device", "model_sha256", "teacher_sha256"}


def default_uri(store: Store) -> str:
    """The sqlite database in the sweep directory."""
    return f"sqlite:///{store.path.resolve() / 'mlflow.db'}"


class Tracker:
    """Writes one sweep to one tracking server. Creating it creates schema, experiment and parent run once."""

    def __init__(self, store: Store, plan: Plan, uri: str) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.store, self.plan, self.uri = store, plan, uri
        self.points = {point.id: point for point in plan.points}
        self.sweep = _sweep_id(store)
        self._artifacts = (store.path.resolve() / "mlartifacts").as_uri()
        # MLflow writes the default experiment's place into SQL as it stands: the working directory, which may
        # have a quote in its name, unless another is given. A URI has none.
        os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", self._artifacts)
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = self._experiment()
        self.parent, self.children = self._runs()
        self._show_space()

    def begin(self) -> None:
        """Show the sweep as running."""
        self.client.update_run(self.parent, status="RUNNING")

    def end(self, status: str, summary: dict[str, float]) -> None:
        """Show how the sweep ended: FINISHED, FAILED (some points) or KILLED (interrupted)."""
        if summary:
            self._log(self.parent, _now_ms(), summary)
        self.client.set_terminated(self.parent, status=status)

    def write(self, ids: Iterable[str]) -> int:
        """Bring the child runs of these points up to date with the store; how many had to be written."""
        ids = list(ids)
        done = [id for id in ids if self.store.is_done(id)]
        errors = self.store.errors() if len(done) < len(ids) else {}
        failed = [id for id in ids if id in errors and not self.store.is_done(id)]
        written = sum(self._write(id, self.store.result(id), None) for id in done)
        return written + sum(self._write(id, {}, errors[id]) for id in failed)

    def _write(self, id: str, result: dict[str, Any], error: dict[str, Any] | None) -> bool:
        run_id, finished_at, status = self.children.get(id, (None, None, None))
        ended = error["finished_at"] if error else result["finished_at"]
        wanted = "FAILED" if error else "FINISHED"
        if (status, finished_at) == (wanted, ended):
            return False
        if (
            run_id and finished_at != ended and status == "FINISHED"
        ):  # trained again: its history is another one
            self.client.delete_run(run_id)
            run_id = None
        if run_id is None:
            run_id = self._create(id)
        history = [] if error else self.store.history(id)
        at_ms = int(datetime.fromisoformat(ended).timestamp() * 1000)
        self._log(run_id, at_ms, result, history, params=_params(self.points[id], result), ended=ended)
        if error:
            self.client.set_tag(run_id, "kdsweep.error", f"{error['type']}: {error['message']}"[:5000])
        self.client.set_terminated(run_id, status=wanted, end_time=at_ms)
        self.children[id] = (run_id, ended, wanted)
        return True

    def _show_space(self) -> None:
        """Keep the sweep's spaces with the parent run: with them, laws can be fitted from MLflow alone."""
        if text := documents(self.store.path):
            wanted = space_tags(text)
            known = self.client.get_run(self.parent).data.tags
            stale = {key: "" for key in known if key.startswith(f"{SPACE}.")}  # of a longer text
            for key, value in (stale | wanted).items():
                if known.get(key) != value:
                    self.client.set_tag(self.parent, key, value)

    def _create(self, id: str) -> str:
        point = self.points[id]
        what = point.strategy if point.role == "student" else point.role
        tags = {
            SWEEP: self.sweep,
            POINT: id,
            "kdsweep.role": point.role,
            "kdsweep.strategy": point.strategy,
            "kdsweep.folder": str(self.store.folder(id)),
            "mlflow.parentRunId": self.parent,
            "mlflow.source.name": "kdsweep",
        }
        name = f"{what} {point.arch} {point.depth}x{point.width} {id[:6]}"
        return str(self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id)

    def _log(
        self,
        run_id: str,
        at_ms: int,
        figures: dict[str, Any],
        history: list[dict[str, Any]] = (),  # type: ignore[assignment]
        params: dict[str, str] | None = None,
        ended: str | None = None,
    ) -> None:
        """One log_batch: the whole curve, with times that follow from the result, so a replay is the same."""
        from mlflow.entities import Metric, Param, RunTag

        total = figures.get("train_seconds", 0.0)
        metrics = [
            Metric(key, float(value), at_ms - int(1000 * (total - row["train_seconds"])), row["epoch"])
            for row in history
            for key, value in row.items()
            if key != "epoch"
        ]
        last = len(history)
        metrics += [
            Metric(FINAL.get(key, key), float(value), at_ms, last)
            for key, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        tags = [RunTag(FINISHED_AT, ended)] if ended else []
        if commit := figures.get("git_commit"):
            tags.append(RunTag("mlflow.source.git.commit", commit))
        while len(metrics) > BATCH:
            self.client.log_batch(run_id, metrics=metrics[:BATCH])
            metrics = metrics[BATCH:]
        # MLflow takes 100 params at a time and 1000 entities in all; ours stay far below both.
        self.client.log_batch(
            run_id, metrics=metrics, params=[Param(k, v) for k, v in (params or {}).items()], tags=tags
        )

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.plan.name)
        if found is not None:
            return str(found.experiment_id)
        local = self.uri.startswith("sqlite:")
        return str(
            self.client.create_experiment(
                self.plan.name, artifact_location=self._artifacts if local else None
            )
        )

    def _runs(self) -> tuple[str, dict[str, tuple[str, str | None, str]]]:
        """(parent, point -> (run, finished_at, status)), found by tag; the parent is created if missing."""
        parent, children, token = None, {}, None
        while True:
            page = self.client.search_runs(
                [self.experiment], f"tags.`{SWEEP}` = '{self.sweep}'", max_results=1000, page_token=token
            )
            for run in page:
                if point := run.data.tags.get(POINT):
                    children[point] = (run.info.run_id, run.data.tags.get(FINISHED_AT), run.info.status)
                else:
                    parent = run.info.run_id
            token = page.token
            if not token:
                break
        if parent is None:
            tags = {
                SWEEP: self.sweep,
                "kdsweep.folder": str(self.store.path),
                "mlflow.source.name": "kdsweep",
            }
            parent = self.client.create_run(self.experiment, run_name=self.plan.name, tags=tags).info.run_id
        return parent, children


def sync(store: Store, plan: Plan, uri: str, *, status: str, summary: dict[str, float] | None = None) -> int:
    """Replay the store into MLflow; how many runs had to be written. Safe any number of times."""
    tracker = Tracker(store, plan, uri)
    written = tracker.write(point.id for point in plan.points)
    tracker.end(status, summary or {})
    _remember(store, _key(uri), len(store.done()))
    return written


def in_sync(store: Store, uri: str) -> bool:
    """Whether MLflow is known to show every done point, without importing mlflow."""
    return bool(_memory(store).get(_key(uri)) == len(store.done()))


class LiveTracker:
    """A thread that writes points to MLflow as they end. Trouble with MLflow never stops the training."""

    def __init__(self, store: Store, plan: Plan, uri: str) -> None:
        self.store, self.plan, self.uri = store, plan, uri
        self.error: Exception | None = None
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._ending: tuple[str, dict[str, float]] = ("KILLED", {})

    def start(self) -> None:
        """Begin, once; not before the first training step, which should not wait for a schema."""
        if self._thread.ident is None:
            self._thread.start()

    def ended(self, id: str) -> None:
        """A point is done or failed for good."""
        self._queue.put(id)

    def close(self, status: str, summary: dict[str, float], patience_s: float = 60.0) -> bool:
        """Write what is left and end the parent run; whether MLflow now shows everything."""
        self._ending = (status, summary)
        self._queue.put(None)
        self.start()
        self._thread.join(patience_s)
        return self.error is None and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            tracker = Tracker(self.store, self.plan, self.uri)
            tracker.begin()
            tracker.write(point.id for point in self.plan.points)  # what an earlier run could not
            while (id := self._queue.get()) is not None:
                tracker.write([id])
            tracker.end(*self._ending)
            _remember(self.store, _key(self.uri), len(self.store.done()))
        except Exception as error:  # whatever a server, a network or a full disk may do
            self.error = error


def _params(point: Any, result: dict[str, Any]) -> dict[str, str]:
    """Everything that identifies a point, flat: recipe.lr, strategy.temperature, ..."""
    flat: dict[str, Any] = {
        key: getattr(point, key)
        for key in ("id", "role", "arch", "depth", "width", "init", "strategy", "teacher", "seed")
    }
    flat["data_fingerprint"] = point.data_fingerprint
    flat |= {f"strategy.{key}": value for key, value in point.strategy_args.items()}
    flat |= {f"recipe.{key}": value for key, value in point.recipe.items()}
    flat |= {key: result[key] for key in ("recipe_version", "device") if key in result}
    return {key: str(value) for key, value in flat.items() if value is not None}


def _memory(store: Store) -> dict[str, Any]:
    try:
        return dict(json.loads((store.path / "mlflow.json").read_text()))
    except FileNotFoundError:
        return {}


def _remember(store: Store, key: str, value: Any) -> None:
    write_json(store.path / "mlflow.json", _memory(store) | {key: value})


def _key(uri: str) -> str:
    """A tracking URI may hold a password."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def _sweep_id(store: Store) -> str:
    """This directory's own id: two people's sweeps of one name on one server stay two."""
    if "sweep" not in _memory(store):
        _remember(store, "sweep", uuid.uuid4().hex)
    return str(_memory(store)["sweep"])


def _now_ms() -> int:
    return int(datetime.now().timestamp() * 1000)
