"""How long a worker trains between two reports, and whether it is to stop: a file the driver writes over.

One line in the sweep directory, always the same file, since a network file system looks at a file again when
it is opened, but may hide for half a minute that one has come or gone.
"""

import math
import time
from pathlib import Path

SLICE_MS = 0.85  # of the driver's CPU that a slice costs, as measured at 2,300 slots
SHARE = 0.1  # of the driver's core that slices alone may take
MOST_S = 30.0  # the longest slice: what the driver decides on a report must not wait longer
LOOK_S = 1.0  # how often a worker looks within a slice; less often in long ones, ten times in each


def slice_s(slots: int, least: float) -> float:
    """Seconds of a slice for so many slots: `least` for some 200 of them, more for more, up to MOST_S."""
    return max(least, min(slots * SLICE_MS / 1000 / SHARE, MOST_S))


class Pace:
    """The driver's end of it, `tell`, and the worker's, `slice_s` and `stop`. Made by either on its own."""

    def __init__(self, folder: Path, slice_s: float) -> None:
        self._path = folder / "pace"
        self._slice_s, self._stop = slice_s, False
        self._looked = -math.inf

    def tell(self, slice_s: float, *, stop: bool) -> None:
        """Have workers report so often, or at once and no more; written only when that is new."""
        if (slice_s, stop) != (self._slice_s, self._stop) or self._looked < 0:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a+b") as file:  # in place, see above
                file.truncate(0)
                file.write(b"%.3f %s\n" % (slice_s, b"stop" if stop else b"go"))
            self._slice_s, self._stop, self._looked = slice_s, stop, 0.0

    @property
    def slice_s(self) -> float:
        """Seconds to train before the next report."""
        self._look()
        return self._slice_s

    @property
    def stop(self) -> bool:
        """Whether to report at once."""
        self._look()
        return self._stop

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < max(LOOK_S, self._slice_s / 10):
            return
        self._looked = now
        try:
            seconds, _, word = self._path.read_text(encoding="ascii").partition(" ")
            if word in ("go\n", "stop\n"):  # else it is just being written
                self._slice_s, self._stop = float(seconds), word == "stop\n"
        except (OSError, ValueError):
            pass  # none yet, just being written, or a file system that is busy: as before
