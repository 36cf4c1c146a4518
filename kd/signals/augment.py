"""More training recordings from the training recordings: played faster or slower, channels mixed otherwise.

Copies are recordings like any other and pass through the same resampler, filter and cutter. They are made
once, for training subjects only: a fixed pool, so that a teacher's outputs can be stored for each window.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.recordings import ACC, BPM_RANGE, Recording
from kd.shipped import grid
from kd.signals.filters import bandpassed, bridged
from kd.signals.preprocess import Preprocess


@dataclass(frozen=True)
class Augment:
    """How many changed copies of each training recording to add, and how they are changed.

    stretch: a copy is played faster by a factor drawn from low to high, evenly in its logarithm; the heart
        rate grows with it. Fills heart rates that few training subjects had.
    mix_channels: a copy of a recording with several channels is a random convex mix of them (Dirichlet(1))
        instead of their plain mean; only under preprocess.channels = "mean".
    turn: a copy's accelerometer has its axes swapped and their signs turned at random, as if the device were
        worn another way; only under preprocess.channels.acc = "xyz".
    """

    copies: int = 0  # off: each copy adds a whole training set to every epoch; worth it on real data only
    stretch: tuple[float, float] = (0.7, 1.4)  # ours: half an octave down and up
    mix_channels: bool = True  # ours; free, and the mean is only one of many fair mixes
    seed: int = 0
    turn: bool = True  # ours; no device is always worn alike

    def identity(self, preprocess: Preprocess) -> dict[str, object] | None:
        """The fields that can change a window; None when there are no copies."""
        if not self.copies:
            return None
        fields = asdict(replace(self, mix_channels=self.mix_channels and preprocess.channels == "mean"))
        return {key: value for key, value in fields.items() if key != "turn" or preprocess.acc == "xyz"}

    def __post_init__(self) -> None:
        if self.copies < 0 or len(self.stretch) != 2 or not 0.25 <= self.stretch[0] <= self.stretch[1] <= 4:
            raise InputError(
                f"augment: copies is {self.copies} and stretch {list(self.stretch)}: copies must not be "
                "negative, stretch is [low, high] with 0.25 <= low <= high <= 4"
            )


def augmented(
    recordings: Sequence[Recording],
    augment: Augment,
    preprocess: Preprocess,
    bpm_range: tuple[float, float] = BPM_RANGE,
) -> list[Recording]:
    """The copies (without the originals) of `recordings`, deterministic by seed and recording name.

    bpm_range: labels outside it are no readings, and missing in the copies: 300 played slower isn't 210.
    """
    copies = []
    for recording in recordings:
        if recording.seconds < preprocess.window_s:
            continue  # too short to filter, and for any window
        rng = _generator(recording, augment.seed)
        original = replace(recording, hr=grid.readings(recording.hr, *bpm_range))
        for k in range(augment.copies):
            low, high = np.log(augment.stretch)
            factor = round(float(np.exp(rng.uniform(low, high))), 2)  # round: a short polyphase resampler
            copy = stretch(original, factor)
            weights = rng.dirichlet(np.ones(recording.ppg.shape[0]))
            if augment.mix_channels and preprocess.channels == "mean" and len(weights) > 1:
                copy = mix(copy, weights.astype(np.float32), preprocess)
            copy = replace(copy, name=f"{recording.name}#{k + 1}")
            if augment.turn and preprocess.acc == "xyz":
                copy = turn(copy, _generator(copy, augment.seed))  # its own: the PPG's draws stay as they are
            copies.append(copy)
    return copies


def stretch(recording: Recording, factor: float) -> Recording:
    """The recording played `factor` times as fast: same samples, higher rates, shorter times."""
    return replace(
        recording,
        fs=recording.fs * factor,
        sensors={k: replace(s, fs=s.fs * factor) for k, s in recording.sensors.items()},
        hr=(recording.hr * np.float32(factor)).astype(np.float32),
        hr_window_s=recording.hr_window_s / factor,
        hr_stride_s=recording.hr_stride_s / factor,
        hr_start_s=recording.hr_start_s / factor,
    )


def mix(recording: Recording, weights: npt.NDArray[np.float32], preprocess: Preprocess) -> Recording:
    """One channel: the weighted sum of all, each scaled to unit variance in the pass band.

    weights: (channels,), not negative, adding up to 1. Filtering is linear, so that equal weights give what
    preprocess.channels = "mean" gives.
    """
    gaps = ~np.isfinite(recording.ppg)
    ppg = bridged(recording.ppg, gaps)
    ppg = ppg - ppg.mean(axis=1, keepdims=True)
    scale = bandpassed(ppg, recording.fs, preprocess).std(axis=1, keepdims=True)
    unit = np.divide(ppg, scale, out=np.zeros_like(ppg), where=scale > 0)
    mixed = weights @ unit
    mixed[gaps.any(axis=0)] = np.nan
    return replace(recording, ppg=mixed[None].astype(np.float32))


def turn(recording: Recording, rng: np.random.Generator) -> Recording:
    """The recording with its accelerometer's axes in another order, each with its sign or the other."""
    if (acc := recording.sensors.get(ACC)) is None:
        return recording
    order = rng.permutation(len(acc.values))
    signs = rng.choice(np.array([-1.0, 1.0], np.float32), (len(acc.values), 1))
    turned = replace(acc, values=signs * acc.values[order])
    return replace(recording, sensors={**recording.sensors, ACC: turned})


def _generator(recording: Recording, seed: int) -> np.random.Generator:
    """Random numbers that depend on the seed and the recording alone, not on the recordings around it."""
    digest = hashlib.sha256(f"{seed}/{recording.dataset}/{recording.name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
