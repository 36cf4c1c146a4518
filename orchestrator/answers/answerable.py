"""`kdsweep plan --answer`: what a plan's points could answer, from their shapes and the noise of a sweep."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.answers.candidates import Budget
from orchestrator.answers.design import (
    TYPICAL,
    TYPICAL_FROM,
    Design,
    Family,
    cheapest,
    largest_within,
    proposals,
    row,
)
from orchestrator.laws.arms import canonical
from orchestrator.laws.noise import COMPONENTS, Noise, components
from orchestrator.laws.people import WEARERS
from orchestrator.space.plan import Plan, Point
from orchestrator.store.metric import headline
from orchestrator.store.store import Store
from orchestrator.words import duration

TARGET = 0.8


def answerable(
    plan: Plan,
    shape: Mapping[str, int],
    tested: Iterable[tuple[str, str]],
    everybody: Iterable[tuple[str, str]],
    budget: Budget,
    noise: tuple[Noise, str],
    target: float = TARGET,
    scale: float = 1.0,
) -> dict[str, Any]:
    """What `plan --json` carries as `answerable`.

    shape: samples, channels and classes of the models. tested: (data set, subject) of those whom the plan's
    folds, or the fixed split, test; everybody: of all, whom folds could test. noise: and where it comes from.
    scale: of the plan's costs. Raises InputError where the budget fits no architecture of the plan, or there
    is nothing to choose from.
    """
    students = [p for p in plan.points if p.role == "student"]
    families = _families(students, budget, shape, scale)
    if sum(f.arms for f in families) < 2:
        raise InputError("--answer: the plan has one arm only within this budget: nothing to choose from")
    folds = max(len(plan.folds), 1)
    teachers_s = scale * sum(p.cost_s for p in plan.points if p.role == "teacher") / folds
    sizes = [len({(p.depth, p.width) for p in students if p.arch == f.arch}) for f in families]
    cells = sum(f.arms * n for f, n in zip(families, sizes, strict=True)) * folds
    trained = sum(p.arch in {f.arch for f in families} for p in students)
    now = Design(folds, trained / cells, round(float(np.mean(sizes))), effective(tested))
    told = row(now, families, noise[0], teachers_s)
    told["cost_s"] = round(scale * sum(p.cost_s for p in plan.points), 1)  # seeds may differ between sizes
    rows = proposals(families, noise[0], teachers_s, effective(everybody))
    found = cheapest(rows, target)
    return {
        "asked": budget.given,
        "target": target,
        "noise": {**{name: round(getattr(noise[0], name), 4) for name in COMPONENTS}, "from": noise[1]},
        "design": told,
        "proposed": None if found is None else dict(found),
        "most": max(rows, key=lambda r: (r["p_right"], -r["cost_s"])),
        "designs": rows,
        "text": in_words(now, told, budget),
    }


def effective(people: Iterable[tuple[str, str]]) -> float:
    """How many equally weighed subjects a mean over data sets of means over their subjects is worth."""
    count: dict[str, int] = {}
    for dataset, _ in set(people):
        count[dataset] = count.get(dataset, 0) + 1
    return len(count) ** 2 / sum(1 / n for n in count.values()) if count else 1.0


def noise_of(folder: Path | None) -> tuple[Noise, str]:
    """The noise of a sweep's results, typical where they can't tell, and where it is from; None: typical."""
    if folder is None:
        return TYPICAL, TYPICAL_FROM
    judge = headline(folder)
    found, measured = components((judge.judged(r) for r in Store(folder).results()), TYPICAL)
    if not measured:
        raise InputError(
            f"--noise {folder}: its results tell of no noise: name a sweep with two arms or more"
        )
    typical = [name for name in COMPONENTS if name not in measured]
    rest = f"; {', '.join(typical)}: {TYPICAL_FROM}" if typical else ""
    return found, f"the results of {folder.name}{rest}"


def _families(
    students: Sequence[Point], budget: Budget, shape: Mapping[str, int], scale: float
) -> list[Family]:
    out = []
    for arch in sorted({p.arch for p in students}):
        here = [p for p in students if p.arch == arch]
        arms = {
            (p.init, p.strategy, canonical(p.strategy, dict(p.strategy_args)), p.teacher_group) for p in here
        }
        params = sorted({p.params for p in here})
        asked = largest_within(budget, arch, sorted({p.depth for p in here}), params, shape)
        if asked is None:
            continue
        by_size = [[p.cost_s for p in here if p.params == n] for n in params]
        costs = tuple(
            (float(np.log(n)), scale * len(arms) * float(np.mean(seconds)))
            for n, seconds in zip(params, by_size, strict=True)
        )
        out.append(Family(arch, len(arms), costs[0][0], costs[-1][0], asked, costs))
    if not out:
        limits = ", ".join(f"{name.replace('_', '-')}={v:g}" for name, v in budget.given.items())
        raise InputError(f"--answer {limits}: no student near the sizes of this plan fits: raise the limit")
    return out


def in_words(design: Design, told: Mapping[str, Any], budget: Budget) -> str:
    """One sentence: how often the design would name the best."""
    limits = ", ".join(f"{name.replace('_', '-')} {v:,g}" for name, v in budget.given.items())
    return (
        f"With {design} the best strategy for {limits} would be named rightly {_in_ten(told['p_right'])}, "
        f"and one within 0.1 BPM or 2 % of it {_in_ten(told['p_within'])}"
    )


def _in_ten(p: float) -> str:
    return (
        f"{round(10 * p)} times in 10"
        if 0.05 <= p < 0.95
        else ("nearly always" if p >= 0.95 else "hardly ever")
    )


def lines(told: Mapping[str, Any]) -> list[str]:
    """What `plan` prints below its plan."""
    now, target = told["design"], told["target"]
    out = [
        f"{told['text']}.",
        f"expected regret {now['regret_bpm']:.2f} BPM; 90 % intervals: another run of these people "
        f"+-{now['interval_run_bpm']:.2f} BPM, {WEARERS} new people +-{now['interval_people_bpm']:.2f} BPM",
    ]
    proposed, most = told["proposed"], told["most"]
    if now["p_right"] >= target and (proposed is None or now["cost_s"] <= proposed["cost_s"]):
        out.append(f"that reaches the target of {target:.0%}, and no cheaper design does")
    elif proposed is None:
        out.append(
            f"no design names the best {target:.0%} of the time: {_design(most)} {most['p_right']:.0%}, "
            f"and one within 0.1 BPM or 2 % of it {most['p_within']:.0%} ({_slot(most)})"
        )
    else:
        out.append(
            f"the cheapest design that names the best {target:.0%} of the time: {_design(proposed)}: "
            f"{_slot(proposed)} (this plan: {_slot(now)})"
        )
    return [*out, f"noise: {told['noise']['from']}"]


def _design(told: Mapping[str, Any]) -> str:
    return str(Design(told["folds"], told["seeds"], told["sizes"], 1.0))


def _slot(told: Mapping[str, Any]) -> str:
    return f"{duration(told['cost_s'])} of one slot"
