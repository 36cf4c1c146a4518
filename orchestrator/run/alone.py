"""Nobody drives a sweep meanwhile: for what changes a sweep's files by hand."""

import contextlib
from collections.abc import Iterator

from kd.errors import InputError
from orchestrator.run.status import is_running
from orchestrator.store.lock import DRIVER, SweepLock
from orchestrator.store.store import Store
from orchestrator.words import quoted


@contextlib.contextmanager
def alone(store: Store, dry_run: bool, look_only: bool = False, also: str = "") -> Iterator[None]:
    """Keep drivers away meanwhile. Raises InputError when one is at work, unless one only looks.

    also: what is said of a driver at work besides.
    """
    where = quoted(store.path)
    busy = InputError(
        f"{store.path} is running{also}: wait for it (kdsweep status {where} --watch), or end it with "
        f"kdsweep cancel {where}"
    )
    if not look_only and is_running(store.progress()):
        raise busy
    if dry_run:
        yield
        return
    lock = SweepLock(store.path)
    try:
        if not lock.take(DRIVER):
            raise busy
        yield
    finally:
        lock.close()
