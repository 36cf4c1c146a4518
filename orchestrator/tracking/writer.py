"""The store, shown in MLflow: a parent run per sweep, a child run per point. One process writes, by replay.

A child run is created only when its point has ended, found again by its tags, and completed if a kill left it
half written: writing twice changes nothing. mlflow is imported by the code that writes, never at import.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from kd.errors import InputError
from orchestrator.space.plan import Plan
from orchestrator.space.spaces import documents
from orchestrator.store.metric import by_metric
from orchestrator.store.store import Store
from orchestrator.tracking.client import connect, experiment_id, told
from orchestrator.tracking.database import make_whole, sqlite_file
from orchestrator.tracking.memory import key, locked, recall, remember, sweep_id
from orchestrator.tracking.tags import (
    BY_METRIC,
    FINAL,
    FINISHED_AT,
    LOGGED,
    METRIC,
    POINT,
    SPACE,
    STATE,
    SWEEP,
    space_tags,
)
from orchestrator.words import model_name

PARENT = "mlflow.parentRunId"
WAITING = "SCHEDULED"  # MLflow's status of a run that will go on
DATABASE = "mlflow.db"  # in the sweep directory
BATCH = 1000  # metrics MLflow takes in one log_batch; params and tags: 100
LABELS = {"id", "finished_at", "versions", "git_commit", "host", "device", "model_sha256", "teacher_sha256"}


def default_uri(store: Store) -> str:
    """The sqlite database in the sweep directory."""
    return f"sqlite:///{store.path.resolve() / DATABASE}"


def warn(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def artifacts_uri(store: Store) -> str:
    """Where that database keeps artifacts."""
    return (store.path.resolve() / "mlartifacts").as_uri()


@dataclass(frozen=True)
class Child:
    """The run of a point, as far as there is one. metric: of its error_bpm. epochs: at its last pause."""

    run: str | None = None
    finished_at: str | None = None
    status: str | None = None
    metric: str | None = None
    epochs: int = 0


class Tracker:
    """Writes one sweep to one tracking server. Creating it creates schema, experiment and parent run once.

    copy: see `memory.sweep_id`. Raises what MLflow raises: use it inside `client.told`.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        uri: str,
        say: Callable[[str], None] = warn,
        copy: str | None = None,
    ) -> None:
        self.store, self.plan, self.uri = store, plan, uri
        self.points = {point.id: point for point in plan.points}
        private = uri == default_uri(store)
        if private and sqlite_file(uri) != store.path.resolve() / DATABASE:
            raise InputError(
                f"{store.path}: a database can't be in a directory with '?' in its name: rename it, or give "
                f"--tracking-uri"
            )
        self.sweep = sweep_id(store, uri, private=private, say=say, copy=copy)
        self._artifacts = artifacts_uri(store)
        # MLflow writes the default experiment's place into SQL as it stands: the working directory, which may
        # have a quote in its name, unless another is given. A URI has none.
        os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", self._artifacts)
        if said := make_whole(uri, self._artifacts, private=private):
            say(said)
        self.client = connect(uri)
        self.experiment = self._experiment()
        if private:
            self._adopt(recall(store).get("forked_from", []))
        self.parent = ""
        self.children: dict[str, Child] = {}  # by point
        self._seen = -1
        with self._alone():
            self._show_space()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process writes this sweep there; knowing what others wrote before."""
        with locked(self.store.path / f".mlflow-{key(self.uri)}.lock") as fd:
            if fd is None or os.fstat(fd).st_mtime_ns != self._seen:
                self.parent, self.children = self._runs()
            yield
            if fd is not None:
                os.utime(fd, ns=(time.time_ns(),) * 2)
                self._seen = os.fstat(fd).st_mtime_ns

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
        errors = self.store.errors(set(ids) - set(done))
        failed = [id for id in ids if id in errors and not self.store.is_done(id)]
        waiting = self.store.paused(set(ids) - set(done) - set(failed))
        with self._alone():
            written = sum(self._write(id, self.store.result(id), None) for id in done)
            written += sum(self._write(id, {}, errors[id]) for id in failed)
            return written + sum(self._pause(id, where) for id, where in waiting.items())

    def _pause(self, id: str, where: dict[str, Any]) -> bool:
        """Show a point that waits, with its curve so far."""
        known = self.children.get(id, Child())
        wanted = Child(known.run, where["paused_at"], WAITING, known.metric, where["epoch"])
        if known == wanted:
            return False
        run_id = known.run
        if run_id and known.status == "FINISHED":
            self.client.delete_run(run_id)  # it was trained before, and is trained again
            run_id = None
        epochs = known.epochs if run_id else 0
        if run_id is None:
            run_id = self._create(id)
        history = self.store.history(id)[epochs : where["epoch"]]
        at_ms = int(datetime.fromisoformat(where["paused_at"]).timestamp() * 1000)
        tags = {FINISHED_AT: where["paused_at"], STATE: "paused", LOGGED: str(where["epoch"])}
        figures = {"train_seconds": where["train_seconds"]}
        self._log(run_id, at_ms, figures, history, params=_params(self.points[id], {}), tags=tags)
        self.client.update_run(run_id, status=WAITING)
        self.children[id] = replace(wanted, run=run_id)
        return True

    def _write(self, id: str, result: dict[str, Any], error: dict[str, Any] | None) -> bool:
        known = self.children.get(id, Child())
        ended = error["finished_at"] if error else result["finished_at"]
        status = "FAILED" if error else "FINISHED"
        wanted = Child(known.run, ended, status, str(self.plan.headline), known.epochs)
        if known == wanted or (error and known == replace(wanted, metric=known.metric)):
            return False
        run_id = known.run
        if run_id and known.finished_at != ended and known.status == "FINISHED":
            self.client.delete_run(run_id)  # trained again: its history is another one
            run_id, wanted = None, replace(wanted, epochs=0)
        if run_id is None:
            run_id = self._create(id)
        history = [] if error else self.store.history(id)[wanted.epochs :]
        at_ms = int(datetime.fromisoformat(ended).timestamp() * 1000)
        figures = result if error else {**result, "error_bpm": self.plan.headline(result)}
        tags = {FINISHED_AT: ended, METRIC: str(self.plan.headline), STATE: "failed" if error else "done"}
        if not error:
            tags[BY_METRIC] = json.dumps(by_metric(result))
        self._log(run_id, at_ms, figures, history, params=_params(self.points[id], result), tags=tags)
        if error:
            self.client.set_tag(run_id, "kdsweep.error", f"{error['type']}: {error['message']}"[:5000])
        self.client.set_terminated(run_id, status=wanted.status, end_time=at_ms)
        self.children[id] = replace(wanted, run=run_id)
        return True

    def _show_space(self) -> None:
        """Keep spaces and metric with the parent run: with them, laws can be fitted from MLflow alone."""
        if text := documents(self.store.path):
            headline = self.plan.headline
            metric = {"metric": headline.metric, "metric_weights": dict(headline.weights)}
            wanted = space_tags(text) | {METRIC: json.dumps(metric)}
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
            PARENT: self.parent,
            "mlflow.source.name": "kdsweep",
        }
        name = f"{what} {model_name(point.arch, point.depth, point.width, '{} {}x{}')} {id[:6]}"
        return str(self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id)

    def _log(
        self,
        run_id: str,
        at_ms: int,
        figures: dict[str, Any],
        history: list[dict[str, Any]] = (),  # type: ignore[assignment]
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
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
        last = int(history[-1]["epoch"]) if history else 0
        metrics += [
            Metric(FINAL.get(key, key), float(value), at_ms, last)
            for key, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        shown = dict(tags or {})
        if commit := figures.get("git_commit"):
            shown["mlflow.source.git.commit"] = commit
        while len(metrics) > BATCH:
            self.client.log_batch(run_id, metrics=metrics[:BATCH])
            metrics = metrics[BATCH:]
        # MLflow takes 100 params at a time and 1000 entities in all; ours stay far below both.
        self.client.log_batch(
            run_id,
            metrics=metrics,
            params=[Param(k, v) for k, v in (params or {}).items()],
            tags=[RunTag(k, v) for k, v in shown.items()],
        )

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException
        from mlflow.store.db.db_types import DATABASE_ENGINES

        if found := experiment_id(self.client, self.uri, self.plan.name):
            return found
        place = self._artifacts if self.uri.startswith(tuple(DATABASE_ENGINES)) else None  # a server knows
        try:
            return str(self.client.create_experiment(self.plan.name, artifact_location=place))
        except MlflowException:  # another process was faster
            if found := experiment_id(self.client, self.uri, self.plan.name):
                return found
            raise

    def _adopt(self, forked_from: list[str]) -> None:
        """Runs that a copied directory brought along, in its own database, are those of its new id."""
        for old in forked_from:
            for run in self._search(f"tags.`{SWEEP}` = '{old}'"):
                self.client.set_tag(run.info.run_id, SWEEP, self.sweep)

    def _search(self, where: str) -> list[Any]:
        runs, token = [], None
        while True:
            page = self.client.search_runs([self.experiment], where, max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _runs(self) -> tuple[str, dict[str, "Child"]]:
        """The parent, and the child runs by point, found by tag; the parent is created if missing."""
        found: dict[str, list[Any]] = {}
        for run in self._search(f"tags.`{SWEEP}` = '{self.sweep}'"):
            found.setdefault(run.data.tags.get(POINT, ""), []).append(run)
        for same in found.values():  # a request that was sent again since its answer was late made two
            same.sort(key=lambda run: (run.info.status != "FINISHED", run.info.start_time))
            for extra in same[1:]:
                self.client.delete_run(extra.info.run_id)
        runs = {point: same[0] for point, same in found.items()}
        parent = runs.pop("").info.run_id if "" in runs else None
        children = {
            point: Child(
                run.info.run_id,
                run.data.tags.get(FINISHED_AT),
                run.info.status,
                run.data.tags.get(METRIC),
                int(run.data.tags.get(LOGGED, 0)),
            )
            for point, run in runs.items()
        }
        if parent is None:
            tags = {
                SWEEP: self.sweep,
                "kdsweep.folder": str(self.store.path),
                "mlflow.source.name": "kdsweep",
            }
            parent = self.client.create_run(self.experiment, run_name=self.plan.name, tags=tags).info.run_id
        for run in runs.values():
            if run.data.tags.get(PARENT) != parent:  # somebody deleted that one
                self.client.set_tag(run.info.run_id, PARENT, parent)
        return parent, children


def sync(
    store: Store,
    plan: Plan,
    uri: str,
    *,
    status: str,
    summary: dict[str, float] | None = None,
    say: Callable[[str], None] = warn,
    copy: str | None = None,
) -> int:
    """Replay the store into MLflow; how many runs had to be written. Safe any number of times.

    copy: "fork" or "same", for a copied directory. Raises InputError for trouble with MLflow; Unavailable if
    it may pass.
    """
    with told(uri):
        tracker = Tracker(store, plan, uri, say, copy)
        written = tracker.write(point.id for point in plan.points)
        tracker.end(status, summary or {})
    remember_shown(store, uri)
    return written


def in_sync(store: Store, uri: str) -> bool:
    """Whether MLflow is known to show every done point, without importing mlflow."""
    if uri == default_uri(store) and not (store.path / DATABASE).exists():
        return False
    try:
        return bool(recall(store).get(key(uri)) == len(store.done()))
    except InputError:  # told by what writes
        return False


def remember_shown(store: Store, uri: str) -> None:
    """That MLflow shows every point which is done."""
    with contextlib.suppress(OSError):  # a read-only sweep: compared again the next time
        remember(store, {key(uri): len(store.done())})


def _params(point: Any, result: dict[str, Any]) -> dict[str, str]:
    """Everything that identifies a point, flat: recipe.lr, strategy.temperature, ..."""
    flat: dict[str, Any] = {
        key: getattr(point, key)
        for key in ("id", "role", "arch", "depth", "width", "init", "strategy", "teacher", "fold", "seed")
    }
    flat |= {k: getattr(point, k) for k in ("data_fingerprint", "data_group", "teacher_group")}
    flat |= {f"strategy.{key}": value for key, value in point.strategy_args.items()}
    flat |= {f"brought.{key}": point.brought[key] for key in ("name", "kind") if point.brought}
    flat |= {f"recipe.{key}": value for key, value in point.recipe.items()}
    flat |= {key: result[key] for key in ("recipe_version", "device") if key in result}
    return {key: str(value) for key, value in flat.items() if value is not None}


def _now_ms() -> int:
    return int(datetime.now().timestamp() * 1000)
