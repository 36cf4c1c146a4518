"""A teacher brought from elsewhere against the same teacher trained in the sweep; what a large one takes.

    python tests/benchmarks/bring.py /data/ppg.npz --teacher 8x32 --folds 0
    python tests/benchmarks/bring.py /data/ppg.npz --encoder Encoder6M --folds 0 1 2 3 4

Without --encoder, a ResNet trained in a sweep becomes an ONNX file and teaches in another one: how far are
its students from those of the first? For comparison: the point itself, brought; the same outputs as files,
bit for bit; and those outputs with every number moved by one unit in the last place.

With it, a class of docs/teachers/ports.py with random weights teaches, through a probe: what does that take?

The file is one of `kd.datasets.recordings_npz`. Options as of unlabelled.py; tables in Markdown on stdout.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd.edge.onnxfile import write_onnx
from kd.signals.whole import rows_of, wholes
from kd.teachers.ready import write_index
from kd.training.train import load_model
from orchestrator.space.resolve import Opened

sys.path.insert(0, str(Path(__file__).resolve().parent))

from unlabelled import FOLDS, RECIPE, Options, Result, cpu_of, options_of, parser_of, teachers_of, trained

PORTS = Path(__file__).resolve().parents[2] / "docs" / "teachers" / "ports.py"
STRATEGIES: dict[str, Any] = {"hard": None, "soft": None, "dkd": {"beta": 2}}
GOAL = 1e-5  # of students' logits
SAME, MOVED = "the same outputs, ready", "the same, each moved by one unit in the last place"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print."""
    parser = parser_of(__doc__, teacher="8x32")
    parser.add_argument("--encoder", help="a class of docs/teachers/ports.py")
    parser.add_argument("--precision", default="float32", help="of the encoder's pass")
    with options_of(parser, arguments) as options:
        if options.encoder:
            _print_encoder(options)
        else:
            _print_ways(options)


def _data(options: Options, folds: Sequence[int]) -> dict[str, Any]:
    return {
        "source": "auto",
        "path": str(options.data),
        "options": {"datasets": sorted(options.wrist)},
        "split": {"scheme": "kfold", "folds": FOLDS, "use": list(folds)},
    }


def _print_ways(options: Options) -> None:
    """Students of a teacher trained here, and of the same brought in several ways, in one fold."""
    fold, training = options.folds[0], RECIPE | {"max_epochs": options.epochs}
    grid = {"arch": "resnet1d", "depth": options.teacher[0], "width": options.teacher[1]}
    data, how = _data(options, [fold]), {"strategies": STRATEGIES, "training": training}
    here = trained(options, "here", data, [grid], **how, seeds=[0, 1])
    (teacher,) = teachers_of(here)
    said = np.load(here.store.folder(teacher["id"]) / "logits.npy")
    x = torch.from_numpy(np.array(here.of_fold(fold).windows.test.x))
    mine = {_key(r): r for r in _students(here) if r["seed"] == 0}
    print(f"\nA ResNet {options.teacher[0]}x{options.teacher[1]}, brought. Largest difference of logits:\n")
    print(f"| way | teacher | students, median | most | within {GOAL:g} | MAE of a student, most, BPM |")
    print("|---|---|---|---|---|---|")
    for way, (name, brought) in _ways(options, here, fold, said).items():
        there = trained(options, name, data, [brought], **how)
        (other,) = teachers_of(there)
        if name == "file":
            brought_s = cpu_of(there)["teacher"]
        off = np.abs(np.load(there.store.folder(other["id"]) / "logits.npy") - said).max()
        gaps, errors = [], []
        for result in _students(there):
            one = mine[_key(result)]
            with torch.inference_mode():
                a, b = (_model(s, fold, r)(x)[0] for s, r in ((here, one), (there, result)))
            gaps.append(float((a - b).abs().max()))
            errors.append(abs(one["mae_bpm"] - result["mae_bpm"]))
            print(f"{way}: {_key(result)}: {gaps[-1]:.1e}", file=sys.stderr)
        within = f"{sum(gap <= GOAL for gap in gaps)} of {len(gaps)}"
        cells = [f"{number:.1e}" for number in (off, statistics.median(gaps), max(gaps))]
        print(f"| {way} | {' | '.join(cells)} | {within} | {max(errors):.1e} |", flush=True)
    seeds = [abs(mine[_key(r)]["mae_bpm"] - r["mae_bpm"]) for r in _students(here) if r["seed"] == 1]
    print(f"\nAnother seed changes the MAE of a student by {statistics.median(seeds):.2f} BPM, median.")
    took = cpu_of(here)
    print(
        f"CPU seconds: the teacher trained here {took['teacher']:.1f}, as an ONNX file {brought_s:.1f}; "
        f"{len(_students(here))} students {took['student']:.1f}."
    )


