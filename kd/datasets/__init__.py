"""Readers of the formats real recordings come in. Each turns files into recordings and
does nothing else: it knows no windows, no models.

A format is a module with
    LABEL               what it expects at a path, as text
    OPTIONS             the loader's options with their defaults
    files(found)        of the files found at a path, those it reads, sorted; empty = none of this format
    load(files, **options) -> Iterator[Recording]   raises InputError naming the file
    sensor_files(files)     if other sensors have files of their own, which it reads besides: those
Adding one is a module and a line here. Labels are handed on as they are, 0 and 300 too: who cuts windows
tests them. Only a loader whose labels are means (MEANS) takes bpm_range, and leaves out other readings first;
only one that can do without labels (WITHOUT_LABELS) takes labelled=False.
Files come from strangers: what a reader takes from them goes through `checks`, and formats whose parsers can
crash are parsed in a process of their own, as `matlab` does.
"""

import difflib
import hashlib
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from kd.datasets import bami, bidmc, checks, galaxyppg, ppg_dalia, recordings_npz, spc, wildppg
from kd.datasets.reading import listing
from kd.errors import InputError
from kd.files import read_json, sha256, write_json
from kd.recordings import BPM_RANGE, Recording

FORMATS: Mapping[str, ModuleType] = {
    "recordings_npz": recordings_npz,
    "spc": spc,
    "bami": bami,
    "bidmc": bidmc,
    "ppg_dalia": ppg_dalia,
    "wildppg": wildppg,
    "galaxyppg": galaxyppg,
}
MEANS = ("bidmc", "galaxyppg")
WITHOUT_LABELS = ("recordings_npz",)


def recognise(path: Path | str) -> str:
    """The name of the format at `path`. Raises InputError when none fits, or several do."""
    found = _found(Path(path))
    names = [name for name, module in FORMATS.items() if module.files(found)]
    if len(names) > 1:
        raise InputError(
            f"{path}: recordings of several formats ({', '.join(names)}): give the folder of one of them, "
            "or name the format"
        )
    if names:
        return names[0]
    known = "\n".join(f"  {name}: {module.LABEL}" for name, module in FORMATS.items())
    raise InputError(f"{path}: no known recordings here: give the folder of one of these formats\n{known}")


def load(
    path: Path | str,
    format: str = "auto",
    options: Mapping[str, Any] | None = None,
    *,
    bpm_range: tuple[float, float] = BPM_RANGE,
) -> tuple[str, list[Recording]]:
    """The format's name and all recordings at `path`. Raises InputError.

    bpm_range: lowest and highest class; readings outside it are left out before they are averaged.
    """
    name = recognise(path) if format == "auto" else format
    return name, list(each(path, name, options, bpm_range=bpm_range))


def each(
    path: Path | str,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    bpm_range: tuple[float, float] = BPM_RANGE,
    labelled: bool = True,
) -> Iterator[Recording]:
    """The recordings at `path`, of the format `name`, one after another; otherwise as `load`.

    labelled: if not, hr says nothing, and in formats WITHOUT_LABELS it may be missing.
    """
    path = Path(path)
    limits: dict[str, Any] = {"bpm_range": bpm_range} if name in MEANS else {}
    if not labelled and name in WITHOUT_LABELS:
        limits["labelled"] = False
    found, known = _files(path, name), full_options(name, options or {})
    names: set[tuple[str, str]] = set()
    subjects: dict[str, tuple[str, str]] = {}
    try:
        for r in _module(name).load(found, **known, **limits):
            if (r.dataset, r.name) in names:
                raise InputError(f"{path}: two recordings are called {r.dataset}/{r.name}: rename one")
            names.add((r.dataset, r.name))
            label = f"{r.dataset}/{r.subject}"
            if subjects.setdefault(label, (r.dataset, r.subject)) != (r.dataset, r.subject):
                raise InputError(
                    f"{path}: subjects of two data sets would both be {label}: rename one data set"
                )
            yield r
    except (OSError, MemoryError) as error:
        where = getattr(error, "filename", None) or path
        raise InputError(
            f"{where}: can't be read ({error}): check its permissions and the machine"
        ) from error
    if not names:
        raise InputError(f"{path}: its {name} files hold no recording: give another path")


