"""Errors by subject: what a result says of each one, and what early stopping goes by. Knows no model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.signals.windows import WindowSet
from kd.training import metrics

FloatArray = npt.NDArray[np.floating]


class BySubject:
    """Sums of errors over the windows of each subject in `windows`, for any prediction of their BPM."""

    def __init__(self, windows: WindowSet) -> None:
        self._bpm = windows.bpm.astype(np.float64)
        # Windows of a subject come in few rows: sorting those is a hundred times faster than sorting windows.
        starts = np.flatnonzero(np.append(True, windows.subject[1:] != windows.subject[:-1]))
        self.subjects, first, owner = np.unique(
            windows.subject[starts], return_index=True, return_inverse=True
        )
        self._owner = np.repeat(owner, np.diff(starts, append=len(windows)))
        self.windows = np.bincount(self._owner, minlength=len(self.subjects))
        self.datasets, self._dataset = np.unique(windows.dataset[starts[first]], return_inverse=True)

    def figures(self, predicted: FloatArray) -> dict[str, dict[str, Any]]:
        """For each subject: windows, abs_sum in BPM, sq_sum in BPM^2, within_5 (windows within 5 BPM).

        predicted: (N,), BPM.
        """
        error = self._error(predicted)
        sums = (self._sum(error), self._sum(np.square(error)), self._sum(error <= 5))
        return {
            str(name): {"windows": int(n), "abs_sum": float(a), "sq_sum": float(s), "within_5": int(w)}
            for name, n, a, s, w in zip(self.subjects, self.windows, *sums, strict=True)
        }

    def criterion(
        self, predicted: FloatArray, stop_on: str, weights: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """What `metrics.error_figures` says of predicted (N,), its mae_bpm by one of `recipe.STOP_ON`.

        by-subject: the mean over subjects within each data set, then over data sets with `weights`, by name
        (default, and where none of these data sets has one: all alike). p90-subject: the 90th percentile over
        subjects, interpolated linearly.
        """
        figures = metrics.error_figures(predicted, self._bpm)
        if stop_on == "by-window":
            return figures
        of_subject = self._sum(self._error(predicted)) / self.windows
        of_dataset = np.bincount(self._dataset, weights=of_subject) / np.bincount(self._dataset)
        share = np.array([(weights or {}).get(str(name), 0.0) for name in self.datasets])
        by_subject = np.average(of_dataset, weights=share) if share.any() else of_dataset.mean()
        mae = by_subject if stop_on == "by-subject" else np.percentile(of_subject, 90)
        return {**figures, "mae_bpm": float(mae)}

    def _error(self, predicted: FloatArray) -> FloatArray:
        return np.abs(np.asarray(predicted, dtype=np.float64) - self._bpm)

    def _sum(self, values: npt.NDArray[Any]) -> FloatArray:
        return np.bincount(self._owner, weights=values, minlength=len(self.subjects)).astype(np.float64)
