"""All windows of a data config, cut once for every split: streamed to a folder, recording by recording.

A folder holds x.npy (N, channels, samples) and bpm.npy (N,), with copies also copies_x.npy and
copies_bpm.npy, pool.json, which says whose they are, signals.json, the recordings' fingerprints, and
starts.npy (N,), when each window starts in its recording, seconds.
Knows no split.
"""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.files import load_array, read_json, save_array, write_json
from kd.recordings import Recording
from kd.signals.augment import Augment, augmented
from kd.signals.fingerprints import fingerprints
from kd.signals.labels import faults
from kd.signals.preprocess import Preprocess
from kd.signals.windows import BESIDE, cut, subject_label

STALE_S = 24 * 3600.0  # an unfinished folder this old belongs to nobody any more
REMEDY = "delete this folder"
SIGNALS, STARTS = "signals.json", "starts.npy"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Part:
    """The windows of one recording: how many in x, how many of its copies in copies_x.

    outside: whether labels of it are numbers, but no readings.
    """

    subject: str  # "dataset/subject"
    dataset: str
    windows: int
    copies: int
    outside: bool


@dataclass(frozen=True)
class Pool:
    """A folder of windows; arrays are memory maps. `parts` are in the order of the arrays.

    dropped: recording name -> reason -> how many. mislabelled: whether windows of originals had wrong labels
    before labels outside the classes were left out.
    """

    originals: tuple[Array, Array]  # x, bpm
    copies: tuple[Array, Array] | None
    parts: Sequence[Part]
    dropped: dict[str, dict[str, int]]
    mislabelled: bool

    def x(self, rows: Array) -> Array:
        """Windows by their numbers (n,), counted through the originals, then through the copies."""
        n = len(self.originals[1])
        if self.copies is None or not len(rows) or rows.max() < n:
            return np.asarray(self.originals[0][rows])
        x = np.empty((len(rows), *self.originals[0].shape[1:]), self.originals[0].dtype)
        x[rows < n], x[rows >= n] = self.originals[0][rows[rows < n]], self.copies[0][rows[rows >= n] - n]
        return x

    @property
    def windows(self) -> dict[str, int]:
        """How many windows each subject has; only those who have some."""
        total: dict[str, int] = {}
        for part in self.parts:
            if part.windows:
                total[part.subject] = total.get(part.subject, 0) + part.windows
        return total

    def select(self, subjects: Container[str], copies: bool) -> Iterator[tuple[Part, Array, Array]]:
        """The windows of `subjects` recording by recording, x and bpm; then, if asked for, of all copies."""
        for arrays, counted in ((self.originals, "windows"), (self.copies if copies else None, "copies")):
            if arrays is None:
                continue
            end = 0
            for part in self.parts:
                start, end = end, end + getattr(part, counted)
                if part.subject in subjects:
                    yield part, arrays[0][start:end], arrays[1][start:end]


