"""An 8-bit student as a whole: its layers in turn."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kd.edge.int8.layers import Average, Block, Classes, Convolution, Dense, Integers, Window

BATCH = 256  # windows that are answered together


@dataclass
class Student8:
    """stem, blocks and average are a ResNet's, hidden an MLP's layers; channels and samples of a window.

    post: whether its blocks are post-activation ones, which keep the map that is read, too.
    """

    channels: int
    samples: int
    window: Window
    classes: Classes
    stem: Convolution | None = None
    blocks: list[Block] = field(default_factory=list)
    average: Average | None = None
    hidden: list[Dense] = field(default_factory=list)
    post: bool = False

    def logits(self, windows: Any) -> Any:
        """(N, C, S) -> (N, K), float32: to the bit what the C code says."""
        windows = np.asarray(windows, np.float32).reshape(-1, self.channels, self.samples)
        parts = [self.classes(self.features(windows[i : i + BATCH])) for i in range(0, len(windows), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes.bias)), np.float32)

    def features(self, windows: Any, maps: dict[str, Integers] | None = None) -> Integers:
        """(N, C, S) -> (N, F), integers. maps: filled with all maps, by layer and `_kept` or `_map`."""
        x, maps = self.window(windows), {} if maps is None else maps
        if self.stem is None or self.average is None:
            x = x.reshape(len(x), -1)
            for dense in self.hidden:
                x = maps[f"{dense.name}_map"] = dense(x)
            return x
        kept, x = self._maps(self.stem, x.transpose(0, 2, 1), None, maps)
        for block in self.blocks:
            if block.shortcut is not None:
                _put(block.shortcut, made := block.shortcut(x), maps)
                kept = made[1] if self.post else made[0]
            hidden = block.first(x)
            _put(block.first, hidden, maps)
            assert hidden[1] is not None
            kept, x = self._maps(block.second, hidden[1], kept, maps)
        return self.average(x)

    def _maps(
        self, layer: Convolution, x: Integers, kept: Integers | None, maps: dict[str, Integers]
    ) -> tuple[Integers | None, Integers]:
        """What is kept of a layer, and what is read next."""
        made = layer(x, kept)
        _put(layer, made, maps)
        assert made[1] is not None
        return made[1] if self.post else made[0], made[1]


def _put(
    layer: Convolution, made: tuple[Integers | None, Integers | None], maps: dict[str, Integers]
) -> None:
    for kind, integers in zip(("kept", "map"), made, strict=True):
        if integers is not None:
            maps[f"{layer.name}_{kind}"] = integers
