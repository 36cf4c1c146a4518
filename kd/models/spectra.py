"""Spectra: log powers of the PPG and of the other channels, a branch of convolutions over frequency each.

Position is heart rate from end to end, so that what is learned of a peak holds wherever it is. The first
channel has a branch of its own; the powers of all others, the axes of an accelerometer, are added up, which
turning the sensor doesn't change, and have the second. `depth`: residual convolutions after the branches are
merged, their taps ever farther apart. Ours; that both spectra matter in motion is TROIKA's idea (Zhang et al.
2015). A bin's frequency is fixed: windows must have FS samples a second, classes begin at MIN_BPM. Torch-free
until a model is built.
"""

from typing import TYPE_CHECKING

from kd.models.contract import Architecture, Counts

if TYPE_CHECKING:
    from kd.models.layers import Classifier

FS, MIN_BPM = 25.0, 30  # Hz of the windows; the first class
STEP = 2  # BPM from one bin to the next, and classes of a bin
BELOW, ABOVE = 6, 30  # BPM that bins go on beyond the classes
KERNEL = 7  # bins
DILATIONS = (2, 4)  # of the residual convolutions, in turn


def bins(classes: int) -> range:
    """Middle of each bin, in BPM."""
    return range(MIN_BPM - BELOW, MIN_BPM + classes + ABOVE + 1, STEP)


def branches(channels: int) -> int:
    """How many spectra there are."""
    return min(channels, 2)


def count(depth: int, width: int, channels: int, samples: int, classes: int) -> Counts:
    """Its sizes in closed form."""
    n, b = len(bins(classes)), branches(channels)
    weights = KERNEL * width * (b + b * width + b * width + depth * width)
    normed = (2 * b + 1 + depth) * width
    params = weights + 2 * (b + normed) + STEP * width + classes
    spectrum = channels * samples * STEP * n  # real and imaginary part
    peak = max(
        channels * samples + 2 * channels * n,
        (2 * channels + b) * n,  # powers, and their sums
        2 * b * n,  # sums one by one, and side by side
        (1 + width) * b * n,
        2 * b * width * n,
        (b + 1) * width * n,
        2 * width * n,
        (width + STEP) * n + classes,  # the map is needed again, for features
    )
    macs = spectrum + n * (weights + STEP * width)
    return Counts(params, macs, peak, 4 + depth, weights, normed, constants=samples * 2 * n)


def build(depth: int, width: int, *, channels: int, samples: int, classes: int, members: int) -> "Classifier":
    """(N, C, S) -> logits (N, K), features (N, width): the mean over frequency of the last map."""
    from torch import channels_last, nn

    from kd.models.layers import Bins, Classifier
    from kd.models.spectrum import Residual, Spectrum, conv_norm

    b = branches(channels)
    dilations = (DILATIONS[i % len(DILATIONS)] for i in range(depth))
    body = {
        "spectrum": Spectrum(samples, FS, bins(classes), b, members),
        "scale": nn.BatchNorm2d(members * b),
        "branches": nn.Sequential(
            conv_norm(b, b * width, KERNEL, members=members, groups=b),
            conv_norm(b * width, b * width, KERNEL, members=members, groups=b),
        ),
        "merge": conv_norm(b * width, width, KERNEL, members=members),
        "blocks": nn.Sequential(*(Residual(width, KERNEL, dilation, members) for dilation in dilations)),
    }
    model = Classifier(body, Bins(width, STEP, BELOW, classes, members))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    return model.to(memory_format=channels_last)  # type: ignore[call-overload]


ARCHITECTURE = Architecture(count, build, convolutional=True)