class ArrayWriter:
    """A .npy written in pieces, byte for byte what numpy.save writes of all of them at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._rows, self._like, self._start = 0, np.zeros(0, np.float32), 0

    def append(self, rows: Array) -> None:
        """Add rows (n, ...): of the type and shape of those before."""
        if not self._rows and not self._start:
            self._like = rows[:0]
            self._header()
        self._file.write(np.ascontiguousarray(rows, dtype=self._like.dtype).data)
        self._rows += len(rows)

    def _header(self) -> None:
        """Numpy leaves room in it for as many rows as there can be, so that its length stays the same."""
        self._file.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._like.dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._like.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        if self._start and self._file.tell() != self._start:
            raise AssertionError("the header grew over the first rows")
        self._start = self._file.tell()

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._header()
                self._file.flush()
                os.fsync(self._file.fileno())


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which is renamed to `folder`, or goes when somebody was faster."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep_stale(folder.parent)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir()
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # not a race lost: the disk refused
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def build(
    folder: Path,
    recordings: Iterable[Recording],
    preprocess: Preprocess,
    augment: Augment,
    bpm_range: tuple[float, float],
    progress: Callable[[str], None] | None = None,
    lead_s: float = 0.0,
    *,
    labelled: bool = True,
) -> None:
    """Cut recordings and their copies into `folder`, which appears whole or not at all.

    lead_s: as of `windows.cut`. labelled: if not, labels are not read, and those of all windows are NaN.

    Never holds more than one recording's windows. Raises InputError for recordings that make no sense.
    """
    parts: list[Part] = []
    dropped: dict[str, dict[str, int]] = {}
    signals: list[list[str]] = []
    starts: list[Array] = []
    mislabelled, names = False, ["", "copies_"] if augment.copies else [""]
    with whole(folder) as temporary, contextlib.ExitStack() as stack:
        x, bpm = (
            [stack.enter_context(ArrayWriter(temporary / f"{n}{k}.npy")) for n in names] for k in ("x", "bpm")
        )

        def written(some: Iterable[Recording], at: int, tested: bool) -> Iterator[tuple[Recording, Any, Any]]:
            for recording, part, labels, starts_s, reasons in cut(
                some, preprocess, bpm_range, tested=tested, lead_s=lead_s, labelled=labelled
            ):
                x[at].append(part)
                bpm[at].append(labels)
                yield recording, starts_s, reasons

        for recording, starts_s, reasons in written(recordings, 0, tested=False):
            if progress and len(parts) % 10 == 0:
                progress(f"cutting windows: recording {len(parts) + 1}")
            if reasons:
                dropped[f"{recording.dataset}/{recording.name}"] = reasons
            mislabelled |= labelled and (BESIDE in reasons or bool(recording.readings_left_out))
            copies = augmented([recording], augment, preprocess, bpm_range)
            more = sum(len(of_copy) for _, of_copy, _ in written(copies, 1, tested=True))
            outside = labelled and bool(faults(recording, bpm_range).outside)
            signals.append(fingerprints(recording))
            starts.append(starts_s)
            parts.append(Part(subject_label(recording), recording.dataset, len(starts_s), more, outside))
        if not parts:
            raise InputError("no recordings to cut into windows")
        stack.close()
        content = {"parts": [asdict(r) for r in parts], "dropped": dropped, "mislabelled": mislabelled}
        write_json(temporary / "pool.json", content)
        write_json(temporary / SIGNALS, {"signals": signals})
        np.save(temporary / STARTS, np.concatenate(starts))


def load(folder: Path) -> Pool:
    """The windows in `folder`. Raises InputError for a damaged one."""
    try:
        said = read_json(folder / "pool.json")
        parts = [Part(**part) for part in said["parts"]]
        originals = _arrays(folder, "", sum(part.windows for part in parts))
        copies = None
        if (folder / "copies_x.npy").exists():
            copies = _arrays(folder, "copies_", sum(part.copies for part in parts))
        return Pool(originals, copies, parts, said["dropped"], said["mislabelled"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(f"{folder}: the cached windows can't be read ({error}): {REMEDY}") from error


def signals(folder: Path, recordings: Callable[[], Iterable[Recording]]) -> list[list[str]]:
    """The fingerprints of the recordings of `folder`, part by part.

    recordings: gives them again, for a folder of a version that kept none.
    """
    path = folder / SIGNALS
    if not path.exists():
        write_json(path, {"signals": [fingerprints(recording) for recording in recordings()]})
    try:
        return [[str(text) for text in part] for part in read_json(path)["signals"]]
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(f"{path}: can't be read ({error}): delete this file") from error


def starts(folder: Path, found: Callable[[], Iterable[Array]]) -> Array:
    """When each window of `folder` starts in its recording, (N,), seconds.

    found: gives them recording by recording, for a folder of a version that kept none.
    """
    path = folder / STARTS
    if not path.exists():
        save_array(path, np.concatenate(list(found())))
    return load_array(path, "delete this file")


def _arrays(folder: Path, name: str, windows: int) -> tuple[Array, Array]:
    x, bpm = (load_array(folder / f"{name}{key}.npy", "it must be made again") for key in ("x", "bpm"))
    if not len(x) == len(bpm) == windows:
        raise ValueError(f"{len(x)} windows with {len(bpm)} labels, not {windows}")
    return x, bpm


def _sweep_stale(folder: Path) -> None:
    """Remove what killed preparations left behind, long ago."""
    for path in folder.glob(".*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:  # its owner was faster
            continue
