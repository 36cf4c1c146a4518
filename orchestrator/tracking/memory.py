"""What a sweep directory remembers of MLflow: the sweep's id there, where the directory was, what is shown.

The id tells sweeps of one name apart. A directory that was moved keeps it; one that was copied has to be told
whose it is, or two copies would write over one another's runs. Knows files, not MLflow.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kd.errors import InputError, Unavailable
from kd.files import read_json, write_json
from orchestrator.store.store import Store
from orchestrator.tracking.client import as_option
from orchestrator.words import quoted

FILE = "mlflow.json"
REMEDY = "restore it; or remove it, and MLflow shows this sweep a second time"
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF}
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


def recall(store: Store) -> dict[str, Any]:
    """What is remembered; empty at first. Raises InputError if the file is damaged."""
    path = store.path / FILE
    if not path.exists():
        return {}
    known = read_json(path, REMEDY)
    sweep, forks = known.get("sweep", "none"), known.get("forked_from", [])
    for id in [sweep, *forks] if isinstance(forks, list) else [None]:
        if not (isinstance(id, str) and re.fullmatch(r"[\w-]{1,64}", id)):  # it goes into queries
            raise InputError(f"{path}: {id!r} is not the id of a sweep: {REMEDY}")
    if not isinstance(known.get("home", {}), dict):
        raise InputError(f"{path}: home is not a mapping: {REMEDY}")
    return known


def remember(store: Store, changes: dict[str, Any]) -> None:
    """Add to what is remembered."""
    with locked(store.path / ".mlflow.lock"):
        write_json(store.path / FILE, recall(store) | changes)


def key(uri: str) -> str:
    """What stands for a tracking URI, which may hold a password."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def sweep_id(
    store: Store, uri: str, *, private: bool, say: Callable[[str], None], copy: str | None = None
) -> str:
    """This directory's own id: two people's sweeps of one name on one server stay two.

    private: MLflow is the directory's own database, where a copy is in nobody's way. copy: what a copied
    directory is, "fork" (a sweep of its own, with a new id) or "same" (it takes the other's place).
    Raises InputError for a copied directory if nobody said.
    """
    with locked(store.path / ".mlflow.lock"):
        known, here = recall(store), _here(store)
        if "sweep" not in known:
            known = {**known, "sweep": uuid.uuid4().hex, "home": here}
            try:
                write_json(store.path / FILE, known)
            except OSError as error:
                raise InputError(
                    f"{store.path} can't be written ({error.strerror}), and MLflow doesn't know this "
                    f"sweep yet: let its owner run `kdsweep sync`, or copy it"
                ) from error
        id, home = str(known["sweep"]), known.get("home", here)
        copied = home != here and _copied(store, id, home, here)
        if copy and not copied:
            say(f"{store.path} is no copy: --copy {copy} changes nothing")
        if copied and copy == "fork":
            forks = [*known.get("forked_from", []), id]
            id = uuid.uuid4().hex
            write_json(store.path / FILE, {"sweep": id, "home": here, "forked_from": forks})
        elif copied and copy is None:
            if not private:
                command = f"kdsweep sync {quoted(store.path)} --tracking-uri {as_option(uri)} --copy"
                raise InputError(
                    f"{store.path} is a copy of {home.get('folder')} on {home.get('host')}, and MLflow shows "
                    f"that one: `{command} fork` makes it a sweep of its own there, `{command} same` lets it "
                    f"take the other's place"
                )
        elif known.get("home") != here:
            with contextlib.suppress(OSError):  # read-only: found out again the next time
                write_json(store.path / FILE, known | {"home": here})
        return id


def _here(store: Store) -> dict[str, Any]:
    folder = store.path.resolve()
    return {"folder": str(folder), "host": socket.gethostname(), "inode": folder.stat().st_ino}


def _copied(store: Store, id: str, home: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether this directory is, or may be, another one than the one that was at home. A moved one is not.

    From another host the old place can't be looked at: only the inode, if both see one file system, tells.
    """
    if home.get("host") != here["host"]:
        return bool(home.get("inode") != here["inode"])
    other = Path(str(home.get("folder")))
    if str(other) == here["folder"]:
        return False  # restored from a backup
    try:
        return not other.samefile(store.path) and recall(Store(other)).get("sweep") == id
    except FileNotFoundError:
        return False
    except (OSError, InputError):
        return True


@contextlib.contextmanager
def locked(path: Path, patience_s: float = 60.0) -> Iterator[int | None]:
    """Hold a lock file, which ends with the process; its descriptor, None if it can't be written.

    On a file system without locks it is held at once. Raises Unavailable if another holds it for long.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        yield None
        return
    try:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"{path.parent} is being written to MLflow by another process: try again later"
                    ) from None
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break
        yield fd
    finally:
        os.close(fd)
