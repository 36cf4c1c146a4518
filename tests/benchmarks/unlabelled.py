"""Students of wrist recordings whose labels were thrown away: how much of the lost accuracy comes back?

    python tests/benchmarks/unlabelled.py /data/ppg.npz --parts labels finger pretrain --folds 0 1 2

The file is one of `kd.datasets.recordings_npz`; students are of the sets --wrist. Parts:

- labels: the labels of three quarters of the training subjects are thrown away. Their recordings are gone, or
  kept as data.unlabelled.
- mean: three teachers that had the labels of the same quarter teach as one.
- finger: the sets --finger as data.unlabelled, besides all labels: a sensor elsewhere.
- pretrain: the teacher pre-trained by contrast or not, with a quarter and with all of the labels.
- teachers: other teachers of the unlabelled recordings: one that had all labels, and one that saw changed
  copies of the quarter's recordings, in twice the steps.
- ways: other ways for students to learn from the same teacher on the same unlabelled recordings.

All arms take equally many steps, unless they say otherwise; with --copies, of recordings without labels too,
too few of them for all labels. Sweeps are trained one point after another in this process, as a worker does,
into --out; what is done there is not done again. Tables in Markdown on stdout.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kd.edge.export import write_recordings
from kd.files import read_json, write_json
from kd.recordings import Recording
from kd.signals.prepare import DataConfig, load_recordings, prepare
from kd.signals.splits import Split
from kd.signals.windows import subject_label
from orchestrator.run.worker import PackTrainer, Setup
from orchestrator.space.packs import Pack
from orchestrator.space.plan import Point
from orchestrator.space.resolve import Opened, open_space

CPU = "cpu.json"  # of a sweep: CPU seconds by point
PARTS = ("labels", "mean", "finger", "pretrain", "teachers", "ways")
FOLDS = 5  # of which --folds are trained
COPIES = 3  # of recordings, for one way to teach: search_spaces/wrist.yaml
KEPT = 0.25  # of the training subjects: those whose labels are not thrown away
# of search_spaces/wrist.yaml
RECIPE = {"batch_size": 32, "lr": 5.0e-3, "teachers": {"batch_size": 64, "lr": 3.0e-3}}
# Arms; of each fold a sweep
FULL_FEW, LOST_FEW = "all labels, scratch", "a quarter of the labels, scratch"
FULL, LOST = "all labels, soft", "a quarter of the labels, soft"
KEPT_ON, FINGER = "a quarter, the rest unlabelled, soft", "all labels, finger unlabelled, soft"
MEAN = "a quarter, the rest unlabelled, mean of three teachers, soft"
FULL_PRE = "all labels, pre-trained teacher, soft"
KEPT_PRE = "a quarter, the rest unlabelled, pre-trained teacher, soft"
ORACLE = "a quarter, the rest unlabelled, teacher that had all labels, soft"
HALF = "a quarter, half of each batch unlabelled, soft"
LONG = "a quarter, the rest unlabelled, soft, three times the steps"
HARD, DKD = "a quarter, the rest unlabelled, hard", "a quarter, the rest unlabelled, dkd"
ONLY = "a quarter, the rest unlabelled, soft without label terms"
SURE = "a quarter, the half of the rest that the teacher is surest of, soft"
COPIED = "a quarter, the rest unlabelled, teacher that saw changed copies in twice the steps, soft"
ALL_COPIED = "a quarter, the rest unlabelled, copies of both, the same teacher, soft"
WAYS = (ORACLE, COPIED, ALL_COPIED, HALF, LONG, HARD, DKD, ONLY, SURE)
COMPARED = (
    (LOST_FEW, FULL_FEW),
    (LOST, FULL),
    (KEPT_ON, LOST),
    (KEPT_ON, LOST_FEW),
    (MEAN, KEPT_ON),
    (FINGER, FULL),
    (FULL_PRE, FULL),
    (KEPT_PRE, KEPT_ON),
    *((way, KEPT_ON) for way in WAYS),
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
    copies: int = 0
    encoder: str | None = None
    precision: str = "float32"


@dataclass(frozen=True)
class Fold:
    """One fold of the wrist recordings, as data of a space: with all labels, a quarter, and with the others.

    windows: labelled ones to train on, with all labels and with a quarter, without copies.
    """

    number: int
    full: Mapping[str, Any]
    quarter: Mapping[str, Any]
    thrown: Mapping[str, Any]
    windows: tuple[int, int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what the parts need, print their table."""
    parser = parser_of(__doc__, teacher="6x16")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["labels"])
    parser.add_argument("--finger", nargs="+", default=["BIDMC"])
    parser.add_argument("--pretrain", type=int, default=10, help="epochs, before the others")
    parser.add_argument("--copies", type=int, default=0, help="of labelled training recordings")
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
    for arm in (KEPT_ON, MEAN, KEPT_PRE, *WAYS):
        if all(errors.get(one) for one in (FULL, LOST, arm)):
            lost = mean_of(errors[LOST]) - mean_of(errors[FULL])
            back = mean_of(errors[LOST]) - mean_of(errors[arm])
            _, error = paired(errors[LOST], errors[arm])
            share = f"{back:.2f} +- {error:.2f} came back: {100 * back / lost:.0f} %"
            print(f"- {arm}: of {lost:.2f} BPM lost, {share}")


