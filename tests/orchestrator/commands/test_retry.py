"""`kdsweep retry`: a failed point loses what stops it, and nothing else; a running sweep is left alone."""

import io
import json
import os
import shutil
import socket
import time
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.commands.retry import retry
from orchestrator.run.status import standing
from orchestrator.store.lock import DRIVER, SweepLock
from orchestrator.store.store import Store


def checkpoint() -> bytes:
    """A zip file, as torch writes."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as file:
        file.writestr("data.pkl", b"weights" * 100)
    return memory.getvalue()


@pytest.fixture
def store(tmp_path: Path, whole_result) -> Store:
    """Points: fresh1 (failed in its first epoch), sound2, torn3 (a damaged checkpoint), done4, open5."""
    store = Store(tmp_path / "sweep")
    for id in ("fresh1", "sound2", "torn3"):
        store.write_error(id, {"id": id, "type": "Diverged", "message": "loss is nan", "failures": 2})
        (store.folder(id) / "log.txt").write_text("a traceback")
    for id, content in (("sound2", checkpoint()), ("torn3", checkpoint()[:-40])):
        (store.folder(id) / "checkpoint.pt").write_bytes(content)
        (store.folder(id) / "history.jsonl").write_text("{}\n")
    store.write_result("done4", whole_result("done4"))
    (store.folder("done4") / "model.safetensors").write_bytes(b"weights")
    store.folder("open5").mkdir()
    return store


def call(store: Store, *args: str) -> str:
    out = CliRunner().invoke(retry, [str(store.path), *args], catch_exceptions=True)
    if isinstance(out.exception, InputError):
        raise out.exception
    assert out.exit_code == 0, out.output
    return out.output


def files(store: Store, id: str) -> set[str]:
    return {f.name for f in store.folder(id).iterdir()}


def test_all_failed_points_are_forgotten_and_sound_checkpoints_stay(store: Store) -> None:
    said = call(store)
    assert store.errors() == {}
    assert files(store, "fresh1") == set()
    assert files(store, "sound2") == {"checkpoint.pt", "history.jsonl"}
    assert "checkpoint.pt" not in files(store, "torn3")
    assert files(store, "done4") == {"result.json", "model.safetensors"}
    assert "fresh1  is tried again from the first epoch\n" in said
    assert "sound2  is tried again from its checkpoint\n" in said
    assert "torn3  is tried again from the first epoch; its checkpoint is damaged\n" in said
    assert f"go on with: kdsweep run {store.path}" in said
    assert call(store) == "no point has failed\n"


def test_what_waited_for_a_failed_teacher_is_left_again(fitted_sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fitted"
    shutil.copytree(fitted_sweep, folder)
    before = standing(folder)
    assert (before["failed"], before["blocked"], before["left"]) == (1, 1, 1)
    call(Store(folder))
    after = standing(folder)
    assert (after["failed"], after["blocked"], after["left"]) == (0, 0, 3)


def test_a_checkpoint_that_torch_wrote_is_sound(store: Store) -> None:
    import torch

    torch.save({"model": torch.zeros(1000)}, store.folder("sound2") / "checkpoint.pt")
    assert "sound2  would be tried again from its checkpoint\n" in call(store, "sound2", "--dry-run")


def test_a_changed_byte_in_a_checkpoint_is_noticed(store: Store) -> None:
    whole = bytearray(checkpoint())
    whole[100] ^= 1
    (store.folder("sound2") / "checkpoint.pt").write_bytes(whole)
    assert "its checkpoint is damaged" in call(store, "sound")
    assert "checkpoint.pt" not in files(store, "sound2")


def test_a_checkpoint_without_its_history_is_not_used(store: Store) -> None:
    (store.folder("sound2") / "history.jsonl").unlink()
    assert "its checkpoint is damaged" in call(store, "sound2")


def test_only_the_points_that_are_named(store: Store) -> None:
    call(store, "fresh", "torn3", "--from-start")
    assert set(store.errors()) == {"sound2"}


def test_from_start_removes_a_sound_checkpoint(store: Store) -> None:
    assert "its checkpoint is not used" in call(store, "--failed", "--from-start")
    assert "checkpoint.pt" not in files(store, "sound2")


def test_a_dry_run_changes_nothing(store: Store) -> None:
    before = sorted(store.path.rglob("*"))
    said = call(store, "--dry-run")
    assert "torn3  would be tried again from the first epoch" in said
    assert "go on" not in said
    assert sorted(store.path.rglob("*")) == before
    assert len(store.errors()) == 3


@pytest.mark.parametrize(
    ("point", "why"),
    [("done", "it is trained"), ("open", "in its turn"), ("nothing", "no point 'nothing'")],
)
def test_points_that_did_not_fail_are_refused(store: Store, point: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        call(store, "fresh", point)
    assert len(store.errors()) == 3


def test_points_and_failed_together_are_a_usage_error(store: Store) -> None:
    assert CliRunner().invoke(retry, [str(store.path), "fresh", "--failed"]).exit_code == 2


def test_a_running_sweep_is_refused(store: Store) -> None:
    beat = {"state": "RUNNING", "time": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
    (store.path / "progress.json").write_text(json.dumps(beat))
    with pytest.raises(InputError, match="is running"):
        call(store)
    assert len(store.errors()) == 3


def test_a_sweep_that_only_just_started_is_refused(store: Store) -> None:
    """Its driver holds the lock before its first heartbeat."""
    store.path.mkdir(exist_ok=True)
    ready, end = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # POSIX locks are a process's: another one must hold it
        held = SweepLock(store.path).take(DRIVER)
        os.write(ready[1], b"y" if held else b"n")
        os.read(end[0], 1)
        os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"y"
        with pytest.raises(InputError, match="is running"):
            call(store)
    finally:
        os.write(end[1], b"x")
        os.waitpid(child, 0)


def test_a_sweep_of_slurm_goes_on_there(store: Store) -> None:
    here = store.path / "slurm" / "20260101-000000"
    here.mkdir(parents=True)
    record = {"id": "1", "sweep": "s", "mode": "gang", "site": "my site.yaml", "worker_name": "w"}
    record |= {"max_links": 1, "created": 0.0, "requests": []}
    (here / "submission.json").write_text(json.dumps(record))
    assert f"kdsweep submit {store.path} --site 'my site.yaml'" in call(store)


def test_a_trained_point_whose_model_or_result_is_damaged_is_tried_again(store: Store) -> None:
    (store.folder("done4") / "model.safetensors").unlink()
    assert "done4  is tried again from the first epoch; its result or model is damaged" in call(
        store, "done4"
    )
    assert files(store, "done4") == {"result.json.broken"}
