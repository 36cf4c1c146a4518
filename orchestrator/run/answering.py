"""Training for one question: asks again and again what to train next, and keeps what was believed when.

Who decides comes from above, as a function (`Decide`); here is what it is told, when it is asked, and what of
its answer is logged in decisions.jsonl. Knows plan, store and scheduler; neither Ray nor any law.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from orchestrator.run.belief import NOTHING_MORE, verdict
from orchestrator.run.chosen import Chosen
from orchestrator.space.plan import Plan, Point
from orchestrator.store.check import CHECKPOINT
from orchestrator.store.store import Store, own_seconds

SHARE = 0.01  # of the slots' time, the most that deciding takes
LOGGED = 200  # named points of a decision that are logged, the most valuable ones


class Decision(Protocol):
    """What is to be trained next: `orchestrator.answers.economy.step.Step`.

    train: (point id, until this epoch), the most valuable first. stop: None, or why not to go on.
    """

    @property
    def train(self) -> Sequence[tuple[str, int]]: ...
    @property
    def stop(self) -> str | None: ...
    @property
    def belief(self) -> Mapping[str, Any]: ...


# Called with the fields of `orchestrator.answers.economy.step.Known`, by name.
Decide = Callable[..., Decision]


@dataclass(frozen=True)
class Asked:
    """A question, as limits by name, and when it counts as answered. gpu_hours: of the sweep in all."""

    question: Mapping[str, float]
    decide: Decide
    until_regret: float | None = None
    gpu_hours: float | None = None  # slot-hours where there are no GPUs

    def budget_s(self, gpus_per_slot: float) -> float | None:
        """Seconds of slots that may be spent."""
        return None if self.gpu_hours is None else self.gpu_hours * 3600 / (gpus_per_slot or 1.0)


def full_length(point: Point) -> int:
    """Epochs that a point is trained at most; a brought teacher has one step."""
    return int(point.recipe.get("max_epochs", 1))


class Answering:
    """One run's decisions. `consider` is called often and decides now and then; `stopped` says why it ended.

    Everything it tells the deciding function is read from the store, so that a run after a kill, or the next
    link of a chain, believes what this one did.
    """

    def __init__(
        self,
        asked: Asked,
        plan: Plan,
        store: Store,
        done: set[str],
        *,
        gpus_per_slot: float,
        pack: Callable[[list[Any], int], list[list[Any]]],
        max_failures: int,
    ) -> None:
        self.asked, self.store, self.gpus_per_slot = asked, store, gpus_per_slot
        self.points = {point.id: point for point in plan.points}
        self.epochs = {point.id: full_length(point) for point in plan.points}
        self.headline = plan.headline
        self.results = {r["id"]: self.headline.judged(r) for r in store.results() if r["id"] in self.points}
        self._curves: dict[str, list[float]] = {}
        self._seconds: dict[str, float] = {}  # of training, by point that has begun
        self._own: dict[str, float] = {}  # the same, without what a shorter training of it had done
        for id in store.ids():
            if id in self.points:
                self._read(id)
        trained = {id: len(curve) for id, curve in self._curves.items()}
        self.scheduler = Chosen(
            plan.points,
            done,
            pack=pack,
            epochs=self.epochs,
            trained=trained,
            max_failures=max_failures,
        )
        self.number = max((e["number"] for e in store.decisions() if e["event"] == "decision"), default=0)
        self.stopped: str | None = None
        self.belief: Mapping[str, Any] = {}
        self.took_s = 0.0  # all decisions of this run
        self._next = -math.inf  # time.monotonic() before which only an idle slot makes it decide
        # Since the last decision: epochs were trained; points ended, were paused or released.
        self._news = self._ended = True
        self._named: dict[str, int] = {}  # point -> the decision that it was released by

    # what is known

    def known(self) -> dict[str, Any]:
        """What the deciding function is told."""
        scheduler = self.scheduler
        running = {id for ids in scheduler.running.values() for id in ids}
        for id in running:
            self._read(id)
        out = scheduler.failed | scheduler.blocked
        per_epoch = self._seconds_per_epoch()
        return {
            "question": dict(self.asked.question),
            "points": [point for id, point in self.points.items() if id not in out],
            "curves": {id: list(curve) for id, curve in self._curves.items()},
            "results": dict(self.results),
            "seconds_per_epoch": per_epoch,
            "epochs": dict(self.epochs),
            "running": frozenset(running),
            "spent_s": self.spent_s,
            "until_regret": self.asked.until_regret,
            "budget_s": self.asked.budget_s(self.gpus_per_slot),
        }

    @property
    def spent_s(self) -> float:
        """Seconds of training so far, of this sweep, whatever became of the points."""
        done = sum(own_seconds(r) for r in self.results.values())
        return done + sum(s for id, s in self._own.items() if id not in self.results)

    def _read(self, id: str) -> None:
        """What a point's history says now."""
        rows = [row for row in self.store.history(id) if row["val_mae_bpm"] is not None]
        if rows:
            self._curves[id] = [float(row["val_mae_bpm"]) for row in rows]
            seconds = float(rows[-1]["train_seconds"])
            self._seconds[id] = seconds
            self._own[id] = own_seconds({"train_seconds": seconds, **self.store.continued(id)})

    def _seconds_per_epoch(self) -> dict[str, float]:
        """Measured where a point has trained; else the plan's estimate, scaled by the measured ones."""
        measured = {}
        for id in self._curves.keys() | self.results.keys():
            done = self.results.get(id)
            seconds = float(done["train_seconds"]) if done else self._seconds[id]
            epochs = (done or {}).get("epochs") or len(self._curves.get(id, [])) or 1
            measured[id] = seconds / epochs
        planned = {id: point.cost_s / self.epochs[id] for id, point in self.points.items()}
        ratios = [s / planned[id] for id, s in measured.items() if planned[id] > 0 and s > 0]
        scale = median(ratios) if ratios else 1.0
        return {id: measured.get(id, cost * scale) for id, cost in planned.items()}

    # what happens

    def began(self, id: str, epoch: int) -> None:
        """A point starts training, or goes on."""
        event = "resumed" if epoch else "started"
        self._log(event, id=id, epoch=epoch, until=self.scheduler.until.get(id, self.epochs[id]))

    def advanced(self) -> None:
        """Some point has trained."""
        self._news = True

    def paused(self, id: str, epoch: int, val_mae_bpm: float) -> None:
        """A point waits."""
        self._read(id)
        self._news = self._ended = True
        self._log("paused", id=id, epoch=epoch, val_mae_bpm=val_mae_bpm)

    def done(self, id: str) -> None:
        """A point is trained."""
        self._read(id)
        self.results[id] = self.headline.judged(self.store.result(id))
        self._news = self._ended = True

    def failed(self) -> None:
        """A point failed."""
        self._news = self._ended = True

    def released(self, ids: Sequence[str]) -> None:
        """Points go to a worker by the last decision."""
        self._named |= dict.fromkeys(ids, self.number)
        self._news = self._ended = True  # with so many in training others may be worth more

    def _log(self, event: str, *, id: str, epoch: int, **more: Any) -> None:
        number = self._named.get(id, self.number) if event != "paused" else self.number
        entry = {"event": event, "time": time.time(), "id": id, "epoch": epoch, "decision": number}
        self.store.append_decision({**entry, **more})

    # deciding

    def consider(self, slots: int) -> None:
        """Decide, if it is time.

        Deciding takes at most `SHARE` of the slots' time, unless a slot would wait and something has ended.
        """
        if self.stopped:
            return
        running, idle = self.scheduler.running, not self.scheduler.ready
        stuck = idle and not running  # what was named has failed, say: nothing would ever come of waiting
        idle = idle and self._ended and len(running) < slots
        if stuck or (self._news and (idle or time.monotonic() >= self._next)):
            self.decide(slots)

    def decide(self, slots: int) -> None:
        """Ask what to train next, log it, and have the scheduler keep to it."""
        started = time.monotonic()
        self._news = self._ended = False
        known = self.known()
        decision = self.asked.decide(**known)
        train, self.belief = list(decision.train), dict(decision.belief)
        scheduler, stop = self.scheduler, decision.stop
        scheduler.choose(train)
        if stop is None and not any(scheduler.running.values()) and not scheduler.ready:
            stop = NOTHING_MORE  # nothing it names can be trained: it would wait for ever
        if stop is not None:
            self.stopped = stop
            scheduler.end()
        self.number += 1
        took = time.monotonic() - started
        self.took_s += took
        self._next = time.monotonic() + took / SHARE / max(slots, 1)
        self.store.append_decision(
            {
                "event": "decision",
                "time": time.time(),
                "number": self.number,
                "took_s": round(took, 4),
                "spent_s": round(known["spent_s"], 3),
                "gpus_per_slot": self.gpus_per_slot,
                "question": known["question"],
                "until_regret": self.asked.until_regret,
                "gpu_hours": self.asked.gpu_hours,
                "running": sorted(known["running"]),
                "train": [{"id": id, "until": until} for id, until in train[:LOGGED]],
                "named": len(train),
                "stop": stop,
                "belief": self.belief,
            }
        )

    def leave(self) -> list[str]:
        """Once nothing runs any more: what was in training when the answer was there waits now, too; ids."""
        begun, left = self._curves.keys() - self.results.keys(), []
        for id in begun - self.store.paused(begun).keys():
            if (self.store.folder(id) / CHECKPOINT).exists() and id not in self.scheduler.failed:
                last = self.store.history(id)[-1]
                where = {key: last[key] for key in ("epoch", "val_mae_bpm", "train_seconds")}
                self.store.write_pause(id, {**where, "max_epochs": self.epochs[id]})
                self._log("paused", id=id, epoch=last["epoch"], val_mae_bpm=last["val_mae_bpm"])
                left.append(id)
        return left

    @property
    def verdict(self) -> str:
        """How it ended, as a line."""
        return verdict(self.belief, self.stopped, self.asked.until_regret, self.gpus_per_slot)
