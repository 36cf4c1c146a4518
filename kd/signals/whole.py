"""All windows that a data config has, whatever the split: what a brought teacher is asked about, once.

Those with labels are one pool, those without another; a window's row counts through both. No torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.signals import splits
from kd.signals.pool import Pool
from kd.signals.prepare import (
    DataConfig,
    Progress,
    as_source,
    pool_of,
    unlabelled_pool,
    unlabelled_rows,
    windows_name,
)
from kd.signals.splits import SIDES

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Whole:
    """A pool of windows. name: of all that they follow from; config: how its recordings are found and cut.

    labelled: whether they have labels; if not, windows were cut over the whole signal.
    """

    name: str
    config: DataConfig
    pool: Pool
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.pool.originals[1]) + (len(self.pool.copies[1]) if self.pool.copies else 0)


def wholes(config: DataConfig, cache_dir: Path, progress: Progress | None = None) -> list[Whole]:
    """The labelled windows of a config, then those of `config.unlabelled`. Cuts them if nobody has."""
    found = [Whole(windows_name(config, cache_dir), config, pool_of(config, cache_dir, progress))]
    if config.unlabelled is not None:
        source = as_source(config)
        name = f"{windows_name(source, cache_dir)}-unlabelled"
        found.append(Whole(name, source, unlabelled_pool(config, cache_dir, progress), labelled=False))
    return found


def rows_of(known: Sequence[Whole], config: DataConfig, cache_dir: Path) -> tuple[dict[str, Rows], Rows]:
    """Which windows of `wholes` are on each side of the split, side -> (N,); and those without labels (U,).

    In the order of `prepare`'s. A pool's windows are counted through its originals, then through its copies.
    """
    cut = known[0].pool
    side_of = splits.assign_subjects(list(cut.windows), config.split, cut.windows)
    rows = {}
    for side in SIDES:
        found: list[Rows] = [np.zeros(0, np.int64)]
        end = 0
        for counted in ("windows", "copies"):
            for part in cut.parts:
                start, end = end, end + getattr(part, counted)
                if side_of.get(part.subject) == side and (counted == "windows" or side == "train"):
                    found.append(np.arange(start, end))
        rows[side] = np.concatenate(found)
    besides, _ = unlabelled_rows(cut, config, side_of, cache_dir)
    return rows, np.concatenate([np.zeros(0, np.int64), *(len(known[0]) + at for _, at in besides)])


def take(arrays: Sequence[npt.NDArray[Any]], rows: Rows) -> npt.NDArray[Any]:
    """Rows (n,) of arrays that lie end to end as one; of memory maps, only these are read."""
    ends = np.cumsum([len(array) for array in arrays])
    of = np.searchsorted(ends, rows, side="right")
    found = np.empty((len(rows), *arrays[0].shape[1:]), arrays[0].dtype)
    for i, (array, end) in enumerate(zip(arrays, ends, strict=True)):
        found[of == i] = array[rows[of == i] - (end - len(array))]
    return found
