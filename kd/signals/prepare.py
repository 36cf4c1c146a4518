"""From a data config to training, validation and test windows on disk, built once, shared by all. No torch.

`fingerprint` names the windows without building them; `prepare` builds them under that name if nobody has.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kd import datasets
from kd.errors import InputError
from kd.files import load_array, read_json, save_array, write_json
from kd.recordings import Recording
from kd.signals import motion, pool, splits, synthetic, unlabelled
from kd.signals.augment import Augment
from kd.signals.pool import ArrayWriter, Pool
from kd.signals.preprocess import ACC, PPG, Preprocess
from kd.signals.splits import SIDES, Split
from kd.signals.stage import staged
from kd.signals.unlabelled import Extra, Unlabelled
from kd.signals.windows import LEAD, Dropped, WindowSet, kept, make_windows

PREPARE_VERSION = 1  # raise when the same config gives other windows
# 2: labels outside the classes are left out before labels are mixed. Arrays are cached under 2; data whose
# windows are those of version 1 keep its name, so that points trained on them stay the same points.
LABELS_VERSION = 2
WINDOW_KEYS = ("x", "bpm", "subject", "dataset")
TIME_KEYS = ("recording", "start_s")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class DataConfig:
    """Which recordings, how they are cut, who is trained and tested on.

    source: "synthetic", the name of a format (kd.datasets.FORMATS), or "auto" to recognise it at `path`.
    options: of the generator (kd.signals.synthetic.Synthetic) or of the format's loader. unlabelled:
    recordings that are trained on besides, without labels.
    """

    source: str = "synthetic"  # needs no download
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Preprocess = field(default_factory=Preprocess)
    split: Split = field(default_factory=Split)
    augment: Augment = field(default_factory=Augment)
    unlabelled: Unlabelled | None = None
    min_bpm: int = 30  # the lowest class; WildPPG's code
    classes: int = 180  # 30..209 BPM, 1 BPM each; the paper's number, WildPPG's range
    lead_s: float = 0.0  # seconds before each window that must be recorded, too: teachers' windows are longer

    @property
    def bpm_range(self) -> tuple[float, float]:
        """Lowest and highest class, BPM."""
        return _range(self.min_bpm, self.classes)


@dataclass(frozen=True)
class Data:
    """What a model is trained and tested on. Arrays are memory maps; `train` holds the augmented copies too.

    A window's index in `train` is its name: teachers' outputs are stored under it. axes: how many channels,
    the last of each window, are the accelerometer's; acc_scale: what they were divided by.
    """

    train: WindowSet
    val: WindowSet
    test: WindowSet
    fingerprint: str
    dropped: Dropped
    min_bpm: int
    classes: int
    unlabelled: Extra | None = None
    axes: int = 0
    acc_scale: float = 1.0
    acc_optional: bool = False  # windows may hold zeros in its place

    def seen_by(self, sensor: str) -> "Data":
        """The same windows with the channels of one sensor only, PPG or ACC; "" = all. Copies nothing."""
        if not sensor or (sensor == PPG and not self.axes):
            return self
        if sensor == ACC and not self.axes:
            raise InputError("the windows have no accelerometer: set data.preprocess.channels.acc")
        at = slice(0, -self.axes) if sensor == PPG else slice(-self.axes, None)

        def of(windows: WindowSet) -> WindowSet:
            return dataclasses.replace(windows, x=windows.x[:, at])

        more = self.unlabelled
        return dataclasses.replace(
            self,
            train=of(self.train),
            val=of(self.val),
            test=of(self.test),
            unlabelled=more and dataclasses.replace(more, windows=of(more.windows), x=more.x[:, at]),
            axes=self.axes if sensor == ACC else 0,
        )

    @property
    def scales(self) -> dict[str, float]:
        """What result.json says of them: what a model must be given in use, too."""
        return {"acc_scale": self.acc_scale} if self.axes else {}

    @property
    def taught_x(self) -> pool.Array:
        """All windows a teacher is asked about, (N + U, C, S): of `train`, then those without labels."""
        return self.train.x if self.unlabelled is None else self.unlabelled.x


def fingerprint(config: DataConfig, cache_dir: Path | None = None, labels_version: int = 1) -> str:
    """Hash of everything that can change the windows: 16 hex digits. Builds none of them.

    cache_dir: remembers the content hashes of large files there, by size and modification time.
    labels_version: LABELS_VERSION names the cached arrays, and data with windows that version 1 mislabelled.
    """
    return _named(config, cache_dir, labels_version, split=config.split.identity)


def check_options(config: DataConfig) -> None:
    """Raise InputError for options that the source doesn't take; of "auto" the data tell, so not here."""
    if config.unlabelled is not None:
        check_options(as_source(config))
    if config.source == "synthetic":
        _synthetic(config)
    elif config.source != "auto":
        datasets.full_options(config.source, config.options)


