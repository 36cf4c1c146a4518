"""Simulation-based calibration of `fit_law`: does the 90 % interval hold 90 % of new runs?

    python tests/benchmarks/calibration.py --sweeps 200 --processes 2

Prints the table of orchestrator/laws/CALIBRATION.md (about 20 minutes of one core). Each sweep is a truth of
its own, drawn from a family inside or outside the fitted one, and gives one new run at each distance, so
that hits are independent and a binomial band judges them.
"""

import argparse
import json
import warnings
from dataclasses import dataclass
from math import comb
from multiprocessing import Pool

import numpy as np

from orchestrator.laws import fit_law
from orchestrator.laws.truths import FAMILIES

FACTORS = (2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Cell:
    """One kind of simulated sweep: 8 sizes over a factor of 333."""

    family: str
    noise: float
    seeds: int = 3
    growing: bool = False  # noise four times larger at the smallest size than at the largest
    diverged: float = 0.0  # share of runs with 1.6 to 4.5 times the error

    @property
    def name(self) -> str:
        parts = [self.family, f"{self.noise:.0%}"]
        if self.seeds != 3:
            parts.append(f"{self.seeds} seed")
        if self.growing:
            parts.append("noisier when small")
        if self.diverged:
            parts.append(f"{self.diverged:.0%} diverged")
        return ", ".join(parts)


CELLS = [Cell(family, noise) for family in FAMILIES for noise in (0.01, 0.03)]
EXTRA = [
    Cell("power", 0.02, seeds=1),
    Cell("broken", 0.02, seeds=1),
    Cell("power", 0.01, growing=True),
    Cell("M4", 0.02, diverged=0.05),
]


def simulate(cell: Cell, seed: int) -> list[tuple[float, float, float, bool, bool]]:
    """One sweep: for each factor, |ln error|, half-width, Winkler score, hit, refused."""
    rng = np.random.default_rng([seed, 2026])
    truth = FAMILIES[cell.family](rng)
    sizes = np.repeat(np.geomspace(3e3, 1e6, 8), cell.seeds)
    scale = cell.noise * ((1e6 / sizes) ** 0.24 if cell.growing else 1.0)
    errors = truth(sizes) * np.exp(scale * rng.standard_normal(len(sizes)))
    bad = rng.random(len(sizes)) < cell.diverged
    errors = np.where(bad, errors * np.exp(rng.uniform(0.5, 1.5, len(sizes))), errors)
    new = 1e6 * np.array(FACTORS)
    run = np.log(truth(new)) + cell.noise * rng.standard_normal(len(new))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        law = fit_law(sizes, errors, rng=seed)
        median, low, high = (np.log(v) for v in law.predict(new))
    outside = np.maximum(np.maximum(low - run, run - high), 0)
    return [
        (
            float(abs(median[j] - run[j])),
            float((high[j] - low[j]) / 2),
            float(high[j] - low[j] + 20 * outside[j]),
            bool(outside[j] == 0),
            law.verdict == "refuse",
        )
        for j in range(len(new))
    ]


def band(n: int, p: float = 0.9, level: float = 0.95) -> tuple[int, int]:
    """Hits that a true share p gives with probability `level`, tails cut alike."""
    mass = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    total = np.cumsum(mass)
    low = int(np.searchsorted(total, (1 - level) / 2))
    high = int(np.searchsorted(total, (1 + level) / 2))
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    low, high = band(options.sweeps)
    rows = []
    print(f"nominal 90 %, {options.sweeps} sweeps a cell: a calibrated law has {low} to {high} hits\n")
    print("| truth, noise | hits x2 / x4 / x8 | coverage | mean error | half-width | Winkler | refused |")
    print("|---|---|---|---|---|---|---|")
    with Pool(options.processes) as pool:
        for cell in CELLS + EXTRA:
            jobs = [(cell, seed) for seed in range(options.sweeps)]
            out = np.array(pool.starmap(simulate, jobs, chunksize=5), dtype=float)  # (sweeps, factors, 5)
            mean = out.mean(0)
            rows.append({"cell": cell.name, "factors": FACTORS, "mean": mean.tolist()})
            cells = [
                cell.name,
                " / ".join(f"{int(h)}" for h in out[..., 3].sum(0)),
                " / ".join(f"{c:.3g}".lstrip("0") for c in mean[:, 3]),
                *(" / ".join(f"{100 * v:.1f} %" for v in mean[:, j]) for j in (0, 1)),
                " / ".join(f"{v:.2f}" for v in mean[:, 2]),
                f"{mean[0, 4]:.0%}",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
