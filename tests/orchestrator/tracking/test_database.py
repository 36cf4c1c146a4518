"""A kill at any statement of MLflow's schema leaves no database that nobody can use, and loses none."""

import sqlite3
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

sys.path.insert(0, str(Path(__file__).parent))  # the helper beside this file

from stored import killed

from kd.errors import InputError
from orchestrator.tracking import database
from orchestrator.tracking.database import make_whole, sqlite_file


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "QUIET_S", 0.0)


def experiments(uri: str) -> list[str]:
    return sorted(e.name for e in MlflowClient(tracking_uri=uri).search_experiments())


def test_a_kill_while_the_schema_is_made_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for statement in (2, 900):
        assert killed(lambda: make_whole(uri, "file:///a", private=True), statement)
        assert not (tmp_path / "mlflow.db").exists()
    assert make_whole(uri, "file:///a", private=True) is None
    assert experiments(uri) == ["Default"]
    assert {p.name for p in tmp_path.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}


def test_a_database_that_was_killed_in_place_is_remade_if_it_is_the_sweeps_own(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    assert killed(lambda: SqlAlchemyStore(uri, "file:///a"), 900)  # as earlier versions made it
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"mlflow.db has the schema of another MLflow.* db upgrade"):
        make_whole(uri, "file:///a", private=False)
    assert path.read_bytes() == before
    assert "moved to mlflow.db.broken-1" in (make_whole(uri, "file:///a", private=True) or "")
    assert experiments(uri) == ["Default"]
    assert (tmp_path / "mlflow.db.broken-1").read_bytes() == before


def test_runs_of_an_earlier_mlflow_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    make_whole(uri, "file:///a", private=True)
    client = MlflowClient(tracking_uri=uri)
    run = client.create_run(client.create_experiment("e")).info.run_id
    with sqlite3.connect(path) as connection:
        (head,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine

    config, engine = _get_alembic_config(uri), create_sqlalchemy_engine(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, f"{head}-1")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() != (head,)
    assert make_whole(uri, "file:///a", private=True) is None
    assert client.get_run(run).info.run_id == run


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///b.db?x=1", "b.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("http://127.0.0.1:5000", None),
        ("postgresql:///b", None),
    ],
)
def test_the_file_of_a_uri(uri: str, path: str | None) -> None:
    assert sqlite_file(uri) == (Path(path) if path else None)
