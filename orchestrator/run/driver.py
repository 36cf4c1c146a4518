"""The driver: plan minus store goes to one Ray Tune experiment; what happens is stored, shown and tracked.

`run_sweep` is the whole of it. Tune asks `tune.Release` for packs, workers train them (`trainable.py`) and
report a slice of time at a time, `Events` receives every report.
"""

import functools
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.files import is_full
from kd.signals.prepare import DataConfig, prepare
from kd.training.compiled import Unavailable, library
from orchestrator.run.answering import Answering
from orchestrator.run.belief import answered, last_decision
from orchestrator.run.commit import git_commit
from orchestrator.run.events import Events, StopRequest
from orchestrator.run.outcome import Options, SweepResult
from orchestrator.run.pace import Pace
from orchestrator.run.progress import Display, Progress
from orchestrator.run.ray_cluster import DRIVER_ENV, Cluster, worker_env
from orchestrator.run.ray_dashboard import Dashboard, job_metadata
from orchestrator.run.scheduler import Scheduler
from orchestrator.run.status import is_running
from orchestrator.space.folds import of_fold
from orchestrator.space.packs import packs
from orchestrator.space.plan import Plan
from orchestrator.space.slot import Slot
from orchestrator.store.check import account
from orchestrator.store.lock import DRIVER, SweepLock
from orchestrator.store.store import Store
from orchestrator.tracking.live import LiveTracker
from orchestrator.tracking.writer import default_uri, in_sync
from orchestrator.words import duration

LOST_S = 60.0  # how long the driver of a job waits for another one that holds the sweep
TUNE_DIR = ".tune"  # Tune's own files, in the sweep directory while it runs


class Busy(RuntimeError):
    """Another process runs this sweep."""


def run_sweep(
    plan: Plan | Callable[[], Plan],
    data: DataConfig,
    store: Store,
    cache_dir: Path,
    slot: Slot,
    options: Options,
    display: Display,
) -> SweepResult:
    """Train what the plan has and the store has not; with nothing left to do it doesn't start Ray.

    The plan is saved in the sweep directory; a function that makes it is called once
    the sweep is this process's. Raises InputError for bad input or data,
    Busy if another process runs this sweep. The signals INT, TERM, HUP and USR1 make running points
    checkpoint and the call return; a second INT ends it at once.
    """
    started = time.monotonic()
    lock = SweepLock(store.path)
    try:
        # In a job: one whose job was lost may be about to end.
        if not lock.take(DRIVER, LOST_S if options.address else 0.0) or (
            not lock.supported and is_running(store.progress())
        ):
            raise Busy(f"{store.path} is being run by another process: {_owner(store)}")
        if not lock.supported:
            display.say(
                f"{store.path}: this file system has no locks; don't run this sweep in two processes at once"
            )
        _remove_leftovers(store)
        account(store)  # a kill may have come between a result and its line in the ledger
        trained = store.done()
        plan = plan if isinstance(plan, Plan) else plan()
        plan = plan.with_earlier(store.path / "plan.json", trained)
        plan.save(store.path / "plan.json")
        done = trained & {point.id for point in plan.points}
        tracker = LiveTracker(store, plan, options.tracking_uri or default_uri(store), display.say)
        result = SweepResult(total=len(plan.points), already_done=len(done), done=len(done))
        answering = _answering(plan, store, done, slot, options)
        if result.done < result.total and not (answering and answering.stopped):
            display.say(f"{result.done} of {result.total} points already done; starting Ray")
            with StopRequest().catching() as stop:
                Training(
                    plan,
                    done,
                    data,
                    store,
                    cache_dir,
                    slot,
                    options,
                    display,
                    tracker,
                    stop,
                    result,
                    answering,
                ).run()
        elif answering:
            _conclude_answer(answering, result, tracker)
        elif in_sync(store, tracker.uri):
            return result
        if not tracker.close(result.mlflow_status, result.figures()):
            result.tracking_error = f"{tracker.error or 'it takes too long'}"
        if result.stopped_by is None:  # who stops it may not wait
            store.compact()
        result.wall_s = time.monotonic() - started
        return result
    finally:
        lock.close()


def _pack(slot: Slot) -> Callable[[list[Any], int], list[list[Any]]]:
    """How points are packed for slots like this."""
    return functools.partial(packs, most_s=math.inf) if slot.gpus else packs  # see `packs`


