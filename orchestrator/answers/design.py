"""What a design can answer before it is trained, and the cheapest one that could. numpy only.

A design is folds x seeds x sizes of the same arms. Worlds are drawn (how arms differ in offset and slope),
then what the design would estimate of them: arms of one architecture share its curve, their slopes are
shrunken as `laws.pooled` does, and the arm with the least estimate is named. tests/benchmarks/design.py
compares that with simulated sweeps that the laws really answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd.errors import InputError
from orchestrator.answers.candidates import LIMITS, NEAR_BPM, Budget
from orchestrator.answers.decide import NEAR_SHARE
from orchestrator.laws.configurations import enumerate_configurations
from orchestrator.laws.forms import Array
from orchestrator.laws.law import DRIFT
from orchestrator.laws.noise import Noise
from orchestrator.laws.people import WEARERS, widened
from orchestrator.words import plural

# Of the 475 students of search_spaces/wrist.yaml on 90 recordings of three public sets (wrists on a treadmill
# and fingers at rest), to 2 digits.
TYPICAL = Noise(
    run=0.067,
    own=0.0072,
    common=0.040,
    likes=0.14,
    people=0.82,
    offsets=0.048,
    slopes=0.0078,
    architectures=0.50,
    level_bpm=5.2,
    level_params=8000.0,
    exponent=0.18,
)
TYPICAL_FROM = "typical noise: 90 recordings of three public sets, 5 folds"
WORLDS = 4000
REACH = 4.0  # times the largest size: as far as laws are asked
BEND = 0.05  # prior of a curve's curvature, ln error per squared unit of ln size
Z90 = 1.645
FOLDS, SEEDS, SIZES = (2, 3, 5, 10), (1, 2, 3), (3, 4, 5, 6, 8, 10)


@dataclass(frozen=True)
class Design:
    """folds: that train (1: a fixed split); seeds: runs of a cell in each; sizes: of each architecture.

    people: who are tested, as equally weighed subjects.
    """

    folds: int
    seeds: float
    sizes: int
    people: float

    def __str__(self) -> str:
        folds = f"{self.folds} folds" if self.folds > 1 else "1 split"
        seeds = f"{self.seeds:.2g} seed{'s' * (self.seeds != 1)}"
        return f"{plural(self.sizes, 'size')}, {seeds}, {folds}"


@dataclass(frozen=True)
class Family:
    """The arms of one architecture. smallest, largest, asked: ln size, of its grid and of the question.

    cost_s: of one run of all its arms at the grid's sizes, as (ln size, seconds), by size.
    """

    arch: str
    arms: int
    smallest: float
    largest: float
    asked: float
    cost_s: tuple[tuple[float, float], ...]

    def sizes(self, n: int) -> Array:
        """n sizes over the grid's range, evenly in ln size."""
        return np.linspace(self.smallest, self.largest, n)

    def cost(self, n: int) -> float:
        """Seconds of one run of every arm at n sizes."""
        u, seconds = (np.array(column) for column in zip(*self.cost_s, strict=True))
        return float(np.exp(np.interp(self.sizes(n), u, np.log(np.maximum(seconds, 1e-9)))).sum())


def question(text: str) -> Budget:
    """A budget from "max-params=60000 max-memory-kb=40"; InputError for what sizes alone can't tell."""
    names = ", ".join(name.replace("_", "-") for name in LIMITS if name != "max_latency_ms")
    given: dict[str, Any] = {}
    for part in text.replace(",", " ").split():
        key, found, value = part.partition("=")
        name = key.strip("-").replace("-", "_")
        if name == "max_latency_ms":
            raise InputError(
                f"--answer {part}: latency isn't known before students are profiled: use {names}"
            )
        if name == "precision" and value in ("fp32", "int8"):
            given[name] = value
            continue
        if not found or name not in LIMITS:
            raise InputError(
                f"--answer {part}: give limits as query takes them, key=value: {names}, precision"
            )
        try:
            given[name] = float(value)
        except ValueError:
            raise InputError(f"--answer {part}: {value!r} is not a number") from None
        if not 0 < given[name] < float("inf"):
            raise InputError(f"--answer {part}: must be above 0")
    budget = Budget(**given)
    if not budget.given:
        raise InputError('--answer names no limit: for example --answer "max-params=60000"')
    return budget


def largest_within(
    budget: Budget, arch: str, depths: Sequence[int], sizes: Sequence[int], shape: Mapping[str, int]
) -> float | None:
    """ln size of the largest student within a budget that laws of these sizes may be asked about; or None."""
    rows = enumerate_configurations(arch, depths, min(sizes), max(sizes), **shape)
    columns = {
        "max_params": "params",
        "max_macs": "macs",
        "max_memory_kb": "activation_bytes",
        "max_flash_kb": "weight_bytes" if budget.precision == "fp32" else "weight_bytes_int8",
    }
    allowed = np.array(rows["params"]) <= REACH * max(sizes)
    for name, limit in budget.given.items():
        unit = LIMITS[name][1] * (4 if name == "max_memory_kb" and budget.precision == "int8" else 1)
        allowed &= np.array(rows[columns[name]]) <= limit * unit
    return float(np.log(np.array(rows["params"])[allowed].max())) if allowed.any() else None


