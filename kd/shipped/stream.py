"""Heart rate from a live PPG signal: a window every stride, from samples as they come. numpy and onnxruntime.

    stream = Stream(Model(), fs=64, channels=1)
    for start_s, bpm in stream.push(samples):   # (channels, n), any n
        ...

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
    from kd.shipped.example import Model, filtered, low_pass, normalised
else:  # beside example.py and grid.py, where it is used
    import grid  # type: ignore[no-redef]
    from example import Model, filtered, low_pass, normalised  # type: ignore[no-redef]


class Stream:
    """Keeps the state of resampler, filter and channel scales between calls of `push`.

    first_s: where window 0 starts, seconds after the first sample; windows from before it are left out.
    """

    def __init__(
        self, model: Model, fs: float, channels: int = 1, *, causal: bool = False, first_s: float = 0.0
    ) -> None:
        self.model, self.config, self.causal = model, model.config, causal
        self.fs, self.first_s = fs, first_s
        ratio = grid.ratio(fs, self.config["fs"])
        self.up, self.down = ratio.numerator, ratio.denominator
        self.taps, self.half = low_pass(self.up, self.down)
        self.channels = 1 if self.config["channels"] == "first" else channels
        self.raw = np.zeros((self.channels, 0))  # not yet resampled, from sample raw_at on
        self.raw_at, self.last = 0, np.zeros(self.channels)
        self.level = np.zeros((self.channels, 1))  # the first sample, which the resampler is spared
        self.resampled = 0  # outputs of the resampler so far
        self.spec = self.config["filter"]
        self.zi = np.array(self.spec["zi"])
        self.state: Any = None
        self.head = np.zeros((self.channels, 0))  # the filter's first inputs, until it is started
        self.tail = np.zeros((self.channels, 0))  # the filter's last inputs
        self.out = np.zeros((self.channels, 0))  # its outputs, from sample out_at on
        self.out_at = 0
        self.sums = np.zeros((2, self.channels))  # of all outputs, and of their squares
        self.window = 0  # the next one to come
        while self._first_sample() < 0:
            self.window += 1

    def push(self, samples: Any) -> Iterator[tuple[float, float]]:
        """Take raw samples (channels, n); yield (window's start in seconds, BPM) of each complete one."""
        samples = np.array(samples, np.float64)[: self.channels]
        for channel, row in enumerate(samples):  # a gap holds the last value
            for i in np.flatnonzero(~np.isfinite(row)):
                row[i] = row[i - 1] if i else self.last[channel]
        if samples.shape[1]:
            self.last = samples[:, -1]
        fresh = self._begun(self._resample(samples))
        while True:  # as far as the end of a window, whatever the size of the pushes
            end = self._first_sample() + self.config["samples"]
            missing = max(end - self.out_at - self.out.shape[1], 0)
            self._filter(fresh[:, :missing])
            if fresh.shape[1] < missing:
                return
            fresh = fresh[:, missing:]
            yield self._start_s(), self._infer()
            self.window += 1
            drop = max(min(self._first_sample() - self.out_at, self.out.shape[1]), 0)
            self.out, self.out_at = self.out[:, drop:], self.out_at + drop

    def _start_s(self) -> float:
        """Start of the next window, seconds after the first sample."""
        return float(grid.start_s(self.window, self.config["stride_s"], self.first_s))

    def _first_sample(self) -> int:
        """Its first sample among the resampler's outputs."""
        return int(grid.first_sample(self._start_s(), self.fs, self.config["fs"]))

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

    def _infer(self) -> float:
        """BPM of the window that the filter's newest output completes."""
        window = self.out[:, -self.config["samples"] :]
        if not self.causal:  # what the filter would say beyond the end, then back
            beyond = 2 * self.tail[:, -1:] - self.tail[:, -2 : -self.spec["padding"] - 2 : -1]
            end, _ = _each(beyond, self.spec["sos"], self.state)
            both = np.concatenate([window, end], axis=1)[:, ::-1]
            back, _ = _each(both, self.spec["sos"], self.zi * both[:, 0][:, None, None])
            window = back[:, ::-1][:, : window.shape[1]]
        if self.config["channels"] == "mean" and self.channels > 1:
            # offline a channel is scaled by its deviation over the recording, here over what has come so far
            seen = self.out_at + self.out.shape[1]
            variance = np.maximum(self.sums[1] / seen - np.square(self.sums[0] / seen), 0.0)
            scale = np.sqrt(variance)[:, None]
            window = np.divide(window, scale, out=np.zeros_like(window), where=scale > 0)
            window = window.mean(0, keepdims=True)
        return float(self.model(normalised(window[None], self.config))[0])


def _each(signal: Any, sos: Any, state: Any) -> tuple[Any, Any]:
    """Every channel through the filter: outputs (channels, n) and the states to go on from."""
    done = [filtered(row, sos, at) for row, at in zip(signal, state)]  # noqa: B905
    return np.stack([row for row, _ in done]), np.stack([at for _, at in done])
