"""The law of instructions: its calls are the generator's, its numbers what QEMU counts of other shapes."""

import shutil

import numpy as np
import pytest

from kd.edge import calibrate, emulate
from kd.edge.c import instructions as law
from kd.edge.c.network import network
from kd.errors import InputError
from kd.signals.preprocess import Preprocess

NEEDED = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in emulate.PACKAGES),
    reason="needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm",
)
SHAPES = [
    ("resnet1d", 1, 1),
    ("resnet1d", 9, 3),
    ("resnet1d", 6, 8),
    ("resnet1d-post", 7, 5),
    ("tcn", 5, 3),
    ("dscnn", 6, 5),
    ("mlp", 1, 4),
    ("mlp", 4, 17),
]


@pytest.mark.parametrize(("arch", "depth", "width"), SHAPES)
def test_the_calls_of_a_shape_are_those_that_the_generator_writes(arch, depth, width):
    preprocess = Preprocess(channels="all", fs=20.0, window_s=4.05)
    model, config, inputs = calibrate.student((arch, depth, width, preprocess, 2), classes=60)
    pipeline = law.Pipeline.of(config, inputs)
    written = [law.numbers(call) for call in network(model, arch, 2, preprocess.samples).calls]
    assert list(law.calls(arch, depth, width, pipeline)) == written
    assert all(law.label(call) for call in written)


def test_loops_turn_once_for_each_product_and_value():
    """By hand: 3 taps at 5 places, zeros beyond both ends, 2 channels to 3: 13 taps of 2 products."""
    found = law.counts(("convolve", (5, 2, 3, 3, 1, "RELU")), pairs=True)
    of = {"convolve.pair": 2, "convolve.single": 1}
    for kind, outputs in of.items():
        products = 4 * found[f"{kind}.quad"] + found[f"{kind}.product"]
        assert products == 13 * 2  # once for a pair: both of its outputs
        assert found[kind] * outputs == 5 * outputs
    assert found["convolve.position"] == 5
    alone = law.counts(("convolve", (5, 2, 3, 3, 1, "RELU")), pairs=False)
    assert alone["convolve.pair"] == 0
    assert 4 * alone["convolve.single.quad"] + alone["convolve.single.product"] == 13 * 2 * 3
    assert law.counts(("norm_relu", (7, 3)), pairs=True)["norm_relu.value"] == 21


@pytest.mark.parametrize("target", emulate.TARGETS)
def test_many_widths_at_once_are_each_width(target):
    pipeline, widths = law.Pipeline(), np.array([1, 2, 3, 8, 13])
    for arch, depth in (("resnet1d", 5), ("mlp", 2), ("resnet1d-post", 4), ("tcn", 4), ("dscnn", 4)):
        together = law.per_window(arch, depth, widths, pipeline, target)
        apart = [law.per_window(arch, depth, int(w), pipeline, target) for w in widths]
        np.testing.assert_allclose(together, apart)
        assert (np.diff(together) > 0).all()


def test_the_shipped_costs_say_where_they_are_from():
    document = law.shipped()
    assert set(document["targets"]) == set(emulate.TARGETS)
    for target, known in document["targets"].items():
        assert known["cpu"] == emulate.TARGETS[target].cpu
        assert "gcc" in known["compiler"].lower()
        assert "QEMU" in known["emulator"]
        assert known["pairs"] == calibrate.pairs_on(target)
        assert emulate.TARGETS[target].build in known["flags"]
    assert "not cycles" in document["about"]


def test_no_law_where_there_is_no_c():
    with pytest.raises(InputError, match="'lstm' has no law"):
        list(law.calls("lstm", 1, 1, law.Pipeline()))
    assert not law.known("spectra")
    assert all(law.known(shape[0]) for shape in SHAPES)
    with pytest.raises(InputError, match="convolve8 has no law"):
        law.numbers(("convolve8", ()))


@NEEDED
@pytest.mark.parametrize(
    ("student", "target", "most"),
    [
        (("resnet1d", 3, 6, Preprocess(window_s=4.0), 1), "m4", 0.02),
        (("mlp", 2, 12, Preprocess(), 1), "m4", 0.02),
        (("resnet1d-post", 2, 5, Preprocess(window_s=6.0), 1), "m55", 0.02),
        (("mlp", 1, 20, Preprocess(window_s=6.0), 2), "m33", 0.02),
        (("mlp", 1, 6, Preprocess(), 1), "m7", 0.02),
        (("tcn", 4, 6, Preprocess(window_s=4.0), 1), "m4", 0.02),
        (("dscnn", 3, 8, Preprocess(window_s=4.0), 1), "m33", 0.02),
        (("tcn", 2, 9, Preprocess(window_s=4.0), 1), "m55", 0.05),
        (("dscnn", 2, 6, Preprocess(window_s=4.0), 1), "m55", 0.05),
        (("mlp", 1, 10, Preprocess(), 1), "m0plus", 0.05),  # its arithmetic's length depends on the numbers
    ],
)
def test_shapes_it_was_not_calibrated_on_take_what_the_law_says(student, target, most):
    model, config, inputs = calibrate.student(student)
    record = emulate.measure(model, student[0], config, inputs, target)
    pipeline = law.Pipeline.of(config, inputs)
    assert law.per_window(*student[:3], pipeline, target) == pytest.approx(record["instructions"], rel=most)
    assert law.per_sample(pipeline, target) == pytest.approx(record["instructions_per_sample"], rel=0.1)
    said = [law.network_instructions([call], target) for call in law.calls(*student[:3], pipeline)]
    counted = [layer["instructions"] for layer in record["layers"]]
    np.testing.assert_allclose(said, counted, rtol=0.1)
