"""`kdsweep logs`: what is told of failures, and that --follow tells what is new and ends with the sweep."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.commands import logs as module
from orchestrator.commands.logs import logs
from orchestrator.store.store import Store
from orchestrator.words import escaped

ERROR = {"type": "Diverged", "message": "loss is nan", "epoch": 3, "failures": 2, "traceback": "Traceback"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "sweep")
    store.write_error("bad1", ERROR)
    (store.folder("bad1") / "log.txt").write_text("one\ntwo \x1b[2Jthree\n")
    return store


def beat(store: Store, state: str = "RUNNING", pid: int | None = None) -> None:
    content = {"state": state, "time": time.time(), "host": socket.gethostname(), "pid": pid or os.getpid()}
    (store.path / "progress.json").write_text(json.dumps(content))


def done(store: Store, id: str) -> None:
    result = {"role": "student", "strategy": "dkd", "arch": "mlp", "depth": 1, "width": 4, "init": "random"}
    result |= {"strategy_args": {}, "teacher": None, "seed": 0, "params": 9, "train_seconds": 1.0}
    store.write_result(id, result | {"id": id, "mae_bpm": 6.125, "epochs": 7})
    used = {"time": time.time(), "slots": 1, "cpus_per_slot": 1, "gpus_per_slot": 0}
    store.append_ledger({"event": "point", "id": id, "train_seconds": 1.0, **used})


def epochs(store: Store, id: str, first: int, last: int) -> None:
    row = {"train_loss": 2.0, "val_mae_bpm": 7.5, "lr": 1e-3, "train_seconds": 1.0}
    text = "".join(json.dumps(row | {"epoch": e}) + "\n" for e in range(first, last + 1))
    store.folder(id).mkdir(parents=True, exist_ok=True)
    with (store.folder(id) / "history.jsonl").open("a") as file:
        file.write(text)


def follow(store: Store, monkeypatch: pytest.MonkeyPatch, steps: list, *args: str) -> list[str]:
    """The lines of `logs --follow` while, between two looks, one step after the other is done."""
    left = iter(steps)

    def sleep(seconds: float) -> None:
        next(left)()

    monkeypatch.setattr(module.time, "sleep", sleep)
    out = CliRunner().invoke(logs, [str(store.path), *args, "--follow"], catch_exceptions=False)
    assert out.exit_code == 0, out.output
    assert next(left, None) is None, "it ended early"
    assert "nothing runs any more" in out.stderr
    return out.stdout.splitlines()


def test_control_characters_of_a_log_are_escaped(store: Store) -> None:
    out = CliRunner().invoke(logs, [str(store.path), "--failed"]).stdout
    assert "two \\x1b[2Jthree" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("line", "safe"),
    [
        ("a\tb ä 1.2 ± 3", "a\tb ä 1.2 ± 3"),
        ("\x1b[2J\r\x07", "\\x1b[2J\\r\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("txt.\u202egpj", "txt.\\u202egpj"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_escaped(line: str, safe: str) -> None:
    assert escaped(line) == safe


def test_follow_tells_what_is_new_and_ends_with_the_sweep(store: Store, monkeypatch) -> None:
    def fail() -> None:
        store.write_error("bad2", ERROR | {"message": "out of \x1bmemory"})
        store.append_ledger({"event": "failed", "id": "bad2"})

    def end() -> None:
        done(store, "ok2")
        beat(store, "SUCCEEDED")

    beat(store)
    done(store, "before")
    lines = follow(store, monkeypatch, [lambda: done(store, "ok1"), fail, end])
    assert lines == [
        "bad1  Diverged in epoch 3, tried 2 times: loss is nan",
        "ok1  done: dkd mlp-1x4, 6.12 BPM after 7 epochs",
        "bad2  Diverged in epoch 3, tried 2 times: out of \\x1bmemory",
        "ok2  done: dkd mlp-1x4, 6.12 BPM after 7 epochs",
    ]


def test_follow_failed_tells_failures_only_with_their_logs(store: Store, monkeypatch) -> None:
    beat(store)
    lines = follow(
        store, monkeypatch, [lambda: done(store, "ok1"), lambda: beat(store, "STOPPED")], "--failed"
    )
    assert lines[1:] == ["    one", "    two \\x1b[2Jthree", ""]


def test_follow_of_a_sweep_that_does_not_run_ends_at_once(store: Store, monkeypatch) -> None:
    assert len(follow(store, monkeypatch, [])) == 1


def test_follow_a_point_through_its_epochs(store: Store, monkeypatch) -> None:
    """After a restart from its checkpoint, an epoch that is trained again is told again."""

    def restart() -> None:
        (store.folder("p1") / "history.jsonl").unlink()
        epochs(store, "p1", 1, 2)

    beat(store)
    epochs(store, "p1", 1, 3)
    steps = [
        lambda: epochs(store, "p1", 4, 4),
        restart,
        lambda: epochs(store, "p1", 3, 3),
        lambda: done(store, "p1"),
    ]
    lines = follow(store, monkeypatch, steps, "p1", "-n", "2")
    assert [int(line.split()[1]) for line in lines] == [2, 3, 4, 3]


def test_follow_a_job(store: Store, monkeypatch) -> None:
    here = store.path / "slurm" / "s"
    here.mkdir(parents=True)
    output = here / "kd-77.out"
    output.write_bytes(b"first\nsecond\nhalf")

    def more() -> None:
        with output.open("ab") as file:
            file.write(b" a line\n\x1bnext\n")

    states = iter([True, True, False])
    monkeypatch.setattr(module, "_job_runs", lambda store, job, jobs: next(states))
    lines = follow(store, monkeypatch, [lambda: None, more], "--job", "77", "-n", "1")
    assert lines == ["second", "half a line", "\\x1bnext"]


def test_follow_and_json_do_not_go_together(store: Store) -> None:
    assert CliRunner().invoke(logs, [str(store.path), "-f", "--json"]).exit_code == 2


def test_ctrl_c_ends_it_with_130(store: Store) -> None:
    beat(store)
    call = [sys.executable, "-m", "orchestrator.commands.main", "logs", str(store.path), "-f"]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("bad1")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
