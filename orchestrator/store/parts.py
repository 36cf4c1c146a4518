"""Results of big sweeps as Parquet files, `SWEEP/results/*.parquet`: faster to read than thousands of JSON.

Whoever reads many results writes them. A point's result.json stays the truth: a row counts only while that
file has the size and the time that it was read with, so parts may be damaged, old, doubled or missing.
pyarrow is imported where there are parts, which small sweeps have none of.
"""

import contextlib
import errno
import gc
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kd.files import write_atomically
from orchestrator.store import metric, records
from orchestrator.store.metric import by_metric
from orchestrator.store.table import COLUMNS, HEADLINE, REAL, TIME, WHOLE

FOLDER = "results"
MANY = 2_000  # results that are read from JSON in a third of a second: what importing pyarrow takes
LARGE = 20_000  # results that are held in memory before a part is written
FULL = 100_000  # rows; parts of fewer are merged,
SMALL = 8  # once there are so many of them
RACY_S = 2.0  # a file this young may change again without another time
FIGURES = (
    "id",
    "role",
    "arch",
    "depth",
    "width",
    "strategy",
    "params",
    "mae_bpm",
    "train_seconds",
    "device",
    "data_fingerprint",
    "data_group",
    "fold",
)
JSON = ("versions", "by_metric")  # of figures, kept as JSON; the second is `metric.by_metric`
Key = tuple[str, int, int]  # a point's id, its result.json's size and mtime_ns
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
# Rows were checked when they were written: with other rules they are checked anew.
RULES = hashlib.sha256(Path(records.__file__).read_bytes() + Path(metric.__file__).read_bytes()).hexdigest()


@contextlib.contextmanager
def many_objects() -> Iterator[None]:
    """No garbage collection meanwhile: it would look through all that is read again and again."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def key_of(points: str, id: str, file: str) -> Key | None:
    """The key of a point's result as it is now; None if it has none."""
    try:
        found = os.stat(f"{points}/{id}/{file}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return id, found.st_size, found.st_mtime_ns


class Parts:
    """The parts of one sweep. whole: read complete results, else only their FIGURES."""

    def __init__(self, sweep: Path, whole: bool, warn: Callable[[str], None]) -> None:
        self.folder, self.whole, self.warn = sweep / FOLDER, whole, warn
        self.rows: dict[Key, Any] = {}
        self.parts: dict[Path, list[Key]] = {}
        self.useless: list[Path] = []  # damaged, or checked by other rules
        self.fresh: list[tuple[Key, dict[str, Any]]] = []  # read from JSON
        self.versions: dict[str | None, Any] = {None: None}
        with many_objects():
            for path in sorted(self.folder.glob("*.parquet")) if self.folder.is_dir() else ():
                self._load(path)

    def get(self, key: Key) -> dict[str, Any] | None:
        """The result, or its figures, that the file with this key holds."""
        row = self.rows.get(key)
        if row is None:
            return None
        if self.whole:
            return dict(json.loads(row[0]))
        figures = dict(zip((*FIGURES, *JSON), row, strict=True))
        figures["by_metric"] = json.loads(figures["by_metric"])
        text = figures["versions"]  # one of few
        if text not in self.versions:
            self.versions[text] = json.loads(text)
        figures["versions"] = self.versions[text]
        return figures

    def add(self, key: Key, result: dict[str, Any]) -> None:
        """A result that was read from JSON while its file had this key."""
        if key[2] / 1e9 < time.time() - RACY_S:
            self.fresh.append((key, result))
            if len(self.fresh) >= LARGE:
                self.write(set())

    def close(self, seen: Iterable[Key], least: int) -> None:
        """Write what is fresh, if it is at least so much, and tidy. seen: keys of all results there are."""
        if self.useless or len(self.fresh) >= least:
            self.write(set(seen))

    def write(self, live: set[Key]) -> None:
        """A part of what is fresh; with live keys also merge small parts, and remove those of no use."""
        fresh, self.fresh = self.fresh, []
        try:
            self.folder.mkdir(exist_ok=True)
            table = _table(fresh)
            old = []
            if live:
                self.useless += self._doubled(live)
                small = [path for path, keys in self.parts.items() if len(keys) < FULL]
                old = sorted(set(small) - set(self.useless)) if len(small) >= SMALL else []
                table = _merged(table, old, live)
            if table.num_rows:
                path = self.folder / f"{uuid.uuid4().hex[:16]}.parquet"
                write_atomically(path, lambda temporary: _save(table, temporary))
                self.parts[path] = [key for key, _ in fresh]
            for path in [*old, *self.useless] if live else ():
                path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in READ_ONLY:
                self.warn(f"{self.folder}: no part is written ({error}): results are read from JSON")

    def _doubled(self, live: set[Key]) -> list[Path]:
        """Parts without a row that counts and that no part before them has."""
        have: set[Key] = set()
        found = []
        for path, keys in self.parts.items():
            mine = live.intersection(keys) - have
            have |= mine
            found += [] if mine else [path]
        return found

    def _load(self, path: Path) -> None:
        import pyarrow as pa

        names = ["json"] if self.whole else ["point", *FIGURES[1:], *JSON]
        try:
            table = _read(path, ["id", "size", "mtime_ns", *names])
            if table is None:
                self.useless.append(path)
                return
            columns = [column.to_pylist() for column in table.columns]
        except FileNotFoundError:  # merged meanwhile
            return
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            if not isinstance(error, PermissionError):
                self.useless.append(path)
            why = " ".join(str(error).split())
            self.warn(f"{path}: not a readable part ({why}): its results are read from JSON")
            return
        keys = list(zip(*columns[:3], strict=True))
        self.parts[path] = keys
        self.rows.update(zip(keys, zip(*columns[3:], strict=True), strict=True))


def damaged(sweep: Path) -> Iterator[tuple[Path, str]]:
    """Parts that can't be read, and why."""
    for path in sorted((sweep / FOLDER).glob("*.parquet")):
        import pyarrow as pa

        try:
            _read(path, None)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, pa.ArrowException) as error:
            yield path, f"not a readable part ({' '.join(str(error).split())})"


