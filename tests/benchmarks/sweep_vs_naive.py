"""A whole sweep against the same grid by plain Ray Tune, and against a bare loop over kdsweep's own trainer.

    python tests/benchmarks/sweep_vs_naive.py                          the quickstart's grid, 3 rounds
    python tests/benchmarks/sweep_vs_naive.py --small --rounds 1       minutes: to see that it runs
    python tests/benchmarks/sweep_vs_naive.py --parts                  where the gain comes from
    python tests/benchmarks/sweep_vs_naive.py --same 6                 do both trainers reach the same error?

The grid is that of one fixed split, 83 points. Same points, windows, batches, epochs and cores; wall
seconds of each whole command, start-up included, and how many of the slots' seconds were training. The
three are interleaved, and ratios are of medians. The floor is two processes that train with
`kd.training.train.Run` and the engine of a sweep, teachers first, then the longest: no Ray, no MLflow, no
driver.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kd.signals.prepare import DataConfig, prepare
from kd.training.recipe import Recipe, Spec
from orchestrator.run.ray_cluster import worker_env
from orchestrator.run.worker import compiled_engine
from orchestrator.space.resolve import Opened, open_space
from orchestrator.store.store import Store

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parents[1] / "search_spaces" / "quickstart.yaml"
GRID = ["data.split={scheme: fixed}"]  # one split, as the naive script has it: 83 points
SMALL = [
    "data.options.subjects=12",
    "data.options.minutes=2",
    "training.max_epochs=2",
    "training.teachers.max_epochs=2",
]


def opened(folder: Path, overrides: list[str]) -> Opened:
    """The space, its plan and its windows, in a fresh sweep directory."""
    return open_space(str(QUICKSTART), overrides, str(folder / "sweep"))


@dataclass
class Outcome:
    """What a contender's run gave: test MAE by point, and how many seconds all of them trained, added up."""

    mae_bpm: dict[str, float]
    train_s: float
    logging_s: float | None = None  # of the driver, where it was measured


def kdsweep(folder: Path, overrides: list[str], slots: int) -> Outcome:
    """The sweep."""
    command = [sys.executable, "-m", "orchestrator.commands.main", "run", str(QUICKSTART), *overrides]
    run([*command, "--out", str(folder / "sweep"), "--slots", str(slots), "--no-dashboard"], folder)
    results = [json.loads(p.read_text()) for p in (folder / "sweep").glob("points/*/result.json")]
    return Outcome({r["id"]: r["mae_bpm"] for r in results}, sum(r["train_seconds"] for r in results))


def naive(folder: Path, overrides: list[str], slots: int) -> Outcome:
    """Plain Ray Tune."""
    space = opened(folder, overrides)
    job = {
        "points": [dataclasses.asdict(point) for point in space.plan.points],
        "data": {k: v for k, v in dataclasses.asdict(space.data).items() if k in ("source", "options")},
        "cache": str(space.cache_dir),
        "folder": str(folder),
        "slots": slots,
    }
    if DataConfig(**job["data"]) != space.data:
        raise RuntimeError("the naive script knows no other data settings than source and options")
    (folder / "job.json").write_text(json.dumps(job))
    run([sys.executable, str(HERE / "naive_tune.py"), str(folder / "job.json")], folder)
    told = json.loads((folder / "naive.json").read_text())
    maes = {id: row["mae_bpm"] for id, row in told["points"].items()}
    return Outcome(maes, sum(row["train_s"] for row in told["points"].values()), told["logging_s"])


def floor(folder: Path, overrides: list[str], slots: int) -> Outcome:
    """kdsweep's trainer in a bare loop."""
    run([sys.executable, __file__, "--floor", str(folder), str(slots), *overrides], folder, worker_env(1))
    return Outcome(**json.loads((folder / "floor.json").read_text()))


