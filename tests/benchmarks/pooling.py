"""Do laws that share strength predict and choose better than separate ones, for people nobody measured?

    python tests/benchmarks/pooling.py --sweeps 40 --processes 2

Prints tables of orchestrator/laws/CALIBRATION.md on simulated sweeps (`laws.crossed`): each with subjects
whose effects are heavy-tailed and crossed with configurations, in folds of people.
"""

import argparse
import warnings
from dataclasses import dataclass
from multiprocessing import Pool
from typing import Any

import numpy as np

from orchestrator.laws.arms import group_arms
from orchestrator.laws.crossed import CrossedSweep
from orchestrator.laws.fit import Curve, fit_laws
from orchestrator.laws.people import new_people

FACTORS = (0.5, 1.0, 2.0, 4.0)
FAMILIES = ("power", "broken", "M4", "exp(N)")
DESIGNS: dict[str, dict[str, Any]] = {
    "6 sizes, 5 folds, 2 seeds": {"arms": 5},
    "4 sizes, 5 folds, 1 seed": {"arms": 5, "widths": (4, 8, 16, 34), "seeds": 1},
    "4 sizes, 1 split, 1 seed, 18 people": {
        "arms": 5,
        "widths": (4, 8, 16, 34),
        "seeds": 1,
        "folds": 1,
        "subjects": 18,
    },
    "6 sizes, arms cross": {"arms": 5, "tilt": 0.06},
}


@dataclass(frozen=True)
class Job:
    """One simulated sweep by one method."""

    design: str
    family: str
    rng: int
    pooled: bool


def curves_of(sweep: CrossedSweep, pooled: bool) -> list[Curve]:
    """The arms in the order of the sweep; separate ones are fitted to means over folds."""
    results = sweep.results() if pooled else folds_averaged(sweep.results())
    arms = {(a.strategy, a.teacher): a for a in group_arms(results)}
    out = []
    for j in range(sweep.arms):
        a = arms[sweep.arm(j)["strategy"], sweep.arm(j)["teacher"]]
        out.append(
            Curve(
                np.array([r["params"] for r in a.runs], float),
                np.array([r["mae_bpm"] for r in a.runs]),
                tuple(a.configuration(r) for r in a.runs),
                a.key,
                sweep.arch,
                sweep.arch if pooled else "",
                tuple(str(r["fold"]) for r in a.runs),
            )
        )
    return out


