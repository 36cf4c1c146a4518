"""`kdsweep check`: what is damaged is found, and mended without throwing anything away."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from kd.files import sha256
from orchestrator.commands.check import check
from orchestrator.run import run_directory
from orchestrator.run.status import usage
from orchestrator.store.check import account, check_model
from orchestrator.store.store import Store


@pytest.fixture
def store(tmp_path: Path, whole_result, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Points a1 and b2, done and sound; their lines are in the ledger. Nobody else's runs are on its host."""
    monkeypatch.setattr(run_directory, "_parents", lambda: [tmp_path])
    store = Store(tmp_path / "sweep")
    used = {"slots": 2, "cpus_per_slot": 1, "gpus_per_slot": 0}
    store.folder("a1").mkdir(parents=True)
    store.append_ledger({"event": "start", "time": 1000.0, **used})
    for n, id in enumerate(("a1", "b2")):
        folder = store.folder(id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(id.encode())
        (folder / "history.jsonl").write_text(
            json.dumps({"epoch": 1, "train_seconds": 1.0, "val_mae_bpm": 4.0}) + "\n", encoding="utf-8"
        )
        at = f"1970-01-01T00:{20 + n}:00+00:00"
        digest = sha256(folder / "model.safetensors")
        store.write_result(id, whole_result(id, model_sha256=digest, finished_at=at))
        line = {"event": "point", "time": 1200.0 + 60 * n, "id": id, "train_seconds": 2.0}
        store.append_ledger(line | used)
    return store


def call(store: Store, *args: str) -> tuple[int, str]:
    out = CliRunner().invoke(check, [str(store.path), *args])
    if isinstance(out.exception, InputError):
        raise out.exception
    return out.exit_code, out.stdout


def found(store: Store) -> list[str]:
    _, said = call(store, "--json")
    return [row["what"] for row in json.loads(said)["found"]]


def test_a_sound_sweep_is_sound(store: Store) -> None:
    code, said = call(store)
    assert code == 0
    assert said.endswith("sound\n")


def test_a_damaged_model_is_named_and_its_point_trained_again(store: Store) -> None:
    model = store.folder("a1") / "model.safetensors"
    model.write_bytes(b"other")
    with pytest.raises(InputError, match=r"point a1: .*damaged.*kdsweep retry .* a1"):
        check_model(store, store.result("a1"))
    code, said = call(store)
    assert code == 1
    assert str(model) in said
    assert store.is_done("a1")
    assert call(store, "--repair")[0] == 0
    assert store.done() == {"b2"}
    assert model.with_name("model.safetensors.broken").read_bytes() == b"other"
    assert found(store) == []


def test_everything_else_that_breaks_is_found_and_mended(store: Store) -> None:
    a1, b2, c3 = (store.folder(id) for id in ("a1", "b2", "c3"))
    (a1 / "result.json").write_text("{", encoding="utf-8")
    (b2 / "history.jsonl").open("a", encoding="utf-8").write('{"epoch": "x"}\n')
    (b2 / ".result.json.999999999.tmp").write_text("half", encoding="utf-8")
    c3.mkdir()
    (c3 / "checkpoint.pt").write_bytes(b"no zip")
    store.write_error("d4", {"id": "d4"})
    (store.path / "progress.json").write_text("[]", encoding="utf-8")
    (store.path / "ledger.jsonl").open("a", encoding="utf-8").write('{"event": "point"}\n')
    assert len(found(store)) == 7
    assert call(store, "--repair")[0] == 0
    assert found(store) == []
    assert store.done() == {"b2"}
    assert store.errors() == {}
    assert (c3 / "checkpoint.pt.broken").exists()
    assert (store.path / "ledger.jsonl.broken").exists()
    assert len(store.history("b2")) == 1


def test_lines_that_a_kill_kept_from_the_ledger_are_written_in_their_place(store: Store) -> None:
    path = store.path / "ledger.jsonl"
    whole = list(store.ledger())
    path.write_text("".join(json.dumps(line) + "\n" for line in whole[:1]), encoding="utf-8")
    assert usage(store.ledger())["train_hours"] == 0
    assert account(store) == 2
    lines = list(store.ledger())
    assert [(line.get("id"), line["time"]) for line in lines[1:]] == [("a1", 1200.0), ("b2", 1260.0)]
    assert all(line["repaired"] and line["slots"] == 2 for line in lines[1:])
    assert usage(lines) == usage(whole)
    assert account(store) == 0


def test_a_running_sweep_is_looked_at_but_not_repaired(store: Store) -> None:
    beat = {"state": "RUNNING", "time": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
    store.write_progress(beat)
    assert call(store)[0] == 0
    with pytest.raises(InputError, match="is running"):
        call(store, "--repair")


def test_what_killed_jobs_left_on_nodes_is_told_once_the_sweep_does_not_run(store: Store) -> None:
    record = store.path / "slurm" / "20260101" / "directory-node3-kds7-abcdefgh.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"host": "node3", "path": "/tmp/kds7-abcdefgh", "job": "7"}', encoding="utf-8")
    record.with_name("directory-node4-x.json").write_text('{"host": 4}', encoding="utf-8")
    code, said = call(store)
    assert code == 0
    assert "node3:/tmp/kds7-abcdefgh: left over if job 7 has ended" in said
    assert f"srun -w node3 rm -rf /tmp/kds7-abcdefgh {record}" in said
    assert "node4" not in said
    beat = {"state": "RUNNING", "time": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
    store.write_progress(beat)
    assert "node3" not in call(store)[1]


def test_what_killed_runs_left_on_this_host_is_told_then_removed(store: Store, tmp_path: Path) -> None:
    left = tmp_path / "kds-12345678"
    left.mkdir()
    os.utime(left, (0, 0))
    assert f"{left}: left by a run that was killed; --repair removes it" in call(store)[1]
    assert left.exists()
    assert f"{left}: left by a run that was killed: removed" in call(store, "--repair")[1]
    assert not left.exists()
    assert "kds-" not in call(store)[1]