def _ways(
    options: Options, here: Opened, fold: int, said: np.ndarray
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name of the sweep and entry of its teacher, by way of bringing it. said: its logits in training."""
    (teacher,) = teachers_of(here)
    file = options.out / "teacher.onnx"
    if not file.exists():  # its hash is in the points' ids
        write_onnx(_model(here, fold, teacher), file, *here.of_fold(fold).windows.train.x.shape[1:])
    p = here.data.preprocess
    takes = {"fs": p.fs, "window_s": p.window_s, "band_hz": [p.low_hz, p.high_hz], "order": p.order}
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "ONNX file": ("file", {"name": "file", "onnx": str(file), "input": takes}),
        "sweep and point": (
            "point",
            {"name": "earlier", "sweep": str(here.store.path), "point": teacher["id"]},
        ),
    }
    up = np.random.default_rng(0).random(said.shape) < 0.5
    moved = np.nextafter(said, np.where(up, np.inf, -np.inf).astype(np.float32))
    config = here.of_fold(fold).data
    rows, _ = rows_of(wholes(config, here.cache_dir), config, here.cache_dir)
    for way, name, logits in ((SAME, "same", said), (MOVED, "moved", moved)):
        folder = options.out / f"ready-{name}"
        folder.mkdir(exist_ok=True)
        n = write_index(config, here.cache_dir, folder / "windows.parquet")
        everything = np.zeros((n, said.shape[1]), np.float32)  # students see those of training windows alone
        everything[rows["train"]] = logits
        np.save(folder / "logits.npy", everything)
        ways[way] = (name, {"name": "ready", "outputs": str(folder)})
    return ways


def _model(space: Opened, fold: int, result: Result) -> torch.nn.Module:
    windows = space.of_fold(fold).windows
    channels, samples = windows.train.x.shape[1:]
    shape = {key: result[key] for key in ("arch", "depth", "width")}
    folder = space.store.folder(result["id"])
    return load_model(folder, **shape, channels=channels, samples=samples, classes=windows.classes)


def _students(space: Opened) -> list[Result]:
    return [r for r in space.store.results() if r["role"] == "student"]


def _key(result: Result) -> tuple[Any, ...]:
    return (result["arch"], result["depth"], result["width"], result["strategy"])


def _print_encoder(options: Options) -> None:
    """What a port of the size of a foundation model takes."""
    entry = {"name": "encoder", "port": f"{PORTS}:{options.encoder}", "input": {"band_hz": [0.5, 12]}}
    data, training = _data(options, options.folds), RECIPE | {"max_epochs": options.epochs}
    teachers, strategies = (
        [{**entry, "output": "embedding", "precision": options.precision}],
        STRATEGIES | {"feature": None},
    )
    space = trained(options, "encoder", data, teachers, strategies=strategies, training=training)
    teacher, *_ = teachers_of(space)
    windows = sum(len(getattr(space.windows, side)) for side in ("train", "val", "test"))
    took = cpu_of(space)
    taught, students = took["teacher"], took["student"]
    print(f"\n{options.encoder}: {teacher['params']:,} parameters, {teacher['macs'] or 0:,} MACs a window.")
    print(
        f"CPU seconds: teachers of {len(options.folds)} folds {taught:.1f}, for one pass over {windows:,} "
        f"windows and a probe each; {len(_students(space))} students {students:.1f}.\n"
        f"MAE in BPM, means: probes {_error(teachers_of(space)):.2f}, "
        f"students {_error(_students(space)):.2f}."
    )


def _error(results: Sequence[Result]) -> float:
    return statistics.fmean(r["mae_bpm"] for r in results)


if __name__ == "__main__":
    main()