def full_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a format's loader with its defaults filled in. Raises InputError for an unknown one."""
    defaults = _module(name).OPTIONS
    check_options(options, defaults, f"data.options of {name}")
    for key, value in options.items():
        _check_kind(f"data.options.{key}", value, defaults[key])
    return {**defaults, **options}


def check_options(options: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise InputError for an option nobody knows, with the nearest that exists."""
    known = list(known)
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise InputError(f"{where}: unknown option {key!r}; {hint}")


def _check_kind(where: str, value: Any, default: Any) -> None:
    """Raise InputError unless an option is of its default's kind: a number, a text, or texts."""
    if isinstance(default, float):
        checks.number(where, value, (-1e6, 1e6), "")
    texts = [value] if isinstance(value, str) else value
    if isinstance(default, str) and not isinstance(value, str):
        raise InputError(f"{where} is {reprlib.repr(value)}: give text, as {default!r}")
    if isinstance(default, tuple) and not (
        isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
    ):
        raise InputError(f"{where} is {reprlib.repr(value)}: give a list of texts")


def fingerprint(path: Path | str, name: str, cache_dir: Path | None = None, *, sensors: bool = False) -> str:
    """Hash of the content of every file the format reads at `path`, and of their names below it.

    sensors: those that hold other sensors than the PPG, too. cache_dir: content hashes are kept in
    `cache_dir/hashes.json`, and used again while a file's path, size and modification time are unchanged.
    Raises InputError when there is nothing to read.
    """
    path = Path(path)
    files = _files(path, name)
    if sensors and (more := getattr(_module(name), "sensor_files", None)):
        files = sorted({*files, *more(files)})
    memory = cache_dir / "hashes.json" if cache_dir else None
    known = _remembered(memory) if memory else {}
    keys = [f"{f.resolve()}|{(stat := f.stat()).st_size}|{stat.st_mtime_ns}" for f in files]
    hashes = {key: known.get(key) or _hash(file, key) for key, file in zip(keys, files, strict=True)}
    if memory and not set(hashes) <= set(known):
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, {**known, **hashes})
    # A single file may be renamed; in a folder, names say whose recording it is.
    names = [f.relative_to(path) if path.is_dir() else "" for f in files]
    lines = [f"{name} {hashes[key]}" for name, key in zip(names, keys, strict=True)]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _found(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder: check the path")
    return listing(path)


def _files(path: Path, name: str) -> list[Path]:
    """The files a format reads at `path`; InputError when there is none."""
    module = _module(name)
    files: list[Path] = module.files(_found(path))
    if not files:
        raise InputError(f"{path}: no {name} recordings here: expected {module.LABEL}")
    for file in files:  # a pipe would be waited for
        if not file.is_file():
            raise InputError(f"{file}: not a file that can be read: remove it, or mend the link")
    return files


@lru_cache(maxsize=4096)
def _hash(file: Path, key: str) -> str:
    """Content hash, remembered for this process under path, size and modification time."""
    try:
        return sha256(file)
    except OSError as error:
        raise InputError(f"{file}: can't be read ({error.strerror}): check its permissions") from error


def _remembered(memory: Path) -> dict[str, str]:
    """Hashes that were kept; none where the file is missing or damaged, since they can be made again."""
    try:
        return {key: value for key, value in read_json(memory).items() if isinstance(value, str)}
    except (InputError, OSError):
        return {}


def _module(name: str) -> ModuleType:
    if name not in FORMATS:
        near = difflib.get_close_matches(name, [*FORMATS, "auto", "synthetic"], n=1)
        raise InputError(
            f"unknown data format {name!r}: "
            + (f"did you mean {near[0]}?" if near else f"use auto or one of {', '.join(FORMATS)}")
        )
    return FORMATS[name]
