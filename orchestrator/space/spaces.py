"""The spaces of a sweep: `spaces/001.yaml`, `002.yaml`, ... in the order they were given. Append-only.

`space.yaml` is the one given last; sweeps of earlier versions have only that. Spaces of one sweep agree in
name and data; they are the same when only resources or the place of the data differ.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import read_text, write_text
from orchestrator.space.schema import SearchSpace, load_space, space_text

LATEST, FOLDER = "space.yaml", "spaces"


def space_files(folder: Path) -> list[Path]:
    """The files of a sweep's spaces, the first given first; empty when there are none."""
    numbered = [p for p in (folder / FOLDER).glob("*.yaml") if p.stem.isdecimal()]
    latest = folder / LATEST
    return sorted(numbered, key=lambda p: int(p.stem)) or [latest] * latest.is_file()


def documents(folder: Path) -> str:
    """All spaces of a sweep as YAML documents, in order."""
    return "---\n".join(text if text.endswith("\n") else f"{text}\n" for text in _texts(folder))


def write_documents(folder: Path, text: str) -> None:
    """Write spaces that `documents` joined into a directory that is no sweep of its own."""
    texts = [part for part in re.split(r"^---[ \t]*\n", text, flags=re.MULTILINE) if part.strip()]
    for file in space_files(folder)[len(texts) :]:
        file.unlink()
    for i, part in enumerate(texts, 1):
        write_text(_file(folder, i), part)
    write_text(folder / LATEST, texts[-1] if texts else "")


def load_spaces(folder: Path) -> list[tuple[Path, SearchSpace]]:
    """Every space of a sweep with its file, the first given first. Raises InputError."""
    return [(file, load_space(file)) for file in space_files(folder)]


def keep(folder: Path, space: SearchSpace) -> None:
    """Add a space to a sweep, unless it has it. The caller holds the sweep's lock."""
    known = load_spaces(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if known and known[0][0].name == LATEST:  # of an earlier version
        write_text(_file(folder, 1), read_text(known[0][0]))
        known = load_spaces(folder)
    if not any(same(space, other) for _, other in known):
        last = int(known[-1][0].stem) if known else 0
        write_text(_file(folder, last + 1), space_text(space))
    write_text(folder / LATEST, space_text(space))


def same(one: SearchSpace, other: SearchSpace) -> bool:
    """Whether two spaces name the same points on the same data, wherever those lie and whoever trains."""
    return _content(one) == _content(other)


def refuse_stranger(space: SearchSpace, file: Path, known: Sequence[tuple[Path, SearchSpace]]) -> None:
    """Raises InputError when a space can't be one of a sweep that has the `known` spaces."""
    for there, other in known:
        for key, mine, its in _apart(space, other):
            raise InputError(
                f"{file}: {key} is {mine!r}, but {there} has {its!r}, and a sweep's spaces agree in "
                "name and data: make them alike, or choose another directory with --out"
            )


def _apart(one: SearchSpace, other: SearchSpace) -> Iterator[tuple[str, Any, Any]]:
    """Keys that spaces of a sweep share and these don't, with both values."""
    if one.name != other.name:
        yield "name", one.name, other.name
    a, b = (flat(dataclasses.asdict(space.data_config())) for space in (one, other))
    for key in sorted(a.keys() | b.keys()):
        if key not in ("path", "unlabelled.path") and a.get(key) != b.get(key):
            where = "task" if key in ("min_bpm", "classes") else "data"
            yield f"{where}.{key}", a.get(key), b.get(key)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def _content(space: SearchSpace) -> dict[str, Any]:
    content = space.model_dump(mode="json", exclude={"resources"})
    for source in (content["data"], content["data"]["unlabelled"] or {}):
        source.pop("path", None)
    return content


def _texts(folder: Path) -> list[str]:
    return [read_text(file) for file in space_files(folder)]


def _file(folder: Path, number: int) -> Path:
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    return folder / FOLDER / f"{number:03}.yaml"
