"""Whatever happens to MLflow is told in one line, soon, without the password, and with what to do."""

import http.server
import sqlite3
import threading
from collections.abc import Iterator

import pytest
import requests
import sqlalchemy

from kd.errors import InputError, Unavailable
from orchestrator.tracking.client import as_option, connect, shown, told
from orchestrator.tracking.reader import from_mlflow


@pytest.fixture
def server() -> Iterator[tuple[str, list[int]]]:
    """A server that answers every request with the status in the list, and says nothing of MLflow's."""
    status = [503]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            self.end_headers()
            self.wfile.write(b"<html>busy</html>")

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    here = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=here.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{here.server_port}", status
    here.shutdown()


def test_no_server_is_told_in_a_line_and_may_be_there_later() -> None:
    uri = "http://bob:se@cret@127.0.0.1:9"
    with pytest.raises(Unavailable, match=r"MLflow at http://\*\*\*@127.0.0.1:9 is away .*refused") as error:
        from_mlflow(uri, "any")
    assert error.value.exit_code == 75
    assert "cret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "kind"), [(503, Unavailable), (401, InputError), (404, InputError), (200, InputError)]
)
def test_what_a_server_answers(server: tuple[str, list[int]], status: int, kind: type[InputError]) -> None:
    uri, answer = server
    answer[0] = status
    with pytest.raises(InputError, match=f"MLflow at {uri}") as error, told(uri):
        connect(uri).get_experiment_by_name("any")
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


def locked() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorname = "SQLITE_BUSY"
    return error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (locked(), Unavailable, "is being written by another process"),
        (requests.exceptions.InvalidURL("no port"), InputError, "no port: check the address"),
        (sqlalchemy.exc.OperationalError("x", None, Exception("gone")), Unavailable, "is away"),
        (ConnectionResetError("reset"), Unavailable, "is away"),
        (ModuleNotFoundError("No module named 'psycopg2'"), InputError, "psycopg2"),
    ],
)
def test_kinds_of_trouble(error: Exception, kind: type[InputError], said: str) -> None:
    with pytest.raises(InputError, match=said) as raised, told("postgresql://me:pw@host/db"):
        raise error
    assert type(raised.value) is kind
    assert "pw" not in str(raised.value)


def test_errors_of_ours_pass_as_they_are() -> None:
    with pytest.raises(KeyError), told("http://host"):
        raise KeyError("a mistake in kdsweep")


def test_a_password_is_never_repeated() -> None:
    assert shown("https://me:a@b@host/x?password=c") == "https://***@host/x?***"
    assert as_option("https://me:a@host/x") == '"$MLFLOW_TRACKING_URI"'
    assert as_option("sqlite:////a b/mlflow.db") == "'sqlite:////a b/mlflow.db'"
