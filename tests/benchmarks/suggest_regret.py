"""Does `suggest` beat going on with the grid? Simulated sweeps, three rounds, the same hours for both.

    python tests/benchmarks/suggest_regret.py --sweeps 40 --processes 2

Each sweep starts with three small sizes of every arm. Then three times a tenth of the cost of the rest of
the grid is spent: on what `suggest` proposes, or on points of the rest of the grid, drawn at random. After
each round the laws are fitted anew and the query is answered; regret = true error of that student minus the
true error of the best one that fits the budget.
"""

import argparse
from functools import partial
from multiprocessing import Pool
from typing import Any

import numpy as np

from orchestrator.answers.best import answer
from orchestrator.answers.candidates import Budget
from orchestrator.answers.suggest import suggest
from orchestrator.laws.document import make_document
from orchestrator.laws.simulate import FakeSweep
from orchestrator.laws.truths import FAMILIES

ROUNDS = 3
START = (4, 8, 12)  # widths
BUDGET = Budget(max_params=60_000)


def world(seed: int) -> FakeSweep:
    """A sweep whose strategies and architectures differ a little, and cross."""
    rng = np.random.default_rng([seed, 7])
    family = list(FAMILIES)[seed % len(FAMILIES)]
    strategies = ("soft", "dkd", "feature")
    return FakeSweep(
        widths=(4, 6, 8, 12, 16, 24, 32, 48),
        strategies=("scratch", *strategies),
        noise=0.02,
        truth=FAMILIES[family](rng),
        gains={s: float(np.exp(rng.normal(-0.05, 0.04))) for s in strategies},
        tilts={s: float(rng.normal(0, 0.02)) for s in strategies},
        archs_differ={"mlp": float(np.exp(rng.normal(0.05, 0.08)))},
    )


def truth_of(sweep: FakeSweep, document: dict[str, Any], student: dict[str, Any]) -> float:
    """True mean MAE of a student."""
    params = np.array([float(student["params"])])
    return float(sweep.mean(student["arch"], student["strategy"], student["teacher"], params)[0])


def best_possible(sweep: FakeSweep, document: dict[str, Any]) -> float:
    """The least true MAE of all students within the budget and reach of the grid."""
    found = []
    for arm in document["arms"]:
        params = np.array(document["architectures"][arm["arch"]]["configurations"]["params"], dtype=float)
        params = params[params <= (BUDGET.max_params or np.inf)]
        found.append(sweep.mean(arm["arch"], arm["strategy"], arm["teacher"], params).min())
    return float(min(found))


def play(seed: int, way: str) -> list[float]:
    """Regret before and after each round."""
    sweep = world(seed)
    rng = np.random.default_rng([seed, 11])
    grid = sweep.results(seed)
    have = [r for r in grid if r["role"] == "teacher" or (r["width"] in START and r["seed"] == 0)]
    ids = {r["id"] for r in have}
    rest = [grid[i] for i in rng.permutation(len(grid)) if grid[i]["id"] not in ids]
    seconds = sum(r["train_seconds"] for r in rest) / 10
    regrets = []
    for round_ in range(ROUNDS + 1):
        document = make_document("simulated", have, {}, rng=seed)
        result = answer(document, BUDGET)
        if result["best"] is None:
            raise RuntimeError(result["why"])
        regrets.append(truth_of(sweep, document, result["best"]) - best_possible(sweep, document))
        if round_ < ROUNDS:
            have = have + (
                _grid(rest, have, seconds) if way == "grid" else _ask(sweep, document, seconds, rng)
            )
    return regrets


def _grid(rest: list[dict[str, Any]], have: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    done, out = {r["id"] for r in have}, []
    for r in rest:
        if r["id"] not in done and r["train_seconds"] <= seconds:
            out.append(r)
            seconds -= r["train_seconds"]
    return out


def _ask(
    sweep: FakeSweep, document: dict[str, Any], seconds: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    out = []
    for pick in suggest(document, BUDGET, seconds / 3600).picks:
        arm = document["arms"][pick.arm]
        columns = document["architectures"][arm["arch"]]["configurations"]
        depth, width = columns["depth"][pick.row], columns["width"][pick.row]
        off = sweep.noise * float(rng.standard_normal())
        out.append(sweep.student(arm["arch"], depth, width, arm["strategy"], arm["teacher"], pick.seed, off))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="seed of the first sweep")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    print(
        f"mean regret (BPM) over {options.sweeps} simulated sweeps, budget {BUDGET.max_params:,} parameters\n"
    )
    print("| spent on | before | round 1 | round 2 | round 3 |\n|---|---|---|---|---|")
    kept = {}
    with Pool(options.processes) as pool:
        for way in ("suggest", "grid"):
            seeds = range(options.first, options.first + options.sweeps)
            kept[way] = np.array(pool.map(partial(play, way=way), seeds, chunksize=1))
            print(f"| {way} | " + " | ".join(f"{v:.3f}" for v in kept[way].mean(0)) + " |", flush=True)
    gap = kept["grid"][:, -1] - kept["suggest"][:, -1]
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    print(f"\nafter round 3 the grid's regret is {gap.mean():.3f} +- {error:.3f} BPM larger (paired)")


if __name__ == "__main__":
    main()
