"""Are students pruned from their teacher better, at equal epochs and at equal total compute?

    python tests/benchmarks/inits.py [--seeds 3] [--epochs 4 12]

One ResNet teacher on synthetic recordings; students of its depth, from scratch and by soft distillation.
Inits are compared with as many epochs each, and with what `random` reaches when the seconds that the
teacher took are spent on the student instead ("+ teacher"). Prints a Markdown table of mean and standard
deviation over seeds.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kd.models import inits
from kd.models.sizes import size
from kd.signals.prepare import Data, DataConfig, prepare
from kd.training.recipe import Recipe, Spec
from kd.training.train import Run

DATA = DataConfig(source="synthetic", options={"subjects": 48, "minutes": 4})
RECIPE = Recipe(max_epochs=16, batch_size=64, lr=4e-3)
TEACHER = Spec(id="teacher", role="teacher", arch="resnet1d", depth=4, width=24, recipe=RECIPE)


def train(spec: Spec, data: Data, folder: Path, teacher: Path | None = None) -> tuple[dict[str, Any], float]:
    """Figures of one run, and the CPU seconds its training took (other load doesn't count)."""
    start = time.process_time()
    run = Run(spec, data, folder, teacher_folder=teacher)
    while run.step() is not None:
        pass
    return run.finish(), time.process_time() - start


def main() -> None:
    """Train everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 12])
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        data = prepare(DATA, base / "cache")
        result, teacher_seconds = train(TEACHER, data, base / "teacher")
        print(f"teacher {result['params']:,} params, {result['mae_bpm']:.2f} BPM, {teacher_seconds:.0f} s\n")
        print("| width | params | strategy | init | epochs | MAE, BPM | student s | with teacher s |")
        print("|---|---|---|---|---|---|---|---|")
        for width in args.widths:
            for strategy in ("scratch", "soft"):
                for epochs in args.epochs:
                    per_epoch = 0.0
                    for init in inits.INITS:
                        needs = inits.needs_teacher(init) or strategy != "scratch"
                        runs = [
                            _student(data, base, width, strategy, init, epochs, s) for s in range(args.seeds)
                        ]
                        seconds = statistics.mean(t for _, t in runs)
                        if init == "random":
                            per_epoch = seconds / epochs
                        print_row(width, strategy, init, epochs, runs, teacher_seconds if needs else 0.0)
                    if strategy == "scratch":
                        longer = epochs + round(teacher_seconds / per_epoch)
                        runs = [
                            _student(data, base, width, strategy, "random", longer, s)
                            for s in range(args.seeds)
                        ]
                        print_row(width, strategy, "random + teacher", longer, runs, 0.0)


def _student(
    data: Data, base: Path, width: int, strategy: str, init: str, epochs: int, seed: int
) -> tuple[dict[str, Any], float]:
    spec = replace(
        TEACHER,
        id="student",
        role="student",
        width=width,
        init=init,
        strategy=strategy,
        teacher="teacher",
        seed=seed,
        recipe=replace(RECIPE, max_epochs=epochs),
    )
    with tempfile.TemporaryDirectory(dir=base) as folder:
        return train(spec, data, Path(folder), base / "teacher")


def print_row(
    width: int,
    strategy: str,
    init: str,
    epochs: int,
    runs: list[tuple[dict[str, Any], float]],
    teacher_s: float,
) -> None:
    """One line of the table."""
    maes = [figures["mae_bpm"] for figures, _ in runs]
    spread = f" ± {statistics.stdev(maes):.2f}" if len(maes) > 1 else ""
    seconds = statistics.mean(t for _, t in runs)
    params = size(TEACHER.arch, TEACHER.depth, width).params
    print(
        f"| {width} | {params:,} | {strategy} | {init} | {epochs} | {statistics.mean(maes):.2f}{spread} "
        f"| {seconds:.1f} | {seconds + teacher_s:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