def bare_loop(folder: Path, slots: int, overrides: list[str]) -> None:
    """What `floor` times."""
    space = opened(folder, overrides)
    told = Outcome({}, 0.0)
    points = sorted(space.plan.points, key=lambda p: -p.cost_s)
    with multiprocessing.get_context("spawn").Pool(slots) as pool:
        for role in ("teacher", "student"):
            jobs = [(*where(space), point) for point in points if point.role == role]
            for id, figures in pool.imap_unordered(bare_point, jobs):
                told.mae_bpm[id] = figures["mae_bpm"]
                told.train_s += figures["train_seconds"]
    (folder / "floor.json").write_text(json.dumps(dataclasses.asdict(told)))


def where(space: Opened) -> tuple[DataConfig, Path, Store]:
    """What a process needs to know of a sweep besides its points."""
    return space.data, space.cache_dir, space.store


def bare_point(job: tuple[DataConfig, Path, Store, Any]) -> tuple[str, dict[str, Any]]:
    """Train one point; its id and figures."""
    import torch

    from kd.training.train import Run

    data, cache_dir, store, point = job
    torch.set_num_threads(1)
    fields = {field.name for field in dataclasses.fields(Spec)} - {"recipe"}
    values = {k: v for k, v in dataclasses.asdict(point).items() if k in fields}
    one = Run(
        Spec(**values, recipe=Recipe(**point.recipe)),
        prepare(data, cache_dir),
        store.folder(point.id),
        teacher_folder=store.folder(point.teacher) if point.teacher else None,
        engine=compiled_engine(),
    )
    while one.step():
        pass
    return point.id, one.finish()


