"""A teacher's raw outputs on all windows of a pool: computed once, piece by piece, kept as memory maps.

Any number of processes compute together: each begins somewhere else and takes the pieces that are not there.
A piece is written atomically; whoever is killed loses one. Knows no split and no torch.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.files import load_array, save_array, write_atomically
from kd.signals.pool import ArrayWriter
from kd.signals.whole import Whole
from kd.teachers.runners import check_width_is, open_runner, run
from kd.teachers.source import Source
from kd.teachers.windows import CHUNK, each_played, signal_of, windows_in

OUT, FEATURES = "out", "features"
REMEDY = "delete this folder"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Raw:
    """Outputs (N, D) and features (N, F) or None, by window: arrays that lie end to end (`whole.take`)."""

    out: Sequence[Array]
    features: Sequence[Array] | None

    @classmethod
    def joined(cls, parts: Sequence["Raw"]) -> "Raw":
        """Those of several pools, one after another. The features of all, if the first has some."""
        features = [array for part in parts for array in part.features or ()]
        return cls([array for part in parts for array in part.out], features or None)


class Pass:
    """A teacher's pass over a pool, by one of any number of processes. steps() does it, raw() gives it.

    first: from 0 to 1, where in the pool this process begins.
    """

    def __init__(self, source: Source, whole: Whole, folder: Path, device: str, first: float = 0.0) -> None:
        self.source, self.whole, self.folder, self.device = source, whole, folder, device
        self.total = len(whole)
        self._begin = int(first * self.total)

    @property
    def done(self) -> bool:
        """Whether all outputs are there."""
        return (self.folder / f"{OUT}.npy").exists()

    def steps(self) -> Iterator[int]:
        """Compute what is missing; after each piece, how many windows this process has passed or found."""
        if self.done:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        runner = open_runner(self.source, self.device)
        seen = 0
        for later in (True, False) if self._begin else (True,):
            for played in each_played(self.whole):
                signal = None  # prepared once, and only where something of it is missing
                for i in range(0, len(played.starts_s), CHUNK):
                    at, starts = played.first + i, played.starts_s[i : i + CHUNK]
                    if (at >= self._begin) != later:
                        continue
                    if not self._piece(OUT, at).exists() and not self.done:
                        if signal is None:
                            signal = signal_of(self.source, played.recording)
                        preprocess = self.whole.config.preprocess
                        x = windows_in(signal, self.source, played.recording, starts, preprocess)
                        out, features = run(runner, self.source, x)
                        self._check_width(out.shape[1])
                        if features is not None:
                            save_array(self._piece(FEATURES, at), features)
                        save_array(self._piece(OUT, at), out)
                    seen += len(starts)
                    yield seen
        if seen != self.total:
            raise AssertionError(f"{seen} windows passed, the pool has {self.total}")
        self._join()

    def raw(self) -> Raw:
        """The outputs, once they are there."""
        out = load_array(self.folder / f"{OUT}.npy", REMEDY)
        path = self.folder / f"{FEATURES}.npy"
        if self.source.output == "embedding":
            return Raw([out], [out])
        return Raw([out], [load_array(path, REMEDY)] if path.exists() else None)

    def _piece(self, what: str, at: int) -> Path:
        return self.folder / f"{what}-{at:010}.npy"

    def _check_width(self, width: int) -> None:
        other = next(self.folder.glob(f"{OUT}-*.npy"), None)
        known = width
        with contextlib.suppress(InputError):  # another process has just joined the pieces
            known = load_array(other, REMEDY).shape[1] if other is not None else width
        check_width_is(self.source, width, known)

    def _join(self) -> None:
        """All pieces as one array, the outputs last; pieces go. Another process may be as far."""
        for what in (FEATURES, OUT):
            whole, pieces = self.folder / f"{what}.npy", sorted(self.folder.glob(f"{what}-*.npy"))
            if not pieces or whole.exists():
                continue
            try:
                write_atomically(whole, lambda path, pieces=pieces: _joined(path, pieces))  # type: ignore[misc]
            except FileNotFoundError:  # the other one was faster, and removed them
                if not whole.exists():
                    raise
        for piece in self.folder.glob("*-*.npy"):
            piece.unlink(missing_ok=True)


def _joined(path: Path, pieces: list[Path]) -> None:
    with ArrayWriter(path) as file:
        for piece in pieces:
            file.append(np.load(piece, allow_pickle=False))
