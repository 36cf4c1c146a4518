"""Whole sweeps on a real Ray: killed at any moment they go on; failures are told and cost little."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SPACE = """\
name: tiny
data: {options: {subjects: 6, minutes: 1.5}}
teachers: {arch: resnet1d, depth: 2, width: 8}
students:
  - {arch: resnet1d, depth: 2, width: [4, 6]}
  - {arch: mlp, depth: 2, width: [4, 8]}
strategies: {scratch: {}, soft: {}, dkd: {}}
training: {max_epochs: 200, batch_size: 32}
"""
POINTS = 1 + 4 * 3
FILES = {"result.json", "history.jsonl", "model.safetensors", "tracker.json", "logits.npy", "features.npy"}
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    return tmp_path


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator.commands.main", *args]


def kdsweep(here: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), cwd=here, capture_output=True, text=True, timeout=300)


def start(here: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", "tiny.yaml", "--no-dashboard", *args),
        cwd=here,
        stdout=subprocess.DEVNULL,
        stderr=(here / "stderr.txt").open("a"),
        text=True,
    )


def results(sweep: Path) -> dict[str, dict[str, Any]]:
    return {
        p.parent.name: json.loads(p.read_text()) for p in sorted((sweep / "points").glob("*/result.json"))
    }


def wait_for(what: Any, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def workers(driver: subprocess.Popen[str], sweep: Path) -> list[int]:
    """Processes that train for this sweep: they hold its lock file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            held = [os.readlink(fd) for fd in (process / "fd").iterdir()]
        except OSError:
            continue
        if str(sweep / "lock") in held and int(process.name) != driver.pid:
            found.append(int(process.name))
    return found


def mlflow_runs(sweep: Path) -> list[Any]:
    code = (
        "import json, sys; from mlflow import MlflowClient; c = MlflowClient(sys.argv[1]);"
        "e = c.get_experiment_by_name('tiny').experiment_id;"
        "r = c.search_runs([e], max_results=1000);"
        "print(json.dumps([[x.data.tags.get('kdsweep.point'), x.info.status, "
        "len(c.get_metric_history(x.info.run_id, 'val_mae_bpm'))] for x in r]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{sweep / 'mlflow.db'}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(out.stdout.splitlines()[-1])


def test_killed_again_and_again_it_ends_as_if_never_killed(here: Path) -> None:
    sweep = here / "sweeps" / "tiny"
    driver = start(here, "--checkpoint-every", "0.2")
    wait_for(lambda: len(results(sweep)) >= 2)
    before = results(sweep)
    driver.kill()  # the driver, with points in training
    driver.wait()

    driver = start(here, "--checkpoint-every", "0.2")
    wait_for(lambda: len(results(sweep)) >= 3)
    victims = workers(driver, sweep)
    assert victims
    os.kill(victims[0], signal.SIGKILL)  # a worker: its point goes on elsewhere
    wait_for(lambda: len(results(sweep)) >= 4)  # ResNets are left, seconds each: it can't be over
    middle = results(sweep)
    driver.send_signal(signal.SIGTERM)  # and once politely
    assert driver.wait(60) == 75

    last = kdsweep(here, "run", "tiny.yaml", "--no-dashboard")
    assert last.returncode == 0, last.stderr
    after = results(sweep)
    assert len(after) == POINTS
    for earlier in (before, middle):
        assert all(after[id]["finished_at"] == r["finished_at"] for id, r in earlier.items())

    whole = kdsweep(here, "run", "tiny.yaml", "--no-dashboard", "--out", "sweeps/whole", "--slots", "1")
    assert whole.returncode == 0, whole.stderr
    untouched = results(here / "sweeps" / "whole")
    assert {id: r["model_sha256"] for id, r in after.items()} == {
        id: r["model_sha256"] for id, r in untouched.items()
    }, "killing, resuming and another number of slots changed a result"

    runs = mlflow_runs(sweep)
    parents = [r for r in runs if r[0] is None]
    assert [r[1] for r in parents] == ["FINISHED"]
    children = [r for r in runs if r[0] is not None]
    assert sorted(r[0] for r in children) == sorted(after)
    assert {r[1] for r in children} == {"FINISHED"}
    assert {r[2] for r in children} == {200}, "an unbroken curve of 200 epochs each"
    for id in after:
        files = {f.name for f in (sweep / "points" / id).iterdir()}
        assert files <= FILES
        assert len(files) <= 6

    again = kdsweep(here, "run", "tiny.yaml")
    assert again.returncode == 0
    assert f"{POINTS} of {POINTS} already done" in again.stderr
    assert not (sweep / ".tune").exists()


def test_a_teacher_that_diverges_blocks_its_students_and_nothing_else(here: Path) -> None:
    changes = ["training.max_epochs=2", "training.teachers.lr=1e30", "training.teachers.clip_norm=1e30"]
    out = kdsweep(here, "run", "tiny.yaml", "--no-dashboard", *changes)
    assert out.returncode == 3, out.stderr
    status = json.loads(kdsweep(here, "status", "tiny", "--json").stdout)
    assert (status["done"], status["failed"], status["blocked"], status["left"]) == (4, 1, 8, 0)
    assert status["state"] == "partly failed"
    assert {r["strategy"] for r in results(here / "sweeps" / "tiny").values()} == {"scratch"}
    logs = kdsweep(here, "logs", "tiny", "--failed").stdout
    assert "Diverged in epoch 1, tried 2 times" in logs
    assert "lower learning rate" in logs
    assert "Traceback" in logs
    runs = mlflow_runs(here / "sweeps" / "tiny")
    assert sorted(r[1] for r in runs if r[0]) == ["FAILED"] + ["FINISHED"] * 4

    mended = kdsweep(here, "run", "tiny.yaml", "--no-dashboard", "training.max_epochs=2")
    assert mended.returncode == 3, "the space with the wrong rate is still part of the sweep"
    assert "4 of them before" in mended.stderr
    assert "remove its file in sweeps/tiny/spaces" in mended.stderr
    assert len(results(here / "sweeps" / "tiny")) == POINTS
    (here / "sweeps" / "tiny" / "spaces" / "001.yaml").unlink()
    again = kdsweep(here, "run", "tiny.yaml", "--no-dashboard", "training.max_epochs=2")
    assert again.returncode == 0, again.stderr
    assert f"{POINTS} of {POINTS} already done" in again.stderr
