"""The fused batch norm gives what torch's own layers do, whatever the width, the layout and the company."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kd.models.norm import FEWEST_PIXELS, BatchNormRelu

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "some channels": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "channels last, every second": lambda x: LAYOUTS["channels last"](x.repeat_interleave(2, 3))[..., ::2],
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "expanded windows": lambda x: x[:1].expand(x.shape),
    "expanded samples": lambda x: x[..., :1].expand(x.shape),
}


def agree(layer: BatchNormRelu, x: Tensor, layout: str, fused: bool | None = None) -> None:
    """Outputs, gradients and running statistics of two steps are those of torch's own layers."""
    own = nn.BatchNorm2d(layer.num_features).to(x.dtype)
    own.load_state_dict(layer.state_dict())
    results = []
    for f in (layer, lambda x: torch.relu(own(x))):
        norm, leaf = (layer if f is layer else own), x.clone().requires_grad_()
        for step in range(2):
            y = f(LAYOUTS[layout](leaf) + step)
            if f is layer and fused is not None:
                assert ("_Fused" in str(y.grad_fn)) == fused
            gradients = torch.autograd.grad((y * y.detach().sin()).sum(), (leaf, norm.weight, norm.bias))
        results.append((y, *gradients, norm.running_mean, norm.running_var, norm.num_batches_tracked))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def made(channels: int, seed: int) -> BatchNormRelu:
    torch.manual_seed(seed)
    layer = BatchNormRelu(channels).double()
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(tensor)
    return layer


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 12])
def test_the_fused_batch_norm_is_batch_norm(channels, layout):
    layer = made(channels, channels)
    x = torch.randn(64, channels, 1, 130, dtype=torch.float64) * 3 + 7
    agree(layer, x, layout, fused=channels not in (1, 8))


@example(channels=2, windows=1, height=1, more=1, layout="contiguous", seed=0)  # odd: nothing is folded
@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 20),
    windows=st.integers(1, 70),
    height=st.sampled_from([1, 1, 2]),
    more=st.integers(-40, 40),
    layout=st.sampled_from(list(LAYOUTS)),
    seed=st.integers(0, 1000),
)
def test_any_width_layout_and_batch_round_the_size_where_fusing_begins(
    channels, windows, height, more, layout, seed
):
    layer, samples = made(channels, seed), max(FEWEST_PIXELS // (windows * height) + more, 2)
    x = torch.randn(windows, channels, height, samples, dtype=torch.float64) * 2 - 1
    agree(layer, x, layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_left_to_torch(dtype):
    x = torch.randn(64, 3, 1, 200).to(dtype)
    ours, own = BatchNormRelu(3), nn.BatchNorm2d(3)
    y, wanted = ours(x), torch.relu(own(x))
    assert y.dtype == wanted.dtype == dtype
    assert torch.equal(y, wanted)
    assert torch.equal(ours.running_var, own.running_var)


def test_other_channels_than_its_own_are_refused():
    """Twice as many would fold into rows just as well."""
    with pytest.raises((RuntimeError, ValueError), match="4"):
        BatchNormRelu(2)(torch.randn(64, 4, 1, 200))
