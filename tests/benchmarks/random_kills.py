"""Random kills of sweeps on a real Slurm: is a point lost, trained twice, or left open; are hands needed?

    python tests/benchmarks/random_kills.py                     10 sweeps, 7 kills that hit in each
    python tests/benchmarks/random_kills.py --sweeps 2 --hits 3 --json

Boots the cluster of tests/slurm (as root), trains the sweep once undisturbed, then two at a time: gangs and
elastic ones, on partitions that requeue and that cancel what they preempt. Each is hit at random moments,
from its submission on, by what can end a job or a part of one: SIGKILL of any process of it or of its steps,
the end of a node, preemption, requeue, `kdsweep cancel` with a `submit` later. Nobody helps: a sweep that
stops by itself before it is done is submitted again after a while, which counts as a hand that was needed.
"""

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

SLURM_TESTS = Path(__file__).resolve().parents[1] / "slurm"
sys.path.insert(0, str(SLURM_TESTS))

from cluster import SlurmCluster  # noqa: E402
from world import FAST, Login, Sweep, compare, unbroken_in_mlflow  # noqa: E402

SPACE: dict[str, Any] = {"arch": "resnet1d", "depth": 1, "width": [4, 5, 6]}
STRATEGIES = {"scratch": None, "soft": None, "dkd": None}
PACE_S = "0.4"  # 40 epochs a point: 16 s, of 9 slow points and 18 fast ones
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("gang, requeue", {"nodes": 2, "partition": "batch"}),
    ("elastic, requeue", {"mode": "elastic", "nodes": 2, "partition": "batch"}),
    ("gang, cancel", {"nodes": 2, "partition": "scavenge", "preempt": "cancel"}),
    (
        "elastic, cancel",
        {
            "mode": "elastic",
            "nodes": 2,
            "partition": "scavenge",
            "preempt": "cancel",
            "head": {"partition": "apart", "preempt": "requeue", "cpus": 1, "memory": "2G"},
        },
    ),
]
OURS = re.compile(r"slurm\.node|slurm\.chain|orchestrator|/ray/|ray::|gcs_server|raylet|kdsweep")
PARTS = {  # of a job, by what their command lines hold
    "script": "slurm_script",
    "driver": "--address",
    "node": "slurm.node",
    "Ray's head": "gcs_server",
    "Ray's node": "raylet/raylet",
    "trainer": "ray::",
}
ACTIONS = (*["process"] * 4, "step", "node", "preempt", "requeue", "cancel")
ITS_OWN = re.compile(r"init\.sh|slurmd|ps -eo")
LEAVE_S = 30.0  # what has not ended so long after the last sweep stays
IDLE_S = 25.0  # so long without a job a sweep is believed to have stopped


