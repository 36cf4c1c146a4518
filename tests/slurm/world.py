"""A login node's view of the real Slurm: submit sweeps and watch them from outside."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from cluster import SlurmCluster

# What all sweeps here train, or a part of it. Ids are content: results of sweeps can be compared.
DATA = {"options": {"subjects": 6, "minutes": 2.0}}
TEACHER = {"arch": "mlp", "depth": 2, "width": 32}
SLOW = {"arch": "resnet1d", "depth": 1, "width": [4, 8]}  # 40 epochs of PACE_S each
FAST = {"arch": "mlp", "depth": [1, 2], "width": [4, 6, 8]}  # tenths of a second
TRAINING = {"max_epochs": 40, "batch_size": 32, "patience": 0}
STRATEGIES = {name: None for name in ("scratch", "hard", "soft", "dkd", "feature")}
SITE = {
    "nodes": 1,
    "time": "00:10:00",
    "cpus_per_node": 2,
    "gpus_per_node": 1,
    "memory": "3G",
    "partition": "batch",
    "dashboard": False,
    "patience_s": 5,
    "head": {"cpus": 1, "memory": "2G"},
}


class Login:
    """What a user on the login node does. Folders are on the file system that the nodes share."""

    def __init__(self, cluster: SlurmCluster) -> None:
        self.cluster = cluster
        self.home = cluster.root / "home"
        self.home.mkdir(exist_ok=True)
        self.env = cluster.env | {
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.home),
            "PYTHONPATH": f"{Path(__file__).parent / 'pace'}:{Path(__file__).parents[2]}",  # this checkout
            "PACE_S": "0.3",
        }

    def site(self, **changes: Any) -> str:
        """A site profile of this cluster."""
        return self._yaml("site", SITE | changes)

    def space(self, *students: dict[str, Any], **changes: Any) -> str:
        """A search space with one teacher and these students, scratch and soft."""
        content: dict[str, Any] = {
            "data": DATA,
            "teachers": TEACHER,
            "students": list(students),
            "strategies": {"scratch": None, "soft": None},
            "training": TRAINING,
            "resources": {"gpus": 1},
        }
        return self._yaml("space", content | changes)

    def _yaml(self, kind: str, content: dict[str, Any]) -> str:
        path = self.home / f"{kind}{len(list(self.home.glob(f'{kind}*')))}.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    def run(self, *args: str, expect: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        """`kdsweep ...`; expect: its exit code, None for any."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.commands.main", *args],
            env=self.env | more.pop("env", {}),
            cwd=more.pop("cwd", self.home),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **more,
        )
        assert expect in (None, done.returncode), (
            f"{args} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def submit(self, space: str, site: str, name: str, *more: str, **kw: Any) -> "Sweep":
        """Submit into the sweep directory `name`."""
        sweep = Sweep(self, self.home / "sweeps" / name)
        sweep.jobs = self.run(
            "submit", space, "--site", site, "--out", str(sweep.path), *more, **kw
        ).stdout.split()
        return sweep


class Sweep:
    """One sweep directory, looked at from outside."""

    def __init__(self, login: Login, path: Path) -> None:
        self.login, self.path = login, path
        self.jobs: list[str] = []

    def status(self) -> dict[str, Any]:
        """`kdsweep status --json`, once there is something to say."""
        return dict(json.loads(self.login.run("status", str(self.path), "--json", expect=None).stdout))

    def beat(self) -> dict[str, Any]:
        """The driver's heartbeat."""
        try:
            return dict(json.loads((self.path / "progress.json").read_text()))
        except (FileNotFoundError, ValueError):
            return {"running": [], "done": 0, "slots": 0, "state": None}

    def results(self) -> dict[str, dict[str, Any]]:
        """All results, by point."""
        return {p.parent.name: json.loads(p.read_text()) for p in self.path.glob("points/*/result.json")}

    def ledger(self, event: str) -> list[dict[str, Any]]:
        """The ledger's entries of one kind."""
        lines = (self.path / "ledger.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def here(self) -> Path:
        """The last submission's folder."""
        return sorted((self.path / "slurm").glob("2*"))[-1]

    def links(self, event: str = "end") -> list[dict[str, Any]]:
        """What the chain recorded."""
        try:
            lines = (self.here() / "links.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def said(self) -> str:
        """All that its jobs printed."""
        return "\n".join(p.read_text(errors="replace") for p in sorted(self.path.glob("slurm/*/*.out")))

    def until(self, what: Callable[[], Any], timeout: float = 240) -> Any:
        """Wait until `what` is true; its value."""
        deadline = time.monotonic() + timeout
        while not (value := what()):
            if time.monotonic() > deadline:
                queue = self.login.cluster.run("squeue", check=False)
                raise AssertionError(f"waited {timeout} s in vain\n{self.beat()}\n{queue}\n{self.said()}")
            time.sleep(0.3)
        return value

    def until_over(self, verdict: str = "done", timeout: float = 240) -> None:
        """Wait until the chain has ended."""
        ended = self.until(lambda: [e for e in self.links() if e["verdict"] != "again"], timeout)
        assert ended[-1]["verdict"] == verdict, self.said()

    def until_trained(self, epochs: int = 3, timeout: float = 240) -> None:
        """Wait until a student has trained some epochs."""

        def trains() -> bool:
            return any(row["max_epochs"] > row["epoch"] >= epochs for row in self.beat()["running"])

        self.until(lambda: self.beat()["done"] and trains(), timeout)


def compare(sweep: Sweep, reference: Sweep) -> None:
    """Same points, same bits."""
    expected = reference.results()
    for id, result in sweep.results().items():
        assert result["model_sha256"] == expected[id]["model_sha256"]
        assert result["mae_by_subject"] == expected[id]["mae_by_subject"]


def unbroken_in_mlflow(sweep: Sweep) -> None:
    """One finished run a point, with a validation error for every epoch."""
    with sqlite3.connect(f"{(sweep.path / 'mlflow.db').as_uri()}?mode=ro", uri=True) as db:
        runs = db.execute(
            "select r.run_uuid, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'mlflow.parentRunId'"
        ).fetchall()
        assert len(runs) == len(sweep.results())
        for run, status in runs:
            assert status == "FINISHED"
            steps = db.execute(
                "select step from metrics where run_uuid = ? and key = 'val_mae_bpm' order by step", (run,)
            ).fetchall()
            first = steps[0][0]
            assert [s for (s,) in steps] == list(range(first, first + 40))
