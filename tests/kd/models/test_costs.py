"""Exact costs: the closed forms against the model, its exported graph and torch's counter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kd.models import costs as edge
from kd.models.architectures import ARCHITECTURES, build
from kd.models.layers import Bins, conv
from kd.models.sizes import size

SHAPES = [
    ("resnet1d", 1, 4, 1, 200),
    ("resnet1d", 2, 6, 3, 200),
    ("resnet1d", 5, 3, 1, 199),  # odd lengths are rounded up at every stride
    ("resnet1d", 8, 4, 2, 64),
    ("resnet1d", 13, 2, 1, 101),
    ("resnet1d", 2, 1, 1, 16),  # so short that the class layer is the peak
    ("resnet1d-post", 1, 4, 1, 200),
    ("resnet1d-post", 9, 3, 2, 199),
    ("tcn", 1, 4, 1, 200),
    ("tcn", 9, 3, 2, 199),
    ("dscnn", 2, 6, 3, 200),
    ("dscnn", 9, 3, 1, 101),
    ("spectra", 2, 10, 4, 200),
    ("spectra", 1, 1, 1, 200),
    ("spectra", 3, 2, 2, 31),
    ("mlp", 1, 8, 1, 200),
    ("mlp", 3, 300, 2, 100),
    ("mlp", 4, 5, 1, 25),
]


@pytest.mark.parametrize(("arch", "depth", "width", "channels", "samples"), SHAPES)
def test_closed_forms_equal_what_is_counted_on_the_model(arch, depth, width, channels, samples):
    model = build(arch, depth, width, channels=channels, samples=samples)
    counted = edge.cost(model, channels, samples)
    closed = size(arch, depth, width, channels=channels, samples=samples)
    for name in ("params", "macs", "weight_bytes", "weight_bytes_int8", "activation_bytes"):
        assert getattr(counted, name) == getattr(closed, name), name
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | Bins)]
    assert closed.layers == len(layers)


@settings(max_examples=15, deadline=None)
@given(
    arch=st.sampled_from(list(ARCHITECTURES)),
    depth=st.integers(1, 9),
    width=st.integers(1, 12),
    channels=st.integers(1, 3),
    samples=st.integers(8, 300),
    classes=st.integers(3, 400),
)
def test_closed_forms_equal_what_is_counted_for_any_shape(arch, depth, width, channels, samples, classes):
    shape = {"channels": channels, "samples": samples, "classes": classes}
    model = build(arch, depth, width, **shape)
    counted = edge.cost(model, channels, samples)
    closed = size(arch, depth, width, **shape)
    assert counted == edge.Cost(
        closed.params, closed.macs, closed.weight_bytes, closed.weight_bytes_int8, closed.activation_bytes
    )


class Waits(nn.Module):
    """One value is kept while two others are made of it."""

    def forward(self, x):
        x = x.unsqueeze(2)
        kept = self.conv(x)
        return kept + self.next(torch.relu(kept))

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = conv(1, 3, 5), conv(3, 3, 5)


def test_the_walk_by_hand():
    # at the second convolution: kept (3 x 10), its ReLU, which may not overwrite it, and the result
    assert edge.activation_bytes(Waits(), torch.zeros(1, 1, 10)) == 4 * 90


def test_int8_weights_are_about_a_quarter_of_a_wide_model():
    s = size("resnet1d", 8, 64)
    assert 0.25 < s.weight_bytes_int8 / s.weight_bytes < 0.35
    assert s.activation_bytes_int8 * 4 == s.activation_bytes
