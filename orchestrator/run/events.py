"""Receives Ray Tune's events and passes them to scheduler, store, MLflow, dashboard and terminal.

Also holds the request to stop. Knows Ray only through `Cluster` and `Dashboard`; `tune.py` calls it.
"""

import contextlib
import math
import re
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kd.files import write_text
from orchestrator.run import ray_internals
from orchestrator.run.answering import Answering
from orchestrator.run.nodes import Nodes
from orchestrator.run.out_of_memory import Shortage, Verdict
from orchestrator.run.pace import Pace, slice_s
from orchestrator.run.progress import Display, Progress, line
from orchestrator.run.ray_cluster import Cluster, Node
from orchestrator.run.ray_dashboard import Dashboard
from orchestrator.run.scheduler import Scheduler
from orchestrator.store.store import Store
from orchestrator.tracking.live import LiveTracker
from orchestrator.words import quoted

HEARTBEAT_S = 3.0  # progress.json, dashboard, and how often the slots are counted
ACCOUNT_S = 30.0  # a line in the ledger
# What running points get to reach a checkpoint. Slurm kills 30 s after TERM; it sends USR1 in advance.
GRACE_S = {signal.SIGUSR1: 60.0, signal.SIGTERM: 10.0, signal.SIGINT: 10.0, signal.SIGHUP: 10.0}
OWN_FAULTS = ("Diverged", "InputError")  # errors that a point would meet on any node
NOWHERE = ""  # the node of a worker that died before anybody knew where it was


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
        pace: Pace,
        slice_s: float = 2.0,
        answering: Answering | None = None,
    ) -> None:
        self.scheduler, self.progress, self.store, self.cluster = scheduler, progress, store, cluster
        self.dashboard, self.display, self.tracker, self.stop = dashboard, display, tracker, stop
        self.most_slots, self.pace, self.least_slice_s = most_slots, pace, slice_s
        self.answering = answering  # who chooses, where only one question is to be answered
        self.first_start: float | None = None  # time.monotonic() of the first training step
        self.startup_s: dict[str, float] = {}  # to it, by what took it
        self.broken: str | None = None  # why the sweep cannot go on at all
        self.later = False  # whether that may be over by itself
        self.nodes = Nodes()
        self.shortage = Shortage(cluster.memory_of, cluster.more_memory)
        self._alive: dict[str, Node] = {}
        self._workers: set[tuple[str, int | None]] = set()  # node and process of all that have reported
        self._where: dict[str, str] = {}  # trial -> its node, as far as known
        self._avoids: dict[str, list[str]] = {}  # trial whose worker is not up yet -> nodes it must not be on
        self._waited = self._again = False
        self._beat = self._counted = self._accounted = -math.inf

    def announce(self) -> None:
        """Print the dashboard's address."""
        self._tell_pace()
        for node in self._alive:
            self.shortage.known(node, self.cluster.oom_kills)
        self._account("start", host=socket.gethostname(), address=self.cluster.address)
        self.heartbeat()
        if self.cluster.dashboard_url:
            self.display.say(
                f"Ray dashboard: {self.cluster.dashboard_url}  token: {self.cluster.token_path}  "
                f"(from elsewhere: kdsweep dashboard {quoted(self.store.path)})"
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

    def release(self, trial: str) -> tuple[list[str], list[str]] | None:
        """The next pack for a trial, and the nodes where it must not run; or None."""
        self.tick()  # Tune may come here only, and stay, while nothing runs
        if self.stop or self.broken:
            return None
        if self.answering:
            self.answering.consider(self._slots())
        ids = self.scheduler.release(trial, self._slots())
        if ids is None:
            return None
        if self.answering:
            self.answering.released(ids)
        self._avoids[trial] = self._avoid(ids)
        return ids, self._avoids[trial]

    def _avoid(self, ids: list[str]) -> list[str]:
        """Nodes that are shut out; and those that a point failed on, if there are others."""
        shut = self.nodes.shut_out.keys() & self._alive.keys()
        failed = set().union(*(self.nodes.failed_on(id) for id in ids)) & self._alive.keys()
        return sorted(shut | failed if self._usable(shut | failed) else shut)

    def _usable(self, but: Iterable[str]) -> list[Node]:
        """Nodes alive that can run a pack, some left out."""
        return [node for id, node in self._alive.items() if node.slots and id not in but]

    @property
    def over(self) -> bool:
        """Whether no pack will ever be released again."""
        return bool(self.stop) or self.broken is not None or self.scheduler.over

    @property
    def ending(self) -> bool:
        """Whether what runs is to end at its next report: asked to stop, broken, or the question answered."""
        answered = self.answering is not None and self.answering.stopped is not None
        return bool(self.stop) or self.broken is not None or answered

    @property
    def abandon(self) -> bool:
        """Whether to end all trials now: no worker is in the middle of a slice, or one takes too long."""
        if self._stranded():
            self._again = True
            return True
        return self.ending and (self.stop.overdue or not self.scheduler.running.keys() - self._avoids.keys())

    def _stranded(self) -> bool:
        """Whether all that could run waits for nodes other than those that are left."""
        waiting = self.scheduler.running.keys() & self._avoids.keys()
        return bool(
            waiting
            and waiting == self.scheduler.running.keys()
            and self._usable(self.nodes.shut_out)
            and not any(self._usable(self._avoids[trial]) for trial in waiting)
        )

    def again(self) -> bool:
        """Whether Tune, which has ended, is to begin again: what it waited for can't come any more."""
        again, self._again = self._again and not self.over, False
        for trial in list(self.scheduler.running):
            self.trial_over(trial)
        return again

    def on_bad_node(self, result: dict[str, Any]) -> bool:
        """Whether a worker's slice of time was spent on a node that is shut out."""
        return result.get("node") in self.nodes.shut_out

    # what Tune tells

    def heard(self, trial: str, result: dict[str, Any]) -> None:
        """A worker's slice of time is over."""
        node = self._where[trial] = result.get("node", NOWHERE)
        if (worker := (node, result.get("pid"))) not in self._workers:
            self._workers.add(worker)
            self.nodes.started(node)
            self.nodes.started(NOWHERE)
            self.shortage.known(node, result.get("oom_kills"))
        for event in result["events"]:
            self._event(trial, event, node)
        self.progress.checkpoint(result.get("checkpointed"))
        if "point" in result:
            where = ("point", "epoch", "max_epochs", "val_mae_bpm")
            self.progress.running[trial] = {key: result[key] for key in where}
        if self.answering:
            self.answering.advanced()
            self.answering.consider(self._slots())
            self.progress.belief = self.answering.verdict
        self.tick()

    def trial_started(self, trial: str) -> None:
        """A trial's worker is up: from now on its point counts as running."""
        self._avoids.pop(trial, None)
        if ids := self.scheduler.running.get(trial):
            epochs = self.progress.points[ids[0]].recipe.get("max_epochs", 1)  # a brought teacher has none
            self.progress.running[trial] = {"point": ids[0], "epoch": 0, "max_epochs": epochs}

    def trial_over(self, trial: str) -> None:
        """A trial has ended or was stopped."""
        self.scheduler.trial_over(trial)
        self._forget(trial)

    def _forget(self, trial: str) -> None:
        for by_trial in (self.progress.running, self._avoids, self._where):
            by_trial.pop(trial, None)

    def trial_lost(self, trial: str, error: Any, node_ip: str | None, pid: int | None) -> None:
        """A trial's process is gone, or not fit to go on. error: what Ray says, node_ip and pid: if known."""
        starting = trial in self._avoids
        node = self._where.get(trial) or self._node_of(error, node_ip)
        self._forget(trial)
        event = getattr(getattr(error, "cause", None), "event", None)  # trainable.Broken
        if event is not None:
            self._event(trial, event, event.get("node", node))
            self.scheduler.trial_over(trial)
            return
        gone = (
            getattr(getattr(error, "cause", None), "leaving", False)  # trainable.Leaving
            or "its node has died"
            in str(error)  # Ray's words; two nodes of one address may be on one machine
            or (node_ip is not None and node_ip not in {n.ip for n in self.cluster.nodes()})
        )
        bad_start = not gone and (starting or getattr(error, "actor_init_failed", False))
        short = None if gone else self.shortage.of_death(node, self._host(node), error)
        if bad_start:
            self._start_failed(node, error, short)
        current = next(iter(self.scheduler.running.get(trial, [])), None)
        spared = not gone and not bad_start and self._spared(current, short)
        lost = self.scheduler.trial_lost(trial, blame=not gone and not bad_start and not spared)
        if lost is None:
            return
        id, again = lost
        if bad_start:
            return  # told where it is counted
        why = short.text if short else (str(error).strip() or "no reason given").splitlines()[0]
        why = why if short else f"{why:.200}"
        if not gone:
            self.nodes.point_failed(node, id, f"its worker died ({why})")
        what = "its node left" if gone else f"its worker died ({why})"
        self.display.say(f"point {id}: {what}" + ("; it will resume from its checkpoint" if again else ""))
        if not again:
            message = f"its worker died: {f'{short.text}; ' if short else ''}{error}"
            died = {"type": "WorkerDied", "message": message, "traceback": str(error)}
            if short and short.certain:
                died |= {"type": "OutOfMemory", "message": short.text}
            self._failed(id, died, self._worker_log(pid))

    def _spared(self, id: str | None, short: Verdict | None) -> bool:
        """Whether a point is not to blame, since memory was short; not for ever: it may be what fills it."""
        return id is not None and short is not None and short.certain and self.shortage.spares(id)

    def _node_of(self, error: Any, ip: str | None) -> str:
        """The node of a worker that has not reported yet: as Ray knows its actor, or by its address."""
        actor = getattr(error, "actor_id", None)
        with contextlib.suppress(Exception):  # a private part of Ray; the address is what is left
            if actor and (node := ray_internals.node_of_actor(actor)):
                return node
        found = re.search(r"\bip[=:] ?([\w.:]+)", str(error))
        ip = ip or (found[1] if found else None)
        at = [node.id for node in self._alive.values() if node.ip == ip and node.slots]
        return at[0] if len(at) == 1 else NOWHERE

    def _host(self, node: str) -> str:
        return self._alive[node].host if node in self._alive else "somewhere"

    def _start_failed(self, node: str, error: Any, short: Verdict | None) -> None:
        """Count it; a node where workers cannot start gets no more, and without nodes the sweep ends."""
        lines = [text.strip() for text in str(error).splitlines() if text.strip()]
        if getattr(error, "actor_init_failed", False):
            lines.reverse()  # the last line of a traceback says it
        else:
            lines.sort(key=lambda text: not text.startswith("The actor is dead"))
        why = short.text if short else (lines or ["no reason given"])[0]
        host = self._host(node)
        self.display.say(f"a worker could not start on {host}: {why:.300}")
        if self.nodes.start_failed(node, why):
            self._shut_out([node])

    def _shut_out(self, nodes: Iterable[str]) -> None:
        """Say which nodes get no more work. What failed on them alone is tried elsewhere."""
        for node in nodes:
            why, host = self.nodes.shut_out[node], self._host(node)
            if node in self._alive and not self.shortage.at(node):  # the next job of a chain is kept off it
                self._account("shut_out", node=self._alive[node].name or host, why=f"{why:.300}")
            left = self._usable(self.nodes.shut_out)
            if node != NOWHERE and left:
                self.display.say(f"{host} gets no more work: {why:.300}")
                for id in [i for i in self.scheduler.failures if self.nodes.only_shut_out(i)]:
                    if self.nodes.failed_on(id):
                        self.scheduler.forgive(id)
                        for name in ("error.json", "log.txt"):
                            (self.store.folder(id) / name).unlink(missing_ok=True)
            else:
                self.later = self.cluster.elastic
                self.broken = f"no node is left to train on; {host}: {why}"
            self._counted = -math.inf

    def _event(self, trial: str, event: dict[str, Any], node: str) -> None:
        id = event["id"]
        if event["kind"] == "began":
            if self.first_start is None:
                self.first_start = time.monotonic() - max(time.time() - event["time"], 0.0)
                self.tracker.start()
            self.progress.began(event["time"])
            self.progress.paused.discard(id)
            if self.answering:
                self.answering.began(id, event["epoch"])
        elif event["kind"] == "paused":
            self.scheduler.point_paused(trial, id, event["epoch"])
            self.progress.paused.add(id)
            self._account("paused", id=id, train_seconds=event["train_seconds"])
            if self.answering:
                self.answering.paused(id, event["epoch"], event["val_mae_bpm"])
            self.tracker.ended(id)
        elif event["kind"] == "done":
            self.scheduler.point_done(trial, id)
            self.progress.point_done(id, event["time"], self.progress.headline(event), event["train_seconds"])
            if self.answering:
                self.answering.done(id)
            self.tracker.ended(id)
            self._account("point", id=id, train_seconds=event["train_seconds"])
            self._shut_out(self.nodes.point_done(node, id))
        elif full := event["error"].get("full_disk"):
            raise OSError(*full)  # ends the run: every other point would fail, too, and none is to blame
        else:
            error = event["error"]
            if short := self.shortage.of_error(node, self._host(node), error):
                error = error | {"type": "OutOfMemory", "message": f"{short.text}; {error['message']}"}
            if error["type"] not in OWN_FAULTS:
                self.nodes.point_failed(node, id, f"{error['message']:.200}")
            if self.answering:
                self.answering.failed()
            if self.scheduler.point_failed(trial, id, blame=not self._spared(id, short)):
                self.display.say(f"point {id} failed and will be retried: {error['message']}")
            else:
                self._failed(id, error, event["log"])

    def _failed(self, id: str, error: dict[str, Any], log: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        failures = self.scheduler.failures.get(id, 0)
        self.store.write_error(id, {"id": id, **error, "failures": failures, "finished_at": now})
        write_text(self.store.folder(id) / "log.txt", f"{log}--- error ---\n{error['traceback']}")
        self.tracker.ended(id)
        self._account("failed", id=id)
        text = f"point {id} failed: {error['message']}"
        self.dashboard.write(text)
        self.display.say(f"{text}  (kdsweep logs {quoted(self.store.path)} --failed)")

    def _worker_log(self, pid: int | None) -> str:
        """The last lines a dead worker printed, if it ran on this machine."""
        from orchestrator.run.worker import tail

        logs = self.dashboard.logs
        files: list[Path] = sorted(logs.glob(f"worker-*-{pid}.*")) if pid and logs else []
        return "".join(f"--- {path.name} ---\n{tail(path)}" for path in files if path.is_file())

    # time passing

    def tick(self) -> None:
        """Called often; does something now and then."""
        self._tell_pace()
        self.progress.tick(time.time())
        self.display.show(self.progress)
        if self._due():
            self.heartbeat()

    def _tell_pace(self) -> None:
        """Have workers report as often as one driver can hear so many, and at once when all is to stop."""
        slices = slice_s(self._slots(), self.least_slice_s)
        self.pace.tell(slices, stop=self.ending)

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
            running = len(figures["running"])
            if state == "RUNNING":
                self._account("heartbeat", running=running)
            else:  # `space.cost` and `submission.estimate` read how long starting took
                first, took = self.progress.first_start, sum(self.startup_s.values())
                self._account("end", running=running, first_step=first, startup_s=took if first else None)

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
            self._alive = {node.id: node for node in self.cluster.nodes()}
            before = self.progress.slots
            slots = sum(node.slots for node in self._usable(self.nodes.shut_out))
            self.progress.slots = min(slots, self.most_slots) if self.most_slots else slots
            if self.progress.slots != before and self._accounted > 0:
                self._account("heartbeat", running=len(self.progress.running))
        return self.progress.slots