def _arms(options: Options, fold: Fold) -> Iterable[tuple[str, list[Result]]]:
    """What each arm's sweep of a fold gave."""
    both = {"scratch": None, "soft": None}
    share = {"soft": {"unlabelled_share": 1 - KEPT}}  # as many of a batch as there are of all
    half = {"soft": {"unlabelled_share": 0.5}}
    grid = {"arch": "resnet1d", "depth": options.teacher[0], "width": options.teacher[1]}
    contrast = {**grid, "pretrain": {"method": "contrastive", "epochs": options.pretrain}}
    full, quarter, thrown = fold.full, fold.quarter, fold.thrown

    def run(name: str, data: Mapping[str, Any], *entries: Any, labelled: float = 1.0, **more: Any) -> Opened:
        """labelled: the share of a student's batch, which sees so many fewer labelled windows in all."""
        everything, few = fold.windows
        own = everything if data["path"] == full["path"] else few
        if options.copies:  # an epoch goes over some of them
            some = min(everything, few * (1 + options.copies))
            epochs = max(1, round(options.epochs * everything / some))
            student = {"max_epochs": epochs, "windows_per_epoch": round(labelled * some)}
            teacher = {"windows_per_epoch": some}
        else:
            epochs = max(1, round(options.epochs * everything / own))
            student, teacher = {"max_epochs": max(1, round(labelled * epochs))}, {"max_epochs": epochs}
        training = {**RECIPE, **student, "teachers": {**RECIPE["teachers"], **teacher}}
        return trained(options, f"{name}-{fold.number}", data, entries, training=training, **more)

    a = run("full", full, grid, strategies=both)
    yield FULL_FEW, _of(a, "scratch")
    yield FULL, _of(a, "soft") + teachers_of(a)
    if set(options.parts) != {"finger"}:
        b = run("quarter", quarter, grid, strategies=both)
        yield LOST_FEW, _of(b, "scratch")
        yield LOST, _of(b, "soft") + teachers_of(b)
        c = run("thrown", thrown, *_bring(b), strategies=share, labelled=KEPT)
        yield KEPT_ON, _of(c, "soft") + teachers_of(c)
    if "mean" in options.parts:
        more = run("quarter-more", quarter, {**grid, "seeds": [1, 2]}, strategies=None)
        three = [*_bring(b), *_bring(more)]
        mean = {"name": "mean", "mean": [one["name"] for one in three]}
        g = run("thrown-mean", thrown, *three, mean, strategies=share, labelled=KEPT, learn_from="mean")
        yield MEAN, _of(g, "soft") + [r for r in teachers_of(g) if r["brought"]["name"] == "mean"]
    if "teachers" in options.parts:
        h = run("thrown-oracle", thrown, *_bring(a), strategies=share, labelled=KEPT)
        yield ORACLE, _of(h, "soft") + teachers_of(h)
        copies = {**quarter, "augment": {"copies": COPIES}}
        long = {"max_epochs": 2 * options.epochs, "windows_per_epoch": fold.windows[0]}
        o = trained(
            *(options, f"quarter-copies-{fold.number}", copies, [grid]),
            strategies=None,
            training={**RECIPE, "teachers": {**RECIPE["teachers"], **long}},
        )
        p = run("thrown-copied", thrown, *_bring(o), strategies=share, labelled=KEPT)
        yield COPIED, _of(p, "soft") + teachers_of(p)
        q = trained(
            *(options, f"thrown-all-copied-{fold.number}"),
            {**copies, "unlabelled": {**thrown["unlabelled"], "copies": COPIES}},
            _bring(o),
            strategies=share,
            training={**RECIPE, "max_epochs": options.epochs, "windows_per_epoch": fold.windows[1]},
        )
        yield ALL_COPIED, _of(q, "soft") + teachers_of(q)
    if "ways" in options.parts:
        i = run("thrown-half", thrown, *_bring(b), strategies=half, labelled=0.5)
        yield HALF, _of(i, "soft") + teachers_of(i)
        j = run("thrown-long", thrown, *_bring(b), strategies=share, labelled=3 * KEPT)
        yield LONG, _of(j, "soft") + teachers_of(j)
        how = {"hard": share["soft"], "dkd": {**share["soft"], "beta": 2}}
        k = run("thrown-others", thrown, *_bring(b), strategies=how, labelled=KEPT)
        yield HARD, _of(k, "hard") + teachers_of(k)
        yield DKD, _of(k, "dkd") + teachers_of(k)
        only = {"soft": {**share["soft"], "ce": 0.0, "weight": 1.0}}
        m = run("thrown-only", thrown, *_bring(b), strategies=only, labelled=KEPT)
        yield ONLY, _of(m, "soft") + teachers_of(m)
        gated = {**thrown, "unlabelled": {**thrown["unlabelled"], "gate": "entropy", "keep": 0.5}}
        n = run("thrown-sure", gated, *_bring(b), strategies=share, labelled=KEPT)
        yield SURE, _of(n, "soft") + teachers_of(n)
    if "finger" in options.parts:
        source = {"source": "auto", "path": str(options.data), "options": {"datasets": list(options.finger)}}
        d = run("finger", {**full, "unlabelled": source}, *_bring(a), strategies=half, labelled=0.5)
        yield FINGER, _of(d, "soft") + teachers_of(d)
    if "pretrain" in options.parts:
        e = run("full-pretrained", full, contrast, strategies={"soft": None})
        yield FULL_PRE, _of(e, "soft") + teachers_of(e)
        f = run("thrown-pretrained", thrown, contrast, strategies=share, labelled=KEPT)
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
    counts = Counter(data.train.subject.tolist())
    everything, few = sum(counts.values()), sum(counts[subject] for subject in kept)
    full, quarter, rest = map(str, files)
    split, augment = {"scheme": "fixed", **sides}, {"copies": options.copies}
    labelled = {"path": quarter, "split": {**split, "train": sorted(kept)}, "augment": augment}
    return Fold(
        number,
        {"path": full, "split": split, "augment": augment},
        labelled,
        {**labelled, "unlabelled": {"path": rest, "copies": options.copies}},
        (everything, few),
    )