class Killer(threading.Thread):
    """One sweep and what befalls it. `told` says what in the end."""

    def __init__(
        self, login: Login, kind: str, site: dict[str, Any], name: str, hits: int, seed: int
    ) -> None:
        super().__init__(daemon=True)
        self.login, self.cluster, self.kind, self.name, self.wanted = login, login.cluster, kind, name, hits
        self.dice = random.Random(seed)
        self.space = login.space(SPACE, FAST, strategies=STRATEGIES, resources={"gpus": 0})
        self.site = login.site(**{"gpus_per_node": 0, "cpus_per_node": 1, **site})
        self.sweep = Sweep(login, login.home / "sweeps" / name)
        self.hits: Counter[str] = Counter()
        self.missed = self.hands = 0
        self.log: list[str] = []
        self.told: dict[str, Any] = {}

    def run(self) -> None:
        try:
            self.told = self._run()
        except BaseException as error:
            self.told = {"kind": self.kind, "error": f"{type(error).__name__}: {error}", "log": self.log}

    def _run(self) -> dict[str, Any]:
        start = time.monotonic()
        self.submit()
        idle, next_kill = None, time.monotonic() + self.pause()
        while not self.done():
            if time.monotonic() - start > 1500:
                raise TimeoutError(f"not done\n{self.sweep.said()[-3000:]}")
            if self.jobs():
                idle = None
            elif idle is None:
                idle = time.monotonic()
            elif time.monotonic() - idle > IDLE_S:
                self.say("stopped by itself: submitted again by hand")
                self.log += self.sweep.said().splitlines()[-40:]
                self.hands += 1
                self.submit()
                idle = None
            if self.hits.total() < self.wanted and time.monotonic() >= next_kill:
                action = self.dice.choice(ACTIONS)
                hit = getattr(self, f"kill_{action}")()
                self.say(f"{action}: {hit or 'missed'}")
                if hit:
                    self.hits[action] += 1
                    next_kill = time.monotonic() + self.pause()
                else:
                    self.missed += 1
                    next_kill = time.monotonic() + 1
            time.sleep(0.3)
        self.sweep.until(lambda: not self.jobs(), timeout=120)
        return self.judge() | {"seconds": round(time.monotonic() - start)}

    def judge(self) -> dict[str, Any]:
        """What was lost, doubled, left open or behind."""
        wrong = []
        for name, check in {
            "other bits than undisturbed": lambda: compare(self.sweep, self.reference),
            "MLflow": lambda: unbroken_in_mlflow(self.sweep),
        }.items():
            try:
                check()
            except (AssertionError, KeyError, IndexError) as error:
                wrong.append(f"{name}: {error!r:.300}")
        trained = Counter(entry["id"] for entry in self.sweep.ledger("point"))
        results = self.sweep.results()
        check = self.login.run("check", str(self.sweep.path), expect=None)
        return {
            "kind": self.kind,
            "hits": dict(self.hits),
            "missed": self.missed,
            "hands": self.hands,
            "points": len(results),
            "lost": len(self.reference.results()) - len(results),
            "doubled": sum(n - 1 for n in trained.values()),
            "unaccounted": len(results.keys() - trained.keys()),
            "errors": [str(p) for p in self.sweep.path.glob("points/*/error.json")],
            "links": len(
                [
                    1
                    for p in self.sweep.path.glob("slurm/2*/links.jsonl")
                    for line in p.open()
                    if '"begin"' in line
                ]
            ),
            "wrong": wrong,
            "check": check.stdout.strip()[-500:] if check.returncode else "",
            "log": self.log,
        }

    reference: Sweep

    def submit(self) -> None:
        self.login.run("submit", self.space, "--site", self.site, "--out", str(self.sweep.path))

    def done(self) -> bool:
        return len(self.sweep.results()) >= len(self.reference.results())

    def pause(self) -> float:
        """Seconds to the next kill: often within a start, sometimes deep in training."""
        return self.dice.choice((self.dice.uniform(0.1, 6), self.dice.uniform(5, 30)))

    def say(self, text: str) -> None:
        line = f"{time.strftime('%T')} {self.name} ({self.sweep.beat()['done']} done): {text}"
        self.log.append(line)
        print(line, file=sys.stderr, flush=True)

    def jobs(self) -> list[tuple[str, str, str]]:
        """(id, state, node) of this sweep's jobs."""
        rows = self.cluster.run("squeue", "-h", "-r", "-o", "%i|%T|%N|%k", check=False).splitlines()
        return [
            tuple(row.split("|")[:3])
            for row in rows
            if self.name in row.rpartition("|")[2] or self._ours(row)
        ]  # type: ignore[misc]

    def _ours(self, row: str) -> bool:
        return any(folder.name in row for folder in self.sweep.path.glob("slurm/2*"))

    def running(self) -> list[tuple[str, str, str]]:
        return [job for job in self.jobs() if job[1] == "RUNNING" and job[2]]

    def kill_process(self) -> str:
        """SIGKILL one process of a running job: script, Ray, driver or worker."""
        if not (jobs := self.running()):
            return ""
        id, _, nodes = self.dice.choice(jobs)
        node = self.dice.choice(self.cluster.run("scontrol", "show", "hostnames", nodes).split())
        base = id.partition("_")[0]
        ids = {base, self.cluster.job(id).get("JobId", base)}
        mine = []
        for line in self.cluster.in_node(node, "ps", "-eo", "pid=,args=").splitlines():
            pid, _, args = line.strip().partition(" ")
            try:
                env = self.cluster.in_node(node, "cat", f"/proc/{pid}/environ")
            except AssertionError:
                continue
            if any(f"SLURM_JOB_ID={known}\0" in env for known in ids):
                mine.append((pid, args))
        if not mine:
            return ""
        parts: dict[str, list[tuple[str, str]]] = {}
        for pid, args in mine:
            parts.setdefault(next((n for n, word in PARTS.items() if word in args), "other"), []).append(
                (pid, args)
            )
        part = self.dice.choice(sorted(parts))
        pid, args = self.dice.choice(parts[part])
        try:
            self.cluster.in_node(node, "kill", "-KILL", pid)
        except AssertionError:
            return ""
        return f"{part} on {node} of {id}: {args[-60:]}"

    def kill_step(self) -> str:
        """SIGKILL all of a step."""
        steps = []
        for id, _, _ in self.running():
            lines = self.cluster.run("squeue", "-s", "-h", "-j", id, "-o", "%i", check=False).split()
            steps += [step for step in lines if step[-1].isdigit()]
        if not steps:
            return ""
        step = self.dice.choice(steps)
        self.cluster.run("scancel", "--signal=KILL", step, check=False)
        return step

    def kill_node(self) -> str:
        """A node fails, as Slurm sees it, and comes back."""
        if not (jobs := self.running()):
            return ""
        id, _, nodes = self.dice.choice(jobs)
        node = self.dice.choice(self.cluster.run("scontrol", "show", "hostnames", nodes).split())
        self.cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=killed", check=False)
        time.sleep(3)
        self.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        return f"{node} of {id}"

    def kill_preempt(self) -> str:
        """A job of a higher partition takes all nodes."""
        if not self.running():
            return ""
        urgent = self.cluster.run(
            "sbatch",
            "--parsable",
            "--partition=urgent",
            "--nodes=3",
            "--exclusive",
            "--output=/dev/null",
            "--wrap=sleep 1",
        )
        self.cluster.wait_for(urgent, "COMPLETED", "CANCELLED", "FAILED", "NODE_FAIL", timeout=180)
        return "all nodes"

    def kill_requeue(self) -> str:
        """The administrator requeues a job."""
        jobs = [job for job in self.running() if self.cluster.job(job[0]).get("Requeue") == "1"]
        if not jobs:
            return ""
        id = self.dice.choice(jobs)[0]
        self.cluster.run("scontrol", "requeue", id, check=False)
        return id

    def kill_cancel(self) -> str:
        """The user cancels, and submits again once all is gone; that hand is the user's own wish."""
        if not self.jobs():
            return ""
        self.login.run("cancel", str(self.sweep.path), expect=None)
        self.sweep.until(lambda: not self.jobs(), timeout=120)
        if not self.done():
            self.submit()
        return "and submitted again"


