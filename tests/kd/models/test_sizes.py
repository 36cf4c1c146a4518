"""Sizes from the shape alone: those of the built model, and torch's own count of its work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from kd.errors import InputError
from kd.models.architectures import ARCHITECTURES, build
from kd.models.costs import constants
from kd.models.resnet1d import filters, stride
from kd.models.sizes import size


@settings(max_examples=20, deadline=None)
@given(
    arch=st.sampled_from(list(ARCHITECTURES)),
    depth=st.integers(1, 9),
    width=st.integers(1, 12),
    channels=st.integers(1, 4),
    samples=st.integers(8, 300),
    classes=st.integers(2, 300),
)
def test_params_and_macs_are_those_of_the_built_model(arch, depth, width, channels, samples, classes):
    shape = {"channels": channels, "samples": samples, "classes": classes}
    model = build(arch, depth, width, **shape).eval()
    got = size(arch, depth, width, **shape)
    assert got.params == sum(p.numel() for p in model.parameters())
    assert got.weight_bytes == 4 * (got.params + constants(model))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, channels, samples))
    assert 2 * got.macs == counter.get_total_flops()


def test_filters_and_strides_by_hand():
    assert filters(9, 8) == [8, 8, 8, 8, 8, 16, 16, 16, 16, 32]
    assert [stride(i) for i in range(6)] == [1, 2, 1, 2, 1, 2]


def test_sizes_by_hand():
    mlp = size("mlp", 2, 10, samples=20, classes=5)
    assert mlp.params == 20 * 10 + 20 + 10 * 10 + 20 + 10 * 5 + 5
    assert mlp.macs == 20 * 10 + 10 * 10 + 10 * 5
    assert mlp.layers == 3
    resnet = size("resnet1d", 1, 2, samples=10, classes=3)
    assert resnet.params == 5 * 2 + (4 + 5 * 4 + 4 + 5 * 4) + 4 + 2 * 3 + 3
    assert resnet.macs == 5 * 2 * 10 + 2 * 5 * 4 * 10 + 2 * 3


def test_more_is_never_smaller():
    for arch in ARCHITECTURES:
        for depth in range(1, 10):
            params = [size(arch, depth, width).params for width in range(1, 40)]
            assert params == sorted(set(params))
        assert size(arch, 4, 8).params < size(arch, 5, 8).params


@pytest.mark.parametrize(
    ("shape", "says"),
    [(("cnn", 2, 2), "use resnet1d or mlp"), (("mlp", 0, 4), "1 or more"), (("mlp", 1, 0), "1 or more")],
)
def test_shapes_that_cannot_be_are_refused(shape, says):
    with pytest.raises(InputError, match=says):
        size(*shape)
