"""Outputs of any kind as logits over the classes: mass is kept, equal bins keep their bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.errors import InputError
from kd.teachers.decode import check_width, shares, to_logits
from kd.teachers.source import Source


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64) - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@given(st.floats(0, 250), st.floats(0.1, 20), st.integers(1, 300), st.integers(20, 60), st.integers(3, 200))
@settings(max_examples=60, deadline=None)
def test_every_bin_gives_all_of_its_mass(first, step, bins, min_bpm, classes):
    found = shares(first, step, bins, min_bpm, classes)
    assert found.shape == (bins, classes)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-9)


def test_the_mean_heart_rate_of_finer_bins_is_kept():
    raw = np.random.default_rng(0).normal(size=(5, 340)).astype(np.float32)  # inside the classes
    source = Source("a", "onnx", min_bpm=35.0, step_bpm=0.5)
    got = softmax(to_logits(source, raw, 30, 180)) @ np.arange(30, 210)
    wanted = softmax(raw) @ (35 + 0.5 * np.arange(340))
    np.testing.assert_allclose(got, wanted, atol=0.05)


def test_the_tasks_own_bins_are_left_as_they_are():
    raw = np.random.default_rng(0).normal(size=(5, 180)).astype(np.float32)
    for source in (Source("a", "onnx"), Source("a", "onnx", min_bpm=30.0)):
        assert (to_logits(source, raw, 30, 180) == raw).all()


def test_bpm_and_gaussian_are_gaussians_over_the_classes():
    centres = np.arange(30, 210)
    got = softmax(to_logits(Source("a", "onnx", output="bpm", width_bpm=3.0), np.array([[80.0]]), 30, 180))
    assert got @ centres == pytest.approx(80.0, abs=1e-3)
    assert np.sqrt(got @ (centres - 80.0) ** 2) == pytest.approx(3.0, abs=1e-3)
    raw = np.array([[100.0, 2.0], [60.5, 7.0]])
    got = softmax(to_logits(Source("a", "onnx", output="gaussian"), raw, 30, 180))
    np.testing.assert_allclose(got @ centres, [100.0, 60.5], atol=1e-2)
    with pytest.raises(InputError, match="standard deviation of -1 BPM: it must be positive"):
        to_logits(Source("a", "onnx", output="gaussian"), np.array([[100.0, -1.0]]), 30, 180)


@pytest.mark.parametrize(
    ("source", "width", "said"),
    [
        (
            Source("mine", "onnx"),
            200,
            r"mine gives 200 outputs, and the task has 180 classes: .* bins",
        ),
        (Source("mine", "onnx", output="bpm"), 180, r"output: bpm has 1"),
        (Source("mine", "onnx", output="gaussian"), 1, r"output: gaussian has 2"),
    ],
)
def test_outputs_that_cannot_be_what_is_declared(source, width, said):
    with pytest.raises(InputError, match=said):
        check_width(source, width, 30, 180)
    check_width(Source("mine", "onnx", min_bpm=20.0), 200, 30, 180)
