"""The one door to MLflow: quiet, impatient, and with one line for whatever goes wrong. Knows no sweep.

`told` goes round every use of MLflow: what may pass by itself becomes `Unavailable` (exit code 75), the rest
an InputError. mlflow is imported when it is first used.
"""

import contextlib
import logging
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from typing import Any

from kd.errors import InputError, Unavailable

# Two tries of 9 s: a server that is away is told within 20 s. MLflow's own are 8 tries of 120 s.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "9",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "PGCONNECT_TIMEOUT": "3",  # s, of each of DATABASE_TRIES; PostgreSQL's own is none
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for data
}
DATABASE_TRIES = 5  # 3 s; MLflow's own 10 take 100 s
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
# What PostgreSQL says of a wrong user, password or database; of a server that is away it says other things.
REFUSED = re.compile(r"authentication failed|no password supplied|pg_hba|(role|database) .* does not exist")
DENIED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}
PASSING = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}


def quiet() -> None:
    """Have MLflow write no logs and no URLs and give up early, unless the user set it otherwise."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  # it sets the levels that are changed here

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised; `told` tells them
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = min(utils.MAX_RETRY_COUNT, DATABASE_TRIES)


def connect(uri: str) -> Any:
    """An MlflowClient."""
    quiet()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def experiment_id(client: Any, uri: str, name: str) -> str | None:
    """The id of an experiment; None if there is none. Raises InputError if it was deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    if found.lifecycle_stage == "deleted":
        number = found.experiment_id
        raise InputError(
            f"experiment {name} was deleted in MLflow at {shown(uri)}: restore it with "
            f"`MLFLOW_TRACKING_URI={as_option(uri)} mlflow experiments restore --experiment-id {number}`, "
            f"or give the search space another name"
        )
    return str(found.experiment_id)


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """Make one line of whatever MLflow raises: Unavailable if it may pass by itself, else InputError."""
    quiet()
    import requests
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except InputError:
        raise
    except (
        MlflowException,
        requests.RequestException,
        SQLAlchemyError,
        CommandError,
        sqlite3.Error,
        ConnectionError,
        TimeoutError,
        ImportError,  # of a database's driver
    ) as error:
        raise _in_words(error, uri) from error


def _in_words(error: Exception, uri: str) -> InputError:
    import requests
    from mlflow.exceptions import RestException
    from sqlalchemy.exc import OperationalError

    chain = _chain(error)
    root, where = chain[-1], f"MLflow at {shown(uri)}"
    code = getattr(error, "error_code", None)
    why = re.sub(r"://\S*@", "://***@", f"{root}".replace(uri, shown(uri)).strip()).split("\n")[0]
    why = plain(why)[:300]
    if isinstance(root, sqlite3.Error):
        if root.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return Unavailable(f"{where} is being written by another process ({why}): try again later")
        return InputError(
            f"{where}: {why}: make the file and its folder readable and writable, or name another database "
            f"with --tracking-uri"
        )
    if isinstance(root, ModuleNotFoundError) and root.name in DRIVERS:
        return InputError(f"{where} needs {root.name}: `pip install '{DRIVERS[root.name]}'`")
    if REFUSED.search(why):
        return InputError(
            f"{where} refuses ({why}): correct user, password (also in PGPASSWORD or ~/.pgpass) or database "
            f"in the address, or have the server's administrator make them"
        )
    if code in DENIED:
        return InputError(
            f"{where} denies access ({why}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            f"or MLFLOW_TRACKING_TOKEN"
        )
    bad = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.HTTPError)
    passing = (requests.RequestException, OperationalError, ConnectionError, TimeoutError)
    if (
        code in PASSING
        or (isinstance(error, RestException) and code == "INTERNAL_ERROR")
        or (any(isinstance(e, passing) for e in chain) and not any(isinstance(e, bad) for e in chain))
    ):
        return Unavailable(
            f"{where} is away ({why or type(root).__name__}): check the address, or try again later"
        )
    return InputError(f"{where}: {why or type(root).__name__}: check the address and what is there")


def _chain(error: BaseException) -> list[BaseException]:
    """An error and those that led to it, the first of all last."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    return chain


def plain(text: str) -> str:
    """What a server says, without characters that steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def shown(uri: str) -> str:
    """A tracking URI without the password that it may hold."""
    return re.sub(r"\?.*", "?***", re.sub(r"://.*@", "://***@", uri))


def as_option(uri: str) -> str:
    """A tracking URI as the shell takes it; one that holds a password is not repeated."""
    return shlex.quote(uri) if shown(uri) == uri else '"$MLFLOW_TRACKING_URI"'
