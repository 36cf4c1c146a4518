"""How a sweep is to be run, beyond what its space says, and how it went. Knows neither Ray nor a store."""

import signal
from dataclasses import dataclass, field

from orchestrator.run.answering import Asked
from orchestrator.run.best import Leader


@dataclass(frozen=True)
class Options:
    """How to run a sweep, beyond what its space says."""

    address: str | None = None  # a running Ray, IP:PORT; None = start one here
    slots: int | None = None  # at most so many packs at once; None = what CPUs and GPUs give
    dashboard: bool = True
    tracking_uri: str | None = None  # None = mlflow.db in the sweep directory
    max_failures: int = 1  # how often a point may fail and be tried again
    slice_s: float = 2.0  # a worker reports about this often, less often where there are many (`pace`)
    checkpoint_every_s: float = 30.0
    asked: Asked | None = None  # train only what a question needs; None = everything
    command: str = "kdsweep run"  # the entry point that the dashboard shows


@dataclass
class SweepResult:
    """How one call of run_sweep went; `exit_code` follows the command line's table."""

    total: int
    already_done: int
    done: int
    failed: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    train_seconds: float = 0.0
    efficiency: float | None = None
    slots: int = 0
    startup_s: dict[str, float] = field(default_factory=dict)
    best: dict[str, Leader] = field(default_factory=dict)
    dashboard_url: str | None = None
    stopped_by: signal.Signals | None = None
    error: str | None = None
    later: bool = False  # what the error is about may be over by itself: run it again then
    tracking_error: str | None = None
    answer: str | None = None  # what was believed of the question at the end, in words
    answered: bool | None = None  # whether that is what was asked for; None: without a question, or stopped

    @property
    def exit_code(self) -> int:
        """0 all done or answered, 1 broken, 3 some points failed or not answered, 75 more to do later, 130
        interrupted.
        """
        if self.done == self.total or self.answered:
            return 0
        if self.stopped_by:
            return 130 if self.stopped_by == signal.SIGINT else 75
        if self.error:
            return 75 if self.later else 1
        return 3

    @property
    def mlflow_status(self) -> str:
        """What the parent run shows."""
        if self.answered is not None and not self.failed:
            return "FINISHED"
        return {0: "FINISHED", 1: "FAILED", 3: "FAILED"}.get(self.exit_code, "KILLED")

    def figures(self) -> dict[str, float]:
        """What the parent run logs."""
        figures = {
            "points_done": self.done,
            "points_failed": len(self.failed),
            "train_seconds": self.train_seconds,
        }
        figures |= {f"best_error_bpm.{kind}": leader.error_bpm for kind, leader in self.best.items()}
        if self.efficiency:
            figures["scheduling_efficiency"] = self.efficiency
        return figures
