"""Students of real wrists with a tracker behind them: what a memory gives, what it costs, how sure it is.

    python tests/benchmarks/tracker.py /data/ppg.npz --folds 0 1 2 3 4

The file is one of `kd.datasets.recordings_npz`; students are of the sets --wrist. Each is trained in this
process as a worker does, with recipe and augmentation of search_spaces/wrist.yaml, into --out; what is done
there is not done again. On stdout, in Markdown: for each student, over folds, the
error of single windows and with the tracker (means over subjects, data sets alike), of smoothing (over
windows), the step response, the coverage of 90 % intervals, the error of the windows it is sure of, and the
CPU time of fitting and measuring the tracker beside that of training; then risk and coverage.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from kd.edge.c_tracker import count
from kd.files import read_json, write_json
from kd.signals.augment import Augment
from kd.signals.prepare import Data, DataConfig, prepare
from kd.signals.splits import Split
from kd.training import tracking
from kd.training.compiled import Unavailable, library
from kd.training.recipe import Recipe, Spec
from kd.training.teacher import as_tensor, batches
from kd.training.train import Run, load_model
from orchestrator.store.metric import error_of

FOLDS = 5
# Of search_spaces/wrist.yaml
RECIPE: dict[str, Any] = {
    "batch_size": 32,
    "lr": 5.0e-3,
    "windows_per_epoch": 14_000,
    "stop_on": "by-subject",
}
COPIES = 3
ANSWERED = (0.25, 0.5, 0.75, 1.0)
Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--wrist", nargs="+", default=["SPC-train", "BAMI-1"])
    parser.add_argument("--folds", type=int, nargs="+", default=[0], choices=range(FOLDS))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--students", nargs="+", default=["4x4", "4x9", "4x13"], help="DEPTHxWIDTH")
    parser.add_argument("--arch", default="resnet1d")
    parser.add_argument("--target", help="count the first student's tracker on this emulated processor: m4")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        shapes = [tuple(map(int, shape.split("x"))) for shape in args.students]
        found: dict[tuple[int, ...], list[Result]] = {shape: [] for shape in shapes}
        for fold in args.folds:
            config = DataConfig(
                "auto",
                str(args.data),
                {"datasets": args.wrist},
                split=Split(scheme="kfold", folds=FOLDS, fold=fold),
                augment=Augment(copies=COPIES),
            )
            data = prepare(config, out / "cache")
            for shape in shapes:
                folder = out / f"{args.arch}-{shape[0]}x{shape[1]}-{args.epochs}-fold{fold}"
                found[shape].append(_point(args.arch, shape, args.epochs, data, folder))
        print_tables(found)
        if args.target:
            tracker = found[shapes[0]][0]["tracker"]
            c = count({"tracker": tracker, "class_centres_bpm": list(range(30, 210))}, args.target)
            print(
                f"\nThe tracker in C on {c['cpu']}: {c['instructions']:,} instructions a window, "
                f"{c['state_bytes']:,} bytes of RAM, off by {c['off_bpm']:.1e} BPM."
            )


def _point(arch: str, shape: tuple[int, ...], epochs: int, data: Data, folder: Path) -> Result:
    """A student's result with its tracker's curves, from its folder or trained into it."""
    path = folder / "result.json"
    if not path.exists():
        started = time.process_time()
        recipe = Recipe(max_epochs=epochs, **RECIPE)
        run = Run(Spec(folder.name, "student", arch, *shape, recipe=recipe), data, folder, engine=_engine())
        while run.step():
            pass
        result = run.finish()
        result["cpu_s"] = time.process_time() - started
        write_json(path, result | _alone(arch, shape, data, folder))
        print(f"{folder.name}: {result['cpu_s']:.1f} s", file=sys.stderr, flush=True)
    return read_json(path) | read_json(folder / tracking.FILE)


def _alone(arch: str, shape: tuple[int, ...], data: Data, folder: Path) -> dict[str, float]:
    """CPU seconds that the tracker took of a point's, by doing it again."""
    channels, samples = data.test.x.shape[1:]
    sizes = {"channels": channels, "samples": samples, "classes": data.classes}
    model = load_model(folder, arch=arch, depth=shape[0], width=shape[1], **sizes)
    test = torch.cat([part for part, _ in batches(model, as_tensor(data.test.x))]).numpy()
    started = time.process_time()
    val = torch.cat([part for part, _ in batches(model, as_tensor(data.val.x))]).numpy()
    passed = time.process_time()
    config = tracking.fit(data.train, data.val, val, data.min_bpm)
    assert config is not None
    fitted = time.process_time()
    tracking.measure(config, data.test, test, data.min_bpm)
    done = time.process_time()
    return {"pass_s": passed - started, "fit_s": fitted - passed, "measure_s": done - fitted}


def _engine() -> Any:
    try:
        return library()
    except Unavailable as why:
        print(f"{why}: torch trains", file=sys.stderr)
        return None


def print_tables(found: Mapping[tuple[int, ...], Sequence[Result]]) -> None:
    """Means over folds; medians of the step response, in which a dash is longer than was looked at."""
    print(
        "| student | parameters | MAE | tracked | over windows: MAE, tracked, smoothed | 63 % of a step | "
        "5 BPM from it | in 90 % interval | the same, tracked | unsure | MAE when sure | CPU of tracker |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for (depth, width), results in found.items():
        mine = [r["pass_s"] + r["fit_s"] + r["measure_s"] for r in results]
        cells = [
            f"{depth}x{width}",
            f"{results[0]['params']:,}",
            _mean([error_of(r, "by-subject") for r in results]),
            _mean([error_of(r, "tracked-by-subject") for r in results]),
            ", ".join(
                _mean([r[key] for r in results]) for key in ("mae_bpm", "mae_bpm_tracked", "mae_bpm_smoothed")
            ),
            _late([r["step_63_s"] for r in results]),
            _late([r["step_5_bpm_s"] for r in results]),
            _mean([100 * r["coverage_90"] for r in results], ".0f") + " %",
            _mean([100 * r["coverage_90_tracked"] for r in results], ".0f") + " %",
            _mean([100 * r["unsure"] for r in results], ".0f") + " %",
            _mean([r["tracked"]["mae_bpm_sure"] for r in results]),
            f"{fmean(mine):.2f} of {fmean(r['cpu_s'] for r in results):.1f} s",
        ]
        print(f"| {' | '.join(cells)} |")
    print(
        "\n| MAE of the share answered, the surest first | " + " | ".join(f"{n:.0%}" for n in ANSWERED) + " |"
    )
    print("|---|" + "---|" * len(ANSWERED))
    for (depth, width), results in found.items():
        for which in ("window", "tracked"):
            curves = [np.array(r[which]["risk"]).T for r in results]
            risks = (_mean([float(np.interp(n, *curve)) for curve in curves]) for n in ANSWERED)
            print(f"| {depth}x{width} {which} | {' | '.join(risks)} |")


def _mean(values: Sequence[float], form: str = ".2f") -> str:
    return format(fmean(values), form)


def _late(seconds: Sequence[float | None]) -> str:
    middle = float(np.median([np.inf if s is None else s for s in seconds]))
    return f"{middle:g} s" if np.isfinite(middle) else "–"


if __name__ == "__main__":
    main()