def _bring(space: Opened) -> list[dict[str, Any]]:
    """The teachers of a sweep, for another."""
    sweep = str(space.store.path)
    return [
        {"name": f"{space.store.path.name}-{r['seed']}", "sweep": sweep, "point": r["id"]}
        for r in sorted(teachers_of(space), key=lambda r: int(r["seed"]))
    ]


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
    teachers: Sequence[Mapping[str, Any]],
    *,
    strategies: Mapping[str, Any] | None,
    training: Mapping[str, Any],
    seeds: Sequence[int] = (0,),
    learn_from: str | None = None,
) -> Opened:
    """A sweep of some teachers and --students, trained in this process, teachers first.

    strategies: of students, None for a sweep without any. learn_from: their teacher, if not all.
    """
    taught = {"teachers": learn_from} if learn_from else {}
    grid = [{"arch": "resnet1d", "depth": d, "width": w, **taught} for d, w in options.students]
    said = {
        "name": name,
        "data": dict(data),
        "metric": "by-subject",
        "teachers": [dict(teacher) for teacher in teachers],
        **({"students": grid, "strategies": dict(strategies)} if strategies else {}),
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
        _train(PackTrainer(setup), plan.points, name, folder / CPU)
    return space


def cpu_of(space: Opened) -> Counter[str]:
    """CPU seconds of the points that were trained here, by role: other load doesn't count."""
    known = read_json(space.store.path / CPU)
    total = Counter[str]()
    for result in space.store.results():
        total[result["role"]] += known[result["id"]]
    return total


def _train(trainer: PackTrainer, points: Sequence[Point], name: str, cpu: Path) -> None:
    served = Counter(id for p in points for id in p.needs)
    known: dict[str, float] = read_json(cpu) if cpu.exists() else {}
    for point in points:
        start = time.process_time()
        trainer.take(Pack.of([point], served))
        while trainer.ids:
            for event in trainer.advance(1e9)["events"]:
                if event["kind"] == "failed":
                    raise RuntimeError(f"{name}: {point.name} failed: {event['error']['message']}")
        known[point.id] = known.get(point.id, 0.0) + time.process_time() - start
        write_json(cpu, known)


if __name__ == "__main__":
    main()
