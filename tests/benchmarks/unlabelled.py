"""Students of wrist recordings whose labels were thrown away: how much of the lost accuracy comes back?

    python tests/benchmarks/unlabelled.py /data/ppg.npz --parts labels finger pretrain --folds 0 1 2

The file is one of `kd.datasets.recordings_npz`; students are of the sets --wrist. Parts:

- labels: the labels of three quarters of the training subjects are thrown away. Their recordings are gone, or
  kept as data.unlabelled.
- finger: the sets --finger as data.unlabelled, besides all labels: a sensor elsewhere.
- pretrain: the teacher pre-trained by contrast or not, with a quarter and with all of the labels.

All arms take equally many steps. Sweeps are trained one point after another in this process, as a worker
does, into --out; what is done there is not done again. Tables in Markdown on stdout.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kd.edge.export import write_recordings
from kd.recordings import Recording
from kd.signals.prepare import DataConfig, load_recordings, prepare
from kd.signals.splits import Split
from kd.signals.windows import subject_label
from orchestrator.run.worker import PackTrainer, Setup
from orchestrator.space.packs import Pack
from orchestrator.space.plan import Point
from orchestrator.space.resolve import Opened, open_space

PARTS = ("labels", "finger", "pretrain")
FOLDS = 5  # of which --folds are trained
KEPT = 0.25  # of the training subjects: those whose labels are not thrown away
# of search_spaces/wrist.yaml
RECIPE = {"batch_size": 32, "lr": 5.0e-3, "teachers": {"batch_size": 64, "lr": 3.0e-3}}
# Arms; of each fold a sweep
FULL_FEW, LOST_FEW = "all labels, scratch", "a quarter of the labels, scratch"
FULL, LOST = "all labels, soft", "a quarter of the labels, soft"
KEPT_ON, FINGER = "a quarter, the rest unlabelled, soft", "all labels, finger unlabelled, soft"
FULL_PRE = "all labels, pre-trained teacher, soft"
KEPT_PRE = "a quarter, the rest unlabelled, pre-trained teacher, soft"
COMPARED = (
    (LOST_FEW, FULL_FEW),
    (LOST, FULL),
    (KEPT_ON, LOST),
    (KEPT_ON, LOST_FEW),
    (FINGER, FULL),
    (FULL_PRE, FULL),
    (KEPT_PRE, KEPT_ON),
)
Result = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    data: Path
    wrist: Sequence[str]
    folds: Sequence[int]
    epochs: int
    teacher: Sequence[int]
    students: Sequence[Sequence[int]]
    out: Path
    parts: Sequence[str] = PARTS
    finger: Sequence[str] = ()
    pretrain: int = 1
    encoder: str | None = None


@dataclass(frozen=True)
class Fold:
    """One fold of the wrist recordings, as data of a space: with all labels, a quarter, and with the others.

    times: how many times as many windows there are to train on with all labels.
    """

    number: int
    full: Mapping[str, Any]
    quarter: Mapping[str, Any]
    thrown: Mapping[str, Any]
    times: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what the parts need, print their table."""
    parser = parser_of(__doc__, teacher="6x16")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["labels"])
    parser.add_argument("--finger", nargs="+", default=["BIDMC"])
    parser.add_argument("--pretrain", type=int, default=10, help="epochs over all training windows")
    with options_of(parser, arguments) as options:
        recordings = load_recordings(config_of(options, options.wrist))
        arms: dict[str, list[Result]] = {}
        for number in options.folds:
            for arm, results in _arms(options, _fold(options, recordings, number)):
                arms.setdefault(arm, []).extend(results)
        _print(options, arms)


