"""What is written by hand for stacks gives what torch's own operations give, member by member."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from kd.models.layers import conv, linear
from kd.training import losses
from kd.training.adamw import BETA1, BETA2, EPS, AdamW

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@settings(max_examples=20, deadline=None)
@given(
    members=st.integers(1, 4),
    cin=st.integers(1, 5),
    cout=st.integers(1, 5),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    samples=st.integers(5, 40),
    windows=st.integers(1, 5),
    layout=st.sampled_from(list(LAYOUTS)),
    matmul=st.booleans(),
)
def test_convolutions_of_a_stack_are_each_ones_own(
    members, cin, cout, kernel, stride, samples, windows, layout, matmul
):
    torch.manual_seed(0)
    layer = conv(cin, cout, kernel, stride, members).double().to(memory_format=torch.channels_last)
    if members > 1:
        layer.as_matmul = matmul
    x = torch.randn(windows, members * cin, 1, samples, dtype=torch.float64, requires_grad=True)
    y = layer(LAYOUTS[layout](x))
    parts = zip(LAYOUTS[layout](x).split(cin, 1), layer.weight.split(cout), strict=True)
    own = torch.cat([functional.conv2d(x, w, None, (1, stride), (0, kernel // 2)) for x, w in parts], 1)
    torch.testing.assert_close(y, own, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(own)
    for ours, theirs in zip(
        *(torch.autograd.grad(out, (x, layer.weight), grad, retain_graph=True) for out in (y, own)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    members=st.integers(1, 4),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    windows=st.integers(1, 5),
    bias=st.booleans(),
    strided=st.booleans(),
)
def test_linear_layers_of_a_stack_are_each_ones_own(members, inputs, outputs, windows, bias, strided):
    torch.manual_seed(0)
    layer = linear(inputs, outputs, bias, members).double()
    x = torch.randn(windows, members * inputs, dtype=torch.float64)
    x = (x.t().contiguous().t() if strided else x).requires_grad_()
    biases = layer.bias.split(outputs) if bias else [None] * members
    parts = zip(x.split(inputs, 1), layer.weight.split(outputs), biases, strict=True)
    own = torch.cat([functional.linear(*part) for part in parts], 1)
    y, grad = layer(x), torch.randn_like(own)
    torch.testing.assert_close(y, own, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(
        *(torch.autograd.grad(out, (x, *layer.parameters()), grad, retain_graph=True) for out in (y, own)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    members=st.integers(1, 3),
    width=st.integers(1, 5),
    lr=st.floats(1e-4, 0.1),
    decay=st.floats(0, 0.5),
    clip=st.floats(0.05, 50),
)
def test_adamw_with_clipping_is_torchs_own(members, width, lr, decay, clip):
    """Each member with its own decay, clipping and learning rate; filters decay, vectors don't."""
    torch.manual_seed(0)
    plain = [
        nn.ParameterDict({"bias": torch.randn(width), "filter": torch.randn(width, 3, 1, 5)}).double()
        for _ in range(members)
    ]
    stacked = {
        name: nn.Parameter(torch.cat([copy.deepcopy(p[name].data) for p in plain]))
        for name in ("bias", "filter")
    }
    stacked["filter"].data = stacked["filter"].data.contiguous(memory_format=torch.channels_last)
    rates, decays, clips = ([v * (m + 1) for m in range(members)] for v in (lr, decay, clip))
    ours = AdamW({name: (p, range(members)) for name, p in stacked.items()}, decays, clips)
    theirs = [
        torch.optim.AdamW(
            [{"params": [p["filter"]]}, {"params": [p["bias"]], "weight_decay": 0.0}],
            lr=r,
            weight_decay=d,
            betas=(BETA1, BETA2),
            eps=EPS,
        )
        for p, r, d in zip(plain, rates, decays, strict=True)
    ]
    for step in range(4):
        for m, (p, optimiser) in enumerate(zip(plain, theirs, strict=True)):
            for name, parameter in p.items():
                parameter.grad = torch.randn_like(parameter)
                mine = stacked[name].grad.narrow(0, m * width, width)
                mine.copy_(parameter.grad)
            nn.utils.clip_grad_norm_(list(p.values()), clips[m])
            optimiser.step()
        rows = [ours.coefficients(m, np.array([step]), np.array([rates[m]]))[0] for m in range(members)]
        ours.step(torch.tensor(np.stack(rows, 1)))
    for m, p in enumerate(plain):
        for name, parameter in p.items():
            mine = stacked[name].data.narrow(0, m * width, width)
            torch.testing.assert_close(mine, parameter.data, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "expanded"])
def test_losses_are_torchs_own_in_value_and_gradient(layout):
    torch.manual_seed(0)
    s, t = (torch.randn(7, 30, dtype=torch.float64) * 3 for _ in range(2))
    made = {"contiguous": lambda x: x, "transposed": lambda x: x.t().contiguous().t()}
    s, t = (made.get(layout, lambda x: x[:1].expand(x.shape))(x) for x in (s, t))
    s, label, T = s.requires_grad_(), torch.arange(7) * 3, 4.0
    kl = functional.kl_div((s / T).log_softmax(1), (t / T).log_softmax(1), reduction="none", log_target=True)
    pairs = [
        (losses.cross_entropy(s, label), functional.cross_entropy(s, label, reduction="none")),
        (losses.cross_entropy(s, t.softmax(1)), functional.cross_entropy(s, t.softmax(1), reduction="none")),
        (losses.hard(s, t), functional.cross_entropy(s, t.argmax(1), reduction="none")),
        (losses.soft(s, t, T), T**2 * kl.sum(1)),
        (losses.feature(s, t), functional.mse_loss(s, t, reduction="none").mean(1)),
    ]
    weights = torch.rand(7, dtype=torch.float64)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        (a,), (b,) = (torch.autograd.grad((x * weights).sum(), s, retain_graph=True) for x in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
