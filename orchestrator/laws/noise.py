"""What varies between training runs, people and arms: the components that decide what a design can tell.

numpy only; knows result.json. All components are standard deviations of ln error, so .05 is about 5 %.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from orchestrator.laws.arms import group_arms
from orchestrator.laws.forms import Array
from orchestrator.store.metric import mae_by_subject


@dataclass(frozen=True)
class Noise:
    """Components of ln error. Units of `slopes`: per unit of ln size.

    run: of one training run in one fold, by its seed. own: of an arm's error at one size round its smooth
    curve; common: of a size, in all arms alike. likes: of a subject in one arm. people: between subjects of a
    data set. offsets, slopes: between arms of one architecture. architectures: between architectures.
    level_bpm: the error of a student of `level_params` parameters; exponent: by which errors fall with size.
    """

    run: float
    own: float
    common: float
    likes: float
    people: float
    offsets: float
    slopes: float
    architectures: float
    level_bpm: float
    level_params: float
    exponent: float

    def level(self, params: float) -> float:
        """The error to expect of students of so many parameters, BPM."""
        return float(self.level_bpm * (params / self.level_params) ** -self.exponent)


COMPONENTS = tuple(f.name for f in fields(Noise))


@dataclass(frozen=True)
class _Table:
    """ln errors of one architecture, (arms, sizes, folds, seeds), NaN where not trained; u (sizes,)."""

    z: Array
    u: Array
    subjects: float  # tested in a fold


def components(results: Iterable[Mapping[str, Any]], assumed: Noise) -> tuple[Noise, tuple[str, ...]]:
    """The components that results (result.json dicts, errors as the metric has it) tell, else `assumed`.

    Moments of a crossed design: what arms share, and what folds share, is taken out first. Returns the
    components and the names of those that were measured.
    """
    arms = group_arms(dict(r) for r in results)
    tables = [
        t for arch in sorted({a.arch for a in arms}) if (t := _table([a for a in arms if a.arch == arch]))
    ]
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)  # name -> (variance, degrees of freedom)
    for table in tables:
        for name, variance, freedom in _moments(table):
            found[name].append((variance, freedom))
    values = {
        name: float(np.sqrt(max(np.average([v for v, _ in pairs], weights=[n for _, n in pairs]), 1e-8)))
        for name, pairs in found.items()
    }
    runs = [run for arm in arms for run in arm.runs]
    if (people := _between_people(runs)) is not None:
        values["people"] = people
    values |= _level(tables)
    if len(tables) > 1:
        values["architectures"] = float(np.std([np.nanmean(t.z) for t in tables], ddof=1))
    return replace(assumed, **values), tuple(name for name in COMPONENTS if name in values)


def _table(arms: Sequence[Any]) -> _Table | None:
    """The cells that all arms share; None for fewer than two arms."""
    shapes = [{(r["depth"], r["width"]) for r in a.runs} for a in arms]
    shared = sorted(set.intersection(*shapes), key=str) if shapes else []
    if len(arms) < 2 or not shared:
        return None
    runs = [r for a in arms for r in a.runs]
    folds = sorted({r.get("fold") for r in runs}, key=str)
    seeds = sorted({r["seed"] for r in runs})
    z = np.full((len(arms), len(shared), len(folds), len(seeds)), np.nan)
    u = np.zeros(len(shared))
    for i, arm in enumerate(arms):
        for r in arm.runs:
            if (shape := (r["depth"], r["width"])) in shared and r["mae_bpm"] > 0:
                j = shared.index(shape)
                z[i, j, folds.index(r.get("fold")), seeds.index(r["seed"])] = np.log(r["mae_bpm"])
                u[j] = np.log(r["params"])
    tested = [len(mae_by_subject(r)) for r in runs]
    return _Table(z, u, float(np.mean(tested)) if any(tested) else 0.0)


def _moments(table: _Table) -> Iterable[tuple[str, float, float]]:
    """(component, variance, degrees of freedom) that one architecture's results tell."""
    z, u = table.z, table.u
    n_arms, n_sizes = z.shape[:2]
    trained = np.isfinite(z)
    repeats = trained.sum(3)
    fold_means = np.divide(
        np.where(trained, z, 0.0).sum(3), repeats, where=repeats > 0, out=np.full(repeats.shape, np.nan)
    )
    run = None
    spare = int(np.maximum(repeats - 1, 0).sum())
    if spare:
        run = float(np.nansum((z - fold_means[..., None]) ** 2) / spare)
        yield "run", run, spare
    whole = np.isfinite(fold_means).all(axis=(0, 1))  # folds in which every cell was trained
    y = fold_means[:, :, whole]
    seeds = float(np.mean(repeats[:, :, whole])) if whole.any() else 1.0
    folds = int(whole.sum())
    if not folds:
        return
    if folds > 1:
        # without the cell's mean, and without what all arms have of a size in a fold
        left = y - y.mean(2, keepdims=True)
        left = left - left.mean(0, keepdims=True)
        by_arm = left.mean(1)
        inner = left - by_arm[:, None]
        freedom = (n_arms - 1) * (n_sizes - 1) * (folds - 1)
        residual = float((inner**2).sum() / freedom) if freedom else 0.0
        if run is None and freedom:
            run = residual * seeds
            yield "run", run, freedom
        outer = (n_arms - 1) * (folds - 1)
        if table.subjects and freedom:
            likes = float((by_arm**2).sum() / outer) - residual / n_sizes
            yield "likes", max(likes, 0.0) * table.subjects, outer
    cell = y.mean(2)
    apart = cell - cell.mean(0)
    away = u - u.mean()
    freedom = (n_arms - 1) * (n_sizes - 2)
    if freedom <= 0:
        return
    slope = apart @ away / (away @ away)
    offset = apart.mean(1)
    rest = apart - offset[:, None] - slope[:, None] * away
    scatter = float((rest**2).sum() / freedom)  # of an arm's cell round its line
    if run is not None:
        yield "own", max(scatter - run / (folds * seeds), 0.0), freedom
    yield "offsets", max(float(offset.var(ddof=1)) - scatter / n_sizes, 0.0), n_arms - 1
    yield "slopes", max(float(slope.var(ddof=1)) - scatter / float(away @ away), 0.0), n_arms - 1
    if n_sizes > 4:
        bent = cell.mean(0) - np.polynomial.Polynomial.fit(u, cell.mean(0), 2)(u)
        yield "common", max(float((bent**2).sum() / (n_sizes - 3)) - scatter / n_arms, 0.0), n_sizes - 3


