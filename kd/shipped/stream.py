"""Heart rate from a live PPG signal: a window every stride, from samples as they come. numpy and onnxruntime.

    stream = Stream(Model(), fs=64, channels=1)
    for start_s, bpm in stream.push(samples):   # (channels, n), any n
        ...
    for start_s, estimate in stream.track(samples):   # instead: with a memory, see tracker.py
        ...

For a model that sees an accelerometer give its rate as acc_fs, and stream.push(samples, acc) with acc (3, m).

Offline the filter runs forward over the recording and back. A live signal has no end to come back from:
`causal=False` comes back from the newest sample as if the recording ended there, over the window only;
`causal=True` runs forward alone, as kdsweep_model.h does, which shifts the pulse's harmonics against each
other. README.md says what both cost, as measured on the tested subjects.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

if __package__:  # where kdsweep tests it
    from kd.shipped import grid
    from kd.shipped.example import Model, axes, filtered, low_pass, normalised
    from kd.shipped.tracker import Estimate, Tracker
else:  # beside example.py, grid.py and tracker.py, where it is used
    import grid  # type: ignore[no-redef]
    from example import Model, axes, filtered, low_pass, normalised  # type: ignore[no-redef]
    from tracker import Estimate, Tracker  # type: ignore[no-redef]


class Stream:
    """Windows of a live signal; each sensor keeps its state between calls of `push`.

    first_s: where window 0 starts, seconds after the first sample; windows from before it are left out.
    acc_fs: rate of the accelerometer, for a model that sees one; None where there is none.
    """

    def __init__(
        self,
        model: Model,
        fs: float,
        channels: int = 1,
        *,
        causal: bool = False,
        first_s: float = 0.0,
        acc_fs: float | None = None,
    ) -> None:
        self.model, self.config, self.causal, self.first_s = model, model.config, causal, first_s
        channels = 1 if self.config["channels"] == "first" else channels
        self.ppg = Sensor(fs, channels, self.config["filter"], self.config["fs"], causal)
        self.sensors, self.acc = [self.ppg], None
        if spec := self.config.get("acc"):
            if acc_fs is None and not spec["optional"]:
                raise ValueError("this model sees an accelerometer: give acc_fs, and acc to push")
            if acc_fs is not None:
                self.acc = Sensor(acc_fs, spec["channels"], spec["filter"], self.config["fs"], causal)
                self.held = np.zeros(3)
                self.sensors.append(self.acc)
        self.tracker: Tracker | None = None
        self.window = 0  # the next one to come
        while min(sensor.first_sample(self._start_s()) for sensor in self.sensors) < 0:
            self.window += 1

    def push(self, samples: Any, acc: Any = None) -> Iterator[tuple[float, float]]:
        """Take raw samples (channels, n); yield (window's start in seconds, BPM) of each complete one.

        acc: (3, m) of the accelerometer, where the model sees one; windows wait for the later of both.
        """
        for start_s, window in self._windows(samples, acc):
            yield start_s, float(self.model(window)[0])

    def track(self, samples: Any, acc: Any = None) -> Iterator[tuple[float, Estimate]]:
        """The same with the tracker's estimate; after a pause in the signal call `self.tracker.reset()`."""
        if self.tracker is None:
            self.tracker = self.model.tracker()
        for start_s, window in self._windows(samples, acc):
            yield start_s, self.tracker.update(self.model.logits(window)[0])

    def _windows(self, samples: Any, acc: Any) -> Iterator[tuple[float, Any]]:
        """Of raw samples as `push` takes them: (start in seconds, window (1, channels, samples)) of each."""
        self.ppg.take(held(np.array(samples, np.float64)[: self.ppg.channels], self.ppg.last))
        if self.acc is not None and acc is not None:
            values = held(np.array(acc, np.float64), self.held)
            self.held = values[:, -1] if values.shape[1] else self.held
            self.acc.take(axes(values, self.config["acc"]))
        while True:  # as far as the end of a window, whatever the size of the pushes
            firsts = [sensor.first_sample(self._start_s()) for sensor in self.sensors]
            ready = [
                sensor.filter_up_to(first + self.config["samples"])
                for sensor, first in zip(self.sensors, firsts)  # noqa: B905
            ]
            if not all(ready):
                return
            yield self._start_s(), self._window()
            self.window += 1
            for sensor in self.sensors:
                sensor.forget(sensor.first_sample(self._start_s()))

    def _start_s(self) -> float:
        """Start of the next window, seconds after the first sample."""
        return float(grid.start_s(self.window, self.config["stride_s"], self.first_s))

    def _window(self) -> Any:
        """The window (1, channels, samples) that the filters' newest outputs complete, for the model."""
        window, samples = self.ppg.newest(self.config["samples"]), self.config["samples"]
        if self.config["channels"] == "mean" and self.ppg.channels > 1:
            scale = self.ppg.deviation()
            window = np.divide(window, scale, out=np.zeros_like(window), where=scale > 0)
            window = window.mean(0, keepdims=True)
        window = normalised(window[None], self.config)
        if spec := self.config.get("acc"):
            moves = np.zeros((1, spec["channels"], samples))
            if self.acc is not None:
                moves = self.acc.newest(samples)[None] / spec["scale"]
            window = np.concatenate([window, moves], axis=1)
        return window


class Sensor:
    """Resampler, filter and scales of one sensor's channels, with their state."""

    def __init__(self, fs: float, channels: int, spec: dict[str, Any], to: float, causal: bool) -> None:
        self.fs, self.to, self.channels, self.causal, self.spec = fs, to, channels, causal, spec
        ratio = grid.ratio(fs, to)
        self.up, self.down = ratio.numerator, ratio.denominator
        self.taps, self.half = low_pass(self.up, self.down)
        self.raw = np.zeros((channels, 0))  # not yet resampled, from sample raw_at on
        self.raw_at, self.last = 0, np.zeros(channels)
        self.level = np.zeros((channels, 1))  # the first sample, which the resampler is spared
        self.resampled = 0  # outputs of the resampler so far
        self.zi = np.array(self.spec["zi"])
        self.state: Any = None
        self.head = np.zeros((channels, 0))  # the filter's first inputs, until it is started
        self.fresh = np.zeros((channels, 0))  # its next inputs
        self.tail = np.zeros((channels, 0))  # its last inputs
        self.out = np.zeros((channels, 0))  # its outputs, from sample out_at on
        self.out_at = 0
        self.sums = np.zeros((2, channels))  # of all outputs, and of their squares

    def first_sample(self, start_s: float) -> int:
        """First sample, among the resampler's outputs, of a window that starts then."""
        return int(grid.first_sample(start_s, self.fs, self.to))

    def take(self, samples: Any) -> None:
        """Raw samples (channels, n) without gaps."""
        if samples.shape[1]:
            self.last = samples[:, -1]
        self.fresh = np.concatenate([self.fresh, self._begun(self._resample(samples))], axis=1)

    def filter_up_to(self, end: int) -> bool:
        """Filter as far as sample `end`, no further; whether it is reached."""
        missing = max(end - self.out_at - self.out.shape[1], 0)
        there = self.fresh.shape[1] >= missing
        self._filter(self.fresh[:, :missing])
        self.fresh = self.fresh[:, missing:]
        return there

    def forget(self, first: int) -> None:
        """Outputs before sample `first` are not needed any more."""
        drop = max(min(first - self.out_at, self.out.shape[1]), 0)
        self.out, self.out_at = self.out[:, drop:], self.out_at + drop

    def newest(self, samples: int) -> Any:
        """The newest outputs (channels, samples); unless causal, filtered back over these, too."""
        window = self.out[:, -samples:]
        if self.causal:
            return window
        beyond = 2 * self.tail[:, -1:] - self.tail[:, -2 : -self.spec["padding"] - 2 : -1]
        end, _ = _each(beyond, self.spec["sos"], self.state)  # what the filter would say beyond the end
        both = np.concatenate([window, end], axis=1)[:, ::-1]
        back, _ = _each(both, self.spec["sos"], self.zi * both[:, 0][:, None, None])
        return back[:, ::-1][:, : window.shape[1]]

    def deviation(self) -> Any:
        """Of each channel (channels, 1), over what has come so far; offline over the recording."""
        seen = self.out_at + self.out.shape[1]
        variance = np.maximum(self.sums[1] / seen - np.square(self.sums[0] / seen), 0.0)
        return np.sqrt(variance)[:, None]

    def _resample(self, samples: Any) -> Any:
        """Outputs (channels, n) of the polyphase filter for which all inputs are there by now."""
        if self.up == self.down or not samples.shape[1]:
            return samples
        if not self.raw_at and not self.raw.shape[1]:  # before the first sample the signal was level
            self.raw_at = -(self.half // self.up + 1)
            self.level, self.raw = samples[:, :1], np.zeros((self.channels, -self.raw_at))
        self.raw = np.concatenate([self.raw, samples - self.level], axis=1)
        have, outputs = self.raw_at + self.raw.shape[1], []
        while (last := (self.resampled * self.down + self.half) // self.up) < have:
            k = np.arange(self._first_input(), last + 1)
            weight = self.taps[self.resampled * self.down - k * self.up + self.half]
            outputs.append(self.raw[:, k - self.raw_at] @ weight)
            self.resampled += 1
        drop = max(self._first_input() - self.raw_at, 0)
        self.raw, self.raw_at = self.raw[:, drop:], self.raw_at + drop
        return np.stack(outputs, axis=1) + self.level if outputs else np.zeros((self.channels, 0))

    def _begun(self, fresh: Any) -> Any:
        """What may be filtered: nothing before the filter could be started as it is offline."""
        pad = 0 if self.causal else self.spec["padding"]
        if self.state is not None:
            return fresh
        self.head = np.concatenate([self.head, fresh], axis=1)
        if self.head.shape[1] <= pad:
            return fresh[:, :0]
        fresh = self.head
        before = 2 * fresh[:, :1] - fresh[:, pad:0:-1]  # oddly extended; nothing for a causal filter
        first = np.concatenate([before, fresh], axis=1)[:, 0]
        _, self.state = _each(before, self.spec["sos"], self.zi * first[:, None, None])
        return fresh

    def _first_input(self) -> int:
        """The first input that the next output of the resampler needs."""
        return -(-(self.resampled * self.down - self.half) // self.up)

    def _filter(self, fresh: Any) -> None:
        """Forward, from where it stopped."""
        if not fresh.shape[1]:
            return
        new, self.state = _each(fresh, self.spec["sos"], self.state)
        self.sums += [new.sum(1), np.square(new).sum(1)]
        self.tail = np.concatenate([self.tail, fresh], axis=1)[:, -self.spec["padding"] - 1 :]
        self.out = np.concatenate([self.out, new], axis=1)


def held(samples: Any, last: Any) -> Any:
    """Samples (channels, n) in whose gaps the last value is held; last: (channels,), what came before."""
    for channel, row in enumerate(samples):
        for i in np.flatnonzero(~np.isfinite(row)):
            row[i] = row[i - 1] if i else last[channel]
    return samples


def _each(signal: Any, sos: Any, state: Any) -> tuple[Any, Any]:
    """Every channel through the filter: outputs (channels, n) and the states to go on from."""
    done = [filtered(row, sos, at) for row, at in zip(signal, state)]  # noqa: B905
    return np.stack([row for row, _ in done]), np.stack([at for _, at in done])
