"""The fused batch norm gives what torch's own does."""

import pytest
import torch
from torch import nn

from kd.models.norm import BatchNormRelu


@pytest.mark.parametrize("channels", [3, 5, 12])
def test_the_fused_batch_norm_is_batch_norm(channels):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(64, channels, 1, 128, generator=generator, dtype=torch.float64) * 3 + 7
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    ours, theirs = BatchNormRelu(channels).double(), nn.BatchNorm2d(channels).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for f in (ours, lambda x: torch.relu(theirs(x))):
        y = f(x)
        assert ("_Fused" in str(y.grad_fn)) == (f is ours)
        layer = ours if f is ours else theirs
        gradients = torch.autograd.grad((y * y.detach().sin()).sum(), (x, layer.weight, layer.bias))
        results.append((y, *gradients, layer.running_mean, layer.running_var, layer.num_batches_tracked))
    for mine, own in zip(*results, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-10, atol=1e-10)
