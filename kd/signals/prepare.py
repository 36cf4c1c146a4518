"""From a data config to training, validation and test windows on disk, built once, shared by all. No torch.

`fingerprint` names the windows without building them; `prepare` builds them under that name if nobody has.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kd import datasets
from kd.errors import InputError
from kd.files import load_array, read_json, write_json
from kd.recordings import Recording
from kd.signals import augment as augmenting
from kd.signals import splits, synthetic
from kd.signals.augment import Augment
from kd.signals.labels import faults
from kd.signals.preprocess import Preprocess
from kd.signals.splits import SIDES, Split
from kd.signals.stage import staged
from kd.signals.windows import BESIDE, Dropped, WindowSet, make_windows, subject_label

PREPARE_VERSION = 1  # raise when the same config gives other windows
# 2: labels outside the classes are left out before labels are mixed. Arrays are cached under 2; data whose
# windows are those of version 1 keep its name, so that points trained on them stay the same points.
LABELS_VERSION = 2
STALE_S = 24 * 3600.0  # an unfinished folder this old belongs to nobody any more
Progress = Callable[[str], None]


@dataclass(frozen=True)
class DataConfig:
    """Which recordings, how they are cut, who is trained and tested on.

    source: "synthetic", the name of a format (kd.datasets.FORMATS), or "auto" to recognise it at `path`.
    options: of the generator (kd.signals.synthetic.Synthetic) or of the format's loader.
    """

    source: str = "synthetic"  # needs no download
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Preprocess = field(default_factory=Preprocess)
    split: Split = field(default_factory=Split)
    augment: Augment = field(default_factory=Augment)
    min_bpm: int = 30  # the lowest class; WildPPG's code
    classes: int = 180  # 30..209 BPM, 1 BPM each; the paper's number, WildPPG's range

    @property
    def bpm_range(self) -> tuple[float, float]:
        """Lowest and highest class, BPM."""
        return _range(self.min_bpm, self.classes)


@dataclass(frozen=True)
class Data:
    """What a model is trained and tested on. Arrays are memory maps; `train` holds the augmented copies too.

    A window's index in `train` is its name: teachers' outputs are stored under it.
    """

    train: WindowSet
    val: WindowSet
    test: WindowSet
    fingerprint: str
    dropped: Dropped
    min_bpm: int
    classes: int


def fingerprint(config: DataConfig, cache_dir: Path | None = None, labels_version: int = 1) -> str:
    """Hash of everything that can change the windows: 16 hex digits. Builds none of them.

    cache_dir: remembers the content hashes of large files there, by size and modification time.
    labels_version: LABELS_VERSION names the cached arrays, and data with windows that version 1 mislabelled.
    """
    identity = {
        "version": PREPARE_VERSION,
        "source": _source_identity(config, cache_dir),
        "preprocess": dataclasses.asdict(config.preprocess),
        "split": config.split.identity,
        "augment": config.augment.identity(config.preprocess),
        "min_bpm": config.min_bpm,
        "classes": config.classes,
    }
    if labels_version > 1:
        identity["labels"] = labels_version
    text = json.dumps(_canonical(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_options(config: DataConfig) -> None:
    """Raise InputError for options that the source doesn't take; of "auto" the data tell, so not here."""
    if config.source == "synthetic":
        _synthetic(config)
    elif config.source != "auto":
        datasets.full_options(config.source, config.options)


def prepare(
    config: DataConfig, cache_dir: Path, progress: Progress | None = None, node_dir: Path | None = None
) -> Data:
    """The windows of `config`, from a folder in `cache_dir/windows/` or built into it.

    The folder appears whole or not at all; when two processes build it, one wins and both read the winner's.
    progress: called now and then with one line. node_dir: where a node of a cluster keeps its own copy, see
    `stage`. Raises InputError for bad data and too few subjects.
    """
    names = {version: fingerprint(config, cache_dir, version) for version in (1, LABELS_VERSION)}
    folder = Path(cache_dir) / "windows" / names[LABELS_VERSION]
    if not folder.exists():
        _build(config, folder, progress)
    if node_dir is not None:
        folder = staged(folder, node_dir, progress or (lambda line: None))
    return _load(folder, names, config)


def windows_of(
    path: Path | str,
    format: str = "auto",
    preprocess: Preprocess | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    min_bpm: int = 30,
    classes: int = 180,
    progress: Progress | None = None,
) -> tuple[WindowSet, Dropped]:
    """All labelled windows of the recordings at `path`, unsplit: to evaluate a trained model on."""
    bpm_range = _range(min_bpm, classes)
    _, recordings = datasets.load(path, format, options, bpm_range=bpm_range)
    return make_windows(recordings, preprocess or Preprocess(), bpm_range=bpm_range, progress=progress)


def load_recordings(config: DataConfig, progress: Progress | None = None) -> list[Recording]:
    """The recordings a config names, generated or read."""
    if config.source == "synthetic":
        return synthetic.recordings(_synthetic(config))
    if progress:
        progress(f"reading {config.path}")
    return datasets.load(_path(config), config.source, config.options, bpm_range=config.bpm_range)[1]


