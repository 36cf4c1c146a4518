"""How a recording becomes windows: the settings of a search space's data.preprocess. Touches no signal.

The defaults are those of WildPPG's supervised baseline (25 Hz, Butterworth order 4, 0.5-4 Hz, z-score per
window), with the 8 s / 2 s windows that the labels of SPC, BAMI and PPG-DaLiA come in.
"""

from dataclasses import dataclass

from kd.errors import InputError
from kd.shipped import grid


@dataclass(frozen=True)
class Preprocess:
    """How a recording becomes windows. Every default is a convention with its source beside it.

    channels: "mean" = one channel, the average of all after each was scaled to unit variance over the
    filtered recording, so that a channel with a large gain can't drown the others; "first"; "all".
    """

    fs: float = 25.0  # Hz; WildPPG's supervised baseline
    low_hz: float = 0.5  # 30 BPM; the same
    high_hz: float = 4.0  # 240 BPM; the same
    order: int = 4  # Butterworth, run forward and back (zero phase); the same
    window_s: float = 8.0  # SPC, BAMI and PPG-DaLiA labels; BeliefPPG
    stride_s: float = 2.0  # the same
    normalise: str = "zscore"  # per window and channel, WildPPG; "none" keeps the filtered units
    channels: str = "mean"  # ours: smaller FFT-peak error than averaged spectra on SPC-train and BAMI-1

    def __post_init__(self) -> None:
        if self.normalise not in ("zscore", "none"):
            raise InputError(f"preprocess.normalise is {self.normalise!r}: use zscore or none")
        if self.channels not in ("mean", "first", "all"):
            raise InputError(f"preprocess.channels is {self.channels!r}: use mean, first or all")
        if not 0 < self.low_hz < self.high_hz < self.fs / 2:
            raise InputError(
                f"preprocess: need 0 < low_hz < high_hz < fs/2, got low_hz {self.low_hz}, "
                f"high_hz {self.high_hz}, fs {self.fs}: raise fs or narrow the band"
            )
        if self.window_s <= 0 or self.stride_s <= 0 or self.order < 1:
            raise InputError("preprocess: window_s, stride_s and order must be positive")

    @property
    def samples(self) -> int:
        """Samples of one window."""
        return grid.length(self.window_s, self.fs)
