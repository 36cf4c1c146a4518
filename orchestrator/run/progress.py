"""Status of a running sweep: figures, progress.json for others, lines or a live view on stderr."""

import contextlib
import io
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from orchestrator.run.best import Best, Leader
from orchestrator.space.plan import Point
from orchestrator.store.metric import Headline
from orchestrator.words import duration, model_name

LINE_S = 10.0  # off a terminal, at most a line in this time; on one, a redraw every REDRAW_S
REDRAW_S = 0.5


@dataclass
class Cost:
    """Seconds that the plan expects of all that is neither done, failed nor blocked."""

    left_s: float = 0.0


@dataclass
class Progress:
    """Counts, rate and ETA of one call of `kdsweep run`. Fed with the workers' events alone."""

    points: Mapping[str, Point]
    done: set[str]
    failed: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)
    cost: Cost = field(default_factory=Cost)  # of what is left; whoever changes the sets keeps it
    headline: Headline = field(default_factory=Headline)
    slots: int = 0
    running: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # trial -> {point, epoch, max_epochs, ...}
    checkpointed: float | None = None  # Unix time of the last checkpoint that a worker told of
    train_seconds: float = 0.0  # of the points that ended in this call
    ended: int = 0
    first_start: float | None = None
    last_end: float | None = None
    slot_seconds: float = 0.0  # slots x time between first start and last end, also when slots come and go
    paused: set[str] = field(default_factory=set)
    belief: str = ""  # of the question, where only one is to be answered
    _best: Best = field(default_factory=Best)
    _estimated: float = 0.0  # what the plan had expected train_seconds to be
    _open_slot_seconds: float = 0.0
    _ticked: float | None = None

    def began(self, at: float) -> None:
        """A point starts training."""
        if self.first_start is None:
            self.first_start = self._ticked = at

    def point_done(self, id: str, at: float, error_bpm: float, train_seconds: float) -> None:
        """A point is trained."""
        self.found(id, error_bpm)
        self.train_seconds += train_seconds
        self._estimated += self.points[id].cost_s
        self.ended += 1
        self.tick(at)
        self.last_end = at
        self.slot_seconds += self._open_slot_seconds
        self._open_slot_seconds = 0.0

    def found(self, id: str, error_bpm: float) -> None:
        """A done point's headline error, of this call or an earlier one."""
        self._best.add(self.points[id], error_bpm)

    def checkpoint(self, at: float | None) -> None:
        """When a worker last wrote a checkpoint, as far as it says."""
        if at is not None:
            self.checkpointed = max(at, self.checkpointed or at)

    def tick(self, now: float) -> None:
        """Let time pass, with the slots there are now."""
        if self._ticked is not None and now > self._ticked:
            self._open_slot_seconds += self.slots * (now - self._ticked)
            self._ticked = now

    @property
    def efficiency(self) -> float | None:
        """Seconds of training over seconds of slots, from the first start to the last end."""
        return self.train_seconds / self.slot_seconds if self.slot_seconds else None

    @property
    def left(self) -> int:
        """Points still to be trained."""
        return len(self.points) - len(self.done) - len(self.failed) - len(self.blocked)

    def rate_per_h(self, now: float) -> float | None:
        """Points per hour since the first start."""
        if self.first_start is None or not self.ended:
            return None
        return 3600 * self.ended / max(now - self.first_start, 1e-9)

    def eta_s(self) -> float | None:
        """Seconds to the end: the plan's costs of what is left, scaled by what the done points took."""
        if not self._estimated or not self.slots:
            return None
        left = self.cost.left_s
        for where in () if self.belief else self.running.values():  # what is chosen counts from where it is
            left -= self.points[where["point"]].cost_s * where["epoch"] / where["max_epochs"]
        return max(left, 0.0) * self.train_seconds / self._estimated / self.slots

    def best(self) -> dict[str, Leader]:
        """strategy (or "teacher") -> the best that is done, by the sweep's metric."""
        return self._best.by_kind()

    def as_json(self, now: float) -> dict[str, Any]:
        """What progress.json holds."""
        return {
            "time": now,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "total": len(self.points),
            "done": len(self.done),
            "failed": len(self.failed),
            "blocked": len(self.blocked),
            "paused": len(self.paused),
            "running": list(self.running.values()),
            "rate_per_h": self.rate_per_h(now),
            "eta_s": self.eta_s(),
            "slots": self.slots,
            "train_seconds": self.train_seconds,
            "efficiency": self.efficiency,
            "checkpointed": self.checkpointed,
        }


def line(progress: Progress, now: float) -> str:
    """One line of progress, as written where there is no terminal."""
    parts = [f"{len(progress.done)}/{len(progress.points)} done"]
    others = (("failed", progress.failed), ("blocked", progress.blocked), ("paused", progress.paused))
    parts += [f"{len(s)} {name}" for name, s in others if s]
    if progress.running:
        parts.append(f"{len(progress.running)} running")
    if rate := progress.rate_per_h(now):
        parts.append(f"{rate / 60:.1f} points/min")
    if (eta := progress.eta_s()) is not None:
        parts.append(f"ETA {duration(eta)}")
    if best := progress.best():
        errors = ", ".join(f"{kind} {leader.error_bpm:.2f}" for kind, leader in best.items())
        parts.append(f"best {errors} BPM ({progress.headline})")
    if progress.belief:
        parts.append(progress.belief)
    return " · ".join(parts)


class Display:
    """Shows progress on stderr: a live view on a terminal, else a line now and then.

    A stream that is gone (its terminal closed, its reader ended) ends what is shown, and nothing else.
    """

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._live: Any = None
        self._shown, self._last = 0.0, ""
        if stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=stream, markup=False), auto_refresh=False, transient=True)
            self._live.start()

    def say(self, text: str) -> None:
        """Write a line that stays."""
        with self._while_there():
            if self._live:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)

    def show(self, progress: Progress, *, force: bool = False) -> None:
        """Show the sweep's status, if it is time."""
        now = time.monotonic()
        if not force and now - self._shown < (REDRAW_S if self._live else LINE_S):
            return
        self._shown = now
        if self._live:
            with self._while_there():
                self._live.update(view(progress, time.time()), refresh=True)
            return
        text = line(progress, time.time())
        if text != self._last:
            self.say(text)
            self._last = text

    def close(self) -> None:
        """Give the terminal back."""
        if self._live:
            with self._while_there():
                self._live.stop()

    @contextlib.contextmanager
    def _while_there(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # broken pipe, hung up; closed
            self._live, self._stream = None, io.StringIO()


def view(progress: Progress, now: float) -> Any:
    """The live view: a bar, what runs, and the best of each strategy."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 1))
    out = len(progress.points) - progress.left
    bar.add_row(ProgressBar(total=max(len(progress.points), 1), completed=out, width=40), line(progress, now))
    running = list(progress.running.values())[:8]
    rows = [
        Text("  " + running_line(progress.points[where["point"]], where), style="dim") for where in running
    ]
    return Group(bar, *rows)


def running_line(point: Point, where: Mapping[str, Any]) -> str:
    """What one slot does: `dkd resnet1d 8x16 epoch 7/30 val 6.1 BPM`."""
    kind = "teacher" if point.role == "teacher" else point.strategy
    val = where.get("val_mae_bpm")
    what = f"{kind:8} {model_name(point.arch, point.depth, point.width, '{} {}x{}')}"
    error = f"  val {val:.2f} BPM" if val is not None else ""
    unit = "window" if point.brought else "epoch"
    return f"{what}  {unit} {where['epoch']}/{where['max_epochs']}{error}"
