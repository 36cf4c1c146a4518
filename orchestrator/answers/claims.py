"""Which claims about distillation does a sweep support? Paired over the same people, sizes, folds and seeds.

Knows results only; the statistics are those of `orchestrator.laws.paired`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from kd.files import read_json
from orchestrator.laws.arms import Arm, canonical
from orchestrator.laws.comparable import comparable, notes_on
from orchestrator.laws.forms import Array
from orchestrator.laws.matched import alike
from orchestrator.laws.paired import ALPHA, LEAST_CELLS, LEAST_SUBJECTS, LEVEL, Effect, effect, holm, needed
from orchestrator.store.metric import mae_by_subject

DISTILLED = ("hard", "soft", "dkd", "feature")
LEAST_BPM = 0.01  # errors below count as this, so that their logarithm exists
LEAST_PERCENT = 1.0  # of the error: a smaller effect does not matter; a convention of ours, no one's finding
# The paper's body was not available to us: what it claims is known from a third party's summary.
SUMMARY = "the paper, as a third party sums it up: "
BEST, BEATS, RESNETS = (
    f'{SUMMARY}"DKD providing the strongest gains"',
    f'{SUMMARY}distilled models "consistently outperform from-scratch baselines"',
    f'{SUMMARY}"ResNet-based students benefit more from distillation than MLPs"',
)
OURS = "a general question"
Cell = tuple[Any, ...]  # fold, seed, arch, init, depth, width


@dataclass(frozen=True)
class Claim:
    """What is claimed and who says so: the error of the first arm of each pair is lower.

    pairs: of places in `_Students.arms`. apart: the claim is that ResNets have more of it than MLPs.
    """

    id: str
    text: str
    source: str
    pairs: Sequence[tuple[int, int]]
    apart: bool = False


class _Students:
    """The error of every student on every subject, and who is in which cell. bpm, ln: (students, subjects).

    grid: (cells, arms), the place of the student, -1 where there is none.
    """

    def __init__(self, results: Sequence[dict[str, Any]]) -> None:
        students = [r for r in results if r["role"] == "student"]
        found = [mae_by_subject(r) for r in students]
        subjects = sorted({name for errors in found for name in errors})
        place = {name: i for i, name in enumerate(subjects)}
        self.bpm = np.full((len(found), len(subjects)), np.nan)
        for row, errors in zip(self.bpm, found, strict=True):
            row[[place[name] for name in errors]] = list(errors.values())
        self.ln = np.log(np.maximum(self.bpm, LEAST_BPM))
        self.datasets = np.array([dataset_of(name) for name in subjects])
        arms = [_arm(r) for r in students]
        self.arms = list(dict.fromkeys(arms))
        cells = [
            (r.get("fold"), r["seed"], r["arch"], arm.init, r["depth"], r["width"])
            for arm, r in zip(arms, students, strict=True)
        ]
        self.cells: list[Cell] = list(dict.fromkeys(cells))
        rows, columns = ({key: k for k, key in enumerate(keys)} for keys in (self.cells, self.arms))
        self.grid = np.full((len(self.cells), len(self.arms)), -1)
        at = [rows[cell] for cell in cells], [columns[arm] for arm in arms]
        self.grid[at] = np.arange(len(students))
        sizes = {r["id"]: r["params"] for r in results if r["role"] == "teacher" and r["params"]}
        self.teacher_params = {
            arm.teacher: sizes[r["teacher"]]
            for arm, r in zip(arms, students, strict=True)
            if r.get("teacher") in sizes
        }

    def pairs(self, fits: Callable[[Arm, Arm], bool], one_teacher: bool = True) -> list[tuple[int, int]]:
        """Pairs of arms of one architecture and init that fit; of one teacher where both have one."""
        return [
            (i, j)
            for (i, a), (j, b) in product(enumerate(self.arms), repeat=2)
            if (a.arch, a.init) == (b.arch, b.init)
            and (not one_teacher or None in (a.teacher, b.teacher) or a.teacher == b.teacher)
            and fits(a, b)
        ]

    def differences(self, pairs: Sequence[tuple[int, int]]) -> tuple[Array, Array, list[Cell], int]:
        """Mean difference of the pairs in each cell, (subjects, cells), of ln error and of error in BPM.

        Also the cells that have any, and how many pairs of students there are. NaN where a subject has none.
        """
        firsts, seconds = (self.grid[:, [pair[k] for pair in pairs]] for k in (0, 1))  # (cells, pairs)
        cell, pair = np.nonzero((firsts >= 0) & (seconds >= 0))
        first, second = firsts[cell, pair], seconds[cell, pair]
        known = np.isfinite(self.bpm[first]) & np.isfinite(self.bpm[second])
        any_ = known.any(1)
        cell, first, second, known = cell[any_], first[any_], second[any_], known[any_]
        used, starts = np.unique(cell, return_index=True)  # cells come in order
        if not len(used):
            return np.empty((0, 0)), np.empty((0, 0)), [], 0
        counts = np.add.reduceat(known.astype(int), starts)
        means = []
        for values in (self.ln, self.bpm):
            sums = np.add.reduceat(np.where(known, values[first] - values[second], 0.0), starts)
            means.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).T)
        return means[0], means[1], [self.cells[k] for k in used], len(first)


def claims(
    results: Iterable[dict[str, Any]],
    recipe: str | None = None,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What `kdsweep claims --json` prints: {claims, level, alpha, least_percent, notes}.

    No claims where nothing is paired.

    weights: of data sets, by default equal. A claim: id, text, source, effect_percent and effect_bpm (by how
    much the first's error is lower: median, low, high), p, p_holm, verdict (supported, contradicted,
    equivalent: the interval lies within +-LEAST_PERCENT, or undecided), why, n, and `needed`: the
    subjects and pairs at which an effect of this size would be seen with 80 % power. Of a strategy the
    published setting is compared if it was trained, else all settings. Raises InputError for a recipe that
    the sweep has not.
    """
    ordered = sorted(results, key=lambda r: str(r["id"]))
    kept, group = comparable([as_one(r) for r in ordered], recipe)
    students = _Students(kept)
    made = [_row(students, claim, weights) for claim in _claims(students)]
    tested = [row for row, _ in made if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    rows = [_judged(row, found) for row, found in made]
    if not any(row["n"]["pairs"] for row in rows):
        rows = []
    fixed = {"level": LEVEL, "alpha": ALPHA, "least_percent": LEAST_PERCENT}
    return {"claims": rows, **fixed, "notes": notes_on(group)}


def dataset_weights(folder: Path) -> dict[str, float] | None:
    """The weights of data sets that the sweep's space gave; None = equal."""
    try:
        plan = read_json(folder / "plan.json", "run the search space again")
    except FileNotFoundError:
        return None
    return plan.get("metric_weights") or None


def dataset_of(subject: str) -> str:
    """Of "dataset/subject"."""
    return subject.partition("/")[0]


def as_one(result: dict[str, Any]) -> dict[str, Any]:
    """A result whose fold does not set it apart from those of other folds."""
    group = result.get("data_group")
    return result | {"data_fingerprint": group} if group else result


def _arm(result: dict[str, Any]) -> Arm:
    return Arm(
        result["arch"],
        result.get("init") or "random",
        result["strategy"],
        canonical(result["strategy"], result.get("strategy_args")),
        result.get("teacher_group") or result.get("teacher"),
    )


def _claims(students: _Students) -> list[Claim]:
    """All claims, those of the paper first; without pairs where a sweep can't tell."""
    published = {arm.strategy for arm in students.arms if arm.published}

    def is_(arm: Arm, strategy: str) -> bool:
        return arm.strategy == strategy and (arm.published or strategy not in published)

    def against(first: str, second: str) -> list[tuple[int, int]]:
        return students.pairs(lambda a, b: is_(a, first) and is_(b, second))

    gains = {strategy: against(strategy, "scratch") for strategy in DISTILLED}
    of_all = [pair for pairs in gains.values() for pair in pairs]
    both = _of_both_archs(students, of_all)
    matched = students.pairs(lambda a, b: (a.strategy, b.strategy) == ("dkd", "soft") and alike(b, a))
    versus = [("dkd", "hard"), ("dkd", "soft"), ("dkd", "feature")]
    others = [("soft", "hard"), ("feature", "hard"), ("feature", "soft")]
    return [
        Claim("distilled", "distilled students beat scratch", BEATS, of_all),
        *(Claim(f"{a}-{b}", f"{a} beats {b}", BEST, against(a, b)) for a, b in versus),
        Claim("resnet-mlp", "ResNets gain more from distillation than MLPs", RESNETS, both, apart=True),
        *(Claim(f"{s}-scratch", f"{s} beats scratch", OURS, pairs) for s, pairs in gains.items()),
        Claim("dkd-soft-matched", "dkd beats soft at matched weight", OURS, matched),
        Claim("teacher", "a larger teacher beats a smaller one", OURS, _teachers(students)),
        *(Claim(f"{a}-{b}", f"{a} beats {b}", OURS, against(a, b)) for a, b in others),
    ]


def _of_both_archs(students: _Students, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of the strategies and teachers that ResNets and MLPs were both distilled with."""
    by: dict[str, set[tuple[Any, ...]]] = {"resnet1d": set(), "mlp": set()}

    def setting(arm: Arm) -> tuple[Any, ...]:
        return arm.strategy, arm.strategy_args, arm.teacher, arm.init

    firsts = [students.arms[pair[0]] for pair in pairs]
    for arm in firsts:
        by.get(arm.arch, set()).add(setting(arm))
    both = by["resnet1d"] & by["mlp"]
    return [p for p, arm in zip(pairs, firsts, strict=True) if arm.arch in by and setting(arm) in both]


def _teachers(students: _Students) -> list[tuple[int, int]]:
    """Students of the largest teachers with the same ones of the smallest."""
    params = students.teacher_params
    if len(set(params.values())) < 2:
        return []
    ends = max(params.values()), min(params.values())
    return students.pairs(
        lambda a, b: (
            a.strategy in DISTILLED
            and (a.strategy, a.strategy_args) == (b.strategy, b.strategy_args)
            and (params.get(a.teacher), params.get(b.teacher)) == ends
        ),
        one_teacher=False,
    )


def _row(
    students: _Students, claim: Claim, weights: Mapping[str, float] | None
) -> tuple[dict[str, Any], Effect | None]:
    """A claim with its numbers, and its effect on ln error, on which the verdict rests."""
    ln_table, bpm_table, cells, pairs = students.differences(claim.pairs)
    sides = np.array([-1.0 if cell[2] == "mlp" else 1.0 for cell in cells]) if claim.apart else None
    ln = bpm = None
    if pairs and (sides is None or len(set(sides)) == 2):
        ln, bpm = (effect(table, students.datasets, sides, weights) for table in (ln_table, bpm_table))
    told = np.isfinite(ln_table).any(1) if ln else np.zeros(len(students.datasets), bool)
    n = {
        "subjects": int(told.sum()),
        "datasets": len(set(students.datasets[told])),
        "sizes": len({cell[2:] for cell in cells}),
        "folds": len({cell[0] for cell in cells}),
        "seeds": len({cell[1] for cell in cells}),
        "cells": len(cells),
        "pairs": pairs,
    }
    row: dict[str, Any] = {"id": claim.id, "text": claim.text, "source": claim.source}
    row |= {"effect_percent": None, "effect_bpm": None, "p": None, "p_holm": None, "n": n}
    if ln and bpm and n["subjects"] > 1:  # one person has no spread
        low, high = ln.interval()
        row["effect_percent"] = interval(*(-percent(v) for v in (ln.mean, high, low)))
        low, high = bpm.interval()
        row["effect_bpm"] = interval(-bpm.mean, -high, -low)
        if n["subjects"] >= LEAST_SUBJECTS and n["cells"] >= LEAST_CELLS:
            row["p"] = ln.p()
    return row, ln


def percent(ln_ratio: float) -> float:
    """By how many percent an error is higher, from the logarithm of the ratio."""
    return 100 * math.expm1(ln_ratio)


def interval(median: float, low: float, high: float) -> dict[str, float]:
    """As the laws write intervals."""
    return {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4), "level": LEVEL}


def _judged(row: dict[str, Any], found: Effect | None) -> dict[str, Any]:
    """The claim with its verdict and, where there is none, why and how much more it takes."""
    n, verdict, why, more = row["n"], "undecided", "", None
    if found is None:
        why = "no two students that differ in this alone were trained"
    elif row["p"] is None:
        why = f"it takes {LEAST_SUBJECTS} subjects and {LEAST_CELLS} pairs of runs or more"
        more = {"subjects": max(n["subjects"], LEAST_SUBJECTS), "pairs": max(n["cells"], LEAST_CELLS)}
    elif max(-row["effect_percent"]["low"], row["effect_percent"]["high"]) <= LEAST_PERCENT:
        verdict, why = "equivalent", f"the difference is within {LEAST_PERCENT:g} %: too small to matter"
    else:
        agree = row["effect_percent"]["median"] * row["effect_bpm"]["median"] > 0
        if row["p_holm"] < ALPHA and agree:
            verdict = "supported" if found.mean < 0 else "contradicted"
        elif row["p_holm"] < ALPHA:
            why = "the effect in % and that in BPM have opposite signs"
        elif times := needed(found):
            times = max(times, 1.0)
            more = {key: math.ceil(times * n[k]) for key, k in (("subjects", "subjects"), ("pairs", "cells"))}
            why = f"so small an effect takes about {times:,.{int(times < 10)}f} times the subjects and runs"
    return row | {"verdict": verdict, "why": why, "needed": more}
