"""The database behind a tracking URI: whole or not there, whatever is killed while its schema is made.

MLflow makes its schema by 1,700 statements in place, and can't go on with one that a kill cut short. Here an
sqlite file is made beside, and then takes the name. On a PostgreSQL server one process makes it, others wait.
Knows databases and MLflow's schema, nothing of a sweep.
"""

import contextlib
import glob
import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from kd.errors import InputError
from orchestrator.tracking.memory import locked

BESIDE = ("-journal", "-wal", "-shm")  # what sqlite keeps beside a database, and would apply to the next
ARTIFACTS = [  # where MLflow keeps the places of artifacts
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]
QUIET_S = 5.0  # MLflow needs about 2 s for its schema: a file as new as this may still be in the making
PATIENCE_S = 60.0
SCHEMA_LOCK = 0x6B64737765657031  # "kdsweep1": whoever makes the schema on a server holds it


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite URI; None for every other URI, and for a database in memory."""
    scheme, colon, rest = uri.partition(":///")
    if not colon or scheme.partition("+")[0] != "sqlite" or rest.startswith((":memory:", "file:")):
        return None
    return Path(rest.partition("?")[0]) if rest else None


def make_whole(uri: str, artifacts: str, *, private: bool) -> str | None:
    """Have a database with this MLflow's schema behind a URI of sqlite or PostgreSQL; what there is to say.

    artifacts: URI under which a new one keeps artifacts. private: a sweep's own database, which is remade if
    it is broken: the caller writes the results again. Raises InputError for anybody else's.
    """
    path = sqlite_file(uri)
    if path is None:
        if uri.startswith("postgres"):
            _make_on_server(uri, artifacts)
        return None
    if _is_whole(path):
        if private:
            _repoint(path, artifacts)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock"), PATIENCE_S):
        _wait_for_others(path)
        if _is_whole(path):
            return None
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
            leftover.unlink(missing_ok=True)
        said = None
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            if _is_missing(path):
                _create(temporary, artifacts)
            elif not private:
                raise InputError(
                    f"{path} has the schema of another MLflow, or one that a kill cut short: back it up and "
                    f"run `mlflow db upgrade {uri}`, or move the file away and run `kdsweep sync`"
                )
            elif not _upgraded(path, temporary):
                _create(temporary, artifacts)
                aside = _set_aside(path)
                said = f"{path} was broken: moved to {aside.name}, and made again from the results"
            for suffix in BESIDE:
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            temporary.replace(path)
        finally:
            for suffix in ("", *BESIDE):
                temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
        _forget_connections(uri)
        return said


def _make_on_server(uri: str, artifacts: str) -> None:
    """MLflow's schema on a PostgreSQL server. MLflow's own lock is a file in a host's temporary directory."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import text

    engine = SqlAlchemyStore._get_or_create_engine(uri)
    with engine.begin() as connection:  # the lock ends with the transaction, or with the process
        connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE_S:.0f}s'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"))
        SqlAlchemyStore(uri, artifacts)  # also its default experiment, which comes after the schema


def _repoint(path: Path, artifacts: str) -> None:
    """Have a sweep's own database that was moved with it name its artifacts where they are now."""
    folder = artifacts.rpartition("/")[2]
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        places = {place for (place,) in connection.execute("SELECT artifact_location FROM experiments")}
        for old in {p for p in places if str(p).rpartition("/")[2] == folder} - {artifacts}:
            for table, column in ARTIFACTS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (artifacts, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )


def _is_missing(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _is_whole(path: Path) -> bool:
    """Whether the last statement of MLflow's schema was written: its version is the last thing to change."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    if _is_missing(path):
        return False
    try:
        return _read(path, "SELECT version_num FROM alembic_version") == [(_get_latest_schema_revision(),)]
    except sqlite3.Error as error:
        # No such table, or no database. A directory that is not there or a full disk is another matter.
        if error.sqlite_errorname in ("SQLITE_ERROR", "SQLITE_NOTADB", "SQLITE_CORRUPT"):
            return False
        raise


def _read(path: Path, query: str) -> list[tuple[object, ...]]:
    """What a query gives. Opened for writing, too, so that sqlite can undo what a kill left half written."""
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=20)) as connection:
        return connection.execute(query).fetchall()


def _wait_for_others(path: Path) -> None:
    """Until nobody seems to make this file in place, as `mlflow ui` and earlier versions do."""
    deadline = time.monotonic() + PATIENCE_S
    while path.exists() and not _is_whole(path) and time.monotonic() < deadline:
        files = (path, path.with_name(f"{path.name}-journal"))
        if min(abs(time.time() - file.stat().st_mtime) for file in files if file.exists()) > QUIET_S:
            return
        time.sleep(0.2)


def _create(temporary: Path, artifacts: str) -> None:
    """MLflow's schema and its default experiment in a new file."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{temporary}", artifacts)._dispose_engine()


def _upgraded(path: Path, temporary: Path) -> bool:
    """Bring a copy of an earlier MLflow's database to this schema; False if it holds no runs, or can't be."""
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

    try:
        if _read(path, "SELECT count(*) FROM runs") == [(0,)]:
            return False
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(temporary)) as copy,
        ):
            source.backup(copy)
        engine = create_sqlalchemy_engine(f"sqlite:///{temporary}")
        _upgrade_db(engine)
        engine.dispose()
        return _is_whole(temporary)
    except Exception:  # alembic's, SQLAlchemy's and sqlite's, for a schema that nobody knows: it is set aside
        temporary.unlink(missing_ok=True)
        return False


def _set_aside(path: Path) -> Path:
    """Move a broken database, and what sqlite keeps beside it, to the first free name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    for suffix in ("", *BESIDE):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _forget_connections(uri: str) -> None:
    """MLflow keeps connections for as long as the process lives: to the file that had this name before."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if engine := SqlAlchemyStore._engine_map.get(uri):
        engine.dispose()
