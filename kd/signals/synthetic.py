"""Synthetic wrist PPG and accelerometer with exact labels, so that nothing needs a download. Called synthetic
wherever shown.

Each subject has a pulse shape, a session of rest, exercise and recovery, heart-rate variability, breathing,
changing perfusion, a sensor with noise and limits, and motion locked to a step cadence whose harmonics cross
the heart rate: what makes wrist PPG hard, and what generators with band-limited motion leave out. The
accelerometer sees the same motion: the same swing and gestures, in other mixtures on its axes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.recordings import ACC, Recording, Signal

FloatArray = npt.NDArray[np.floating]

GENERATOR_VERSION = 1  # raise when the same config gives other signals; part of the data's fingerprint
DATASET = "synthetic"
MOST_SAMPLES = 1e9  # of all subjects: 4 GB of float32


@dataclass(frozen=True)
class Synthetic:
    """What to generate. Every default is ours, chosen so that size matters: see `motion` and `noise`.

    Deterministic: the same config gives the same bits with the same numpy, scipy and CPU instruction set, in
    any process and any order; elsewhere sin and exp may differ in the last bit. Subject k is the same
    whatever `subjects` is.
    """

    subjects: int = 24
    minutes: float = 8.0  # of each subject
    seed: int = 0
    motion: float = 1.0  # 0 = none; scales the motion's amplitude, 1 = running swamps the pulse about 2:1
    noise: float = 1.0  # 0 = none; scales the sensor's noise
    fs: float = 25.0  # Hz; the rate models see, so that nothing has to be resampled

    def __post_init__(self) -> None:
        if self.subjects < 1 or self.minutes < 0.5:
            raise InputError(
                f"synthetic: subjects is {self.subjects} and minutes {self.minutes}: "
                "use at least 1 subject and half a minute"
            )
        if not 0 <= self.seed < 2**32:
            raise InputError(f"synthetic: seed is {self.seed}: use 0 to 4294967295")
        if self.motion < 0 or self.noise < 0 or self.fs < 16:
            raise InputError("synthetic: motion and noise must not be negative, fs not below 16 Hz")
        if (samples := self.subjects * self.minutes * 60 * self.fs) > MOST_SAMPLES:
            raise InputError(
                f"synthetic: {samples:.3g} samples are more than {MOST_SAMPLES:.0g}: "
                "lower subjects, minutes or fs"
            )


def recordings(config: Synthetic) -> list[Recording]:
    """One recording for each subject, with a label every 2 s for the 8 s from there."""
    return list(each(config))


def each(config: Synthetic) -> Iterator[Recording]:
    """The same, one after another."""
    return (_subject(config, k) for k in range(config.subjects))


def beat_hr(beats: FloatArray, starts: FloatArray, window_s: float) -> npt.NDArray[np.float32]:
    """Heart rate of each window from the beats inside it: 60 / mean interval, BPM; NaN below two beats."""
    if len(beats) < 2:
        return np.full(len(starts), np.nan, np.float32)
    first = np.searchsorted(beats, starts, side="left")
    last = np.searchsorted(beats, starts + window_s, side="right") - 1
    intervals = last - first
    with np.errstate(divide="ignore", invalid="ignore"):
        span = beats[np.clip(last, 0, len(beats) - 1)] - beats[np.clip(first, 0, len(beats) - 1)]
        hr = np.where(intervals >= 1, 60.0 * intervals / span, np.nan)
    return hr.astype(np.float32)


def _subject(config: Synthetic, k: int) -> Recording:
    rng = np.random.default_rng([config.seed, k])
    fs, seconds = config.fs, round(config.minutes * 60)
    t = np.arange(round(seconds * fs)) / fs
    effort, stepping, cadence = _session(rng, seconds)
    hr = _heart_rate(rng, effort)
    breathing = _breathing(rng, effort, t)
    beats = _beats(rng, hr, breathing, t)
    pulse = _pulse(rng, beats, hr, breathing, t)
    motion = _motion(rng, stepping, cadence, t)
    signal = pulse + config.motion * motion.in_ppg + _baseline(rng, breathing, t)
    signal += config.noise * rng.uniform(0.08, 0.3) * rng.standard_normal(len(t))
    limit = rng.uniform(3.0, 6.0)  # the sensor's range, in RMS of the pulse: strong motion is clipped
    signal = np.clip(signal, -limit, limit)
    labels = max(int((seconds - 8) / 2 + 1), 0)
    return Recording(
        name=f"synthetic_{k:03d}",
        dataset=DATASET,
        subject=f"s{k:03d}",
        ppg=signal[None].astype(np.float32),
        fs=fs,
        hr=beat_hr(beats, 2.0 * np.arange(labels), 8.0),
        sensors={ACC: Signal(_acceleration(config, k, motion, t), fs)},
    )


def _session(rng: np.random.Generator, seconds: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Effort (0..1), stepping (amplitude of the arm's swing, 0..1.2) and cadence (steps/s), each second."""
    effort, stepping, cadence = np.zeros((3, seconds))
    walk, run = rng.uniform(1.6, 2.0), rng.uniform(2.4, 2.9)  # steps per second, usual walking and running
    ends = np.array([rng.uniform(0.15, 0.25), rng.uniform(0.7, 0.8)]) * seconds  # rest, exercise, recovery
    at = 0
    while at < seconds:
        bout = slice(at, at + int(rng.uniform(25, 90)))
        at = bout.stop
        if bout.start < ends[0]:
            kind = "rest"
        elif bout.start < ends[1]:
            kind = rng.choice(["walk", "run", "rest"], p=[0.35, 0.5, 0.15])
        else:
            kind = rng.choice(["rest", "walk"])
        if kind == "rest":
            effort[bout] = rng.uniform(0.0, 0.12)
        elif kind == "walk":
            effort[bout], stepping[bout] = rng.uniform(0.15, 0.45), rng.uniform(0.35, 0.7)
            cadence[bout] = walk * rng.uniform(0.93, 1.07)
        else:
            effort[bout], stepping[bout] = rng.uniform(0.55, 1.0), rng.uniform(0.7, 1.2)
            cadence[bout] = run * rng.uniform(0.93, 1.07)
    return effort, stepping, cadence


