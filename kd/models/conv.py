"""What one convolution of a `kd.models.chain` is: models, engine, generator and laws read it. Torch-free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """One convolution: `kernel` taps, `dilation` samples from one to the next; kernels are odd.

    causal: the last tap is at the sample itself; else the middle one is. depthwise: each channel alone, and
    cin equals cout. The output has ceil(length / stride) samples either way.
    """

    cin: int
    cout: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False
    depthwise: bool = False

    @property
    def before(self) -> int:
        """Samples that its taps reach back."""
        reach = (self.kernel - 1) * self.dilation
        return reach if self.causal else reach // 2

    @property
    def weights(self) -> int:
        """How many there are, without the norm's."""
        return self.kernel * self.cout * (1 if self.depthwise else self.cin)


Plan = Callable[[int, int, int], Sequence[Conv]]  # (depth, width, channels) -> convolutions
