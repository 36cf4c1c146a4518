"""What do blocks whose norms all fold cost in error? `resnet1d-post` beside `resnet1d`.

    python tests/benchmarks/post_activation.py [--seeds 4] [--widths 4 8 16] [--runs runs.jsonl]

Data and recipes of search_spaces/quickstart.yaml, from scratch and distilled by DKD from a `resnet1d` 6x16 of
each fold. Prints a Markdown table: mean test error over folds and seeds, and the difference of pairs of equal
width, strategy, fold and seed, with the standard error of its mean. --runs: what is there is not trained
again, and what is trained is added.
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
from kd.signals.prepare import DataConfig, prepare
from kd.signals.splits import Split
from kd.training.compiled import library
from kd.training.recipe import Recipe, Spec
from kd.training.train import Run

DATA = DataConfig(source="synthetic", options={"subjects": 48, "minutes": 4})
RECIPE = Recipe(max_epochs=14, batch_size=64, lr=4e-3)
TEACHER = Spec("teacher", "teacher", "resnet1d", 6, 16, recipe=replace(RECIPE, max_epochs=24, lr=3e-3))
ARCHS, DEPTH = ("resnet1d", "resnet1d-post"), 4
STRATEGIES: dict[str, dict[str, Any]] = {"scratch": {}, "dkd": {"beta": 2.0}}


def train(spec: Spec, data: Any, folder: Path, teacher: Path | None) -> dict[str, Any]:
    """Test error in BPM of one run, and the CPU seconds its training took."""
    start = time.process_time()
    run = Run(spec, data, folder, teacher_folder=teacher, engine=library())
    while run.step() is not None:
        pass
    mae = run.finish()["mae_bpm"]
    return {"mae_bpm": mae, "seconds": time.process_time() - start}


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--runs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = args.runs.read_text(encoding="utf-8").splitlines() if args.runs and args.runs.exists() else []
    runs = {tuple(row["key"]): row for row in map(json.loads, kept)}
    with tempfile.TemporaryDirectory() as temporary:
        for fold in args.folds:
            data = prepare(replace(DATA, split=Split("kfold", folds=4, fold=fold)), Path(temporary) / "cache")
            taught = Path(temporary) / f"teacher{fold}"
            for seed, width, (strategy, more), arch in itertools.product(
                range(args.seeds), args.widths, STRATEGIES.items(), ARCHS
            ):
                if (key := (fold, seed, width, strategy, arch)) in runs:
                    continue
                if not taught.exists():
                    print(f"fold {fold}: teacher {train(TEACHER, data, taught, None)['mae_bpm']:.2f} BPM")
                spec = Spec(
                    "s", "student", arch, DEPTH, width, "random", strategy, more, "teacher", seed, RECIPE
                )
                with tempfile.TemporaryDirectory(dir=temporary) as folder:
                    runs[key] = {"key": key, **train(spec, data, Path(folder), taught)}
                if args.runs:
                    with args.runs.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(runs[key]) + "\n")
    print("| width | params | strategy | pre, BPM | post, BPM | post - pre | post better | CPU s pre, post |")
    print("|---|---|---|---|---|---|---|---|")
    for width, strategy in itertools.product(args.widths, STRATEGIES):
        pairs = [
            [runs[fold, seed, width, strategy, arch] for arch in ARCHS]
            for fold, seed in itertools.product(args.folds, range(args.seeds))
        ]
        print_row(width, strategy, pairs)


def print_row(width: int, strategy: str, pairs: list[list[dict[str, Any]]]) -> None:
    """One line of the table."""
    pre, post = ([pair[i]["mae_bpm"] for pair in pairs] for i in (0, 1))
    seconds = [statistics.mean(pair[i]["seconds"] for pair in pairs) for i in (0, 1)]
    apart = [b - a for a, b in zip(pre, post, strict=True)]
    error = statistics.stdev(apart) / len(apart) ** 0.5
    params = " and ".join(f"{size(arch, DEPTH, width).params:,}" for arch in ARCHS)
    print(
        f"| {width} | {params} | {strategy} | {statistics.mean(pre):.2f} | {statistics.mean(post):.2f} "
        f"| {statistics.mean(apart):+.2f} ± {error:.2f} | {sum(d < 0 for d in apart)} of {len(apart)} "
        f"| {seconds[0]:.1f}, {seconds[1]:.1f} |"
    )


if __name__ == "__main__":
    main()
