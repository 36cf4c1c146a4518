"""The folds of a data config: how many there are, and the config of one. Knows no points and no torch."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

from kd.signals.prepare import Data, DataConfig, fingerprint, prepare


def of_fold(config: DataConfig, fold: int | None) -> DataConfig:
    """The config of one fold; None: of a fixed split, as it is."""
    if fold is None:
        return config
    return dataclasses.replace(config, split=dataclasses.replace(config.split, fold=fold))


def count(config: DataConfig, cache_dir: Path) -> int:
    """How many folds there are."""
    if config.split.scheme == "kfold":
        return config.split.folds
    data = prepare(config, cache_dir)
    return len({str(name) for side in (data.train, data.val, data.test) for name in side.subject})


def group_fingerprint(config: DataConfig, cache_dir: Path) -> str:
    """What the folds of these data share."""
    return hashlib.sha256(f"all of {fingerprint(config, cache_dir)}".encode()).hexdigest()[:16]


def windows_of(prepared: Data | Mapping[int, Data], fold: int | None) -> Data:
    """The windows of a point's fold; of the first one where the point, or nobody, has any."""
    if isinstance(prepared, Data):
        return prepared
    return prepared[fold] if fold is not None else next(iter(prepared.values()))