def group_fingerprint(config: DataConfig, cache_dir: Path, progress: Progress | None = None) -> str:
    """The data's fingerprint with the fold removed: the same for all folds of a split; 16 hex digits.

    Of a fixed split, that of `prepare`. Cuts the windows if nobody has.
    """
    if config.split.scheme == "fixed":
        return prepare(config, cache_dir, progress).fingerprint
    cut = pool_of(config, cache_dir, progress)
    copied = bool(config.augment.copies) and any(part.outside for part in cut.parts)
    split = {k: v for k, v in config.split.identity.items() if k != "fold"}
    return _named(config, cache_dir, LABELS_VERSION if cut.mislabelled or copied else 1, split=split)


def folds(config: DataConfig, cache_dir: Path, progress: Progress | None = None) -> int:
    """How many folds the split has: 1 if fixed, under loso and lodo one for each subject or data set.

    For those two, cuts the windows if nobody has.
    """
    if config.split.scheme in ("loso", "lodo"):
        subjects = pool_of(config, cache_dir, progress).windows
        return len(subjects if config.split.scheme == "loso" else {s.partition("/")[0] for s in subjects})
    return config.split.folds if config.split.scheme == "kfold" else 1


def prepare(
    config: DataConfig, cache_dir: Path, progress: Progress | None = None, node_dir: Path | None = None
) -> Data:
    """The windows of `config`, from a folder in `cache_dir/windows/` or written there.

    They are cut once for all splits, into a folder in `cache_dir/cut/` (`kd.signals.pool`); each split has
    its sides as files of their own, so that any number of processes share them as memory maps. A folder
    appears whole or not at all; when two processes build it, one wins and both read the winner's.
    progress: called now and then with one line. node_dir: where a node of a cluster keeps its own copy, see
    `stage`. Raises InputError for bad data and too few subjects.
    """
    names = {version: fingerprint(config, cache_dir, version) for version in (1, LABELS_VERSION)}
    folder = Path(cache_dir) / "windows" / names[LABELS_VERSION]
    if not folder.exists():
        _divide(pool_of(config, cache_dir, progress), config, folder, Path(cache_dir), progress)
    if not (folder / f"test_{TIME_KEYS[-1]}.npy").exists():
        _add_times(config, folder, Path(cache_dir), progress)
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
    acc_scale: float = 1.0,
    progress: Progress | None = None,
) -> tuple[WindowSet, Dropped]:
    """All labelled windows of the recordings at `path`, unsplit: to evaluate a trained model on.

    acc_scale: what the model's accelerometer was divided by (`Data`).
    """
    bpm_range, p = _range(min_bpm, classes), preprocess or Preprocess()
    _, recordings = datasets.load(path, format, options, bpm_range=bpm_range)
    windows, dropped = make_windows(recordings, p, bpm_range=bpm_range, progress=progress)
    if p.axes:
        windows = dataclasses.replace(windows, x=motion.scaled(windows.x, p.axes, acc_scale))
    return windows, dropped


def load_recordings(config: DataConfig, progress: Progress | None = None) -> list[Recording]:
    """The recordings a config names, generated or read."""
    return list(each_recording(config, progress))


def each_recording(
    config: DataConfig, progress: Progress | None = None, labelled: bool = True
) -> Iterator[Recording]:
    """The same, one after another; labelled as of `kd.datasets.each`."""
    if config.source == "synthetic":
        return synthetic.each(_synthetic(config))
    path = _path(config)
    if progress:
        progress(f"reading {path}")
    name = datasets.recognise(path) if config.source == "auto" else config.source
    return datasets.each(path, name, config.options, bpm_range=config.bpm_range, labelled=labelled)


def unlabelled_recordings(config: DataConfig, progress: Progress | None = None) -> Iterator[Recording]:
    """The recordings of `config.unlabelled`, one after another; none where there is none."""
    if config.unlabelled is None:
        return iter(())
    return each_recording(as_source(config), progress, labelled=False)


def pool_of(config: DataConfig, cache_dir: Path, progress: Progress | None) -> Pool:
    """All windows of a config, from their folder or cut into it."""
    folder = _pool_folder(config, cache_dir)
    if not folder.exists():
        recordings = each_recording(config, progress)
        pool.build(
            folder, recordings, config.preprocess, config.augment, config.bpm_range, progress, config.lead_s
        )
    found = pool.load(folder)
    if not found.windows and (led := Dropped(found.dropped).by_reason.get(LEAD)):
        raise InputError(
            f"no window is left: {led:,} begin less than {config.lead_s:g} s (data.lead_s, or what a "
            "teacher's longer window needs) after their recording does: give longer recordings, or a teacher "
            "with shorter windows"
        )
    return found