def parser_of(text: str | None, teacher: str) -> argparse.ArgumentParser:
    """What this benchmark and `bring.py` both take."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--wrist", nargs="+", default=["SPC-train", "BAMI-1"])
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2], help=f"of {FOLDS}")
    parser.add_argument("--epochs", type=int, default=12, help="with all labels")
    parser.add_argument("--teacher", type=_shape, default=_shape(teacher), help="a ResNet: depth x width")
    parser.add_argument("--students", type=_shape, nargs="+", default=[[4, 6], [4, 13]], help="the same")
    parser.add_argument("--out", type=Path, help="default: a temporary folder")
    return parser


@contextlib.contextmanager
def options_of(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> Iterator[Options]:
    """The options, with a folder for sweeps."""
    with tempfile.TemporaryDirectory() as temporary:
        said = vars(parser.parse_args(arguments))
        out = (said.pop("out") or Path(temporary)).absolute()
        out.mkdir(parents=True, exist_ok=True)
        yield Options(**said, out=out)


def _shape(text: str) -> list[int]:
    depth, width = text.split("x")
    return [int(depth), int(width)]


def config_of(options: Options, datasets: Iterable[str]) -> DataConfig:
    """The recordings of some data sets of the file."""
    return DataConfig("auto", str(options.data), options={"datasets": sorted(datasets)})


# With and without labels


def _print(options: Options, arms: Mapping[str, Sequence[Result]]) -> None:
    print(f"\n{len(options.folds)} of {FOLDS} folds; MAE in BPM: mean over subjects, then over data sets.\n")
    heads = [f"student {d}x{w}" for d, w in options.students]
    print("| arm | teacher | " + " | ".join(heads) + " |")
    print("|---|---|" + "---|" * len(heads))
    errors: dict[str, dict[str, float]] = {}
    for arm, results in arms.items():
        teachers = [r for r in results if r["role"] == "teacher"]
        cells = [f"{mean_of(by_subject(teachers)):.2f}" if teachers else ""]
        for depth, width in options.students:
            some = [
                r for r in results if r["role"] == "student" and (r["depth"], r["width"]) == (depth, width)
            ]
            cells.append(f"{mean_of(by_subject(some)):.2f}" if some else "")
        print(f"| {arm} | " + " | ".join(cells) + " |", flush=True)
        errors[arm] = by_subject([r for r in results if r["role"] == "student"])
    print()
    for one, other in COMPARED:
        if errors.get(one) and errors.get(other):
            difference, error = paired(errors[one], errors[other])
            print(
                f"- {one}, less {other}: {difference:+.2f} +- {error:.2f} BPM ({len(errors[one])} subjects)"
            )
    if all(errors.get(arm) for arm in (FULL, LOST, KEPT_ON)):
        lost = mean_of(errors[LOST]) - mean_of(errors[FULL])
        back = mean_of(errors[LOST]) - mean_of(errors[KEPT_ON])
        print(f"- of {lost:.2f} BPM lost with the labels, {back:.2f} came back: {100 * back / lost:.0f} %")


def _arms(options: Options, fold: Fold) -> Iterable[tuple[str, list[Result]]]:
    """What each arm's sweep of a fold gave."""
    both = {"scratch": None, "soft": None}
    grid = {"arch": "resnet1d", "depth": options.teacher[0], "width": options.teacher[1]}
    few = max(1, round(options.epochs * fold.times))
    contrast = {"pretrain": {"method": "contrastive", "epochs": options.pretrain}}

    def run(
        name: str, data: Mapping[str, Any], teacher: Any, strategies: Any, epochs: int, taught: int
    ) -> Any:
        training = RECIPE | {"max_epochs": epochs}
        training["teachers"] = {**RECIPE["teachers"], "max_epochs": taught}
        return trained(options, f"{name}-{fold.number}", data, teacher, strategies, training)

    full, quarter, thrown = fold.full, fold.quarter, fold.thrown
    share = {"soft": {"unlabelled_share": 1 - KEPT}}  # as many of a batch as there are of all

    a = run("full", full, grid, both, options.epochs, options.epochs)
    yield FULL_FEW, _of(a, "scratch")
    yield FULL, _of(a, "soft") + teachers_of(a)
    if "labels" in options.parts or "pretrain" in options.parts:
        b = run("quarter", quarter, grid, both, few, few)
        yield LOST_FEW, _of(b, "scratch")
        yield LOST, _of(b, "soft") + teachers_of(b)
        c = run("thrown", thrown, _bring(b), share, max(1, round(few * KEPT)), few)
        yield KEPT_ON, _of(c, "soft") + teachers_of(c)
    if "finger" in options.parts:
        source = {
            "source": "auto",
            "path": str(options.data),
            "options": {"datasets": sorted(options.finger)},
        }
        data, half = {**full, "unlabelled": source}, {"soft": {"unlabelled_share": 0.5}}
        d = run("finger", data, _bring(a), half, max(1, options.epochs // 2), options.epochs)
        yield FINGER, _of(d, "soft") + teachers_of(d)
    if "pretrain" in options.parts:
        e = run("full-pretrained", full, {**grid, **contrast}, {"soft": None}, options.epochs, options.epochs)
        yield FULL_PRE, _of(e, "soft") + teachers_of(e)
        f = run("thrown-pretrained", thrown, {**grid, **contrast}, share, max(1, round(few * KEPT)), few)
        yield KEPT_PRE, _of(f, "soft") + teachers_of(f)


def _fold(options: Options, recordings: Sequence[Recording], number: int) -> Fold:
    """Who is where, and the recordings of a fold as files."""
    config = config_of(options, options.wrist)
    config = dataclasses.replace(config, split=Split("kfold", folds=FOLDS, fold=number))
    data = prepare(config, options.out / ".cache")
    sides = {side: sorted({str(s) for s in getattr(data, side).subject}) for side in ("train", "val", "test")}
    kept: set[str] = set()
    for dataset in sorted(options.wrist):  # of each alike
        own = [subject for subject in sides["train"] if subject.startswith(f"{dataset}/")]
        order = np.random.default_rng(number).permutation(len(own))
        kept |= {own[i] for i in order[: math.ceil(KEPT * len(own))]} if own else set()
    thrown = set(sides["train"]) - kept
    folder = options.out / f"recordings-{number}"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{name}.npz" for name in ("full", "quarter", "thrown")]
    known = [subject for some in sides.values() for subject in some]
    for file, whose in zip(files, (set(known), set(known) - thrown, thrown), strict=True):
        if not file.exists():
            write_recordings(file, [r for r in recordings if subject_label(r) in whose], {})
    windows = Counter(data.train.subject.tolist())
    times = sum(windows.values()) / sum(windows[subject] for subject in kept)
    full, quarter, rest = map(str, files)
    split = {"scheme": "fixed", **sides}
    labelled = {"path": quarter, "split": {**split, "train": sorted(kept)}}
    return Fold(
        number,
        {"path": full, "split": split},
        labelled,
        {**labelled, "unlabelled": {"path": rest}},
        times,
    )


def _bring(space: Opened) -> dict[str, Any]:
    """The teacher of a sweep, for another."""
    (teacher,) = teachers_of(space)
    return {"name": "earlier", "sweep": str(space.store.path), "point": teacher["id"]}


def _of(space: Opened, strategy: str) -> list[Result]:
    return [r for r in space.store.results() if r["role"] == "student" and r["strategy"] == strategy]


def teachers_of(space: Opened) -> list[Result]:
    """The results of a sweep's teachers."""
    return [r for r in space.store.results() if r["role"] == "teacher"]


def by_subject(results: Sequence[Result]) -> dict[str, float]:
    """MAE of each subject in BPM, the mean over the results that were tested on them."""
    errors: dict[str, list[float]] = {}
    for result in results:
        for subject, error in result["mae_by_subject"].items():
            errors.setdefault(subject, []).append(error)
    return {subject: statistics.fmean(some) for subject, some in errors.items()}


def mean_of(errors: Mapping[str, float]) -> float:
    """Over the subjects of each data set, then over data sets."""
    return paired(errors, dict.fromkeys(errors, 0.0))[0]


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
    """The mean difference over subjects of each data set, then over data sets; its standard error."""
    groups: dict[str, list[float]] = {}
    for subject, error in one.items():
        groups.setdefault(subject.partition("/")[0], []).append(error - other[subject])
    variances = [
        statistics.variance(some) / len(some) if len(some) > 1 else math.nan for some in groups.values()
    ]
    return statistics.fmean(map(statistics.fmean, groups.values())), math.sqrt(sum(variances)) / len(groups)


# Sweeps


def trained(
    options: Options,
    name: str,
    data: Mapping[str, Any],
    teacher: Mapping[str, Any],
    strategies: Mapping[str, Any],
    training: Mapping[str, Any],
    seeds: Sequence[int] = (0,),
) -> Opened:
    """A sweep of one teacher and --students, trained in this process, teachers first."""
    students = [{"arch": "resnet1d", "depth": d, "width": w} for d, w in options.students]
    said = {
        "name": name,
        "data": dict(data),
        "metric": "by-subject",
        "teachers": [dict(teacher)],
        "students": students,
        "strategies": dict(strategies),
        "seeds": list(seeds),
        "training": dict(training),
    }
    file, folder = options.out / f"{name}.yaml", options.out / name
    file.write_text(yaml.safe_dump(json.loads(json.dumps(said)), sort_keys=False), encoding="utf-8")
    space = open_space(str(file), (), str(folder))
    plan = space.keep()
    plan.save(folder / "plan.json")
    setup = Setup(
        str(folder), str(folder), str(space.cache_dir), space.data, 1, False, 0.0, 1e9, None, "fused"
    )
    with contextlib.redirect_stdout(sys.stderr):  # a worker's log
        _train(PackTrainer(setup), plan.points, name)
    return space


def _train(trainer: PackTrainer, points: Sequence[Point], name: str) -> None:
    served = Counter(p.teacher for p in points if p.teacher)
    for point in points:
        trainer.take(Pack.of([point], served))
        while trainer.ids:
            for event in trainer.advance(1e9)["events"]:
                if event["kind"] == "failed":
                    raise RuntimeError(f"{name}: {point.name} failed: {event['error']['message']}")


if __name__ == "__main__":
    main()
