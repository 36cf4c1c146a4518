"""What does an accelerometer give students of different sizes, and how shall it be scaled?

    python tests/benchmarks/accelerometer.py sizes recordings.npz [--folds 0 1 2] [--largest 100000]
    python tests/benchmarks/accelerometer.py scaling recordings.npz [--folds 0 1 2]

recordings.npz: wrist recordings with NAME/acc. By folds of subjects, students from scratch on the PPG alone
and with the accelerometer. sizes: four sizes, each with and without the tracker, and what they cost as
float32 C on a Cortex-M4F (RAM and flash of weights as the generator says, instructions by the law in
docs/firmware.md). scaling: one size, the accelerometer's axes or magnitude scaled by one constant, the RMS
over the training windows, as kdsweep does; z-scored by window; its amplitude in a logarithm; and with
dropout, tested with and without; all with and without stretched copies of recordings. Prints a Markdown
table: mean test error over folds, BPM, by window. --runs: what is there is not trained again, and what is
trained is added.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd.edge.c.instructions import Pipeline, known, per_window
from kd.edge.c.source import write_c
from kd.edge.export import preprocess_json
from kd.models.architectures import build
from kd.models.sizes import size
from kd.signals.augment import Augment
from kd.signals.prepare import Data, DataConfig, prepare
from kd.signals.preprocess import Preprocess
from kd.signals.splits import SIDES, Split
from kd.training.compiled import library
from kd.training.recipe import Recipe, Spec
from kd.training.train import Run

EPOCHS, COPIES = 10, 2
CORE = "m4"
SIZES = [("resnet1d", 4, 4), ("resnet1d", 4, 8), ("resnet1d", 6, 8), ("resnet1d", 8, 16)]
SIZES += [("spectra", 2, 5), ("spectra", 2, 10)]
# name -> what windows hold, and how their accelerometer is scaled
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "PPG alone": ({"acc": "xyz"}, "ppg"),
    "axes": ({"acc": "xyz"}, ""),
    "magnitude": ({"acc": "magnitude"}, ""),
    "axes, z-score by window": ({"acc": "xyz"}, "zscore"),
    "axes, log of amplitude": ({"acc": "xyz"}, "log"),
    "axes, dropout 0.3": ({"acc": "xyz", "acc_dropout": 0.3}, ""),
}
KEPT = ("mae_bpm", "mae_bpm_tracked", "mae_bpm_without_acc", "mae_by_dataset", "params", "train_seconds")
Shape = tuple[str, int, int]
Key = tuple[str, int, str, int, int, int]  # way, copies, shape, fold


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


def train(key: Key, recordings: Path, temporary: Path) -> dict[str, Any]:
    """The figures of one run."""
    way, copies, *shape, fold = key
    windows, how = WAYS[way]
    config = DataConfig(
        source="auto",
        path=str(recordings),
        preprocess=Preprocess(**windows),
        split=Split("kfold", fold=fold),
        augment=Augment(copies=copies),
    )
    data = otherwise(prepare(config, temporary / "cache"), how)
    recipe = Recipe(max_epochs=EPOCHS, channels="ppg" if how == "ppg" else "")
    folder = temporary / "-".join(map(str, key))
    run = Run(Spec("s", "student", *shape, recipe=recipe), data, folder, engine=library())
    while run.step() is not None:
        pass
    found = run.finish()
    kept = {name: found[name] for name in KEPT if name in found}
    return kept | {"mae_by_dataset_tracked": by_dataset(found["mae_by_subject_tracked"], data)}


def by_dataset(errors: dict[str, float], data: Data) -> dict[str, float]:
    """Errors by subject as errors by data set, all windows alike."""
    subject, dataset = data.test.subject, data.test.dataset
    return {
        str(name): float(np.mean([errors[str(s)] for s in subject[dataset == name]]))
        for name in np.unique(dataset)
    }


def keys(what: str, folds: list[int], shapes: list[Shape]) -> Iterator[Key]:
    """What is trained, fold by fold, so that a table can be had of the first folds."""
    for fold in folds:
        if what == "sizes":
            for shape, way in itertools.product(shapes, ("PPG alone", "axes")):
                yield way, COPIES, *shape, fold
        else:
            for copies, way in itertools.product((0, COPIES), WAYS):
                yield way, copies, "resnet1d", 4, 6, fold


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["sizes", "scaling"])
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--largest", type=int, default=20_000, help="parameters; of 60,000 training takes long"
    )
    parser.add_argument("--archs", nargs="+", default=sorted({arch for arch, *_ in SIZES}))
    parser.add_argument("--runs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = args.runs.read_text(encoding="utf-8").splitlines() if args.runs and args.runs.exists() else []
    runs = {tuple(row["key"]): row for row in map(json.loads, kept)}
    shapes = [s for s in SIZES if s[0] in args.archs and size(*s).params <= args.largest]
    with tempfile.TemporaryDirectory() as temporary:
        for key in keys(args.what, args.folds, shapes):
            if key in runs:
                continue
            row = {"key": key, **train(key, args.recordings, Path(temporary))}
            runs[key] = row
            print(row, flush=True)
            if args.runs:
                with args.runs.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    table = of_scaling(runs, args.folds) if args.what == "scaling" else of_sizes(runs, args.folds, shapes)
    print("\n".join(table))


def of_sizes(runs: dict[Any, dict[str, Any]], folds: list[int], shapes: list[Shape]) -> Iterator[str]:
    """A row a size: errors of the four ways, and costs without and with the accelerometer."""
    heads = "PPG alone", "+ tracker", "+ accelerometer", "+ both", "RAM, kB", "flash, kB", "instructions"
    yield "| student | " + " | ".join(heads) + " |"
    yield "|" + "---|" * (1 + len(heads))
    for shape in shapes:
        cells, costs = [], []
        for way in ("PPG alone", "axes"):
            rows = [runs[way, COPIES, *shape, fold] for fold in folds]
            cells += [_mean(rows, "mae_bpm"), _mean(rows, "mae_bpm_tracked")]
            costs.append(_costs(shape, WAYS[way]))
        params = " and ".join(
            f"{runs[way, COPIES, *shape, folds[0]]['params']:,}" for way in ("PPG alone", "axes")
        )
        spent = [" / ".join(pair) for pair in zip(*costs, strict=True)]
        yield f"| {shape[0]} {shape[1]}x{shape[2]}, {params} | " + " | ".join([*cells, *spent]) + " |"


def of_scaling(runs: dict[Any, dict[str, Any]], folds: list[int]) -> Iterator[str]:
    """A row a way: errors without and with copies."""
    yield f"| windows hold | no copies | {COPIES} copies |"
    yield "|---|---|---|"
    for way in WAYS:
        cells = []
        for copies in (0, COPIES):
            rows = [runs[way, copies, "resnet1d", 4, 6, fold] for fold in folds]
            without = _mean(rows, "mae_bpm_without_acc") if "mae_bpm_without_acc" in rows[0] else ""
            cells.append(_mean(rows, "mae_bpm") + (f"; without it {without}" if without else ""))
        yield f"| {way} | " + " | ".join(cells) + " |"


def _mean(rows: list[dict[str, Any]], name: str) -> str:
    """Of folds; by data set, too, where it is kept."""
    text, each = f"{statistics.fmean(row[name] for row in rows):.2f}", name.replace("_bpm", "_by_dataset")
    if each not in rows[0]:
        return text
    sets = sorted({s for row in rows for s in row[each]})
    by = (statistics.fmean(r[each][s] for r in rows if s in r[each]) for s in sets)
    return f"{text} ({', '.join(f'{s} {v:.2f}' for s, v in zip(sets, by, strict=True))})"


def _costs(shape: Shape, way: tuple[dict[str, Any], str]) -> tuple[str, str, str]:
    """RAM and flash in kB, and instructions of a window, of a student in float32 C; dashes if it has none."""
    if not known(shape[0]):
        return "–", "–", "–"
    preprocess = Preprocess() if way[1] == "ppg" else Preprocess(**way[0])
    channels = 1 + preprocess.axes
    model = build(*shape, channels=channels).eval()
    config = preprocess_json(DataConfig(preprocess=preprocess), channels, 1.0 if preprocess.axes else None)
    with tempfile.TemporaryDirectory() as folder:
        said = write_c(model, shape[0], config, 1, "A student", Path(folder))
    instructions = per_window(*shape, Pipeline.of(config, 1), CORE)
    ram = said["arena_bytes"] + said["state_bytes"]
    return f"{ram / 1000:.1f}", f"{said['constant_bytes'] / 1000:.1f}", f"{instructions / 1e6:.2f} M"


if __name__ == "__main__":
    main()
