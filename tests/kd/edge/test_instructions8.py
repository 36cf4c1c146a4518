"""The law of 8-bit students: calls and arena are the generator's, numbers as QEMU counts other shapes."""

import shutil

import numpy as np
import pytest

from kd.edge import calibrate, emulate
from kd.edge.c import instructions as base
from kd.edge.c import instructions8 as law
from kd.edge.c.network8 import labels8, program8
from kd.edge.int8.layers import Convolution
from kd.edge.int8.quantise import quantise
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
    ("resnet1d-post", 1, 2),
    ("resnet1d-post", 7, 5),
    ("mlp", 1, 4),
    ("mlp", 4, 17),
]


def whole(of):
    """A student in 8 bits, its preprocess.json and its sensor's channels."""
    model, config, inputs = calibrate.student(of, classes=60)
    noise = np.random.default_rng(0).standard_normal((4, *config["input"]["shape"][1:]))
    return quantise(model, of[0], noise), config, inputs


def of_layer(layer: Convolution, length: int) -> tuple:
    """What the law says of a convolution."""
    made = [("map", layer.to_map), ("kept", layer.to_kept)]
    maps = tuple(f"{name}{'' if to.keep is None else '.add'}" for name, to in made if to is not None)
    cout, kernel, cin = layer.weights.shape
    return (length, kernel // 2 * layer.border, cin, cout, kernel, layer.stride, maps)


@pytest.mark.parametrize("shape", [("tcn", 5, 3), ("dscnn", 6, 5), ("dscnn", 1, 1)], ids=str)
def test_of_a_chain_the_arena_is_known_and_no_instructions(shape):
    student, config, inputs = whole((*shape, Preprocess(channels="all", fs=20.0, window_s=4.05), 2))
    pipeline = base.Pipeline.of(config, inputs)
    assert law.has_arena(shape[0])
    assert int(law.arena_bytes(*shape, pipeline)) == program8(student)["arena_bytes"]
    with pytest.raises(InputError, match="no law of instructions in int8"):
        list(law.calls(*shape, pipeline))


@pytest.mark.parametrize(("arch", "depth", "width"), SHAPES)
def test_the_calls_and_the_arena_of_a_shape_are_the_generators(arch, depth, width):
    preprocess = Preprocess(channels="all", fs=20.0, window_s=4.05)
    student, config, inputs = whole((arch, depth, width, preprocess, 2))
    pipeline = base.Pipeline.of(config, inputs)
    calls = list(law.calls(arch, depth, width, pipeline))
    assert len(calls) == len(labels8(student))
    assert int(law.arena_bytes(arch, depth, width, pipeline)) == program8(student)["arena_bytes"]
    if student.stem is None:
        assert [n for _, n in calls] == [d.weights.shape[::-1] for d in (*student.hidden, student.classes)]
        return
    length, layers = preprocess.samples, []
    layers.append(of_layer(student.stem, length))
    for block in student.blocks:
        layers += [of_layer(layer, length) for layer in (block.shortcut, block.first) if layer is not None]
        length = -(-length // block.first.stride)
        layers.append(of_layer(block.second, length))
    assert [n for name, n in calls if name.startswith("convolve")] == layers
    assert calls[-2:] == [
        ("average", (length, block.second.weights.shape[0])),
        ("classify", student.classes.weights.shape[::-1]),
    ]


@pytest.mark.parametrize("step", law.STEPS.values())
def test_loops_turn_once_for_each_product_and_value(step):
    """5 taps at 7 places of 3 channels to 11, zeros beyond both ends: 35 - 6 taps of 3 products each."""
    found = law.counts(("convolve", (7, 0, 3, 11, 5, 1, ("map", "kept.add"))), step)
    if step == law.VECTORS:  # one turn for 9, 12 or 15 products; three places at once, and four alone
        assert (found["convolve.many"], found["convolve.one"], found["convolve.place"]) == (1, 4, 7)
        assert (found["convolve.many.row.group"], found["convolve.one.row.group"]) == (11, 4 * 3)
        for made in ("map", "kept.add"):
            assert found[f"convolve.{made}.four.place"] == 7 * 2
            assert found[f"convolve.{made}.rest.value"] == 7 * 3
        return
    dots = [(p, found[f"convolve.{p}.dot.group"], found[f"convolve.{p}.dot.rest"]) for p in (1, 2)]
    # pairs of 11 outputs, the last one with itself
    assert sum(p * (step * group + rest) for p, group, rest in dots) == (7 * 5 - 6) * 3 * 6
    for made in ("map", "kept.add"):
        assert found[f"convolve.{made}.value"] == 7 * 11
        assert found[f"convolve.{made}"] == 7 * 2
    assert found["convolve.1"] + 2 * found["convolve.2"] == 7


@pytest.mark.parametrize("target", emulate.TARGETS)
def test_many_widths_at_once_are_each_width(target):
    pipeline, widths = base.Pipeline(), np.array([1, 2, 3, 8, 13])
    for arch, depth in (("resnet1d", 5), ("mlp", 2), ("resnet1d-post", 4)):
        for of in (lambda *shape: law.per_window(*shape, target), law.arena_bytes):
            together = of(arch, depth, widths, pipeline)
            apart = [of(arch, depth, int(w), pipeline) for w in widths]
            np.testing.assert_allclose(together, apart)
        assert (np.diff(law.per_window(arch, depth, widths, pipeline, target)) > 0).all()


def test_the_shipped_costs_say_where_they_are_from():
    document = law.shipped()
    assert set(document["targets"]) == set(emulate.TARGETS) == set(law.STEPS)
    for target, known in document["targets"].items():
        assert known["cpu"] == emulate.TARGETS[target].cpu
        assert "QEMU" in known["emulator"]
        assert emulate.TARGETS[target].build in known["flags"]
    with pytest.raises(InputError, match="'lstm' has no law"):
        list(law.calls("lstm", 1, 1, base.Pipeline()))


@NEEDED
@pytest.mark.parametrize(
    ("student", "target"),
    [
        (("resnet1d", 3, 7, Preprocess(window_s=4.0), 1), "m4"),
        (("resnet1d-post", 2, 10, Preprocess(window_s=4.0), 1), "m55"),
        (("mlp", 2, 12, Preprocess(), 2), "m0plus"),
    ],
)
def test_shapes_it_was_not_calibrated_on_take_what_the_law_says(student, target):
    made, config, inputs = whole(student)
    record = emulate.measure(made, student[0], config, inputs, target)
    pipeline = base.Pipeline.of(config, inputs)
    said = law.per_window(*student[:3], pipeline, target)
    assert said == pytest.approx(record["instructions"], rel=0.02)
    assert law.per_sample(pipeline, target) == pytest.approx(record["instructions_per_sample"], rel=0.1)
    assert int(law.arena_bytes(*student[:3], pipeline)) == record["arena_bytes"]
