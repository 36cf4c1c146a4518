"""Where trainings of one point to several lengths part: checkpoints before the cooldown, kept for others.

Under the schedule wsd a training of N epochs and one of more are the same bits up to the cooldown of the
shorter. So that is trained once. Knows files, no stack.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from kd.files import read_text, write_atomically, write_json

CHECKPOINT, HISTORY, CONTINUED = "checkpoint.pt", "history.jsonl", "continued.json"


@dataclass(frozen=True)
class Stem:
    """Checkpoints of one point, whatever its max_epochs: `folder`/<key>-<epoch>.pt, each with its history.

    key: of everything that can change the point's bits, but max_epochs.
    """

    folder: Path
    key: str

    def keep(self, point: Path, epoch: int) -> None:
        """Keep the checkpoint of a point's folder, which is of this epoch; the history first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for source, ending in ((HISTORY, "jsonl"), (CHECKPOINT, "pt")):
            target = self.folder / f"{self.key}-{epoch}.{ending}"
            write_atomically(target, lambda path, of=point / source: shutil.copyfile(of, path))  # type: ignore[misc]

    def begin(self, point: Path, most: int) -> int:
        """Put the longest one of at most so many epochs into a point's folder; its epoch, 0 if there is none.

        continued.json says how many seconds were trained by another point.
        """
        known = epochs_kept(self.folder, self.key).get(self.key, [])
        epoch = max((e for e in known if e <= most), default=0)
        history = self.folder / f"{self.key}-{epoch}.jsonl"
        if not epoch or not history.exists():
            return 0
        rows = [json.loads(line) for line in read_text(history).splitlines()]
        write_atomically(point / HISTORY, lambda path: shutil.copyfile(history, path))
        write_json(point / CONTINUED, {"epoch": epoch, "seconds": rows[-1]["train_seconds"]})
        source = self.folder / f"{self.key}-{epoch}.pt"
        write_atomically(point / CHECKPOINT, lambda path: shutil.copyfile(source, path))
        return epoch


def epochs_kept(folder: Path, key: str = "*") -> dict[str, list[int]]:
    """After which epochs there are checkpoints in a folder of stems, by key; key: of this one only."""
    found: dict[str, list[int]] = {}
    for path in folder.glob(f"{key}-*.pt"):
        of, _, epoch = path.stem.rpartition("-")
        found.setdefault(of, []).append(int(epoch))
    return found
