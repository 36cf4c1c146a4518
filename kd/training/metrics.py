"""From logits to beats per minute, and from beats per minute to figures. N windows, K classes."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kd.errors import InputError

FloatArray = npt.NDArray[np.floating]


def class_centres(min_bpm: int, classes: int) -> Tensor:
    """BPM of each class, (K,): class k is min_bpm + k (180 from 30: 30..209, as in WildPPG's code)."""
    return torch.arange(min_bpm, min_bpm + classes, dtype=torch.float32)


def decode_expectation(logits: Tensor, centres: Tensor) -> Tensor:
    """Expected BPM under the softmax, (N,). Logits (N, K)."""
    return logits.float().softmax(1) @ centres.to(logits.device)


def decode_argmax(logits: Tensor, centres: Tensor) -> Tensor:
    """BPM of the most likely class, (N,). Logits (N, K)."""
    return centres.to(logits.device)[logits.argmax(1)]


def error_figures(predicted: FloatArray, bpm: FloatArray) -> dict[str, float]:
    """mae_bpm, rmse_bpm and within_5_bpm (share of windows within 5 BPM), both arguments (N,)."""
    if len(bpm) == 0:
        raise InputError("no window to evaluate: the test subjects have none; add subjects to the test split")
    error = np.asarray(predicted, dtype=np.float64) - np.asarray(bpm, dtype=np.float64)
    return {
        "mae_bpm": float(np.abs(error).mean()),
        "rmse_bpm": float(np.sqrt(np.square(error).mean())),
        "within_5_bpm": float((np.abs(error) <= 5).mean()),
    }


def mae_by(groups: npt.NDArray[np.str_], predicted: FloatArray, bpm: FloatArray) -> dict[str, float]:
    """MAE in BPM for each value of `groups` (N,), in sorted order."""
    error = np.abs(np.asarray(predicted, dtype=np.float64) - np.asarray(bpm, dtype=np.float64))
    return {str(g): float(error[groups == g].mean()) for g in np.unique(groups)}


def finite(figures: Mapping[str, float]) -> bool:
    """Whether every figure is a finite number."""
    return all(np.isfinite(v) for v in figures.values())
