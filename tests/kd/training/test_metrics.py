"""Figures: decoding and errors against values worked out by hand."""

import numpy as np
import pytest
import torch

from kd.errors import InputError
from kd.training.metrics import (
    class_centres,
    decode_argmax,
    decode_expectation,
    error_figures,
    finite,
    mae_by,
)


def test_the_classes_are_30_to_209_bpm():
    centres = class_centres(30, 180)
    assert (centres[0], centres[-1], len(centres)) == (30, 209, 180)


def test_decoding_by_expectation_and_by_argmax():
    centres = class_centres(60, 4)
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25, 1e-9], [1e-9, 1e-9, 1e-9, 1.0]]))
    torch.testing.assert_close(decode_expectation(logits, centres), torch.tensor([60.75, 63.0]))
    torch.testing.assert_close(decode_argmax(logits, centres), torch.tensor([60.0, 63.0]))


def test_decoding_survives_large_logits_and_half_precision():
    logits = torch.zeros(2, 180, dtype=torch.bfloat16)
    logits[0, 50], logits[1, 179] = 1e4, 3e38
    decoded = decode_expectation(logits, class_centres(30, 180))
    torch.testing.assert_close(decoded, torch.tensor([80.0, 209.0]))


def test_error_figures_by_hand():
    figures = error_figures(np.array([60.0, 75.0, 100.0, 80.0]), np.array([60.0, 70.0, 90.0, 79.0]))
    assert figures["mae_bpm"] == pytest.approx(4.0)
    assert figures["rmse_bpm"] == pytest.approx(np.sqrt((0 + 25 + 100 + 1) / 4))
    assert figures["within_5_bpm"] == 0.75  # an error of exactly 5 is within
    assert finite(figures)
    assert not finite({"mae_bpm": float("nan")})


def test_no_window_is_an_error_and_not_a_nan():
    with pytest.raises(InputError, match="no window"):
        error_figures(np.zeros(0), np.zeros(0))


def test_mae_by_group():
    groups = np.array(["b", "a", "b"])
    assert mae_by(groups, np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0])) == {"a": 2.0, "b": 2.0}
    assert list(mae_by(groups, np.zeros(3), np.zeros(3))) == ["a", "b"]
