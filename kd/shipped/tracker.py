"""Heart rate with a memory, how sure it is, and when to say "I don't know". numpy only.

    tracker = Tracker(config["tracker"], min_bpm=30, classes=180)
    for logits in ...:                       # (classes,), of one window after another
        estimate = tracker.update(logits)    # .bpm, .low, .high, .expected_error_bpm, .unsure

Forward filter of a hidden Markov model whose states are the classes. From one window to the next the rate
changes as it did from label to label in training, or, rarely, to anywhere. What a window says is the model's
softmax at a temperature, to the power `weight`: windows overlap, so that their errors repeat. The first
window after `reset` counts whole. The C of kdsweep_tracker.h does the same in 2 * classes floats of memory.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A heart rate and how sure it is. low, high: its 90 % interval (`level`). All in BPM.

    expected_error_bpm: the mean distance of the rate from `bpm`, by what the tracker believes. unsure: that
    is above the threshold: rather say nothing.
    """

    bpm: float
    low: float
    high: float
    expected_error_bpm: float
    unsure: bool


class Tracker:
    """Keeps the belief over the classes between windows. config: as preprocess.json has it."""

    def __init__(self, config: dict[str, Any], min_bpm: float, classes: int) -> None:
        self.config, self.min_bpm, self.moves = config, float(min_bpm), moves(config, classes)
        self.belief: Any = None  # (classes,); None before the first window

    def reset(self) -> None:
        """Forget: a window was missed, or another recording begins."""
        self.belief = None

    def update(self, logits: Any) -> Estimate:
        """The heart rate after one more window, from its logits (classes,)."""
        p = probabilities(logits, self.config["temperature"])
        if self.belief is not None:
            p = updated(self.belief, p, self.config["weight"], self.moves)
        self.belief = p
        return estimate(p, self.config, self.min_bpm)


def estimate(belief: Any, config: dict[str, Any], min_bpm: float) -> Estimate:
    """What a belief (classes,) says: its median; an interval and an error as far as it can be trusted.

    Overlapping windows make it too sure of itself: "belief_temperature" takes that back.
    """
    p, outside = probabilities(log(belief), config["belief_temperature"]), (1 - config["level"]) / 2
    bpm, low, high = (
        float(quantile(q, at, min_bpm)) for q, at in ((belief, 0.5), (p, outside), (p, 1 - outside))
    )
    error = float(expected_error(p, bpm, min_bpm))
    return Estimate(bpm, min(low, bpm), max(high, bpm), error, error > config["unsure_above_bpm"])


def log(p: Any) -> Any:
    """Of probabilities, 0 taken for 1e-30."""
    return np.log(np.maximum(p, np.float32(1e-30)))


def probabilities(logits: Any, temperature: float) -> Any:
    """The softmax at a temperature, of logits (..., classes)."""
    z = np.asarray(logits, np.float32) * np.float32(1 / temperature)
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def updated(belief: Any, p: Any, weight: Any, moves: Any) -> Any:
    """The belief (..., classes) after a window whose probabilities are p; moves: (classes, classes)."""
    p = (belief @ moves) * np.maximum(p, np.float32(1e-30)) ** np.asarray(weight, np.float32)
    return p / p.sum(-1, keepdims=True)


def moves(config: dict[str, Any], classes: int) -> Any:
    """Probability (classes, classes) of each class, the column, after each, the row.

    change: of each change by a whole number of classes, from the greatest fall to the greatest rise. jump: of
    any class whatever. What would lead beyond the classes is left out, as it is when the belief is scaled.
    """
    change, jump = np.asarray(config["change"], np.float32), np.float32(config["jump"])
    reach = len(change) // 2
    out = np.full((classes, classes), jump / np.float32(classes), np.float32)
    for by, share in zip(range(-reach, reach + 1), change):  # noqa: B905
        rows = np.arange(max(-by, 0), classes - max(by, 0))
        out[rows, rows + by] += (1 - jump) * share
    return out


def quantile(p: Any, q: float, min_bpm: float) -> Any:
    """The BPM (...) below which the share q of probabilities p (..., classes) lies.

    Class k is spread evenly over min_bpm + k - 0.5 to min_bpm + k + 0.5.
    """
    before = np.cumsum(p, -1) - p
    k = np.maximum((before < q).sum(-1, keepdims=True) - 1, 0)
    at, here = np.take_along_axis(before, k, -1)[..., 0], np.take_along_axis(p, k, -1)[..., 0]
    inside = np.clip((q - at) / np.maximum(here, np.float32(1e-30)), 0, 1)
    return min_bpm + k[..., 0] - 0.5 + inside


def expected_error(p: Any, bpm: Any, min_bpm: float) -> Any:
    """The mean distance (...) in BPM of rates of probabilities p (..., classes) from bpm (...)."""
    centres = min_bpm + np.arange(p.shape[-1])
    return (p * np.abs(centres - np.asarray(bpm)[..., None])).sum(-1)