def _level(tables: Sequence[_Table]) -> dict[str, float]:
    """Errors against sizes, a line in ln through its middle, of the architecture best when largest."""
    lines = []
    for table in tables:
        mean = np.nanmean(table.z, axis=(0, 2, 3))
        if len(mean) > 1:
            slope = float(np.polyfit(table.u, mean, 1)[0])
            lines.append((float(mean[table.u.argmax()]), float(mean.mean()), float(table.u.mean()), -slope))
    if not lines:
        return {}
    _, level, u, exponent = min(lines)
    return {"level_bpm": float(np.exp(level)), "level_params": float(np.exp(u)), "exponent": exponent}


def _between_people(runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Relative spread of subjects' errors within their data sets, over all runs; None without subjects."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        of_set: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for name, error in mae_by_subject(run).items():
            of_set[name.partition("/")[0]].append((name, error))
        for people in of_set.values():
            mean = np.mean([error for _, error in people])
            for name, error in people:
                ratios[name].append(float(error / mean))
    by_set: dict[str, list[float]] = defaultdict(list)
    for name, values in ratios.items():
        by_set[name.partition("/")[0]].append(float(np.mean(values)))
    spread = [(float(np.var(v, ddof=1)), len(v) - 1) for v in by_set.values() if len(v) > 1]
    if not spread:
        return None
    return float(np.sqrt(np.average([v for v, _ in spread], weights=[n for _, n in spread])))
