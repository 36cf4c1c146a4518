"""The store: a point is done when its result is whole, whatever was killed when."""

import json
import multiprocessing
from pathlib import Path

import pytest

from kd.errors import InputError
from kd.files import read_json_lines
from orchestrator.run.status import usage
from orchestrator.store.store import Store


def test_done_is_a_result_and_nothing_else(tmp_path: Path, whole_result) -> None:
    store = Store(tmp_path)
    assert store.done() == set()
    store.folder("a").mkdir(parents=True)
    (store.folder("a") / "model.safetensors").write_bytes(b"x")
    assert not store.is_done("a")
    store.write_result("b", whole_result("b"))
    assert store.done() == {"b"}
    assert list(store.results()) == [whole_result("b")]


def test_an_error_is_forgotten_when_the_point_succeeds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_error("a", {"id": "a", "type": "Diverged", "message": "boom"})
    (store.folder("a") / "log.txt").write_text("boom")
    assert store.errors() == {"a": {"id": "a", "type": "Diverged", "message": "boom"}}
    store.write_result("a", {"id": "a"})
    assert store.errors() == {}
    assert [f.name for f in store.folder("a").iterdir()] == ["result.json"]


def test_a_result_that_is_no_json_number_is_refused_before_it_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        store.write_result("a", {"mae_bpm": float("nan")})
    assert not store.is_done("a")


def test_a_damaged_result_names_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_result("a", {"id": "a"})
    (store.folder("a") / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"a/result.json is not JSON"):
        store.result("a")


def _append(path: Path, who: int) -> None:
    for i in range(200):
        Store(path).append_ledger({"who": who, "i": i, "more": "x" * 200})


def test_ledger_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(tmp_path, who)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    # An empty line is what comes of seeing another's line while it is being written: it does no harm.
    lines = [line for line in (tmp_path / "ledger.jsonl").read_text().splitlines() if line]
    assert len(lines) == 600
    seen = [(entry["who"], entry["i"]) for entry in map(json.loads, lines)]
    assert sorted(seen) == [(who, i) for who in range(3) for i in range(200)]
    (tmp_path / "ledger.jsonl").open("a").write('{"cut sho')
    assert len(list(read_json_lines(tmp_path / "ledger.jsonl"))) == 600


def entry(event: str, time: float, slots: int = 2, **more: float) -> dict:
    return {"event": event, "time": time, "slots": slots, "cpus_per_slot": 1, "gpus_per_slot": 0.5, **more}


def test_usage_adds_up_what_was_held_also_over_a_kill() -> None:
    ledger = [
        entry("start", 0),
        entry("point", 1800, train_seconds=1700.0),
        entry("heartbeat", 3600),  # then killed: nothing is known of what came after
        entry("start", 90000, slots=4),
        entry("end", 91800, slots=4),
    ]
    used = usage(ledger)
    assert used["slot_hours"] == pytest.approx(2 * 1 + 4 * 0.5)
    assert used["gpu_hours"] == pytest.approx(2.0)
    assert used["train_hours"] == pytest.approx(1700 / 3600, abs=1e-4)