def _answering(plan: Plan, store: Store, done: set[str], slot: Slot, options: Options) -> Answering | None:
    """Who decides for a question, the first decision taken; None where everything is trained, which is logged
    if it was otherwise before.
    """
    if options.asked is None:
        if last_decision(store):
            store.append_decision({"event": "all", "time": time.time()})
        return None
    answering = Answering(
        options.asked,
        plan,
        store,
        done,
        gpus_per_slot=slot.gpus,
        pack=_pack(slot),
        max_failures=options.max_failures,
    )
    answering.decide(1)
    return answering


def _conclude_answer(answering: Answering, result: SweepResult, tracker: LiveTracker) -> None:
    """What is believed at the end. Points that were in training wait from now on."""
    result.answer = answering.verdict
    if answering.stopped is not None:
        for id in answering.leave():
            tracker.ended(id)
        result.answered = answered(answering.stopped, answering.asked.until_regret)


@dataclass
class Training:
    """What one call of run_sweep trains: Ray up, Tune through, Ray down. `run` fills in `result`."""

    plan: Plan
    done: set[str]  # trained before this call
    data: DataConfig
    store: Store
    cache_dir: Path
    slot: Slot
    options: Options
    display: Display
    tracker: LiveTracker
    stop: StopRequest
    result: SweepResult
    answering: Answering | None = None
    engine: str = "torch"  # of kd.training, or "fused"

    def run(self) -> None:
        """Train until nothing is left, or it is asked to stop. Raises what starting Ray or the data raise."""
        started = time.monotonic()
        os.environ.update(DRIVER_ENV)
        beside = Beside(self._prepare, self._choose_engine, _import_slow)
        cluster = self._cluster()
        try:
            self.stop.install()  # ray.init puts its own handler on SIGTERM
            ray_up = time.monotonic()
            beside.wait()
            events = self._events(cluster)
            events.announce()
            ready = time.monotonic()
            while cluster.wait_for_slots(events.waiting):
                try:
                    self._tune(events)
                except Exception as error:
                    raise full_disk(error) or error from None
                if not events.again():
                    break
            self._conclude(events)
            if first := events.first_start:
                times = {"ray": ray_up - started, "data": ready - ray_up, "workers": first - ready}
                self.result.startup_s = events.startup_s = times
            self.display.show(events.progress, force=True)
            events.heartbeat({0: "SUCCEEDED", 1: "FAILED", 3: "FAILED"}.get(self.result.exit_code, "STOPPED"))
        finally:
            cluster.close()
            shutil.rmtree(self.store.path / TUNE_DIR, ignore_errors=True)

    def _prepare(self) -> None:
        """The windows of every fold that is still to be trained."""
        left = {point.fold for point in self.plan.points if point.id not in self.done}
        for fold in sorted(left, key=lambda fold: -1 if fold is None else fold):
            prepare(of_fold(self.data, fold), self.cache_dir)

    def _choose_engine(self) -> None:
        """What trained this sweep before; at first the compiled engine, where it can be had."""
        if self.slot.gpus:
            return
        if known := next((r for r in self.store.results() if not r.get("brought")), None):
            self.engine = known.get("engine", "torch")
            return
        try:
            library()
            self.engine = "fused"
        except Unavailable as why:
            self.display.say(f"{why}: torch trains, at a fraction of the speed; install g++ to change that")

    def _cluster(self) -> Cluster:
        """The Ray that was named, or one started here."""
        options, env = self.options, worker_env(self.slot.threads)
        metadata = job_metadata(self.store.path.name)
        if options.address:
            return Cluster.join(options.address, self.slot, env=env, metadata=metadata)
        return Cluster.start(
            self.slot, slots=options.slots, dashboard=options.dashboard, env=env, metadata=metadata
        )

    def _events(self, cluster: Cluster) -> Events:
        """Who hears of what happens, knowing what was trained before."""
        scheduler: Scheduler
        if self.answering:
            scheduler = self.answering.scheduler
        else:
            most = self.options.max_failures
            scheduler = Scheduler(self.plan.points, self.done, pack=_pack(self.slot), max_failures=most)
        by_id = {point.id: point for point in self.plan.points}
        progress = Progress(by_id, scheduler.done, scheduler.failed, scheduler.blocked, scheduler.cost)
        progress.headline = self.plan.headline
        progress.paused = set(self.store.paused(by_id.keys() - self.done))
        progress.belief = self.answering.verdict if self.answering else ""
        for earlier in self.store.figures():
            if earlier["id"] in self.done:
                progress.found(earlier["id"], self.plan.headline(earlier))
        return Events(
            scheduler=scheduler,
            progress=progress,
            store=self.store,
            cluster=cluster,
            dashboard=Dashboard(self.store.path.name, self.options.command, self.display.say),
            display=self.display,
            tracker=self.tracker,
            stop=self.stop,
            most_slots=self.options.slots,
            pace=Pace(self.store.path / TUNE_DIR, self.options.slice_s),
            slice_s=self.options.slice_s,
            answering=self.answering,
        )

    def _conclude(self, events: Events) -> None:
        """What the scheduler and the progress say at the end."""
        scheduler, progress, result = events.scheduler, events.progress, self.result
        result.done = len(scheduler.done)
        result.failed, result.blocked = sorted(scheduler.failed), sorted(scheduler.blocked)
        result.train_seconds, result.efficiency = progress.train_seconds, progress.efficiency
        result.slots, result.best = progress.slots, progress.best()
        result.dashboard_url = events.cluster.dashboard_url
        result.stopped_by, result.error, result.later = self.stop.signal, events.broken, events.later
        if self.answering:
            _conclude_answer(self.answering, result, self.tracker)

    def _tune(self, events: Events) -> None:
        """The one Tune experiment. Its own files live in TUNE_DIR and are removed at the end."""
        from ray import tune

        from orchestrator.run.trainable import Trainable
        from orchestrator.run.tune import Listen, Release, Stop, place
        from orchestrator.run.worker import Setup

        slot, options = self.slot, self.options
        setup = Setup(
            sweep_dir=str(self.store.path.resolve()),
            pace_dir=str((self.store.path / TUNE_DIR).resolve()),
            cache_dir=str(self.cache_dir.resolve()),
            data=self.data,
            threads=slot.threads,
            gpu=slot.gpus > 0,
            slice_s=options.slice_s,
            checkpoint_every_s=options.checkpoint_every_s,
            git_commit=git_commit(),
            engine=self.engine,
        )
        trainable: Any = tune.with_resources(
            tune.with_parameters(Trainable, setup=setup), functools.partial(place, slot)
        )
        # What the dashboard lists, instead of Tune's wrapper.
        trainable.__name__ = trainable.__qualname__ = "Trainable"
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what went wrong is told by error.json
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=Release(events),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"pack_{trial.trial_id}",
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=str((self.store.path / TUNE_DIR).resolve()),
                callbacks=[Listen(events)],
                stop=Stop(events),
                verbose=0,
                # The scheduler counts failures by point, and releases what a lost worker left as a new trial.
                failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
                # Points checkpoint themselves.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