def _read(path: Path, names: list[str] | None) -> Any:
    """A part as a table; None if other rules checked it. Raises whatever pyarrow does for a broken one."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if (file.schema_arrow.metadata or {}).get(b"kdsweep.rules") != RULES.encode():
            return None
        if names and (missing := set(names) - set(file.schema_arrow.names)):
            raise KeyError(f"no column {', '.join(sorted(missing))}")
        table = file.read(names, use_threads=False)
        return table.select(names) if names else table


def _save(table: Any, path: Path) -> None:
    import pyarrow.parquet as pq

    alike = [name for name in table.schema.names if name not in ("id", "size", "mtime_ns", "json")]
    pq.write_table(table, path, compression="zstd", use_dictionary=alike, write_page_checksum=True)


def _merged(table: Any, old: list[Path], live: set[Key]) -> Any:
    """The table, and what of old parts is of use and not in it."""
    import pyarrow as pa

    tables, have = [table], set(_keys(table))
    for path in old:
        try:
            more = _read(path, None)
        except (OSError, ValueError, pa.ArrowException):  # damaged or merged since it was loaded
            continue
        keep = [key in live and key not in have for key in _keys(more)] if more else []
        have.update(_keys(more) if more else [])
        if any(keep) and more.schema.equals(table.schema):
            tables.append(more.filter(pa.array(keep)))
    return pa.concat_tables(tables)


def _keys(table: Any) -> list[Key]:
    return list(zip(*(table[name].to_pylist() for name in ("id", "size", "mtime_ns")), strict=True))


def _table(fresh: list[tuple[Key, dict[str, Any]]]) -> Any:
    """Results as a table; those that hold what no column can (an integer above 2^63) are left out."""
    import pyarrow as pa

    schema = _schema()

    def make(rows: list[dict[str, Any]]) -> Any:
        return pa.Table.from_pylist(rows, schema=schema)

    failed = (ValueError, TypeError, OverflowError, RecursionError, pa.ArrowException)
    try:
        return make([_row(key, result) for key, result in fresh])
    except failed:
        tables = [make([])]
        for key, result in fresh:
            with contextlib.suppress(*failed):
                tables.append(make([_row(key, result)]))
        return pa.concat_tables(tables)


def _schema() -> Any:
    """Of every part: key, JSON, and typed columns as `table.COLUMNS` has them, for pandas and DuckDB."""
    import pyarrow as pa

    types = {WHOLE: pa.int64(), REAL: pa.float64(), TIME: pa.timestamp("us", "UTC")}
    figures = [(name, types.get(kind, pa.string())) for name, kind in COLUMNS.items() if name != HEADLINE]
    key = [("id", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("json", pa.large_string())]
    texts = [(name, pa.string()) for name in JSON]
    return pa.schema([*key, *figures, *texts], {"kdsweep.rules": RULES})


def _row(key: Key, result: Mapping[str, Any]) -> dict[str, Any]:
    id, size, mtime_ns = key
    figures = {name: _flat(result.get(name), kind) for name, kind in COLUMNS.items() if name != HEADLINE}
    versions = json.dumps(result["versions"]) if result.get("versions") else None
    text = json.dumps(result, separators=(",", ":"))
    more = {"point": result["id"], "json": text, "versions": versions}
    more["by_metric"] = json.dumps(by_metric(result))
    return {"id": id, "size": size, "mtime_ns": mtime_ns, **figures, **more}


def _flat(value: Any, kind: str) -> Any:
    if value is None or kind not in (REAL, TIME):
        return value
    if kind == REAL:
        return float(value)
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