def run(command: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
    """Run a command, its output kept in the folder; RuntimeError with its end if it fails."""
    log = folder / "log.txt"
    with log.open("w") as file:
        path = f"{HERE.parents[1]}:{os.environ.get('PYTHONPATH', '')}"
        done = subprocess.run(
            command,
            cwd=folder,
            stdout=file,
            stderr=file,
            env={**os.environ, **(env or {}), "PYTHONPATH": path},
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed: {log.read_text()[-3000:]}")


CONTENDERS = {"kdsweep": kdsweep, "naive": naive, "floor": floor}


def compare(rounds: int, overrides: list[str], slots: int, names: list[str]) -> dict[str, Any]:
    """The contenders of these names, interleaved."""
    wall: dict[str, list[float]] = {name: [] for name in names}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for round_ in range(rounds):
        for name in names:
            contender = CONTENDERS[name]
            with tempfile.TemporaryDirectory(prefix="kds-bench-") as scratch:
                folder = Path(scratch)
                opened(folder, overrides)  # everyone finds the windows prepared
                start = time.perf_counter()
                found = contender(folder, overrides, slots)
                wall[name].append(time.perf_counter() - start)
                outcomes[name].append(found)
            logging = f", logging {found.logging_s:.1f} s of the driver" if found.logging_s else ""
            print(
                f"round {round_ + 1}: {name:8} {wall[name][-1]:7.1f} s, {len(found.mae_bpm)} points, "
                f"training {found.train_s:.1f} of {slots * wall[name][-1]:.1f} slot-seconds{logging}, "
                f"mean MAE {np.mean(list(found.mae_bpm.values())):.2f} BPM, load {os.getloadavg()[0]:.1f}",
                file=sys.stderr,
                flush=True,
            )
    median = {name: statistics.median(seconds) for name, seconds in wall.items()}
    ids = sorted(outcomes["kdsweep"][0].mae_bpm)
    mean = {
        name: np.mean([[found.mae_bpm[id] for id in ids] for found in outcomes[name]], axis=0)
        for name in names
    }
    figures: dict[str, Any] = {
        "median_wall_s": median,
        "rounds_wall_s": wall,
        "rounds_train_s": {name: [found.train_s for found in outcomes[name]] for name in names},
        "rounds_logging_s": {name: [found.logging_s for found in outcomes[name]] for name in names},
        "points": len(ids),
        "mean_mae_bpm": {name: float(values.mean()) for name, values in mean.items()},
    }
    if "floor" in names:
        figures["kdsweep_over_floor"] = median["kdsweep"] / median["floor"]
    if "naive" in names:
        figures["naive_over_kdsweep"] = median["naive"] / median["kdsweep"]
        # One seed, and two teachers that all distilled students share: `--same` says what this means.
        difference = mean["kdsweep"] - mean["naive"]
        figures["mae_difference_bpm"] = float(difference.mean())
        figures["mae_difference_standard_error"] = float(difference.std(ddof=1) / len(ids) ** 0.5)
    return figures


# do both reach the same error

SAME = (("resnet1d", 4, 6), ("resnet1d", 4, 16), ("mlp", 2, 32))


def same(overrides: list[str], seeds: int, slots: int) -> dict[str, Any]:
    """Students from scratch by both trainers, seed by seed: test MAE, their mean difference and its error."""
    with tempfile.TemporaryDirectory(prefix="kds-bench-") as scratch:
        folder = Path(scratch)
        space = opened(folder, overrides)
        points = {(p.arch, p.depth, p.width): p for p in space.plan.points if p.strategy == "scratch"}
        jobs = [
            (*where(space), dataclasses.replace(points[shape], seed=seed, id=f"{shape[0]}{shape[2]}-{seed}"))
            for shape in SAME
            for seed in range(seeds)
        ]
        with multiprocessing.get_context("spawn").Pool(slots) as pool:
            pairs = np.array(pool.map(by_both, jobs, chunksize=1)).reshape(len(SAME), seeds, 2)
    rows = {}
    for shape, pair in zip(SAME, pairs, strict=True):
        gap = pair[:, 0] - pair[:, 1]
        row = {"kdsweep": pair[:, 0].mean(), "naive": pair[:, 1].mean(), "difference": gap.mean()}
        row["standard_error"] = gap.std(ddof=1) / seeds**0.5
        name = "{} {}x{}".format(*shape)
        rows[name] = {key: float(value) for key, value in row.items()}
        print(name, {key: round(value, 2) for key, value in rows[name].items()}, file=sys.stderr, flush=True)
    return rows


def by_both(job: tuple[DataConfig, Path, Store, Any]) -> tuple[float, float]:
    """Test MAE of one point, trained by kdsweep and by the naive script."""
    data, cache_dir, store, point = job
    sys.path.insert(0, str(HERE))
    import naive_tune
    from ray import tune

    told: dict[str, float] = {}
    tune.report = told.update
    config = {
        "point": dataclasses.asdict(point),
        "data": {"source": data.source, "options": data.options},
        "cache": str(cache_dir),
        "folder": str(store.path),
    }
    _, figures = bare_point(job)
    naive_tune.train(config)
    return figures["mae_bpm"], told["mae_bpm"]


# where the gain comes from


def parts(overrides: list[str]) -> dict[str, Any]:
    """CPU seconds of a student's epoch, from the naive script's loop to ours, one change after the other."""
    with tempfile.TemporaryDirectory(prefix="kds-bench-") as scratch:
        folder = Path(scratch)
        space = opened(folder, [*overrides, "training.teachers.max_epochs=1"])
        teacher = min((p for p in space.plan.points if p.role == "teacher"), key=lambda p: p.cost_s)
        bare_point((*where(space), teacher))
        rows = {}
        students = [p for p in space.plan.points if p.teacher == teacher.id and p.strategy == "dkd"]
        chosen = {p.arch: p for p in sorted(students, key=lambda p: -p.params)}  # the smallest of each
        chosen |= {f"{p.arch} large": p for p in sorted(students, key=lambda p: p.params)}
        for name, point in chosen.items():
            row = {}
            for step, env in (
                ("naive", {}),
                ("cached teacher", {}),
                ("no DataLoader", {}),
                ("kdsweep's step", {}),
                ("allocator", worker_env(1)),
                ("engine", worker_env(1)),
            ):
                command = [sys.executable, __file__, "--part", step, str(folder), point.id, *overrides]
                path = f"{HERE.parents[1]}:{os.environ.get('PYTHONPATH', '')}"
                base = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=base | env)
                row[step] = float(done.stdout.split()[-1])
            rows[f"{name} {point.depth}x{point.width}"] = row
            print(name, {k: round(v, 3) for k, v in row.items()}, file=sys.stderr, flush=True)
        return rows


def part(step: str, folder: Path, id: str, overrides: list[str]) -> float:
    """CPU seconds of the fastest of three epochs of one variant, in this process."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    sys.path.insert(0, str(HERE))
    import naive_tune

    torch.set_num_threads(1)
    space = opened(folder, [*overrides, "training.teachers.max_epochs=1"])
    points = {p.id: p for p in space.plan.points}
    point, teacher = points[id], points[points[id].teacher or ""]
    data, batch = space.windows, point.recipe["batch_size"]
    if step in ("kdsweep's step", "allocator", "engine"):
        from kd.training.train import Run

        fields = {field.name for field in dataclasses.fields(Spec)} - {"recipe"}
        values = {k: v for k, v in dataclasses.asdict(point).items() if k in fields}
        one = Run(
            Spec(**values, recipe=Recipe(**point.recipe)),
            data,
            folder / "part",
            teacher_folder=space.store.folder(teacher.id),
            engine=compiled_engine() if step == "engine" else None,
        )

        def epoch() -> None:
            one.stack.epoch([0])
    else:
        plain, taught = (naive_tune.model_of(dataclasses.asdict(p)) for p in (point, teacher))
        taught.eval().requires_grad_(False)
        optimiser = torch.optim.AdamW(plain.parameters(), lr=1e-3)
        x, bpm = torch.tensor(data.train.x), torch.tensor(data.train.bpm)
        cached = [
            torch.tensor(np.load(space.store.folder(teacher.id) / f"{n}.npy")) for n in ("logits", "features")
        ]
        tables = (x, bpm) if step == "naive" else (x, bpm, *cached)
        loader = DataLoader(TensorDataset(*tables), batch_size=batch, shuffle=True, drop_last=True)

        def by_index() -> Any:
            order = torch.randperm(len(x))
            for i in range(len(x) // batch):
                index = order[i * batch : (i + 1) * batch]
                yield tuple(table[index] for table in tables)

        def epoch() -> None:
            plain.train()
            for windows, labels, *outputs in loader if step != "no DataLoader" else by_index():
                if not outputs:
                    with torch.no_grad():
                        outputs = taught(windows)
                settings = dataclasses.asdict(point)
                loss = naive_tune.loss_of(settings, plain(windows), tuple(outputs), labels, 1.0)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
                optimiser.step()
                loss.item()

    epoch()
    fastest = float("inf")
    for _ in range(3):
        start = time.process_time()
        epoch()
        fastest = min(fastest, time.process_time() - start)
    return fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of the space, as for kdsweep run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="few windows and epochs")
    parser.add_argument("--parts", action="store_true", help="where the gain comes from, instead")
    parser.add_argument("--same", type=int, metavar="SEEDS", help="errors of both trainers, instead")
    parser.add_argument("--without", nargs="+", choices=("naive", "floor"), default=[])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--floor", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.floor:
        bare_loop(Path(options.floor[0]), int(options.floor[1]), options.overrides)
        return
    if options.part:
        step, folder, id = options.part
        print(part(step, Path(folder), id, options.overrides))
        return
    overrides = [*GRID, *(SMALL if options.small else []), *options.overrides]
    if options.parts:
        figures: dict[str, Any] = {"epoch_cpu_s": parts(overrides)}
    elif options.same:
        figures = {"test_mae_bpm": same(overrides, options.same, options.slots)}
    else:
        names = [name for name in CONTENDERS if name not in options.without]
        figures = compare(options.rounds, overrides, options.slots, names)
        for name, value in figures.items():
            if isinstance(value, float):
                print(f"{name} {value:.3f}", file=sys.stderr)
    figures |= {
        "cpu": platform.processor() or platform.machine(),
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in ("torch", "ray", "mlflow", "numpy")},
    }
    if options.json:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