def _heart_rate(rng: np.random.Generator, effort: FloatArray) -> FloatArray:
    """Mean heart rate each second, BPM: lags behind the effort, and wanders."""
    rest, peak = rng.uniform(48, 85), rng.uniform(135, 188)
    lag_s = rng.uniform(20, 45)
    target = rest + (peak - rest) * effort
    return np.clip(_smooth(target, lag_s) + _wander(rng, len(effort), 2.5, 25.0), 40.0, 200.0)


def _breathing(rng: np.random.Generator, effort: FloatArray, t: FloatArray) -> FloatArray:
    """Breathing, unit amplitude, (samples,): 0.2 Hz at rest; 0.7 Hz at full effort is inside the band."""
    rate = rng.uniform(0.18, 0.28) + rng.uniform(0.25, 0.45) * _smooth(effort, 20.0)
    return np.sin(2 * np.pi * _integral(rate, t) + rng.uniform(0, 2 * np.pi))


def _beats(rng: np.random.Generator, hr: FloatArray, breathing: FloatArray, t: FloatArray) -> FloatArray:
    """Beat times, seconds, from before the first sample to after the last."""
    calm = np.clip((150.0 - hr) / 90.0, 0.05, 1.0)  # heart-rate variability fades with effort
    rsa = rng.uniform(0.01, 0.05) * _at(calm, t) * breathing  # respiratory sinus arrhythmia
    rate = _at(hr, t) / 60.0 * (1.0 + rsa)
    phase = rng.uniform(0, 1) + np.cumsum(rate) / (1.0 / (t[1] - t[0]))
    whole = np.arange(np.ceil(phase[0]), np.floor(phase[-1]) + 1)
    beats = np.interp(whole, phase, t)
    beats += rng.normal(0, rng.uniform(0.004, 0.012), len(beats)) * _at(calm, beats)
    before, after = beats[0] - (beats[1] - beats[0]), beats[-1] + (beats[-1] - beats[-2])
    return np.concatenate([[before], beats, [after]])


def _pulse(
    rng: np.random.Generator, beats: FloatArray, hr: FloatArray, breathing: FloatArray, t: FloatArray
) -> FloatArray:
    """The pulse wave, about unit RMS: per beat a systolic and a later, fading dicrotic Gaussian."""
    phase = np.interp(t, beats, np.arange(len(beats))) % 1.0
    dicrotic_at, width = rng.uniform(0.32, 0.45), rng.uniform(0.09, 0.13)
    fading = np.clip((170.0 - _at(hr, t)) / 110.0, 0.1, 1.0)
    systolic = _bump(phase, 0.2, width)
    dicrotic = rng.uniform(0.2, 0.6) * fading * _bump(phase, 0.2 + dicrotic_at, rng.uniform(0.1, 0.16))
    wave = systolic + dicrotic
    wave = (wave - wave.mean()) / wave.std()
    perfusion = np.exp(_at(_wander(rng, len(hr), 0.3, 40.0), t)) * (1 + rng.uniform(0.05, 0.15) * breathing)
    return wave * perfusion


@dataclass(frozen=True)
class _Motion:
    """What moves a wrist: phases (harmonics, samples) of the swing, its amplitude and gestures (samples,)."""

    in_ppg: FloatArray  # (samples,)
    phases: FloatArray
    amplitude: FloatArray
    gestures: FloatArray