def leftovers(cluster: SlurmCluster) -> dict[str, list[str]]:
    """Processes and directories of ours on the nodes."""
    found: dict[str, list[str]] = {}
    for node in cluster.nodes:
        lines = cluster.in_node(node, "ps", "-eo", "args=").splitlines()
        rest = [line[:100] for line in lines if OURS.search(line) and not ITS_OWN.search(line)]
        rest += [
            path.name
            for path in (cluster.root / "tmp" / node).iterdir()
            if path.name.startswith(("kds", "pymp", "ray"))
        ]
        if rest:
            found[node] = rest
    return found


def requests(diagnostics: str, seconds: float) -> dict[str, float]:
    """Requests a minute to slurmctld, by kind: a gang's and its submission's, which nobody watches."""
    counts = re.finditer(r"^\s+(REQUEST_\w+)\s.*?count:(\d+)", diagnostics, re.M)
    return {m[1]: round(int(m[2]) * 60 / seconds, 1) for m in counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=10)
    parser.add_argument("--hits", type=int, default=7, help="kills that hit, in each sweep")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kdsweep-kills-", dir="/var/tmp"))
    told: list[dict[str, Any]] = []
    try:
        with SlurmCluster(root, MaxArraySize=3) as cluster:
            login = Login(cluster)
            login.env["PACE_S"] = "0"
            space = login.space(SPACE, FAST, strategies=STRATEGIES, resources={"gpus": 0})
            cluster.run("sdiag", "--reset")
            start = time.monotonic()
            reference = login.submit(space, login.site(gpus_per_node=0), "reference")
            reference.until_over(timeout=300)
            asked = requests(cluster.run("sdiag"), time.monotonic() - start)
            Killer.reference = reference
            login.env["PACE_S"] = PACE_S
            start = time.monotonic()
            waiting = []
            for i in range(options.sweeps):
                kind, site = KINDS[i % len(KINDS)]
                waiting.append(Killer(login, kind, site, f"sweep{i}", options.hits, options.seed + i))
            running: list[Killer] = []
            while waiting or running:
                running = [killer for killer in running if killer.is_alive() or told.append(killer.told)]  # type: ignore[func-returns-value]
                while waiting and len(running) < 2:
                    running.append(waiting.pop(0))
                    running[-1].start()
                time.sleep(0.5)
            minutes = (time.monotonic() - start) / 60
            time.sleep(LEAVE_S)
            left = leftovers(cluster)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    hits = sum((Counter(sweep.get("hits", {})) for sweep in told), Counter())
    figures = {
        "seed": options.seed,
        "sweeps": told,
        "hits": dict(hits),
        **{
            key: sum(sweep.get(key, 0) for sweep in told)
            for key in ("missed", "hands", "points", "lost", "doubled", "unaccounted")
        },
        "broken": [
            sweep
            for sweep in told
            if sweep.get("error") or sweep.get("wrong") or sweep.get("errors") or sweep.get("check")
        ],
        "left on nodes": left,
        "minutes": round(minutes, 1),
        "requests a minute, undisturbed": asked,
        "load": os.getloadavg(),
    }
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for sweep in told:
        print({key: value for key, value in sweep.items() if key != "log"})
    print({key: value for key, value in figures.items() if key not in ("sweeps", "broken")})


if __name__ == "__main__":
    main()
