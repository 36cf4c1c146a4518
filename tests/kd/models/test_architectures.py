"""Architectures: shapes, structure, and that each part really learns."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kd.errors import InputError
from kd.models import spectra
from kd.models.architectures import build


@pytest.mark.parametrize(
    ("arch", "depth", "width"),
    [
        ("resnet1d", 2, 4),
        ("resnet1d", 9, 6),
        ("resnet1d-post", 5, 4),
        ("tcn", 5, 4),
        ("dscnn", 5, 4),
        ("spectra", 3, 4),
        ("mlp", 1, 8),
        ("mlp", 3, 16),
    ],
)
@pytest.mark.parametrize(("channels", "samples"), [(1, 200), (3, 128), (2, 37)])
def test_logits_and_features_of_any_input(arch, depth, width, channels, samples):
    model = build(arch, depth, width, channels=channels, samples=samples)
    x = torch.randn(5, channels, samples)
    logits, features = model(x)
    assert logits.shape == (5, 180)
    assert features.shape == (5, model.fc.in_features)
    torch.testing.assert_close(model.fc(model.features(x)), logits)
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, f"{name} gets no gradient"


def test_filters_double_every_four_blocks_and_every_second_block_halves():
    model = build("resnet1d", 9, 8)
    assert [b.conv2.out_channels for b in model.blocks] == [8, 8, 8, 8, 16, 16, 16, 16, 32]
    assert [b.conv1.stride[1] for b in model.blocks] == [1, 2, 1, 2, 1, 2, 1, 2, 1]
    assert [b.shortcut is not None for b in model.blocks] == [
        False,
        True,
        False,
        True,
        True,
        True,
        False,
        True,
        True,
    ]
    assert model.stem.kernel_size == (1, 5)


def test_a_post_activation_resnet_is_convolutions_alone_once_its_norms_are_fuse_conv_bn_eval():
    """He et al. 2015, figure 3: the same convolutions, each with a norm; ReLU after the sum."""
    torch.manual_seed(0)
    model, pre = build("resnet1d-post", 6, 3), build("resnet1d", 6, 3)
    shapes = [sorted(m.weight.shape for m in of.modules() if isinstance(m, nn.Conv2d)) for of in (model, pre)]
    assert shapes[0] == shapes[1]
    x = torch.randn(9, 1, 200)
    for _ in range(3):
        model(x)  # norms that are no identity
    wanted, features = model.eval()(x)
    assert (features >= 0).all()
    with torch.no_grad():
        y = fuse_conv_bn_eval(model.stem, model.bn)(x.unsqueeze(2)).relu()
        for block in model.blocks:
            hidden = fuse_conv_bn_eval(block.conv1, block.bn1)(y).relu()
            if block.shortcut is not None:
                y = fuse_conv_bn_eval(block.shortcut, block.bn_shortcut)(y[..., :: block.stride])
            y = (y + fuse_conv_bn_eval(block.conv2, block.bn2)(hidden)).relu()
        torch.testing.assert_close(model.fc(y.mean((2, 3))), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["tcn", "dscnn"])
def test_a_chain_is_convolutions_alone_once_its_norms_are_folded(arch):
    torch.manual_seed(0)
    model, x = build(arch, 5, 3, channels=2), torch.randn(9, 2, 200)
    for _ in range(3):
        model(x)  # norms that are no identity
    wanted, _ = model.eval()(x)
    with torch.no_grad():
        y = x.unsqueeze(2)
        for part in model.convs:
            y = nn.functional.pad(y, (part.before, 0))
            y = fuse_conv_bn_eval(part.conv, part.bn)(y).relu()
        torch.testing.assert_close(model.fc(y.mean((2, 3))), wanted, rtol=1e-4, atol=1e-4)
    kinds = [(part.conv.groups > 1, part.conv.kernel_size[1]) for part in model.convs]
    assert kinds[1:3] == {"tcn": [(False, 3)] * 2, "dscnn": [(True, 9), (False, 1)]}[arch]


def test_a_tcn_looks_back_only_and_as_far_as_the_window_goes():
    model = build("tcn", 4, 2).eval()
    for part in model.convs:
        nn.init.constant_(part.conv.weight, 0.1)  # no ReLU hides anything
    x = torch.rand(1, 1, 200, requires_grad=True)
    maps = model.convs(model.maps(x))  # (1, 2, 1, 25): every 8 samples
    assert maps.shape[3] == 25
    (of_last,) = torch.autograd.grad(maps[..., -1].sum(), x, retain_graph=True)
    assert (of_last[..., :193] > 0).all()
    (of_middle,) = torch.autograd.grad(maps[..., 10].sum(), x)
    assert (of_middle[..., :81] > 0).all()
    assert (of_middle[..., 81:] == 0).all()


def test_spectra_have_a_rhythm_at_its_rate_whichever_way_the_sensor_is_turned():
    torch.manual_seed(0)
    model, rates = build("spectra", 2, 4, channels=4).eval(), torch.tensor([42.0, 90.0, 150.0, 200.0])
    x = torch.randn(4, 4, 200)
    x[:, 0] = torch.sin(2 * torch.pi * rates[:, None] / 60 * torch.arange(200) / spectra.FS)
    maps = model.spectrum(x)  # (4, 2, 1, 109)
    assert torch.tensor(spectra.bins(180))[maps[:, 0, 0].argmax(1)].tolist() == rates.tolist()
    # (sum of taper / 2)^2 / sum of its squares, Hann's means being 1/2 and 3/8
    torch.testing.assert_close(maps[:, 0].amax((1, 2)).exp(), torch.full((4,), 200 / 6), rtol=0.02, atol=0)
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    turned = torch.cat([x[:, :1], torch.einsum("ij,njs->nis", turn, x[:, 1:])], 1)
    torch.testing.assert_close(model.spectrum(turned), maps, rtol=1e-3, atol=1e-3)


def test_spectra_take_positions_for_bpm():
    model, maps = build("spectra", 3, 4, channels=4).eval(), torch.randn(2, 2, 1, 109)
    parts = nn.Sequential(model.scale, model.branches, model.merge, model.blocks, model.fc)
    torch.testing.assert_close(parts(maps.roll(5, 3))[:, 90:110], parts(maps)[:, 80:100])
    with torch.no_grad():
        model.fc.weight.fill_(1.0)
        peak = torch.zeros(1, 4, 1, 109)
        peak[..., spectra.bins(180).index(90)] = 1.0
        assert (30 + model.fc(peak)[0].nonzero().ravel()).tolist() == [90, 91]


def test_sizes_span_the_promised_range():
    def params(*shape):
        return sum(p.numel() for p in build(*shape).parameters())

    assert params("resnet1d", 2, 4) < 1_500
    assert params("mlp", 1, 4) < 2_000
    assert params("resnet1d", 16, 72) > 15_000_000
    assert params("mlp", 4, 2200) > 15_000_000


def test_a_window_is_judged_alone_in_evaluation_mode():
    model = build("resnet1d", 4, 8).eval()
    x = torch.randn(6, 1, 200)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)[0][2:3], model(x[2:3])[0], rtol=1e-5, atol=1e-5)


def test_unknown_architecture_names_the_known_ones():
    with pytest.raises(InputError, match=r"'transformer': use resnet1d or mlp"):
        build("transformer", 2, 4)


def test_names_sizes_and_inits_need_no_torch():
    code = "from kd.models import architectures, inits, sizes\n"
    code += "for arch in architectures.ARCHITECTURES:\n"
    code += "    assert sizes.size(arch, 2, 4).params\n"
    code += "    can = architectures.ARCHITECTURES[arch].prunable\n"
    code += "    assert can != bool(inits.why_not(arch, 2, 8, arch, 2, 4))\n"
    code += "import sys\nassert not {'torch', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
