"""MLflow while a sweep trains: a thread of its own, whose trouble is told and tried again. Knows no Ray."""

import queue
import threading
from collections.abc import Callable

from kd.errors import InputError
from orchestrator.space.plan import Plan
from orchestrator.store.store import Store
from orchestrator.tracking.client import told
from orchestrator.tracking.writer import Tracker, remember_shown, warn


class LiveTracker:
    """A thread that writes points to MLflow as they end. Trouble with MLflow never stops the training.

    It is said once, and tried again after `pause_s`, then twice as long, up to PAUSE_MOST_S.
    """

    PAUSE_MOST_S = 300.0

    def __init__(
        self,
        store: Store,
        plan: Plan,
        uri: str,
        say: Callable[[str], None] = warn,
        pause_s: float = 5.0,
    ) -> None:
        self.store, self.plan, self.uri = store, plan, uri
        self.error: Exception | None = None
        self._say, self._pause_s = say, pause_s
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._closing = threading.Event()
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
        self._closing.set()
        self._queue.put(None)
        self.start()
        self._thread.join(patience_s)
        return self.error is None and not self._thread.is_alive()

    def _run(self) -> None:
        pause_s, said = self._pause_s, ""
        while True:
            last = self._closing.is_set()
            try:
                with told(self.uri):
                    self._write_all(last)
                return
            except Exception as error:  # whatever a server, a network or a full disk may do
                self.error = error
                why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                if why != said and not last:
                    self._say(f"{why}; training goes on, and MLflow is tried again")
                said = why
            if last:
                return
            self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, self.PAUSE_MOST_S)

    def _write_all(self, last: bool) -> None:
        """What is done, and unless it is the last time what ends until the sweep does."""
        tracker = Tracker(self.store, self.plan, self.uri, self._say)
        tracker.begin()
        tracker.write(point.id for point in self.plan.points)  # what earlier tries could not
        if self.error:
            self._say("MLflow shows this sweep again")
            self.error = None
        while not last and (id := self._queue.get()) is not None:
            tracker.write([id])
        tracker.end(*self._ending)
        remember_shown(self.store, self.uri)
