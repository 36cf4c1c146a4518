"""The folds of data: the config of one, and its windows. Knows no points and no torch."""

import dataclasses
from collections.abc import Mapping

from kd.signals.prepare import Data, DataConfig


def of_fold(config: DataConfig, fold: int | None) -> DataConfig:
    """The config of one fold; None: of a fixed split, as it is."""
    if fold is None:
        return config
    return dataclasses.replace(config, split=dataclasses.replace(config.split, fold=fold))


def windows_of(prepared: Data | Mapping[int, Data], fold: int | None) -> Data:
    """The windows of a point's fold; of the first one where the point, or nobody, has any."""
    if isinstance(prepared, Data):
        return prepared
    return prepared[fold] if fold is not None else next(iter(prepared.values()))