def windows_name(config: DataConfig, cache_dir: Path) -> str:
    """Names all labelled windows of a config, whatever the split and what there is besides; 16 hex digits."""
    alone = dataclasses.replace(config, unlabelled=None)
    return _named(alone, cache_dir, LABELS_VERSION, split=None)


def _pool_folder(config: DataConfig, cache_dir: Path) -> Path:
    return Path(cache_dir) / "cut" / windows_name(config, cache_dir)


def as_source(config: DataConfig) -> DataConfig:
    """The recordings without labels, as if they were the data."""
    assert config.unlabelled is not None
    source = {key: getattr(config.unlabelled, key) for key in ("source", "path", "options")}
    copies = config.unlabelled.copies
    augment = dataclasses.replace(config.augment, copies=copies) if copies else Augment()
    return dataclasses.replace(config, **source, augment=augment, unlabelled=None)


def unlabelled_pool(config: DataConfig, cache_dir: Path, progress: Progress | None = None) -> Pool:
    """All windows of `config.unlabelled`, whoever they are of, from their folder or cut into it."""
    folder = _unlabelled_folder(config, cache_dir)
    if not folder.exists():
        source = as_source(config)
        recordings, how = unlabelled_recordings(config, progress), (source.preprocess, source.augment)
        pool.build(folder, recordings, *how, source.bpm_range, progress, source.lead_s, labelled=False)
    return pool.load(folder)


def _unlabelled_folder(config: DataConfig, cache_dir: Path) -> Path:
    led = "-led" if config.lead_s else ""  # versions before cut these windows whatever was before them
    return Path(cache_dir) / "cut" / f"{windows_name(as_source(config), cache_dir)}-unlabelled{led}"


def unlabelled_rows(
    cut: Pool,
    config: DataConfig,
    side_of: Mapping[str, str],
    cache_dir: Path,
    progress: Progress | None = None,
) -> tuple[list[tuple[pool.Part, pool.Array]], dict[str, int]]:
    """Which windows (n,) of `unlabelled_pool` are trained on, by recording; and why not others.

    cut: the labelled windows, whose subjects have sides. Nothing where there is no such recording.
    """
    if config.unlabelled is None:
        return [], {}
    found, folder = unlabelled_pool(config, cache_dir, progress), _unlabelled_folder(config, cache_dir)
    signals = pool.signals(folder, lambda: unlabelled_recordings(config))
    known = pool.signals(_pool_folder(config, cache_dir), lambda: each_recording(config))
    return unlabelled.chosen(
        config.unlabelled,
        (found, signals),
        (cut, known),
        side_of,
        lodo=config.split.scheme == "lodo",
        fs=config.preprocess.fs,
        bpm_range=config.bpm_range,
        axes=config.preprocess.axes,
    )


def _divide(cut: Pool, config: DataConfig, folder: Path, cache_dir: Path, progress: Progress | None) -> None:
    """Write the sides of the config's split: each recording's windows where its subject is.

    Windows without labels follow those of training, with NaN for labels.
    """
    side_of = splits.assign_subjects(list(cut.windows), config.split, cut.windows)
    mislabelled = cut.mislabelled
    if cut.copies is not None:  # whoever is not trained on has none
        mislabelled |= any(part.outside for part in cut.parts if side_of.get(part.subject) == "train")
    if progress:
        progress(f"writing {sum(part.windows for part in cut.parts):,} windows")
    more, left_out = unlabelled_rows(cut, config, side_of, cache_dir, progress)
    without = unlabelled_pool(config, cache_dir) if more else cut
    parts = [*cut.parts, *(part for part, _ in more)]
    axes, dropout = config.preprocess.axes, config.preprocess.acc_dropout
    trained = {subject for subject, at in side_of.items() if at == "train"}
    scale = motion.scale_of(cut.select(trained, copies=False), axes) if axes else 1.0
    wide = [f"<U{max(len(getattr(part, key)) for part in parts)}" for key in ("subject", "dataset")]
    with pool.whole(folder) as temporary:
        for side in SIDES:
            subjects = {subject for subject, at in side_of.items() if at == side}
            with contextlib.ExitStack() as stack:
                files = [
                    stack.enter_context(ArrayWriter(temporary / f"{side}_{key}.npy")) for key in WINDOW_KEYS
                ]
                chosen = cut.select(subjects, copies=side == "train")
                besides = ((part, without.x(at), np.full(len(at), np.nan, np.float32)) for part, at in more)
                for part, x, bpm in itertools.chain(chosen, besides if side == "train" else ()):
                    if axes:
                        x = motion.scaled(x, axes, scale)
                        if dropout and side == "train":
                            x[motion.left_out(part, len(x), dropout), -axes:] = 0.0
                    owner = np.full(len(bpm), part.subject, wide[0]), np.full(len(bpm), part.dataset, wide[1])
                    for file, rows in zip(files, (x, bpm, *owner), strict=True):
                        file.append(rows)
        write_json(temporary / "dropped.json", cut.dropped)
        said: dict[str, Any] = {"version": LABELS_VERSION if mislabelled else 1}
        if axes:
            said["acc_scale"] = scale
        if config.unlabelled is not None:
            said |= {"unlabelled": sum(len(at) for _, at in more), "left_out": left_out}
        write_json(temporary / "labels.json", said)


