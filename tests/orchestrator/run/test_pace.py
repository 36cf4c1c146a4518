"""Workers report as often as one driver can hear them, and at once when all is to stop."""

import math
from pathlib import Path

import pytest

from orchestrator.run.pace import MOST_S, Pace, slice_s


def look(worker: Pace) -> tuple[float, bool]:
    """What a worker finds now; else it looks once a second."""
    worker._looked = -math.inf
    return worker.slice_s, worker.stop


def test_slices_lengthen_with_the_slots_up_to_a_bound() -> None:
    assert slice_s(2, 2.0) == slice_s(200, 2.0) == 2.0
    assert 2.0 < slice_s(400, 2.0) < slice_s(1000, 2.0) < MOST_S
    assert slice_s(10**6, 2.0) == MOST_S


def test_a_worker_follows_what_the_driver_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, worker = Pace(tmp_path / "new", 2.0), Pace(tmp_path / "new", 2.0)
    assert look(worker) == (2.0, False)  # before the first word
    driver.tell(0.5, stop=False)
    assert look(worker) == (0.5, False)
    driver.tell(30.0, stop=True)
    assert look(worker) == (30.0, True)
    (tmp_path / "new" / "pace").write_text("0.1", encoding="ascii")  # in the middle of being written
    assert look(worker) == (30.0, True)

    def stale(*_: object, **__: object) -> str:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Path, "read_text", stale)
    assert look(worker) == (30.0, True)
