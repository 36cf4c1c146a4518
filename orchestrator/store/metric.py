"""The headline error of a result: which of its figures a sweep is judged by. Plain Python, knows result.json.

A space chooses the metric, plan.json keeps it (`headline`), and whoever prints an error says which it is.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kd.errors import InputError

# metric -> how it is called beside a number
METRICS = {
    "by-subject": "mean over subjects",
    "by-window": "mean over windows",
    "p90-subject": "90th percentile of subjects",
    "tracked-by-subject": "mean over subjects, tracked",
    "tracked-by-window": "mean over windows, tracked",
    "tracked-p90-subject": "90th percentile of subjects, tracked",
}
TRACKED = "tracked-"  # of metrics of what the tracker behind a student says (`kd.shipped.tracker`)
DEFAULT = "by-subject"
OLDER = "by-window"  # of sweeps whose plan doesn't say
_HEAD = re.compile(r'\{\s*"metric":\s*"[^"]*",\s*"metric_weights":\s*\{[^{}]*\}')


@dataclass(frozen=True)
class Headline:
    """The metric of a sweep. weights: of data sets, by name; empty: all alike."""

    metric: str = OLDER
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def over(self) -> str:
        """What its mean is over: the metric, whether tracked or not."""
        return self.metric.removeprefix(TRACKED)

    @property
    def tracked(self) -> bool:
        """Whether it is of what the tracker says."""
        return self.metric.startswith(TRACKED)

    def with_tracker(self, tracked: bool | None) -> "Headline":
        """The same of what the tracker says, or of single windows; None: as it is."""
        return self if tracked is None else replace(self, metric=TRACKED * tracked + self.over)

    def __call__(self, result: Mapping[str, Any]) -> float:
        """The error of a result in BPM."""
        return error_of(result, self.metric, self.weights)

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with that error as its mae_bpm, for what knows of one error only."""
        found = {**result, "mae_bpm": self(result)}
        if self.tracked:
            found |= {"subjects": None, "mae_by_subject": result.get("mae_by_subject_tracked") or {}}
        return found

    def if_tracked(self, result: Mapping[str, Any]) -> float | None:
        """The error of a result with the tracker; None of versions before there was one."""
        found = result.get("by_metric") or by_metric(result)
        return self.with_tracker(True)(result) if "tracked" in found else None

    def both(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result judged, and its errors without and with the tracker as alone_bpm and tracked_bpm."""
        either = {"alone_bpm": self.with_tracker(False)(result), "tracked_bpm": self.if_tracked(result)}
        return self.judged(result) | either

    def __str__(self) -> str:
        """As it stands beside a number: "mean over subjects"."""
        given = ", ".join(f"{name} {weight:g}" for name, weight in sorted(self.weights.items()))
        weighted = f" (weights: {given})" if given and self.over == "by-subject" else ""
        return METRICS[self.metric] + weighted


def headline(folder: Path) -> Headline:
    """The metric of a sweep, as its plan.json says; mean over windows where that says nothing, or is missing.

    Raises InputError for a damaged plan.
    """
    path = Path(folder) / "plan.json"
    try:
        with path.open(encoding="utf-8") as file:
            head = _HEAD.match(file.read(4096))  # plans are long
        text = f"{head[0]}}}" if head else path.read_text(encoding="utf-8")
        return headline_in(json.loads(text))
    except FileNotFoundError:
        return Headline()
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a plan ({error!r}): run the search space again") from error


def headline_in(document: Mapping[str, Any]) -> Headline:
    """The metric that plan.json or laws.json names. Raises ValueError for one that isn't known."""
    metric, weights = document.get("metric") or OLDER, document.get("metric_weights") or {}
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r:.40}: not one of {', '.join(METRICS)}")
    return Headline(metric, {str(name): float(weight) for name, weight in weights.items()})


def error_of(
    result: Mapping[str, Any], metric: str = DEFAULT, weights: Mapping[str, float] | None = None
) -> float:
    """The error of a result in BPM by a metric of METRICS.

    by-subject: the mean over subjects within each data set, then over data sets with `weights` (default: all
    alike; those of data sets without a test subject don't count). p90-subject: the 90th percentile over
    subjects of their mean absolute error, interpolated linearly. tracked-...: the same with the tracker. A
    result that keeps no errors by subject, as simulated ones do, has only its mean over windows. Raises
    InputError when no tested data set has a weight, or the result is of a version without a tracker.
    """
    if metric not in METRICS:
        raise InputError(f"metric is {metric!r}: use {', '.join(METRICS)}")
    found, mae = result.get("by_metric") or by_metric(result), result["mae_bpm"]
    if metric.startswith(TRACKED):
        if "tracked" not in found:
            raise InputError(
                f"point {result.get('id')} has no error with a tracker: an earlier version trained it; do so "
                "again with `kdsweep retry`, or leave the tracker out"
            )
        metric, found = metric.removeprefix(TRACKED), found["tracked"]
        mae = found["by-window"]
    if metric == "by-window" or metric not in found:
        return float(mae)
    if metric == "p90-subject":
        return float(found[metric])
    means = found[metric]
    share = {name: float((weights or {}).get(name, 0.0 if weights else 1.0)) for name in means}
    total = math.fsum(share.values())
    if total <= 0:
        raise InputError(
            f"metric_weights name none of the tested data sets {', '.join(sorted(means))}: "
            "give one of them a weight above 0"
        )
    return math.fsum(share[name] * means[name] for name in sorted(means)) / total


def by_metric(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the metrics of subjects need, in few numbers: "by-subject" by data set, "p90-subject" in BPM.

    Empty where errors by subject aren't kept. "tracked": the same with the tracker, and "by-window", too.
    """
    found = _over_subjects(mae_by_subject(result))
    if (mae := result.get("mae_bpm_tracked")) is not None:
        found["tracked"] = {"by-window": mae, **_over_subjects(result.get("mae_by_subject_tracked") or {})}
    return found


def _over_subjects(subjects: Mapping[str, float]) -> dict[str, Any]:
    if not subjects:
        return {}
    datasets: dict[str, list[float]] = {}
    for name, mae in subjects.items():
        datasets.setdefault(name.partition("/")[0], []).append(mae)
    means = {name: math.fsum(errors) / len(errors) for name, errors in datasets.items()}
    return {"by-subject": means, "p90-subject": _percentile(sorted(subjects.values()), 0.9)}


def mae_by_subject(result: Mapping[str, Any]) -> dict[str, float]:
    """The mean absolute error of every test subject ("dataset/subject") in BPM; empty if it isn't kept."""
    if subjects := result.get("subjects"):
        return {name: s["abs_sum"] / s["windows"] for name, s in subjects.items()}
    return dict(result.get("mae_by_subject") or {})


def _percentile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
