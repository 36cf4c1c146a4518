"""Ray Tune's three seams, each passing on to `Events`: the next pack, what happened, when to stop."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from ray import cloudpickle
from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.search import Searcher

from orchestrator.run import ray_internals
from orchestrator.space.packs import Pack
from orchestrator.space.slot import Slot

if TYPE_CHECKING:
    from orchestrator.run.events import Events


def place(slot: Slot, config: dict[str, Any]) -> PlacementGroupFactory:
    """What a trial takes of a node, and on which nodes not to run: config's "avoid", ids of nodes."""
    bundle = {"CPU": slot.cpus, **({"GPU": slot.gpus} if slot.gpus else {})}
    if not config.get("avoid"):
        return PlacementGroupFactory([bundle])
    elsewhere = {"ray.io/node-id": f"!in({','.join(config['avoid'])})"}
    return PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])


class _Stateless:
    """Tune pickles its parts so that it could restore them; the store is the state here, so there is none."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Release(_Stateless, Searcher):
    """Releases a pack as soon as its teacher is done and a slot is free; no barrier between stages."""

    def __init__(self, events: "Events") -> None:
        super().__init__()
        self._events = events
        self._points = events.progress.points
        self._served = Counter(need for point in self._points.values() for need in point.needs)

    def suggest(self, trial_id: str) -> Any:
        """The pack for a new trial (a dict); None: not now; FINISHED: never again."""
        released = self._events.release(trial_id)
        if released is not None:
            ids, avoid = released
            points = (self._points[id] for id in ids)
            return {"pack": Pack.of(points, self._served, self._events.scheduler.until), "avoid": avoid}
        return Searcher.FINISHED if self._events.over else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """`Listen` receives it with the error itself."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store is the state."""


class Listen(_Stateless, Callback):
    """Receives every result, end and error of a trial."""

    def __init__(self, events: "Events") -> None:
        self._events = events
        self._ended: list[Any] = []  # trials that Tune is about to let go of
        self._first: Any = None  # of the trials that ended
        self._keeps = False  # whether Tune doesn't let go of them

    def setup(self, *args: Any, **info: Any) -> None:
        """Tune has just put its own handler on SIGUSR1."""
        self._events.stop.install()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Some ten times a second."""
        self._events.tick()
        while self._ended:
            trial = self._ended.pop()
            self._first = self._first or trial
            try:
                ray_internals.forget(trial, self._first)
            except AttributeError as error:  # another Tune; memory is all that it costs
                if not self._keeps:
                    self._keeps = True
                    self._events.display.say(f"Ray Tune keeps what it knows of ended trials ({error})")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker is up and takes the pack."""
        self._events.trial_started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A slice of time is over."""
        self._events.heard(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A pack is done, or stopped."""
        self._events.trial_over(trial.trial_id)
        self._ended.append(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died."""
        last = trial.last_result or {}
        self._events.trial_lost(trial.trial_id, error_of(trial), last.get("node_ip"), last.get("pid"))


def error_of(trial: Any) -> Any:
    """What ended a trial. `trial.get_pickled_error` finds it only after Tune has copied it to its storage."""
    try:
        if trial.run_metadata.pickled_error_filename is None:
            return None
        with open(trial.pickled_error_file, "rb") as file:
            return cloudpickle.load(file)  # written by this very process, a moment ago
    except Exception as error:  # one that can't be pickled, or another Tune: no reason to end the sweep
        return RuntimeError(f"what ended it can't be read ({type(error).__name__}: {error})")


class Stop(_Stateless, Stopper):
    """Ends each trial at its next result once all is to end, or once its node is shut out."""

    def __init__(self, events: "Events") -> None:
        self._events = events

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether this trial is to end now."""
        return self._events.ending or self._events.on_bad_node(result)

    def stop_all(self) -> bool:
        """Whether all trials are to end now."""
        return self._events.abandon
