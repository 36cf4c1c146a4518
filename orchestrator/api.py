"""A sweep from Python: `from orchestrator import open_sweep`; see docs/python.md.

The commands print what these calls return. What a user can mend raises InputError; nothing exits or prints.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.store.find import find_point, sweep_folder
from orchestrator.store.metric import headline
from orchestrator.store.store import Store

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from orchestrator.answers.shown import Answer, Suggested
    from orchestrator.edge.model import Preprocessing
    from orchestrator.run.outcome import SweepResult


def open_sweep(sweep: str | os.PathLike[str]) -> "Sweep":
    """The sweep of this directory, or of this name under `sweeps/`; InputError when there is none."""
    return Sweep(sweep_folder(os.fspath(sweep)))


def run(
    space: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    answer: str | None = None,
    until_regret: float | None = None,
    gpu_hours: float | None = None,
    **options: Any,
) -> "Sweep":
    """Train what a search space names and is not done yet; the sweep, with `last_run` telling how it went.

    answer, until_regret, gpu_hours: train only what this question needs, as `kdsweep run --answer`.

    space: a YAML file, or a sweep to go on with. overrides: like "training.max_epochs=5". options: `out`, the
    sweep directory, and those of `orchestrator.run.start.train`. Progress goes to stderr. A signal that stops
    the sweep (an interrupted cell, too) takes its usual effect once all is saved; outside the main thread
    signals don't stop it. Raises InputError, RuntimeError when Ray can't train at all.
    """
    from orchestrator.answers.asked import asked
    from orchestrator.run.start import run_space

    question = asked(answer, until_regret, gpu_hours)
    went = run_space(os.fspath(space), overrides, asked=question, **options)
    return Sweep(went.folder, went.result)


@dataclass(frozen=True)
class Sweep:
    """A sweep directory, read at every call. A point is given by its id or a unique prefix of it."""

    folder: Path
    last_run: "SweepResult | None" = None  # of `run`

    @property
    def store(self) -> Store:
        """Its files."""
        return Store(self.folder)

    def results(self, by: str | None = None) -> "pd.DataFrame":
        """A row a trained point; by="subject" or "dataset": a row a point and subject, with its mae_bpm.

        error_bpm is the error by the sweep's metric, which `sweep.metric` names.
        Columns are typed (Int64, Float64, string, UTC times); strategy arguments are args.<name>.
        """
        from orchestrator.store.table import columns_by, frame, rows_by, rows_of

        if by is None:
            return frame(rows_of(self.store.results(), headline(self.folder)))
        return frame(rows_by(self.store.results(), by), columns_by(by))

    @property
    def metric(self) -> str:
        """What its headline errors are, such as "mean over subjects"."""
        return str(headline(self.folder))

    def history(self, point: str) -> "pd.DataFrame":
        """A row an epoch of a point, also of one in training: epoch, train_loss, val_mae_bpm, lr, ..."""
        import pandas as pd

        return pd.DataFrame(self.store.history(self.find(point))).convert_dtypes()

    def point(self, point: str) -> dict[str, Any]:
        """Everything of one point, as `kdsweep show --json` prints it."""
        from orchestrator.run.point import everything_of

        return everything_of(self.folder, point)

    def status(self) -> dict[str, Any]:
        """Its status, as `kdsweep status --json` prints it."""
        from orchestrator.run.status import standing

        return standing(self.folder)

    def fit(self, seed: int = 0, recipe: str | None = None, tracked: bool | None = None) -> dict[str, Any]:
        """Fit the laws and write laws.json and laws.png; the content of laws.json. seed: of the bootstrap.

        recipe: which students, where the sweep has several recipes ("lr=0.001"); default: the most. tracked:
        laws of errors with the tracker, or without, in laws_tracked.json; default: as the sweep's metric.
        """
        from orchestrator.laws.write import write_laws
        from orchestrator.tracking.reader import from_folder

        return write_laws(from_folder(self.folder), self.folder, seed, recipe, tracked)

    def query(
        self,
        max_mae: float | None = None,
        confidence: float | None = None,
        *,
        recipe: str | None = None,
        tracked: bool | None = None,
        **limits: Any,
    ) -> "Answer":
        """The best student within `limits` (the fields of `Budget`: max_params=20000, ...); fit first.

        With max_mae (BPM): the smallest student that reaches it with this confidence (default 0.8).
        recipe: that the laws must be of. tracked: as of `fit`.
        """
        from orchestrator.answers.ask import ask
        from orchestrator.answers.shown import Answer, budget_of

        return Answer(**ask(self.folder, budget_of(limits), max_mae, confidence, recipe, tracked))

    def claims(self, recipe: str | None = None) -> dict[str, Any]:
        """Which claims about distillation hold, as `kdsweep claims --json` prints them; needs no fit."""
        from orchestrator.answers.claims import claims, dataset_weights

        return claims(self.store.results(), recipe, dataset_weights(self.folder))

    def new_device(self, against: "Sweep | None" = None, recipe: str | None = None) -> dict[str, Any]:
        """What a new device costs, as `kdsweep claims --new-device --json` prints it; of a lodo sweep.

        against: a kfold sweep of the same students, which trained on all data sets.
        """
        from orchestrator.answers.new_device import new_device

        return new_device(self.store.results(), against.store.results() if against else None, recipe)

    def suggest(
        self,
        gpu_hours: float,
        out: str | os.PathLike[str] | None = None,
        *,
        recipe: str | None = None,
        **limits: Any,
    ) -> "Suggested":
        """What to train next for this query; `file` is the search space written for it, which `run` takes."""
        from orchestrator.answers.ask import suggest_space
        from orchestrator.answers.shown import Suggested, budget_of

        path = Path(out) if out else None
        return Suggested(**suggest_space(self.folder, budget_of(limits), gpu_hours, path, recipe))

    def report(
        self,
        output: str | os.PathLike[str] | None = None,
        device: str | None = None,
        recipe: str | None = None,
    ) -> Path:
        """Write the HTML report and return where it is; fit first. device: whose latency is shown."""
        from orchestrator.report.write import write_report

        said = write_report(
            self.folder, Path(output) if output else None, device, mlflow=False, recipe=recipe
        )
        for warning in said["warnings"]:
            warnings.warn(warning, stacklevel=2)
        return Path(said["report"])

    def compare(self, other: "Sweep") -> dict[str, Any]:
        """The points both sweeps have, as `kdsweep compare --json` prints them."""
        from orchestrator.answers.compare import compare

        return compare(self.store, other.store)

    def model(self, point: str) -> "tuple[nn.Module, Preprocessing]":
        """A trained point's network in evaluation mode, and what turns recordings into its input.

        `model(x)` takes float32 (N, channels, samples) and returns logits (N, classes) and features.
        """
        from orchestrator.edge.model import load_point

        return load_point(self.folder, point)

    def evaluate(self, point: str, path: str | os.PathLike[str], format: str = "auto") -> dict[str, Any]:
        """A trained point (or "best") on other recordings, as `kdsweep evaluate --json` prints it."""
        from orchestrator.edge.evaluate import evaluate_point

        return evaluate_point(self.folder, point, Path(path), format)

    def refit(self, point: str, seed: int | None = None) -> dict[str, Any]:
        """Train a point's configuration on all subjects, as `kdsweep refit --json` prints it."""
        from orchestrator.edge.refit import refit_point

        return refit_point(self.folder, self.find(point), seed)

    def find(self, point: str) -> str:
        """The full id of a point; InputError when none or several match."""
        return find_point(self.store.ids(), point, str(self.folder))
