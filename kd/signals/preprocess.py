"""How a recording becomes windows: the settings of a search space's data.preprocess. Touches no signal.

The defaults are those of WildPPG's supervised baseline (25 Hz, Butterworth order 4, 0.5-4 Hz, z-score per
window), with the 8 s / 2 s windows that the labels of SPC, BAMI and PPG-DaLiA come in.
"""

from dataclasses import asdict, dataclass

from kd.errors import InputError
from kd.shipped import grid

PPG, ACC = "ppg", "acc"  # sensors, in the order in which a window holds their channels
PPG_CHANNELS = ("mean", "first", "all")
AXES = {"none": 0, "magnitude": 1, "xyz": 3}  # what a window holds of the accelerometer: how many channels


@dataclass(frozen=True)
class Preprocess:
    """How a recording becomes windows. Every default is a convention with its source beside it.

    channels: "mean" = one channel, the average of all after each was scaled to unit variance over the
    filtered recording, so that a channel with a large gain can't drown the others; "first"; "all".
    acc: of the accelerometer, "none" = a window has none; "magnitude" = the length of its vector, gravity
    included, the same however the device is turned; "xyz" = its axes. They follow the PPG's channels, through
    a filter of their own, and are scaled by one constant, the RMS over the training windows: a z-score would
    make rest and running look alike. acc_dropout: share of training windows whose accelerometer is zeros, so
    that the model also works without; then recordings may lack one, and theirs is zeros.
    """

    fs: float = 25.0  # Hz; WildPPG's supervised baseline
    low_hz: float = 0.5  # 30 BPM; the same
    high_hz: float = 4.0  # 240 BPM; the same
    order: int = 4  # Butterworth, run forward and back (zero phase); the same
    window_s: float = 8.0  # SPC, BAMI and PPG-DaLiA labels; BeliefPPG
    stride_s: float = 2.0  # the same
    normalise: str = "zscore"  # per window and channel, WildPPG; "none" keeps the filtered units
    channels: str = "mean"  # ours: smaller FFT-peak error than averaged spectra on SPC-train and BAMI-1
    acc: str = "none"
    acc_band_hz: tuple[float, float] | None = None  # None: the PPG's, where motion and pulse can be confused
    acc_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.normalise not in ("zscore", "none"):
            raise InputError(f"preprocess.normalise is {self.normalise!r}: use zscore or none")
        if self.channels not in PPG_CHANNELS:
            raise InputError(f"preprocess.channels is {self.channels!r}: use mean, first or all")
        if not 0 < self.low_hz < self.high_hz < self.fs / 2:
            raise InputError(
                f"preprocess: need 0 < low_hz < high_hz < fs/2, got low_hz {self.low_hz}, "
                f"high_hz {self.high_hz}, fs {self.fs}: raise fs or narrow the band"
            )
        if self.window_s <= 0 or self.stride_s <= 0 or self.order < 1:
            raise InputError("preprocess: window_s, stride_s and order must be positive")
        if self.acc not in AXES:
            raise InputError(f"preprocess.channels.acc is {self.acc!r}: use {', '.join(AXES)}")
        low, high = self.band_hz
        if not 0 < low < high < self.fs / 2:
            raise InputError(
                f"preprocess.acc_band_hz is [{low}, {high}] at {self.fs} Hz: need 0 < low < high < fs/2"
            )
        if not 0 <= self.acc_dropout < 1:
            raise InputError(f"preprocess.acc_dropout is {self.acc_dropout}: give a share from 0 to below 1")
        if self.acc == "none" and (self.acc_band_hz or self.acc_dropout):
            raise InputError(
                "preprocess: acc_band_hz and acc_dropout are of the accelerometer: give channels.acc, too"
            )

    @property
    def axes(self) -> int:
        """Channels of a window that are the accelerometer's, its last."""
        return AXES[self.acc]

    @property
    def band_hz(self) -> tuple[float, float]:
        """The accelerometer's band."""
        return self.acc_band_hz or (self.low_hz, self.high_hz)

    @property
    def identity(self) -> dict[str, object]:
        """All that can change a window; without an accelerometer what it was before there was one."""
        fields = asdict(self)
        if not self.axes:
            return {key: value for key, value in fields.items() if not key.startswith(ACC)}
        return fields | {"acc_band_hz": self.band_hz}

    @property
    def samples(self) -> int:
        """Samples of one window."""
        return grid.length(self.window_s, self.fs)