def _add_times(config: DataConfig, folder: Path, cache_dir: Path, progress: Progress | None) -> None:
    """Write when windows of each side start, and in which recording, also where versions before didn't."""
    cut, how = pool_of(config, cache_dir, progress), (config.preprocess, config.bpm_range)
    starts = pool.starts(
        _pool_folder(config, cache_dir),
        lambda: (kept(r, *how, lead_s=config.lead_s)[0] for r in each_recording(config, progress)),
    )
    number = np.repeat(np.arange(len(cut.parts), dtype=np.int32), [part.windows for part in cut.parts])
    if not len(starts) == len(number) == len(cut.originals[1]):
        raise InputError(
            f"{_pool_folder(config, cache_dir)}: {len(starts)} windows have a time, not {len(number)}: "
            "delete this folder"
        )
    side_of = splits.assign_subjects(list(cut.windows), config.split, cut.windows)
    for side in SIDES:
        here = np.array([side_of.get(part.subject) == side for part in cut.parts])[number]
        windows = len(load_array(folder / f"{side}_bpm.npy", "it must be made again"))
        found = np.full(windows, -1, np.int32), np.full(windows, np.nan)
        for key, array, values in zip(TIME_KEYS, found, (number[here], starts[here]), strict=True):
            array[: len(values)] = values  # copies, and windows without labels, come after
            save_array(folder / f"{side}_{key}.npy", array)


def _load(folder: Path, names: Mapping[int, str], config: DataConfig) -> Data:
    try:
        sides = {
            side: WindowSet(
                *(
                    load_array(folder / f"{side}_{key}.npy", "it must be made again")
                    for key in (*WINDOW_KEYS, *TIME_KEYS)
                )
            )
            for side in SIDES
        }
        dropped = Dropped(read_json(folder / "dropped.json"))
        labels = read_json(folder / "labels.json")
        name = names[labels["version"]]
        extra = None
        if config.unlabelled is not None:
            taught, end = sides["train"], len(sides["train"]) - labels["unlabelled"]
            sides["train"] = WindowSet(*(getattr(taught, key)[:end] for key in (*WINDOW_KEYS, *TIME_KEYS)))
            without = WindowSet(*(getattr(taught, key)[end:] for key in WINDOW_KEYS))
            sure = config.unlabelled.keep if config.unlabelled.gate == "entropy" else 1.0
            extra = Extra(without, taught.x, sure, labels["left_out"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(
            f"{folder}: the cached windows can't be read ({error}): delete this folder"
        ) from error
    return Data(
        **sides,
        fingerprint=name,
        dropped=dropped,
        min_bpm=config.min_bpm,
        classes=config.classes,
        unlabelled=extra,
        axes=config.preprocess.axes,
        acc_scale=float(labels.get("acc_scale", 1.0)),
        acc_optional=config.preprocess.acc_dropout > 0,
    )


def _named(
    config: DataConfig, cache_dir: Path | None, labels_version: int, split: Mapping[str, object] | None
) -> str:
    """Hash of a config under this identity of a split; split None: of its windows, whatever the split."""
    identity = {
        "version": PREPARE_VERSION,
        "source": _source_identity(config, cache_dir),
        "preprocess": config.preprocess.identity,
        "split": split,
        "augment": config.augment.identity(config.preprocess),
        "min_bpm": config.min_bpm,
        "classes": config.classes,
    }
    if labels_version > 1:
        identity["labels"] = labels_version
    if config.lead_s:
        identity["lead_s"] = config.lead_s
    if (more := config.unlabelled) is not None:
        source = _source_identity(as_source(config), cache_dir)
        led = {"led": True} if config.lead_s else {}  # see `_unlabelled_folder`
        copied = {"augment": as_source(config).augment.identity(config.preprocess)} if more.copies else {}
        identity["unlabelled"] = {**source, "gate": more.gate, "keep": more.keep, **led, **copied}
    text = json.dumps(_canonical(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
        "content": datasets.fingerprint(path, name, cache_dir, sensors=bool(config.preprocess.axes)),
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
