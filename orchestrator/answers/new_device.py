"""What does a new device cost? A data set that no student trained on, against one that it knows.

Knows results only. One sweep left a data set out in each fold; another may have trained on all data sets.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.answers.claims import LEAST_BPM, as_one, dataset_of, interval, percent
from orchestrator.laws.arms import canonical, strategy_label
from orchestrator.laws.comparable import comparable, notes_on
from orchestrator.laws.forms import Array
from orchestrator.laws.paired import effect
from orchestrator.store.metric import mae_by_subject

Configuration = tuple[
    Any, ...
]  # arch, init, strategy, arguments, depth, width, teacher's shape and seed, seed
Tests = dict[Configuration, list[dict[str, float]]]  # a student of each fold: subject -> MAE, BPM
LODO = "data.split.scheme=lodo data.split.use=all"


def new_device(
    results: Iterable[dict[str, Any]],
    against: Iterable[dict[str, Any]] | None = None,
    recipe: str | None = None,
) -> dict[str, Any]:
    """What `kdsweep claims --new-device --json` prints: {devices, text, notes}.

    devices: a row a data set and arm (architecture, init, strategy). new_bpm: mean error over its subjects,
    of students that trained on the other data sets. Where `against` has the same configurations tested on
    the same people, known_bpm is their error there; cost_bpm and cost_percent are new less known, paired.
    Raises InputError when the sweep left no data sets out, or the two have nothing in common.
    """
    new, notes = _tests(results, recipe)
    left_out = _left_out(new)
    known = None
    if against is not None:
        merged = {
            c: {k: v for test in tests for k, v in test.items()} for c, tests in _tests(against)[0].items()
        }
        known = {(name, c): merged[c] for name, c in left_out if c in merged}
    groups: dict[tuple[str, str], list[Configuration]] = {}
    for name, c in sorted(left_out, key=str):
        groups.setdefault((name, _arm(c)), []).append(c)
    rows = [_row(name, arm, group, left_out, known) for (name, arm), group in groups.items()]
    if known is not None:
        rows = [row for row in rows if row["known_bpm"] is not None]
        if not rows:
            raise InputError(
                "--against: that sweep tested none of these configurations on these people: run the same "
                "space with data.split.scheme=kfold"
            )
    return {"devices": rows, "text": _text(rows), "notes": notes}


def _tests(results: Iterable[dict[str, Any]], recipe: str | None = None) -> tuple[Tests, list[str]]:
    kept, group = comparable([as_one(r) for r in sorted(results, key=lambda r: str(r["id"]))], recipe)
    shapes = {r["id"]: (r["arch"], r["depth"], r["width"], r["seed"]) for r in kept if r["role"] == "teacher"}
    tests: Tests = {}
    for r in kept:
        if r["role"] == "student" and (errors := mae_by_subject(r)):
            how = (r["strategy"], canonical(r["strategy"], r.get("strategy_args")))
            teacher = shapes.get(r["teacher"], "unknown") if r.get("teacher") else None
            c = (r["arch"], r.get("init") or "random", *how, r["depth"], r["width"], teacher, r["seed"])
            tests.setdefault(c, []).append(errors)
    return tests, notes_on(group)


def _left_out(new: Tests) -> dict[tuple[str, Configuration], dict[str, float]]:
    """Tests by data set and configuration; InputError unless each student was tested on a whole data set."""
    found: dict[tuple[str, Configuration], dict[str, float]] = {}
    tested = 0
    for c, tests in new.items():
        for errors in tests:
            tested += 1
            names = {dataset_of(subject) for subject in errors}
            found[names.pop(), c] = errors
            if names:
                tested += 1  # on several data sets
    if tested != len(found) or len({name for name, _ in found}) < 2:
        raise InputError(
            "this sweep left no data set out: each student has to be tested on all of one data set and on "
            f"no other: run its space with {LODO}"
        )
    return found


def _arm(c: Configuration) -> str:
    arch, init, strategy, args = c[:4]
    return f"{arch}{'' if init == 'random' else f', {init}'} {strategy_label(strategy, json.loads(args))}"


def _row(
    name: str,
    arm: str,
    group: list[Configuration],
    new: Mapping[tuple[str, Configuration], dict[str, float]],
    known: Mapping[tuple[str, Configuration], dict[str, float]] | None,
) -> dict[str, Any]:
    subjects = sorted({s for c in group for s in new[name, c]})
    here = _table(subjects, [new[name, c] for c in group])
    there = None if known is None else _table(subjects, [known.get((name, c), {}) for c in group])
    if there is not None:
        here = np.where(np.isfinite(there), here, np.nan)
        there = np.where(np.isfinite(here), there, np.nan)
    used = np.isfinite(here)
    row: dict[str, Any] = {
        "dataset": name,
        "arm": arm,
        "sizes": len({c[4:6] for c, any_ in zip(group, np.any(used, axis=0).tolist(), strict=True) if any_}),
        "subjects": int(used.any(1).sum()),
        "new_bpm": _mean(here),
        "known_bpm": None if there is None else _mean(there),
        "cost_bpm": None,
        "cost_percent": None,
    }
    if there is not None and row["subjects"] > 1:  # one person has no spread
        strata = np.full(len(subjects), name)
        bpm = effect(here - there, strata)
        ln = effect(np.log(np.maximum(here, LEAST_BPM)) - np.log(np.maximum(there, LEAST_BPM)), strata)
        if bpm and ln:
            row["cost_bpm"] = interval(bpm.mean, *bpm.interval())
            row["cost_percent"] = interval(*(percent(v) for v in (ln.mean, *ln.interval())))
    return row


def _table(subjects: list[str], tests: list[dict[str, float]]) -> Array:
    """(subjects, configurations), NaN where a subject was not tested."""
    return np.array([[test.get(s, np.nan) for test in tests] for s in subjects])


def _mean(table: Array) -> float | None:
    """Over a subject's configurations, then over subjects; None of nothing."""
    known = np.isfinite(table)
    told = known.any(1)
    if not told.any():
        return None
    each = np.where(known, table, 0.0).sum(1)[told] / known.sum(1)[told]
    return round(float(each.mean()), 4)


def _text(rows: list[dict[str, Any]]) -> str:
    """One line for each data set, and how far they are apart."""
    by: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["dataset"], []).append(row)

    def over(name: str, key: str) -> float:
        return float(np.mean([row[key] for row in by[name]]))

    if rows[0]["known_bpm"] is not None:
        costs = [f"{n}: {over(n, 'new_bpm'):.2f} BPM instead of {over(n, 'known_bpm'):.2f}" for n in by]
        return f"as a new device, {'; '.join(costs)}"
    ordered = sorted(by, key=lambda name: over(name, "new_bpm"))
    best, worst = ordered[0], ordered[-1]
    return (
        f"as a new device, {best} has {over(best, 'new_bpm'):.2f} BPM and {worst} "
        f"{over(worst, 'new_bpm'):.2f}; what of it the device costs, a kfold sweep of the same space tells "
        "(--against)"
    )