def _motion(rng: np.random.Generator, stepping: FloatArray, cadence: FloatArray, t: FloatArray) -> _Motion:
    """Motion: the arm's swing (half the cadence), its harmonics, and gestures at any time."""
    seconds = len(stepping)
    # The gait follows the belt within a few steps and is never exact: a comb of narrow, moving lines.
    swing = 0.5 * _smooth(cadence, 1.5) * (1 + _wander(rng, seconds, 0.015, 8.0))
    phase = 2 * np.pi * _integral(swing, t)
    strength = np.array([0.7, 1.0, 0.35, 0.45, 0.15, 0.2]) * rng.lognormal(0.0, 0.35, 6)
    comb = np.zeros(len(t))
    phases = np.zeros((len(strength), len(t)))
    for k, a in enumerate(strength, start=1):
        drift = _at(_wander(rng, seconds, 0.5, 10.0), t)  # how the arm moves changes over seconds
        phases[k - 1] = k * phase + rng.uniform(0, 2 * np.pi) + drift
        comb += a * np.cos(phases[k - 1])
    amplitude = _at(_smooth(stepping, 2.0) * np.exp(_wander(rng, seconds, 0.25, 6.0)), t)
    in_ppg = rng.uniform(1.2, 2.2) * amplitude * comb
    gestures = _gestures(rng, seconds, t)
    return _Motion(in_ppg + gestures, phases, amplitude, gestures)


def _acceleration(config: Synthetic, k: int, motion: _Motion, t: FloatArray) -> npt.NDArray[np.float32]:
    """The wrist's acceleration in g, (3, samples): gravity, the motion that is in the PPG, and noise.

    Each axis has each harmonic with a strength and a delay of its own: no sum of axes is what the PPG has.
    """
    rng = np.random.default_rng([config.seed, k, 1])  # its own: the PPG's draws stay as they were
    down = rng.standard_normal(3)
    acc = np.tile(down[:, None] / np.linalg.norm(down), len(t))
    for axis in acc:
        axis += _at(_wander(rng, int(t[-1]) + 2, 0.1, 20.0), t)  # the hand turns
        strength = np.array([0.5, 0.6, 0.25, 0.3, 0.1, 0.15]) * rng.lognormal(0.0, 0.4, len(motion.phases))
        delay = rng.uniform(0, 2 * np.pi, len(motion.phases))
        swing = sum(a * np.cos(p + d) for a, p, d in zip(strength, motion.phases, delay, strict=True))
        axis += config.motion * (motion.amplitude * swing + rng.normal(0, 0.2) * motion.gestures)
        axis += 0.01 * config.noise * rng.standard_normal(len(t))
    return acc.astype(np.float32)


def _gestures(rng: np.random.Generator, seconds: int, t: FloatArray) -> FloatArray:
    """Short bursts without a rhythm, about one a minute."""
    signal = np.zeros(len(t))
    for start in rng.uniform(0, seconds, rng.poisson(seconds / 60)):
        length = rng.uniform(1.0, 5.0)
        part = slice(*np.searchsorted(t, [start, start + length]))
        tau = (t[part] - start) / length
        wobble = np.cumsum(rng.normal(0, 0.35, len(tau)))
        signal[part] += rng.uniform(0.5, 3.0) * np.sin(np.pi * tau) ** 2 * np.sin(wobble + 6 * np.pi * tau)
    return signal


def _baseline(rng: np.random.Generator, breathing: FloatArray, t: FloatArray) -> FloatArray:
    """Baseline wander: breathing and a slow drift; most of it below the band."""
    seconds = int(t[-1]) + 2
    drift = _at(_wander(rng, seconds, rng.uniform(0.2, 0.6), 5.0), t)
    return rng.uniform(0.1, 0.4) * breathing + drift


def _bump(phase: FloatArray, centre: float, width: float) -> FloatArray:
    """A Gaussian in beat phase, wrapped round the beat."""
    distance = (phase - centre + 0.5) % 1.0 - 0.5
    return np.exp(-0.5 * (distance / width) ** 2)


def _smooth(values: FloatArray, lag_s: float) -> FloatArray:
    """First-order lag of a signal given each second."""
    from scipy.signal import lfilter

    keep = np.exp(-1.0 / lag_s)
    smoothed, _ = lfilter([1 - keep], [1, -keep], values, zi=[keep * values[0]])
    return np.asarray(smoothed)


def _wander(rng: np.random.Generator, seconds: int, deviation: float, lag_s: float) -> FloatArray:
    """A random walk drawn back to zero (Ornstein-Uhlenbeck), each second: standard deviation, memory."""
    from scipy.signal import lfilter

    keep = np.exp(-1.0 / lag_s)
    start = rng.normal(0, deviation)
    steps = rng.normal(0, deviation * np.sqrt(1 - keep**2), seconds)
    path, _ = lfilter([1.0], [1, -keep], steps, zi=[keep * start])
    return np.asarray(path)


def _at(each_second: FloatArray, t: FloatArray) -> FloatArray:
    """Values given each second, at times t, linear between."""
    return np.interp(t, np.arange(len(each_second)), each_second)


def _integral(rate: FloatArray, t: FloatArray) -> FloatArray:
    """Cycles since t[0] of a rate given each second in Hz, at evenly spaced times t."""
    return np.cumsum(_at(rate, t)) * (t[1] - t[0])
