"""A trained student in 8-bit integers for C, and what that costs in BPM on the test subjects."""

from typing import Any

import numpy as np

from kd.edge.int8.quantise import quantise
from kd.edge.int8.student import Student8
from kd.signals.prepare import Data
from kd.training import metrics
from kd.training.teacher import as_tensor, outputs
from orchestrator.edge.profile import calibration_windows, drift

GOAL_BPM = 0.1  # what the integers may cost before it is worth a word


def quantised(model: Any, arch: str, data: Data) -> Student8:
    """The 8-bit student of a model, its ranges from windows of training subjects."""
    return quantise(model, arch, calibration_windows(data))


def cost(model: Any, student: Student8, data: Data) -> dict[str, Any]:
    """On the test windows: mae_bpm of the 8-bit student, costs_bpm beside the float model, drift_bpm."""
    import torch

    centres = metrics.class_centres(data.min_bpm, data.classes)
    x, bpm = np.asarray(data.test.x), np.asarray(data.test.bpm)
    real = metrics.decode_expectation(outputs(model, as_tensor(x))[0], centres).numpy()
    whole = metrics.decode_expectation(torch.from_numpy(student.logits(x)), centres).numpy()
    mae, before = (metrics.error_figures(predicted, bpm)["mae_bpm"] for predicted in (whole, real))
    return {"mae_bpm": mae, "costs_bpm": mae - before, "drift_bpm": drift(whole, real)}


def aware_cost(
    model: Any, after_training: Student8, fine_tuned: Student8, data: Data, record: dict[str, Any]
) -> dict[str, Any]:
    """`cost` of a fine-tuned student, and of the one without fine-tuning; record: of `qat.fine_tuned`."""
    kept = ("id", "epochs", "best_epoch", "val_mae_bpm", "val_mae_bpm_post_training")
    return {
        **cost(model, fine_tuned, data),
        "post_training": cost(model, after_training, data),
        "qat": {key: record[key] for key in kept},
    }


def said(cost: dict[str, Any]) -> str:
    """What integers cost, in words."""
    qat, beyond = cost.get("qat"), ""
    if cost["costs_bpm"] > GOAL_BPM:
        remedy = "prefer float32 in C" if qat else "try --qat, or prefer float32 in C"
        beyond = f", more than {GOAL_BPM:g} BPM: {remedy}"
    if qat and qat["best_epoch"]:
        before = cost["post_training"]["costs_bpm"]
        beyond += f"; without quantisation-aware fine-tuning {before:+.3f}"
    elif qat:
        beyond += "; no epoch of quantisation-aware fine-tuning was better on the validation windows"
    return (
        f"{cost['costs_bpm']:+.3f} BPM on the test windows{beyond} "
        f"(heart rates move by {cost['drift_bpm']['mean']:.3f} BPM on average)"
    )