def folds_averaged(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One result for each configuration and seed: the mean over its folds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in results:
        groups.setdefault((r["strategy"], r["teacher"], r["width"], r["seed"]), []).append(r)
    return [g[0] | {"mae_bpm": float(np.mean([r["mae_bpm"] for r in g]))} for g in groups.values()]


def judge(job: Job) -> dict[str, Any]:
    """Errors, coverage and regret of one sweep, by factor of its largest size."""
    sweep = CrossedSweep(job.rng, job.family, **DESIGNS[job.design])
    curves = curves_of(sweep, job.pooled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        laws, _ = fit_laws(curves, rng=job.rng)
    sizes = sweep.params()[-1] * np.array(FACTORS)
    truth = sweep.curve(sizes)
    run = sweep.new_run(sizes, 0)
    these = np.mean([sweep.new_run(sizes, k) for k in range(1, 9)], 0)
    centre = np.stack([law.centre(sizes) for law in laws])
    draws = np.stack([law.draws(sizes) for law in laws])  # (arms, B, m)
    noisy = draws + np.stack([law._normals[1][:, None] * law.noise(sizes) for law in laws])
    low, high = np.quantile(noisy, [0.05, 0.95], axis=1)
    winner = np.exp(draws).mean(1).argmin(0)
    best = np.exp(truth).min(0)
    measured = int(np.argmin([c.errors[c.sizes == c.sizes.max()].mean() for c in curves]))
    if job.pooled:
        runs = runs_of(sweep)
        said_of = [
            law.centre(np.array([r["params"] for r in a], float)) for law, a in zip(laws, runs, strict=True)
        ]
        people = [p for p in new_people(runs, said_of, np.random.default_rng(1), 400) if p]
        new = noisy + np.stack([p.sample for p in people])[:, :, None]
        ends = np.quantile(new, [0.05, 0.95], axis=1)
        fresh = sweep.new_run(sizes, 99, people=20)
        met = ((ends[0] <= fresh) & (fresh <= ends[1])).mean(0)
        wide = (ends[1] - ends[0]).mean(0) / 2
        draws = draws + np.stack([p.shift for p in people])[:, :, None]
        winner = np.exp(draws).mean(1).argmin(0)
    else:
        met = wide = np.full(len(sizes), np.nan)
    said = (draws.argmin(0)[:, None] == np.arange(len(laws))[:, None]).mean(0)
    return {
        "error": np.abs(centre - these).mean(0),
        "apart": np.abs((centre - centre.mean(0)) - (these - these.mean(0))).mean(0),
        "covered": ((low <= run) & (run <= high)).mean(0),
        "met": met,
        "wide": wide,
        "half": (high - low).mean(0) / 2,
        "regret": np.exp(truth[winner, np.arange(len(sizes))]) - best,
        "measured": np.exp(truth[measured]) - best,
        "p": said[winner, np.arange(len(sizes))],
        "right": (truth.argmin(0) == winner).astype(float),
    }


def runs_of(sweep: CrossedSweep) -> list[list[dict[str, Any]]]:
    """The results of each arm, in the order of the sweep."""
    arms = {(a.strategy, a.teacher): a.runs for a in group_arms(sweep.results())}
    return [arms[sweep.arm(j)["strategy"], sweep.arm(j)["teacher"]] for j in range(sweep.arms)]


def reliability(out: list[dict[str, Any]]) -> str:
    """Said P(best) against the share that was, in bins of at least 30 answers (x1, x2, x4)."""
    p = np.concatenate([o["p"][1:] for o in out])
    right = np.concatenate([o["right"][1:] for o in out])
    order = np.argsort(p)
    bins = np.array_split(order, max(len(p) // 30, 1))
    return ", ".join(f"{p[b].mean():.2f} -> {right[b].mean():.2f} (n {len(b)})" for b in bins)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="seed of the first sweep")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.sweeps)
    print("x1 / x2 / x4 of the largest size; regret in BPM against the truth over all people\n")
    print(
        "| design | laws | error | of differences | run: coverage | half-width "
        "| people | half-width | regret |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    answers: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    with Pool(options.processes) as workers:
        for design in DESIGNS:
            for pooled in (False, True):
                jobs = [Job(design, FAMILIES[k % 4], k, pooled) for k in seeds]
                out = workers.map(judge, jobs, chunksize=2)
                mean = {key: np.mean([o[key] for o in out], 0) for key in out[0]}
                cells = [design, "pooled" if pooled else "separate"]
                cells += [" / ".join(f"{100 * v:.1f} %" for v in mean[k][1:]) for k in ("error", "apart")]
                cells += [" / ".join(f"{v:.2f}" for v in mean["covered"][1:])]
                cells += [" / ".join(f"{100 * v:.1f} %" for v in mean["half"][1:])]
                cells += [" / ".join(f"{v:.2f}" for v in mean["met"][1:]) if pooled else ""]
                cells += [" / ".join(f"{100 * v:.1f} %" for v in mean["wide"][1:]) if pooled else ""]
                answers[pooled] += out
                cells += [" / ".join(f"{v:.3f}" for v in mean["regret"][1:])]
                print("| " + " | ".join(cells) + " |", flush=True)
            print(f"| {design} | best measured | | | | | | | ", end="")
            print(" / ".join(f"{v:.3f}" for v in mean["measured"][1:]) + " |", flush=True)
    for pooled, out in answers.items():
        print(f"\nP(best) said -> was, {'pooled' if pooled else 'separate'}: {reliability(out)}")


if __name__ == "__main__":
    main()
