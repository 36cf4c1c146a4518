"""Heart rate from a live PPG signal: a window every stride, from samples as they come. numpy and onnxruntime.

    stream = Stream(Model(), fs=64, channels=1)
    for start_s, bpm in stream.push(samples):   # (channels, n), any n
        ...

A live signal can't be filtered backwards: this filter is causal, which costs accuracy. README.md says how
much, as measured on the tested subjects.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

if __package__:  # where kdsweep tests it
    from kd.shipped.example import Model, filtered, low_pass, normalised
else:  # beside example.py, where it is used
    from example import Model, filtered, low_pass, normalised  # type: ignore[no-redef]


class Stream:
    """Keeps the state of resampler, filter and channel scales between calls of `push`.

    first_s: where the first window starts, seconds after the first sample.
    """

    def __init__(self, model: Model, fs: float, channels: int = 1, first_s: float = 0.0) -> None:
        self.model, self.config = model, model.config
        ratio = Fraction(self.config["fs"] / fs).limit_denominator(1000)
        self.up, self.down = ratio.numerator, ratio.denominator
        self.taps, self.half = low_pass(self.up, self.down)
        self.channels = 1 if self.config["channels"] == "first" else channels
        self.raw = np.zeros((self.channels, 0))  # from sample raw_at on
        self.raw_at, self.last = 0, np.zeros(self.channels)
        self.started = False
        self.state = np.zeros((self.channels, len(self.config["filter"]["sos"]), 2))
        self.resampled = 0  # outputs of the resampler so far
        self.sums = np.zeros((2, self.channels))  # of filtered values and their squares
        self.out = np.zeros((self.channels, 0))  # filtered, from sample out_at on
        self.out_at = 0
        self.next = round(first_s * self.config["fs"])

    def push(self, samples: Any) -> Iterator[tuple[float, float]]:
        """Take raw samples (channels, n); yield (window's start in seconds, BPM) of each complete one."""
        samples = np.array(samples, np.float64)[: self.channels]
        for channel, row in enumerate(samples):  # a gap holds the last value
            for i in np.flatnonzero(~np.isfinite(row)):
                row[i] = row[i - 1] if i else self.last[channel]
        if samples.shape[1]:
            if not self.started:  # before the first sample the signal is taken to have been level
                before = np.repeat(samples[:, :1], self.half // self.up + 1, axis=1)
                self.raw, self.raw_at, self.started = before, -before.shape[1], True
                zi = np.array(self.config["filter"]["zi"])
                self.state = zi * samples[:, 0][:, None, None]
            self.last = samples[:, -1]
            self.raw = np.concatenate([self.raw, samples], axis=1)
        self._filter(self._resample())
        length = self.config["samples"]
        while self.out_at + self.out.shape[1] >= self.next + length:
            begin = self.next - self.out_at
            yield self.next / self.config["fs"], self._infer(self.out[:, begin : begin + length])
            self.next += round(self.config["stride_s"] * self.config["fs"])
            drop = max(min(self.next - self.out_at, self.out.shape[1]), 0)
            self.out, self.out_at = self.out[:, drop:], self.out_at + drop

    def _resample(self) -> Any:
        """Outputs of the polyphase filter for which all inputs are there, (channels, n)."""
        have = self.raw_at + self.raw.shape[1]  # inputs so far
        if self.up == self.down:
            fresh, self.raw_at = self.raw[:, -self.raw_at if self.raw_at < 0 else 0 :], have
            self.raw = self.raw[:, :0]
            return fresh
        outputs = []
        while (last := (self.resampled * self.down + self.half) // self.up) < have:
            k = np.arange(-(-(self.resampled * self.down - self.half) // self.up), last + 1)
            weight = self.taps[self.resampled * self.down - k * self.up + self.half]
            outputs.append(self.raw[:, k - self.raw_at] @ weight)
            self.resampled += 1
        needed = -(-(self.resampled * self.down - self.half) // self.up)
        drop = max(needed - self.raw_at, 0)
        self.raw, self.raw_at = self.raw[:, drop:], self.raw_at + drop
        return np.stack(outputs, axis=1) if outputs else np.zeros((self.channels, 0))

    def _filter(self, fresh: Any) -> None:
        if not fresh.shape[1]:
            return
        sos = self.config["filter"]["sos"]
        rows = [filtered(row, sos, state) for row, state in zip(fresh, self.state)]  # noqa: B905
        self.state = np.stack([state for _, state in rows])
        new = np.stack([row for row, _ in rows])
        self.sums += [new.sum(1), np.square(new).sum(1)]
        self.out = np.concatenate([self.out, new], axis=1)

    def _infer(self, window: Any) -> float:
        if self.config["channels"] == "mean" and self.channels > 1:
            # offline a channel is scaled by its deviation over the recording, here over what has come so far
            seen = self.out_at + self.out.shape[1]
            variance = np.maximum(self.sums[1] / seen - np.square(self.sums[0] / seen), 0.0)
            scale = np.sqrt(variance)[:, None]
            window = np.divide(window, scale, out=np.zeros_like(window), where=scale > 0)
            window = window.mean(0, keepdims=True)
        return float(self.model(normalised(window[None], self.config))[0])
