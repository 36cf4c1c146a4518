"""What does an accelerometer give a small student, and how shall it be scaled?

    python tests/benchmarks/accelerometer.py recordings.npz [--folds 0 1 2 3 4] [--runs runs.jsonl]

recordings.npz: wrist recordings with NAME/acc. By folds of subjects, a ResNet 4x6 from scratch on the PPG
alone; with the accelerometer's axes or magnitude scaled by one constant, the RMS over the training windows,
as kdsweep does; with axes whose windows are z-scored, or whose amplitude is put into a logarithm; and with
dropout, tested with and without. Each with and without stretched copies. Prints a Markdown table: mean test
error over folds, BPM, by window. --runs: what is there is not trained again, and what is trained is added.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd.signals.augment import Augment
from kd.signals.prepare import Data, DataConfig, prepare
from kd.signals.preprocess import Preprocess
from kd.signals.splits import SIDES, Split
from kd.training.compiled import library
from kd.training.recipe import Recipe, Spec
from kd.training.train import Run

DEPTH, WIDTH = 4, 6
EPOCHS = 10
# name -> what windows hold, and how their accelerometer is scaled
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "PPG alone": ({"acc": "xyz"}, "ppg"),
    "axes": ({"acc": "xyz"}, ""),
    "magnitude": ({"acc": "magnitude"}, ""),
    "axes, z-score per window": ({"acc": "xyz"}, "zscore"),
    "axes, log of amplitude": ({"acc": "xyz"}, "log"),
    "axes, dropout 0.3": ({"acc": "xyz", "acc_dropout": 0.3}, ""),
}


def otherwise(data: Data, how: str) -> Data:
    """The windows with their accelerometer scaled in another way."""
    if how not in ("zscore", "log"):
        return data

    def of(x: np.ndarray) -> np.ndarray:
        x = np.array(x)
        acc = x[:, -data.axes :]
        rms = np.maximum(np.sqrt(np.square(acc).mean((1, 2), keepdims=True)), 1e-6)
        acc /= np.maximum(acc.std(-1, keepdims=True), 1e-6) if how == "zscore" else rms / np.log1p(3 * rms)
        return x

    sides = {side: getattr(data, side) for side in SIDES}
    return replace(data, **{side: replace(windows, x=of(windows.x)) for side, windows in sides.items()})


def train(config: DataConfig, how: str, folder: Path, cache: Path) -> dict[str, Any]:
    """The figures of one run."""
    data = otherwise(prepare(config, cache), how)
    recipe = Recipe(max_epochs=EPOCHS, channels="ppg" if how == "ppg" else "")
    run = Run(Spec("s", "student", "resnet1d", DEPTH, WIDTH, recipe=recipe), data, folder, engine=library())
    while run.step() is not None:
        pass
    found = run.finish()
    return {k: found[k] for k in ("mae_bpm", "mae_bpm_without_acc", "mae_by_dataset", "params") if k in found}


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--copies", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--runs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = args.runs.read_text(encoding="utf-8").splitlines() if args.runs and args.runs.exists() else []
    runs = {tuple(row["key"]): row for row in map(json.loads, kept)}
    with tempfile.TemporaryDirectory() as temporary:
        for fold in args.folds:
            for copies in args.copies:
                for name, (windows, how) in WAYS.items():
                    if (key := (name, copies, fold)) in runs:
                        continue
                    config = DataConfig(
                        source="auto",
                        path=str(args.recordings),
                        preprocess=Preprocess(**windows),
                        split=Split("kfold", fold=fold),
                        augment=Augment(copies=copies),
                    )
                    folder = Path(temporary) / f"{name} {copies} {fold}"
                    row = {"key": key, **train(config, how, folder, Path(temporary) / "cache")}
                    runs[key] = row
                    print(row, flush=True)
                    if args.runs:
                        with args.runs.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
    print("| windows | " + " | ".join(f"{n} copies" for n in args.copies) + " |")
    print("|---|" + "---|" * len(args.copies))
    for name in WAYS:
        print(f"| {name} | " + " | ".join(_cell(runs, name, n, args.folds) for n in args.copies) + " |")


def _cell(runs: dict[Any, dict[str, Any]], name: str, copies: int, folds: list[int]) -> str:
    """The mean over folds, by data set in brackets, and without the accelerometer where that was tested."""
    rows = [runs[name, copies, fold] for fold in folds]

    def mean(key: str) -> float:
        return statistics.fmean(row[key] for row in rows)

    sets = sorted({s for row in rows for s in row["mae_by_dataset"]})
    by = {s: statistics.fmean(r["mae_by_dataset"][s] for r in rows if s in r["mae_by_dataset"]) for s in sets}
    without = (
        f"; without it {mean('mae_bpm_without_acc'):.2f}"
        if all("mae_bpm_without_acc" in row for row in rows)
        else ""
    )
    return f"{mean('mae_bpm'):.2f} ({', '.join(f'{s} {v:.2f}' for s, v in by.items())}{without})"


if __name__ == "__main__":
    main()
