"""What does each architecture reach with 5,000 and with 10,000 parameters on recordings of one's own?

    python tests/benchmarks/students.py recordings.npz [--folds 0 1] [--seeds 1] [--runs runs.jsonl]

From scratch and distilled by DKD from a `resnet1d` 6x16 of each fold; every student at the learning rate that
`wrist.yaml` has. Prints a Markdown table: parameters, multiply-adds, bytes of activations, test error (mean
over subjects, then over data sets, then folds and seeds), CPU seconds; and how far each architecture is from
`resnet1d-post` of its size, with the standard error over folds. --runs: what is there is not trained again,
and what is trained is added.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kd.models.sizes import size
from kd.signals.augment import Augment
from kd.signals.prepare import Data, DataConfig, prepare
from kd.signals.splits import Split
from kd.training.compiled import library
from kd.training.recipe import Recipe, Spec
from kd.training.train import Run

STUDENTS = [  # some 5,000 and some 10,000 parameters
    *[("resnet1d", 4, 9), ("resnet1d", 4, 13)],
    *[("resnet1d-post", 4, 9), ("resnet1d-post", 4, 13)],
    *[("tcn", 4, 11), ("tcn", 4, 16)],
    *[("dscnn", 6, 9), ("dscnn", 6, 16)],
    *[("mlp", 2, 12), ("mlp", 2, 24)],
]
RECIPE = Recipe(max_epochs=10, batch_size=32, lr=5e-3, windows_per_epoch=7000)
TEACHER = Spec(
    "teacher", "teacher", "resnet1d", 6, 16, recipe=replace(RECIPE, max_epochs=12, batch_size=64, lr=3e-3)
)
BESIDE = "resnet1d-post"
Runs = dict[tuple[Any, ...], dict[str, Any]]
STRATEGIES: dict[str, dict[str, Any]] = {"scratch": {}, "dkd": {"beta": 2.0}}


def train(spec: Spec, data: Data, folder: Path, teacher: Path | None) -> dict[str, float]:
    """Test error in BPM of one run, and the CPU seconds its training took."""
    run = Run(spec, data, folder, teacher_folder=teacher, engine=library())
    start = time.process_time()
    while run.step() is not None:
        pass
    seconds = time.process_time() - start
    by_dataset: dict[str, list[float]] = {}
    for subject, mae in run.finish()["mae_by_subject"].items():
        by_dataset.setdefault(subject.partition("/")[0], []).append(mae)
    return {"mae_bpm": statistics.fmean(map(statistics.fmean, by_dataset.values())), "seconds": seconds}


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["SPC-train", "BAMI-1"])
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = args.runs.read_text(encoding="utf-8").splitlines() if args.runs and args.runs.exists() else []
    runs: Runs = {tuple(row["key"]): row for row in map(json.loads, kept)}
    config = DataConfig(
        "auto", str(args.recordings), {"datasets": sorted(args.datasets)}, augment=Augment(copies=1)
    )
    with tempfile.TemporaryDirectory() as temporary:
        for fold in args.folds:
            data = prepare(replace(config, split=Split("kfold", fold=fold)), Path(temporary) / "cache")
            taught = Path(temporary) / f"teacher{fold}"
            for seed, shape, (strategy, more) in itertools.product(
                range(args.seeds), STUDENTS, STRATEGIES.items()
            ):
                if (key := (fold, seed, *shape, strategy)) in runs:
                    continue
                if not taught.exists():
                    mae = train(TEACHER, data, taught, None)["mae_bpm"]
                    print(f"fold {fold}: teacher {mae:.2f} BPM", flush=True)
                spec = Spec("s", "student", *shape, "random", strategy, more, "teacher", seed, RECIPE)
                with tempfile.TemporaryDirectory(dir=temporary) as folder:
                    runs[key] = {"key": key, **train(spec, data, Path(folder), taught)}
                if args.runs:
                    with args.runs.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(runs[key]) + "\n")
    print("| student | parameters | MACs | activations, B | scratch, BPM | dkd, BPM | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for shape in STUDENTS:
        of = {
            strategy: [
                runs[fold, seed, *shape, strategy] for fold in args.folds for seed in range(args.seeds)
            ]
            for strategy in STRATEGIES
        }
        errors = [f"{statistics.fmean(row['mae_bpm'] for row in rows):.2f}" for rows in of.values()]
        seconds = statistics.fmean(row["seconds"] for rows in of.values() for row in rows)
        s = size(*shape)
        print(
            f"| {shape[0]} {shape[1]}x{shape[2]} | {s.params:,} | {s.macs:,} | {s.activation_bytes:,} "
            f"| {' | '.join(errors)} | {seconds:.1f} |"
        )
    if len(args.folds) > 1:
        for arch in dict.fromkeys(shape[0] for shape in STUDENTS if shape[0] != BESIDE):
            print(f"{arch} - {BESIDE}: {apart(runs, arch, args.folds, args.seeds)}")


def apart(runs: Runs, arch: str, folds: list[int], seeds: int) -> str:
    """Mean difference to BESIDE over sizes, strategies and seeds, and its standard error over folds, BPM."""
    pairs = zip(*([s for s in STUDENTS if s[0] == name] for name in (arch, BESIDE)), strict=True)
    cells = list(itertools.product(pairs, range(seeds), STRATEGIES))
    found = [
        statistics.fmean(
            runs[fold, seed, *mine, strategy]["mae_bpm"] - runs[fold, seed, *other, strategy]["mae_bpm"]
            for (mine, other), seed, strategy in cells
        )
        for fold in folds
    ]
    return f"{statistics.fmean(found):+.2f} +- {statistics.stdev(found) / len(found) ** 0.5:.2f} BPM"


if __name__ == "__main__":
    main()
