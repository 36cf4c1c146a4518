"""Receives Ray Tune's events and passes them to scheduler, store, MLflow, dashboard and terminal.

Also holds the request to stop. Knows Ray only through `Cluster` and `Dashboard`; `tune.py` calls it.
"""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.run.progress import Display, Progress, line
from orchestrator.run.ray_cluster import Cluster
from orchestrator.run.ray_dashboard import Dashboard
from orchestrator.run.scheduler import Scheduler
from orchestrator.store.store import Store
from orchestrator.tracking.writer import LiveTracker

HEARTBEAT_S = 3.0  # progress.json, dashboard, and how often the slots are counted
ACCOUNT_S = 30.0  # a line in the ledger
# What running points get to reach a checkpoint. Slurm kills 30 s after TERM; it sends USR1 in advance.
GRACE_S = {signal.SIGUSR1: 60.0, signal.SIGTERM: 10.0, signal.SIGINT: 10.0, signal.SIGHUP: 10.0}
BROKEN_STARTS = 3  # workers that die while starting, one after the other, before the sweep gives up


class StopRequest:
    """The signal that asked the driver to stop, and whether its grace is used up."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._deadline = 0.0

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def overdue(self) -> bool:
        """Whether the grace is used up."""
        return bool(self) and time.monotonic() > self._deadline

    def _on_signal(self, number: int, frame: Any) -> None:
        got, now = signal.Signals(number), time.monotonic()
        if self.signal is None:
            self.signal, self._deadline = got, now + GRACE_S[got]
        elif got == signal.SIGINT:  # a second Ctrl-C: the user doesn't want to wait
            raise KeyboardInterrupt
        else:  # Slurm sends several, and one of them to every process: none may cut short what it asked for
            self._deadline = min(self._deadline, now + GRACE_S[got])

    def install(self) -> None:
        """Put the handlers in place (again: ray.init and Tune put theirs)."""
        if threading.current_thread() is threading.main_thread():
            for number in GRACE_S:
                signal.signal(number, self._on_signal)

    @contextlib.contextmanager
    def catching(self) -> Iterator["StopRequest"]:
        """Handle the signals within the block, and give back the handlers there were."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in GRACE_S}
        self.install()
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Events:
    """One call of `run_sweep` while Ray is up."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        progress: Progress,
        store: Store,
        cluster: Cluster,
        dashboard: Dashboard,
        display: Display,
        tracker: LiveTracker,
        stop: StopRequest,
        most_slots: int | None,
    ) -> None:
        self.scheduler, self.progress, self.store, self.cluster = scheduler, progress, store, cluster
        self.dashboard, self.display, self.tracker, self.stop = dashboard, display, tracker, stop
        self.most_slots = most_slots
        self.first_start: float | None = None  # time.monotonic() of the first training step
        self.broken: str | None = None  # why the sweep cannot go on at all
        self._broken_starts, self._waited = 0, False
        self._beat = self._counted = self._accounted = 0.0

    def announce(self) -> None:
        """Print the dashboard's address."""
        self._account("start", host=socket.gethostname(), address=self.cluster.address)
        self.heartbeat()
        if self.cluster.dashboard_url:
            self.display.say(
                f"Ray dashboard: {self.cluster.dashboard_url}  token: {self.cluster.token_path}  "
                f"(from elsewhere: kdsweep dashboard {self.store.path})"
            )

    def waiting(self) -> bool:
        """Called while no node is usable; False to give up."""
        if not self._waited:
            self._waited = True
            self.display.say(f"waiting for a node to join the Ray cluster at {self.cluster.address}")
        if self._due():
            self.heartbeat()
        return not self.stop

    # what Tune asks

    def release(self, trial: str) -> list[str] | None:
        """The next pack for a trial, or None."""
        self.tick()  # Tune may come here only, and stay, while nothing runs
        if self.stop or self.broken:
            return None
        ids = self.scheduler.release(trial, self._slots())
        if ids:
            epochs = self.progress.points[ids[0]].recipe["max_epochs"]
            self.progress.running[trial] = {"point": ids[0], "epoch": 0, "max_epochs": epochs}
        return ids

    @property
    def over(self) -> bool:
        """Whether no pack will ever be released again."""
        return bool(self.stop) or self.broken is not None or self.scheduler.over

    @property
    def abandon(self) -> bool:
        """Whether to end all trials now: no worker is in the middle of a slice, or one takes too long."""
        return (self.broken is not None or bool(self.stop)) and (
            not self.scheduler.running or self.stop.overdue
        )

    # what Tune tells

    def heard(self, trial: str, result: dict[str, Any]) -> None:
        """A worker's slice of time is over."""
        self._broken_starts = 0
        for event in result["events"]:
            self._event(trial, event)
        if "point" in result:
            where = ("point", "epoch", "max_epochs", "val_mae_bpm")
            self.progress.running[trial] = {key: result[key] for key in where}
        self.tick()

    def trial_over(self, trial: str) -> None:
        """A trial has ended or was stopped."""
        self.scheduler.trial_over(trial)
        self.progress.running.pop(trial, None)

    def trial_lost(self, trial: str, error: Any, node_ip: str | None, pid: int | None) -> None:
        """A trial's process is gone, or not fit to go on. error: what Ray says, node_ip and pid: if known."""
        self.progress.running.pop(trial, None)
        event = getattr(getattr(error, "cause", None), "event", None)  # trainable.Broken
        if event is not None:
            self._event(trial, event)
            self.scheduler.trial_over(trial)
            return
        if getattr(error, "actor_init_failed", False):
            self._broken_starts += 1
            if self._broken_starts >= BROKEN_STARTS:
                self.broken = f"workers cannot start: {error}"
        gone = (
            getattr(getattr(error, "cause", None), "leaving", False)  # trainable.Leaving
            or "its node has died"
            in str(error)  # Ray's words; two nodes of one address may be on one machine
            or (node_ip is not None and not self.cluster.has_node(node_ip))
        )
        lost = self.scheduler.trial_lost(trial, blame=not gone and not self._broken_starts)
        if lost is None:
            return
        id, again = lost
        why = (str(error).strip() or "no reason given").splitlines()[0]
        what = "its node left" if gone else f"its worker died ({why:.200})"
        self.display.say(f"point {id}: {what}" + ("; it will resume from its checkpoint" if again else ""))
        if not again:
            died = {"type": "WorkerDied", "message": f"its worker died: {error}", "traceback": str(error)}
            self._failed(id, died, self._worker_log(pid))

    def _event(self, trial: str, event: dict[str, Any]) -> None:
        id = event["id"]
        if event["kind"] == "began":
            if self.first_start is None:
                self.first_start = time.monotonic() - max(time.time() - event["time"], 0.0)
                self.tracker.start()
            self.progress.began(event["time"])
        elif event["kind"] == "done":
            self.scheduler.point_done(trial, id)
            self.progress.point_done(id, event["time"], event["mae_bpm"], event["train_seconds"])
            self.tracker.ended(id)
            self._account("point", id=id, train_seconds=event["train_seconds"])
        elif full := event["error"].get("full_disk"):
            raise OSError(*full)  # ends the run: every other point would fail, too, and none is to blame
        elif self.scheduler.point_failed(trial, id):
            self.display.say(f"point {id} failed and will be retried: {event['error']['message']}")
        else:
            self._failed(id, event["error"], event["log"])

    def _failed(self, id: str, error: dict[str, Any], log: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        failures = self.scheduler.failures.get(id, 0)
        self.store.write_error(id, {"id": id, **error, "failures": failures, "finished_at": now})
        (self.store.folder(id) / "log.txt").write_text(f"{log}--- error ---\n{error['traceback']}")
        self.tracker.ended(id)
        self._account("failed", id=id)
        text = f"point {id} failed: {error['message']}"
        self.dashboard.write(text)
        self.display.say(f"{text}  (kdsweep logs {self.store.path} --failed)")

    def _worker_log(self, pid: int | None) -> str:
        """The last lines a dead worker printed, if it ran on this machine."""
        from orchestrator.run.worker import tail

        files: list[Path] = sorted(self.dashboard.logs.glob(f"worker-*-{pid}.*")) if pid else []
        return "".join(f"--- {path.name} ---\n{tail(path)}" for path in files)

    # time passing

    def tick(self) -> None:
        """Called often; does something now and then."""
        self._slots()
        self.progress.tick(time.time())
        self.display.show(self.progress)
        if self._due():
            self.heartbeat()

    def heartbeat(self, state: str = "RUNNING") -> None:
        """Tell other processes and the dashboard the sweep's status; state as in Ray's jobs."""
        self._beat = time.monotonic()
        figures = self.progress.as_json(time.time())
        content = {**figures, "state": state, "ray": self.cluster.as_json()}
        self.store.write_progress(content)
        message = line(self.progress, figures["time"])
        self.dashboard.publish(message, figures, state)
        self.dashboard.write(message)
        if self._beat - self._accounted > ACCOUNT_S or state != "RUNNING":
            self._accounted = self._beat
            self._account("heartbeat" if state == "RUNNING" else "end", running=len(figures["running"]))

    def _account(self, event: str, **more: Any) -> None:
        """A line in the ledger: what was used, readable after any kill."""
        slot = self.cluster.slot
        used = {"slots": self.progress.slots, "cpus_per_slot": slot.cpus, "gpus_per_slot": slot.gpus}
        self.store.append_ledger({"event": event, "time": time.time(), **used, **more})

    def _due(self) -> bool:
        return time.monotonic() - self._beat > HEARTBEAT_S

    def _slots(self) -> int:
        now = time.monotonic()
        if now - self._counted > HEARTBEAT_S:
            self._counted = now
            slots = self.cluster.slots()
            self.progress.slots = min(slots, self.most_slots) if self.most_slots else slots
        return self.progress.slots