def predict(design: Design, families: Sequence[Family], noise: Noise, rng: int = 0) -> dict[str, Any]:
    """What a design can answer: p_right, p_within, regret_bpm, and half-widths of both 90 % intervals in BPM.

    p_right: that the arm named best is the best for all people; p_within: that it is within 0.1 BPM or 2 % of
    it. The draws are the same for every design.
    """
    truth, said, spread = [], [], 0.0
    for number, family in enumerate(families):
        g = np.random.default_rng([rng, number])
        offset, slope, wrong, tilted = g.standard_normal((4, WORLDS, family.arms))
        base, bent = g.standard_normal((2, WORLDS, 1))
        u = family.sizes(design.sizes)
        away, reach = u - u.mean(), family.asked - u.mean()
        cell = noise.own**2 + noise.run**2 / (design.folds * design.seeds)
        known = cell / len(u) + noise.likes**2 / design.people  # variance of an arm's estimated offset
        squares = float(away @ away)
        kept = noise.slopes**2 / (noise.slopes**2 + cell / squares) if squares else 0.0
        true_slope = noise.slopes * slope
        seen_slope = kept * (true_slope + (np.sqrt(cell / squares) * tilted if squares else 0.0))
        true = noise.offsets * offset + true_slope * reach
        seen = noise.offsets * offset + np.sqrt(known) * wrong + seen_slope * reach
        curve = _curve(u, family.asked, noise.common**2 + cell / family.arms)
        if len(families) > 1:
            true = true + noise.architectures * base
            seen = seen + noise.architectures * base + np.sqrt(curve) * bent
        truth.append(true)
        said.append(seen)
        own = cell / len(u) + (noise.slopes * reach) ** 2 * (1 - kept) + cell
        spread = max(spread, curve + own)
    every, seen = np.concatenate(truth, 1), np.concatenate(said, 1)
    named = every[np.arange(WORLDS), seen.argmin(1)]
    level = noise.level(float(np.exp(max(f.asked for f in families))))
    lost = level * np.expm1(named - every.min(1))
    near = max(NEAR_BPM, NEAR_SHARE * level)
    people = (noise.people**2 + noise.likes**2) * (1 / design.people + 1 / WEARERS)
    alone = noise.run**2 * max(1 - 1 / design.folds, 0.0)  # new people wear one run, not the mean over folds
    return {
        "p_right": round(float((lost <= 0).mean()), 4),
        "p_within": round(float((lost <= near).mean()), 4),
        "regret_bpm": round(float(lost.mean()), 4),
        "interval_run_bpm": round(_half(spread, level), 3),
        "interval_people_bpm": round(
            _half(spread + alone + widened(design.people - 1) ** 2 * people, level), 3
        ),
    }


def _half(variance: float, level_bpm: float) -> float:
    return float(level_bpm * np.sinh(Z90 * np.sqrt(variance)))


def _curve(u: Array, asked: float, cell: float) -> float:
    """Variance of an architecture's curve at `asked`, from cells of variance `cell`: a line that may bend."""
    x = np.stack([np.ones_like(u), u - u.mean(), (u - u.mean()) ** 2], 1)
    at = np.array([1.0, asked - u.mean(), (asked - u.mean()) ** 2])
    prior = np.diag([0.0, 1.0, BEND**-2])  # slopes are known to some units of ln error per ln size
    variance = float(at @ np.linalg.inv(x.T @ x / cell + prior) @ at)
    return variance + (DRIFT * max(asked - float(u.max()), 0.0)) ** 2


def proposals(
    families: Sequence[Family], noise: Noise, teachers_s: float, everybody: float
) -> list[dict[str, Any]]:
    """The designs that could be trained instead, cheapest first, each with what it can answer and its cost.

    teachers_s: seconds of a fold's teachers. everybody: whom all folds test, as equally weighed subjects.
    """
    folds = [f for f in FOLDS if f <= everybody]
    rows = []
    for f in folds:
        for s in SEEDS:
            for n in SIZES:
                design = Design(f, s, n, everybody)
                rows.append(row(design, families, noise, teachers_s))
    return sorted(rows, key=lambda r: r["cost_s"])


def row(design: Design, families: Sequence[Family], noise: Noise, teachers_s: float) -> dict[str, Any]:
    """A design as a row: its numbers, its cost in slot-seconds, and what it can answer."""
    cost = design.folds * (teachers_s + design.seeds * sum(f.cost(design.sizes) for f in families))
    head = {"folds": design.folds, "seeds": round(design.seeds, 2), "sizes": design.sizes}
    return head | {"cost_s": round(cost, 1)} | predict(design, families, noise)


def cheapest(rows: Iterable[Mapping[str, Any]], target: float) -> Mapping[str, Any] | None:
    """The cheapest design whose p_right reaches the target; None if none does."""
    return next((r for r in rows if r["p_right"] >= target), None)
