"""What orchestration costs, with trainers that train nothing: the driver, planning, resuming, asking.

    python tests/benchmarks/orchestration_scale.py                        100, 1,000 and 10,000 points
    python tests/benchmarks/orchestration_scale.py --points 100 --json    small, as JSON
    python tests/benchmarks/orchestration_scale.py --points 100000 --slots 200 --seconds 0.5 --million

Workers write the files a trained point has (result, history, weights) and report as real ones do. CPU seconds
of the driver count from the first point that begins; MLflow is left out there and measured by itself.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kd.signals.prepare import Data, prepare
from orchestrator.run import driver as sweep
from orchestrator.run import trainable
from orchestrator.run.events import Events
from orchestrator.run.pace import Pace
from orchestrator.run.progress import Display, Progress
from orchestrator.run.ray_cluster import DRIVER_ENV
from orchestrator.run.scheduler import Scheduler
from orchestrator.run.trainable import Trainable
from orchestrator.run.worker import HEADLINES, PackTrainer, Setup
from orchestrator.space.packs import Pack, packs
from orchestrator.space.plan import Plan
from orchestrator.space.planning import make_plan
from orchestrator.space.schema import load_space
from orchestrator.space.slot import Slot
from orchestrator.store.store import Store

# 360 points a seed; costs of some 10 s a point, so that packs are as large as in a real sweep.
SPACE = """\
name: scale
data: {{options: {{subjects: 6, minutes: 1.5}}}}
teachers: {{arch: resnet1d, depth: 6, width: [32, 64]}}
students: {{arch: resnet1d, depth: [2, 4, 6, 8], width: [4, 6, 8, 10, 12, 14, 16, 20, 24, 28]}}
strategies: {{scratch: {{}}, hard: {{}}, soft: {{}}, dkd: {{}}, feature: {{}}}}
training: {{max_epochs: 200}}
seeds: [{seeds}]
"""
POINTS_A_SEED = 360
PLANNED = 100_000
TRACKED = 200
MILLION = 1_000_000
SECONDS = "KDSWEEP_SCALE_SECONDS"  # that a point takes, for the workers
STUDENT_FILE = b"\0" * 40_000


class NoTrainer(PackTrainer):
    """Takes SECONDS for a point, without work, and leaves the files of a trained one."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.store = setup, Store(Path(setup.sweep_dir))
        self.pace = Pace(Path(setup.pace_dir), setup.slice_s)
        self.seconds = float(os.environ.get(SECONDS, "0"))
        self.ids: list[str] = []
        self.began: float | None = None

    def take(self, pack: Pack) -> None:
        self.points = {p.id: p for p in pack.points}
        self.ids, self.began = list(self.points), None

    def advance(self, seconds: float) -> dict[str, Any]:
        events: list[dict[str, Any]] = []
        deadline = time.monotonic() + seconds
        while self.ids:
            id = self.ids[0]
            if self.began is None:
                self.began = time.monotonic()
                events.append({"kind": "began", "id": id, "time": time.time(), "epoch": 0})
            over = self.began + self.seconds
            while (now := time.monotonic()) < min(over, deadline) and not self.pace.stop:
                time.sleep(min(1.0, min(over, deadline) - now))
            if now >= over:
                figures = write_point(self.store, self.points[id])
                events.append({"kind": "done", "id": id, "time": time.time(), **figures})
                self.began = None
                self.ids.pop(0)
            if now >= deadline or self.pace.stop:
                break
        where = {}
        if self.ids:
            where = {"point": self.ids[0], "epoch": 1, "max_epochs": 200, "val_mae_bpm": 9.0}
        return {"events": events, "left": len(self.ids), "checkpointed": None, **where}

    def pause(self) -> None:
        pass


class NoTrainable(Trainable):
    """Tune's view of it."""

    def setup(self, config: dict[str, Any], setup: Setup) -> None:  # type: ignore[override]
        self.trainer = NoTrainer(setup)
        self._take(config)

    def step(self) -> dict[str, Any]:
        slice_ = self.trainer.advance(self.trainer.pace.slice_s)
        return {**slice_, "done": slice_["left"] == 0}


class NoTracker:
    """Stands where MLflow's writer does, and writes nothing."""

    error = None
    uri = ""

    def __init__(self, *args: Any) -> None:
        pass

    def start(self) -> None:
        pass

    def ended(self, id: str) -> None:
        pass

    def close(self, *args: Any) -> bool:
        return True


