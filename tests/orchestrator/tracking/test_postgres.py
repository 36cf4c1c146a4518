"""Many sweeps in one PostgreSQL: Debian's own, on loopback."""

import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

sys.path.insert(0, str(Path(__file__).parent))  # the helper beside this file

from stored import EPOCHS, finish, killed, plan, runs_of

from kd.errors import InputError, Unavailable
from orchestrator.store.store import Store
from orchestrator.tracking.database import make_whole
from orchestrator.tracking.reader import from_mlflow
from orchestrator.tracking.writer import sync

if os.environ.get("CI"):
    import psycopg
else:
    psycopg = pytest.importorskip("psycopg", reason="pip install 'psycopg[binary]'", exc_type=ImportError)
PROGRAMS = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1:]
PASSWORD = "s3cret"


class Server:
    """PostgreSQL in a folder of its own, on 127.0.0.1, by a user that isn't root; nothing outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        root = os.geteuid() == 0
        self.user = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if root else []
        if root:
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "password").write_text(PASSWORD, encoding="utf-8")
        (folder / "password").chmod(0o644)  # its folder is private
        options = ["--auth=scram-sha-256", "--username=kd", f"--pwfile={folder}/password", "--no-sync"]
        made = self._program("initdb", f"--pgdata={folder}/data", "--encoding=UTF8", *options)
        assert made.wait(60) == 0, (folder / "initdb.log").read_text("utf-8")

    def _program(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("ab")
        begin = ["setpriv", "--pdeathsig=KILL", *self.user, f"{PROGRAMS[0]}/{name}"]
        return subprocess.Popen([*begin, *options], cwd=self.folder, stdout=log, stderr=log)

    def start(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""}
        settings |= {"fsync": "off", "max_connections": 50, "shared_buffers": "32MB"}
        options = [f"--{key}={value}" for key, value in settings.items()]
        self.process = self._program("postgres", "-D", f"{self.folder}/data", *options)
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "postgres.log").read_text("utf-8")
                assert self.process.poll() is None, (self.folder / "postgres.log").read_text("utf-8")
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # ends its clients' sessions
        self.process.wait(20)

    def uri(self, database: str) -> str:
        return f"postgresql://kd:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def connect(self) -> Any:
        return psycopg.connect(self.uri("postgres"), autocommit=True, connect_timeout=3)

    def new(self, database: str) -> str:
        """The URI of a new and empty database."""
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {database}")
        return self.uri(database)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    lacking = "" if PROGRAMS else "PostgreSQL: apt-get install -y --no-install-recommends postgresql"
    if lacking and os.environ.get("CI"):
        pytest.fail(f"no {lacking}")
    if lacking:
        pytest.skip(f"no {lacking}")
    with tempfile.TemporaryDirectory(
        prefix="kdpg-", dir="/tmp"
    ) as folder:  # another user can't enter tmp_path
        server = Server(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module")
def uri(server: Server) -> str:
    """A database with MLflow's schema; its driver is named."""
    uri = server.new("shared").replace("postgresql:", "postgresql+psycopg:")
    make_whole(uri, "file:///a", private=False)
    return uri


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "tracked")


def filled(folder: Path) -> Store:
    """A store with two of its points done."""
    store, made = Store(folder), plan()
    store.path.mkdir()
    made.save(folder / "plan.json")
    for index in range(2):
        finish(store, made, index)
    return store


def test_first_syncs_at_once_from_two_hosts_make_one_schema(server: Server, tmp_path: Path) -> None:
    uri, children = server.new("empty"), []
    for name in "ab":
        store = filled(tmp_path / name)
        child = os.fork()
        if child == 0:
            try:
                tempfile.tempdir = str(store.path)  # each host has its own: MLflow locks a file in it
                sync(store, plan(), uri, status="KILLED")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    client = MlflowClient(tracking_uri=uri)
    assert sorted(e.name for e in client.search_experiments()) == ["Default", "tracked"]
    runs = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    assert len(runs) == 2 * 3, "each sweep has its own: a parent and two points"


def test_a_sweep_is_written_once_and_read_back(uri: str, store: Store) -> None:
    made = plan()
    assert sync(store, made, uri, status="KILLED") == 2
    assert sync(store, made, uri, status="KILLED") == 0
    client = MlflowClient(tracking_uri=uri)
    parent, children = runs_of(client, made)
    assert parent.info.status == "KILLED"
    place = client.get_experiment_by_name("tracked").artifact_location
    assert place == (store.path / "mlartifacts").as_uri(), "not an earlier sweep's of this process"
    for id, run in children.items():
        assert (run.info.status, run.data.metrics["mae_bpm"]) == ("FINISHED", store.result(id)["mae_bpm"])
        curve = client.get_metric_history(run.info.run_id, "val_mae_bpm")
        assert sorted((m.step, m.value) for m in curve) == [(e, 9.0 - e) for e in range(1, EPOCHS + 1)]
    (store.path / "space.yaml").write_text("name: tracked\n", encoding="utf-8")
    sync(store, made, uri, status="KILLED")
    found = from_mlflow(uri, "tracked")
    assert [r["id"] for r in found.results] == sorted(children)
    assert found.space == "name: tracked\n"


def test_trouble_is_told_in_a_line_without_the_password(uri: str, store: Store, server: Server) -> None:
    def said(uri: str) -> tuple[type[InputError], str]:
        with pytest.raises(InputError) as error:
            sync(store, plan(), uri, status="KILLED")
        assert "\n" not in str(error.value)
        assert "s3cret" not in str(error.value)
        return type(error.value), str(error.value)

    assert sync(store, plan(), uri, status="KILLED") == 2  # connections are open
    for changed, words in (
        (uri.replace(PASSWORD, "s3cret-wrong"), "password authentication failed"),
        (uri.replace("/shared", "/nowhere"), 'database "nowhere" does not exist'),
    ):
        kind, text = said(changed)
        assert kind is InputError
        assert f'refuses (connection failed: connection to server at "127.0.0.1", port {server.port}' in text
        assert words in text
        assert "correct user, password" in text
    server.stop()
    try:
        kind, text = said(uri)
    finally:
        server.start()
    assert kind is Unavailable
    assert "is away" in text
    finish(store, plan(), 2)
    assert sync(store, plan(), uri, status="KILLED") == 1, "once it is back"


def test_the_command_gives_up_soon(store: Store) -> None:
    """In a process of its own: MLflow itself would try for 100 s."""
    uri = f"postgresql+psycopg://kd:{PASSWORD}@127.0.0.1:9/none"
    command = [sys.executable, "-m", "orchestrator.commands.main", "sync", str(store.path)]
    done = subprocess.run(
        [*command, "--tracking-uri", uri], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 75
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "MLflow at postgresql+psycopg://***@127.0.0.1:9/none is away" in line
    assert PASSWORD not in line


@pytest.mark.parametrize(
    ("scheme", "package"), [("postgresql", "psycopg[binary]"), ("postgresql+psycopg2", "psycopg2-binary")]
)
def test_a_missing_driver_is_told(
    store: Store, scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=re.escape(f"`pip install '{package}'`")) as error:
        sync(store, plan(), f"{scheme}://kd:s3cret@127.0.0.1:9/none", status="KILLED")
    assert type(error.value) is InputError
    assert "s3cret" not in str(error.value)


def test_a_kill_while_the_schema_is_made_is_made_good(server: Server) -> None:
    uri = server.new("killed")
    assert killed(lambda: make_whole(uri, "file:///a", private=False), 700)
    make_whole(uri, "file:///a", private=False)
    assert [e.name for e in MlflowClient(tracking_uri=uri).search_experiments()] == ["Default"]
