"""From what a teacher puts out to logits over the task's classes. numpy only; N windows, K classes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.teachers.source import Source

Array = npt.NDArray[Any]
LEAST = 1e-12  # of a class's probability, where a teacher's bins say nothing of it


def check_width(source: Source, width: int, min_bpm: int, classes: int) -> None:
    """Raise InputError if outputs of this width can't be what is declared."""
    who = f"teacher {source.name}"
    if source.output == "logits" and source.min_bpm is None and width != classes:
        raise InputError(
            f"{who} gives {width} outputs, and the task has {classes} classes: say which heart rates they "
            f"are with bins, such as bins: {{min_bpm: {min_bpm}, step_bpm: 1}}, or what they are with output"
        )
    wanted = {"bpm": 1, "gaussian": 2}.get(source.output)
    if wanted is not None and width != wanted:
        raise InputError(
            f"{who} gives {width} outputs a window, but output: {source.output} has {wanted}: correct output"
        )


def to_logits(source: Source, raw: Array, min_bpm: int, classes: int) -> Array:
    """Logits float32 (N, K) of raw outputs (N, D) of any kind but an embedding.

    bpm: a Gaussian of source.width_bpm; gaussian: of mean raw[:, 0] and standard deviation raw[:, 1], BPM.
    """
    centres = np.arange(min_bpm, min_bpm + classes, dtype=np.float64)
    if source.output == "logits":
        if source.min_bpm is None or (source.min_bpm, source.step_bpm, raw.shape[1]) == (min_bpm, 1, classes):
            return np.asarray(raw, np.float32)
        share = shares(source.min_bpm, source.step_bpm, raw.shape[1], min_bpm, classes)
        return np.log(np.maximum(_softmax(raw) @ share, LEAST)).astype(np.float32)
    mean = raw[:, :1].astype(np.float64)
    width = np.full_like(mean, source.width_bpm) if source.output == "bpm" else raw[:, 1:2].astype(np.float64)
    if not (width > 0).all():
        raise InputError(
            f"teacher {source.name} gives a standard deviation of {width.min():g} BPM: it must be positive"
        )
    return (-0.5 * ((centres - mean) / width) ** 2).astype(np.float32)


def shares(first_bpm: float, step_bpm: float, bins: int, min_bpm: int, classes: int) -> Array:
    """Which share of a bin's mass goes to each class, (bins, K), rows adding up to 1.

    A bin is as wide as its step and its mass even over it; what lies outside the classes goes to the nearest.
    """
    edges = first_bpm + step_bpm * (np.arange(bins + 1) - 0.5)
    limits = min_bpm - 0.5 + np.arange(classes + 1.0)
    limits[0], limits[-1] = -np.inf, np.inf
    low = np.maximum(edges[:-1, None], limits[None, :-1])
    high = np.minimum(edges[1:, None], limits[None, 1:])
    return np.maximum(high - low, 0.0) / step_bpm


def _softmax(logits: Array) -> Array:
    z = logits.astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))