def write_point(store: Store, point: Any) -> dict[str, Any]:
    """The files of a finished point; its error falls with its size, as a law would have it."""
    folder = store.folder(point.id)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(point.id, 16))
    gain = {"scratch": 1.0, "hard": 0.98, "soft": 0.95, "dkd": 0.93, "feature": 0.96}[point.strategy]
    mae = gain * (3 + 60 * point.params**-0.3) * float(np.exp(0.03 * rng.standard_normal()))
    rows = [
        {"epoch": e, "train_loss": 5.0 / e, "val_mae_bpm": mae, "lr": 1e-3, "train_seconds": 0.1 * e}
        for e in range(1, 31)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "model.safetensors").write_bytes(STUDENT_FILE)
    figures = {"mae_bpm": mae, "rmse_bpm": 1.4 * mae, "within_5_bpm": 0.5, "mae_bpm_argmax": 1.05 * mae}
    result = dataclasses.asdict(point) | figures
    result.pop("cost_s")
    result |= {
        "mae_by_subject": {f"s{i}": mae for i in range(10)},
        "mae_by_dataset": {"synthetic": mae},
        "val_mae_bpm": mae,
        "epochs": 30,
        "best_epoch": 30,
        "train_seconds": 3.0,
        "total_seconds": 3.1,
        "alone_seconds": 9.0,
        "device": "cpu",
        "model_sha256": "0" * 64,
        "teacher_sha256": None if point.teacher is None else "0" * 64,
        "recipe_version": 1,
        "versions": {"python": platform.python_version()},
        "git_commit": None,
        "host": "here",
        "threads": 1,
        "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    store.write_result(point.id, result)
    return {key: result[key] for key in HEADLINES}


def space(folder: Path, points: int) -> tuple[Any, Data]:
    """A space of at least so many points, and its windows."""
    path = folder / "scale.yaml"
    seeds = ", ".join(map(str, range(-(-points // POINTS_A_SEED))))
    path.write_text(SPACE.format(seeds=seeds))
    read = load_space(path, ())
    return read, prepare(read.data_config(), folder / "cache")


def cpu_of(command: list[str], cwd: Path) -> tuple[float, float]:
    """CPU seconds and wall seconds of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, time.perf_counter() - start


def drive(folder: Path, points: int, slots: int) -> dict[str, float]:
    """One call of run_sweep in this process, which must be fresh; its cost from the first point on."""
    sweep.LiveTracker = NoTracker  # type: ignore[misc, assignment]
    trainable.Trainable = NoTrainable  # type: ignore[misc]
    marks: dict[str, float] = {}
    began = Progress.began

    def mark(self: Progress, at: float) -> None:
        if not marks:
            marks.update(cpu=time.process_time(), wall=time.perf_counter(), rss=rss())
        began(self, at)

    ended = Progress.point_done

    def end(self: Progress, *args: Any) -> None:
        ended(self, *args)
        if self.ended == max((points - before) // 10, 1):
            marks.update(rss_tenth=rss(), pss=worker_pss())
        if not self.left:
            marks["rss_last"] = rss()

    heard, slices = Events.heard, [0]

    def hear(self: Events, *args: Any) -> None:
        slices[0] += 1
        heard(self, *args)

    Events.heard = hear  # type: ignore[method-assign]
    Progress.began, Progress.point_done = mark, end  # type: ignore[method-assign]
    start_cpu, start = time.process_time(), time.perf_counter()
    read, data = space(folder, points)
    plan = make_plan(read, data)
    plan = dataclasses.replace(plan, points=plan.points[:points])
    store = Store(folder / f"sweep{points}")
    store.path.mkdir(exist_ok=True)
    (store.path / "space.yaml").write_text((folder / "scale.yaml").read_text())
    before = len(store.done())
    display = Display()
    options = sweep.Options(dashboard=False, slots=slots)
    result = sweep.run_sweep(
        plan, read.data_config(), store, folder / "cache", Slot(threads=1), options, display
    )
    display.close()
    if result.exit_code:
        raise RuntimeError(f"the sweep ended with {result.exit_code}: {result.error or result.failed}")
    return {
        "points": points - before,
        "start_cpu_s": marks["cpu"] - start_cpu,
        "start_wall_s": marks["wall"] - start,
        "driver_cpu_ms_per_point": 1000 * (time.process_time() - marks["cpu"]) / (points - before),
        "wall_ms_per_point": 1000 * (time.perf_counter() - marks["wall"]) / (points - before),
        "rss_mb_at_start": marks["rss"],
        "rss_mb_at_a_tenth": marks["rss_tenth"],
        "rss_mb_at_last_point": marks["rss_last"],
        "rss_mb_at_end": rss(),  # Tune writes its state when all is over
        "slices": slices[0],
        "worker_pss_mb": marks.get("pss", 0.0),
        "files_per_point": sum(1 for _ in store.path.rglob("points/*/*")) / points,
    }


def rss() -> float:
    """Resident memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize() / 1e6


def worker_pss() -> float:
    """Memory of a worker process, its part of what it shares included, MB: the mean of all."""
    sizes = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            if (entry / "cmdline").read_bytes().startswith(b"ray::Trainable"):
                lines = (entry / "smaps_rollup").read_text(encoding="utf-8").splitlines()
                sizes.append(int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1e3)
    return sum(sizes) / max(len(sizes), 1)


def million(folder: Path, slots: int) -> dict[str, float]:
    """A million points planned, and packed and given out without Ray."""
    read, data = space(folder, MILLION - POINTS_A_SEED)
    start = time.process_time()
    plan = make_plan(read, data)
    made = time.process_time()
    scheduler = Scheduler(plan.points, set(), pack=packs)
    figures = {"points": len(plan.points), "make_cpu_s": made - start}
    figures["schedule_cpu_s"] = time.process_time() - made
    slowest, trials = 0.0, 0
    running: list[tuple[str, list[str]]] = []
    while not scheduler.over:
        before = time.process_time()
        ids = scheduler.release(str(trials), slots)
        slowest = max(slowest, time.process_time() - before)
        if ids:
            running.append((str(trials), ids))
            trials += 1
            continue
        trial, ids = running.pop(0)
        for id in ids:
            scheduler.point_done(trial, id)
        scheduler.trial_over(trial)
    figures["drain_cpu_s"] = time.process_time() - made - figures["schedule_cpu_s"]
    return {**figures, "packs": trials, "slowest_release_s": slowest, "rss_mb": rss()}


def in_child(folder: Path, points: int, slots: int) -> dict[str, float]:
    """`drive` in a fresh process."""
    command = [sys.executable, __file__, "--drive", str(folder), str(points), "--slots", str(slots)]
    env = {
        **os.environ,
        **DRIVER_ENV,
        "RAY_AUTH_MODE": "token",
    }  # before Ray is imported, as `kdsweep run` does
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def planning(folder: Path) -> dict[str, float]:
    """Planning 100,000 points."""
    read, data = space(folder, PLANNED)
    start_cpu, start = time.process_time(), time.perf_counter()
    plan = make_plan(read, data)
    made = time.process_time() - start_cpu
    plan.save(folder / "plan.json")
    saved = time.process_time() - start_cpu
    Plan.load(folder / "plan.json")
    return {
        "points": len(plan.points),
        "make_cpu_s": made,
        "save_cpu_s": saved - made,
        "load_cpu_s": time.process_time() - start_cpu - saved,
        "wall_s": time.perf_counter() - start,
    }


def tracking(folder: Path) -> dict[str, float]:
    """MLflow's cost per point, sqlite."""
    from orchestrator.tracking.writer import Tracker, default_uri

    read, data = space(folder, TRACKED)
    plan = make_plan(read, data)
    plan = dataclasses.replace(plan, points=plan.points[:TRACKED])
    store = Store(folder / "tracked")
    for point in plan.points:
        write_point(store, point)
    tracker = Tracker(store, plan, default_uri(store))
    start_cpu, start = time.process_time(), time.perf_counter()
    written = tracker.write(point.id for point in plan.points)
    cpu, wall = time.process_time() - start_cpu, time.perf_counter() - start
    return {
        "points": written,
        "cpu_ms_per_point": 1000 * cpu / written,
        "wall_ms_per_point": 1000 * wall / written,
    }


def asking(folder: Path, points: int) -> dict[str, float]:
    """What the reading commands cost on a finished sweep."""
    sweep_dir = str(folder / f"sweep{points}")
    kdsweep = [sys.executable, "-m", "orchestrator.commands.main"]
    figures = {}
    for name, args in {
        "status": ["status", sweep_dir, "--json"],
        "fit": ["fit", sweep_dir],
        "query": ["query", sweep_dir, "--max-params", "20000", "--json"],
    }.items():
        figures[f"{name}_cpu_s"], figures[f"{name}_wall_s"] = cpu_of([*kdsweep, *args], folder)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.0, help="that a point takes, without work")
    parser.add_argument("--million", action="store_true", help="plan and pack a million points, too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault(SECONDS, str(options.seconds))
    if options.drive:
        print(json.dumps(drive(Path(options.drive[0]), int(options.drive[1]), options.slots)))
        return
    with tempfile.TemporaryDirectory(prefix="kdsweep-scale-") as name:
        folder = Path(name)
        figures: dict[str, Any] = {"sweeps": {}}
        for points in options.points:
            row = in_child(folder, points, options.slots)
            show(f"{points:,} points", row)
            one = next((folder / f"sweep{points}" / "points").glob("*/result.json"))
            one.unlink()  # a student or a teacher without students left: one point more to train
            row["resume"] = in_child(folder, points, options.slots)  # type: ignore[assignment]
            show("  resuming it", row["resume"])  # type: ignore[arg-type]
            row["ask"] = asking(folder, points)  # type: ignore[assignment]
            show("  asking", row["ask"])  # type: ignore[arg-type]
            figures["sweeps"][points] = row
        figures["plan"] = planning(folder)
        show("plan", figures["plan"])
        if options.million:
            figures["million"] = million(folder, options.slots)
            show("a million", figures["million"])
        figures["mlflow"] = tracking(folder)
        show("MLflow", figures["mlflow"])
    figures |= {
        "cpu": platform.processor() or platform.machine(),
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in ("ray", "mlflow", "numpy")},
    }
    if options.json:
        print(json.dumps(figures, indent=1))


def show(what: str, figures: dict[str, float]) -> None:
    """A line on stderr."""
    parts = ", ".join(f"{k} {v:.3g}" for k, v in figures.items() if isinstance(v, int | float))
    print(f"{what}: {parts}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