def _build(config: DataConfig, folder: Path, progress: Progress | None) -> None:
    """Build the windows in a temporary folder beside `folder` and rename it there."""
    recordings = load_recordings(config, progress)
    bpm_range = config.bpm_range
    windows, dropped = make_windows(recordings, config.preprocess, bpm_range=bpm_range, progress=progress)
    mislabelled = BESIDE in dropped.by_reason or any(r.readings_left_out for r in recordings)
    index = splits.split_subjects(windows, config.split)
    sides = {side: windows.take(index[side]) for side in SIDES}
    if config.augment.copies:
        trained = set(sides["train"].subject)
        originals = [r for r in recordings if subject_label(r) in trained]
        copies = augmenting.augmented(originals, config.augment, config.preprocess, bpm_range)
        more, _ = make_windows(copies, config.preprocess, bpm_range=bpm_range, tested=True, progress=progress)
        mislabelled |= any(faults(r, bpm_range).outside for r in originals)
        sides["train"] = _joined(sides["train"], more)
    if progress:
        progress(f"writing {sum(len(s) for s in sides.values()):,} windows")

    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep_stale(folder.parent)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir()
        for side, windows in sides.items():
            for key in ("x", "bpm", "subject", "dataset"):
                with (temporary / f"{side}_{key}.npy").open("wb") as array:
                    np.save(array, getattr(windows, key))
                    array.flush()
                    os.fsync(array.fileno())
        with (temporary / "dropped.json").open("w", encoding="utf-8") as file:
            json.dump(dropped.by_recording, file)
            file.flush()
            os.fsync(file.fileno())
        write_json(temporary / "labels.json", {"version": LABELS_VERSION if mislabelled else 1})
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # not a race lost: the disk refused
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _load(folder: Path, names: Mapping[int, str], config: DataConfig) -> Data:
    try:
        sides = {
            side: WindowSet(
                *(
                    load_array(folder / f"{side}_{key}.npy", "it must be made again")
                    for key in ("x", "bpm", "subject", "dataset")
                )
            )
            for side in SIDES
        }
        dropped = Dropped(read_json(folder / "dropped.json"))
        name = names[read_json(folder / "labels.json")["version"]]
    except (OSError, EOFError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(
            f"{folder}: the cached windows can't be read ({error}): delete this folder"
        ) from error
    return Data(**sides, fingerprint=name, dropped=dropped, min_bpm=config.min_bpm, classes=config.classes)


def _sweep_stale(folder: Path) -> None:
    """Remove what killed preparations left behind, long ago."""
    for path in folder.glob(".*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:  # its owner was faster
            continue


def _joined(first: WindowSet, second: WindowSet) -> WindowSet:
    return WindowSet(
        np.concatenate([first.x, second.x]),
        np.concatenate([first.bpm, second.bpm]),
        np.concatenate([first.subject, second.subject]),
        np.concatenate([first.dataset, second.dataset]),
    )


def _range(min_bpm: int, classes: int) -> tuple[float, float]:
    return float(min_bpm), float(min_bpm + classes - 1)


def _source_identity(config: DataConfig, cache_dir: Path | None) -> dict[str, Any]:
    if config.source == "synthetic":
        generated = dataclasses.asdict(_synthetic(config))
        return {"source": "synthetic", "version": synthetic.GENERATOR_VERSION, "options": generated}
    path = _path(config)
    name = datasets.recognise(path) if config.source == "auto" else config.source
    return {
        "source": name,
        "options": datasets.full_options(name, config.options),
        "content": datasets.fingerprint(path, name, cache_dir),
    }


def _synthetic(config: DataConfig) -> synthetic.Synthetic:
    if config.path is not None:
        raise InputError("data.path is given, but data.source is synthetic: set data.source to auto")
    defaults: dict[str, Any] = dataclasses.asdict(synthetic.Synthetic())
    datasets.check_options(config.options, defaults, "data.options of the synthetic source")
    numbers: dict[str, Any] = {
        key: _number(f"data.options.{key}", value, defaults[key]) for key, value in config.options.items()
    }
    return synthetic.Synthetic(**numbers)


def _number(where: str, value: Any, default: float) -> float:
    """A finite number, whole if the default is; text is read as one, since YAML 1.1 takes 1e0 for text."""
    number = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
    whole = isinstance(default, int)
    if not math.isfinite(number) or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise InputError(f"{where} is {value!r:.60}: write {kind}, such as {default}")
    return int(value) if whole and not isinstance(value, str) else int(number) if whole else number


def _path(config: DataConfig) -> Path:
    if config.path is None:
        raise InputError(
            f"data.source is {config.source}, but data.path is missing: give the recordings' path"
        )
    return Path(config.path)


def _canonical(value: Any) -> Any:
    """Equal configs give equal JSON: 25 and 25.0 are the same number, lists and tuples the same sequence."""
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(v) for v in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return value
