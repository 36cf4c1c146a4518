"""Which sweep a directory is: moved, copied, or damaged."""

import json
import shutil
from pathlib import Path

import pytest

from kd.errors import InputError, Unavailable
from orchestrator.store.store import Store
from orchestrator.tracking import memory
from orchestrator.tracking.memory import FILE, locked, recall, remember, sweep_id

SERVER = "http://host:5000"


def id_of(folder: Path, copy: str | None = None, private: bool = False) -> str:
    return sweep_id(Store(folder), SERVER, private=private, say=print, copy=copy)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    id_of(tmp_path / "a")
    remember(Store(tmp_path / "a"), {"shown": 3})
    return tmp_path / "a"


def test_a_moved_sweep_stays_the_same(sweep: Path) -> None:
    before = id_of(sweep)
    moved = sweep.rename(sweep.with_name("b"))
    assert id_of(moved) == before
    assert recall(Store(moved))["home"]["folder"] == str(moved)
    (sweep).symlink_to(moved)
    assert id_of(sweep) == before, "by another name"
    backup = shutil.copytree(moved, sweep.with_name("c"))
    shutil.rmtree(moved)
    backup.rename(moved)
    assert id_of(moved) == before, "restored from a backup"


def test_a_copied_sweep_is_asked_about(sweep: Path) -> None:
    before = id_of(sweep)
    copy = Path(shutil.copytree(sweep, sweep.with_name("b")))
    with pytest.raises(InputError, match=rf"is a copy of {sweep} .* --tracking-uri {SERVER} --copy fork`"):
        id_of(copy)
    assert id_of(copy, private=True) == before, "its own database is in nobody's way"
    with pytest.raises(InputError, match="is a copy"):
        id_of(copy)  # still
    forked = id_of(copy, "fork")
    assert forked != before
    assert "shown" not in recall(Store(copy))
    assert id_of(copy) == id_of(copy, "fork") == forked, "once"
    assert id_of(sweep) == before
    same = Path(shutil.copytree(sweep, sweep.with_name("c")))
    assert id_of(same, "same") == before == id_of(same)


def test_a_copy_from_another_host_is_asked_about(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.socket, "gethostname", lambda: "elsewhere")
    assert id_of(sweep), "one file system on two hosts"
    copy = shutil.copytree(sweep, sweep.with_name("b"))
    shutil.rmtree(sweep)
    Path(copy).rename(sweep)  # the same path, elsewhere
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"is a copy of .* on elsewhere"):
        id_of(sweep)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sweep": 3}', '{"sweep": "a\' OR"}', '{"home": 1}'])
def test_a_damaged_memory_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"mlflow.json.*restore it; or remove it"):
        id_of(tmp_path)
    assert (tmp_path / FILE).read_text(encoding="utf-8") == text


def test_an_id_of_an_earlier_version_is_kept(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"sweep": "mine"}), encoding="utf-8")
    assert id_of(tmp_path) == "mine"
    assert recall(Store(tmp_path))["home"]["folder"] == str(tmp_path)


def test_a_lock_ends_and_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "x"),
        pytest.raises(Unavailable, match="by another process"),
        locked(tmp_path / "x", 0.0),
    ):
        pass
    with locked(tmp_path / "x", 0.0) as fd:
        assert fd is not None
