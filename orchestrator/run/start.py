"""From a search space to a trained sweep: what `kdsweep run` and `orchestrator.api.run` call."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.errors import InputError
from orchestrator.run.answering import Asked
from orchestrator.run.driver import Busy, run_sweep
from orchestrator.run.outcome import Options, SweepResult
from orchestrator.run.progress import Display
from orchestrator.run.ray_cluster import environment_kept
from orchestrator.space.resolve import Opened, open_space


@dataclass(frozen=True)
class Went:
    """A sweep's directory and how the run into it went."""

    folder: Path
    result: SweepResult


def train(
    opened: Opened,
    display: Display,
    *,
    address: str | None = None,
    slots: int | None = None,
    dashboard: bool = True,
    tracking_uri: str | None = None,
    checkpoint_every_s: float = 30.0,
    asked: Asked | None = None,
    command: str = "kdsweep run",
) -> SweepResult:
    """Train what is not done yet. Signal handlers and environment are given back as they were.

    address: IP:PORT of a running Ray, None starts one here. slots: at most so many points at once.
    tracking_uri: an MLflow server, None is mlflow.db in the sweep directory. asked: train only what this
    question needs, None trains all. command: for the dashboard.
    Raises InputError, also when the sweep is being run already or this process is in a Ray.
    """
    opened.store.path.mkdir(parents=True, exist_ok=True)
    for why in opened.plan.refused:
        display.say(f"refused: {why}")
    if said := opened.left_in_words():
        display.say(said)
    options = Options(
        address=address,
        slots=slots,
        dashboard=dashboard,
        tracking_uri=tracking_uri,
        max_failures=opened.space.resources.max_failures,
        checkpoint_every_s=checkpoint_every_s,
        asked=asked,
        command=command,
    )
    try:
        with environment_kept():
            return run_sweep(
                opened.keep, opened.data, opened.store, opened.cache_dir, opened.slot, options, display
            )
    except Busy as busy:
        raise InputError(f"{busy}; wait for it, or follow it with `kdsweep status --watch`") from None


def run_space(space: str, overrides: Sequence[str] = (), out: str | None = None, **options: Any) -> Went:
    """Read a search space, train it, show progress on stderr. options: those of `train`.

    A signal that stopped it is raised again once everything is saved: an interrupt becomes KeyboardInterrupt.
    Raises RuntimeError when Ray's workers can't start, InputError for what the user can mend.
    """
    display = Display(sys.stderr)
    try:
        opened = open_space(space, overrides, out, display.say)
        result = train(opened, display, **options)
    finally:
        display.close()
    if result.stopped_by:
        signal.raise_signal(result.stopped_by)
    if result.error:
        raise RuntimeError(f"{opened.store.path}: {result.error}")
    return Went(opened.store.path, result)