def full_disk(error: BaseException | None) -> OSError | None:
    """The error of a full disk that is behind another one, if any."""
    while error is not None and not is_full(error):
        error = error.__cause__ or error.__context__
    return error


class Beside:
    """Work done in threads while the main thread starts Ray; `wait` raises its errors."""

    def __init__(self, *work: Callable[[], Any]) -> None:
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._do, args=(w,), daemon=True) for w in work]
        for thread in self._threads:
            thread.start()

    def _do(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)

    def wait(self) -> None:
        """Until all is done."""
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]


def _import_slow() -> None:
    """Two seconds of imports while Ray starts (Tune asks for mlflow whenever it is given a callback)."""
    import mlflow  # noqa: F401
    import ray.tune  # noqa: F401


def _owner(store: Store) -> str:
    beat = store.progress()
    if not beat:
        return "which has only just started"
    return (
        f"process {beat['pid']} on {beat['host']}, last heard of {duration(time.time() - beat['time'])} ago"
    )


def _remove_leftovers(store: Store) -> None:
    """What a killed run left in the sweep: Tune's files, checkpoints of points that are done."""
    shutil.rmtree(store.path / TUNE_DIR, ignore_errors=True)
    for checkpoint in store.path.glob("points/*/checkpoint.pt"):
        if store.is_done(checkpoint.parent.name):
            checkpoint.unlink(missing_ok=True)
