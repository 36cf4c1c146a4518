"""Does `plan --answer` predict how often the laws of a design name the best arm, and at what regret?

    python tests/benchmarks/design.py --sweeps 40

For simulated sweeps (`laws.crossed`) the components of noise are known. Predicted from these, and observed:
the laws are fitted and the arm chosen as in pooling.py, at x1, x2 and x4 of the largest size. Prints
the table of orchestrator/laws/CALIBRATION.md.
"""

import argparse
from multiprocessing import Pool

import numpy as np
from pooling import DESIGNS, FACTORS, FAMILIES, Job, judge

from orchestrator.answers.design import Design, Family, predict
from orchestrator.laws.crossed import CrossedSweep, difficulty
from orchestrator.laws.noise import Noise


def known(sweep: CrossedSweep, level_bpm: float) -> Noise:
    """The components that a simulated sweep was made with."""
    ratios = np.exp(difficulty(np.random.default_rng(0), sweep.between, 200_000))
    tested = sweep.subjects / sweep.folds
    half = sweep.deviation / 2**0.5
    return Noise(
        run=(sweep.noise**2 + sweep.interaction**2 / tested) ** 0.5,
        own=half,
        common=half,
        likes=sweep.interaction,
        people=float(ratios.std() / ratios.mean()),
        offsets=sweep.offset,
        slopes=sweep.tilt,
        architectures=0.0,
        level_bpm=level_bpm,
        level_params=1.0,
        exponent=0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="seed of the first sweep")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    print("| design | size | P(right) predicted | observed | regret predicted, BPM | observed | n |")
    print("|---|---|---|---|---|---|---|")
    with Pool(options.processes) as workers:
        for name, settings in DESIGNS.items():
            seeds = range(options.first, options.first + options.sweeps)
            out = workers.map(judge, [Job(name, FAMILIES[k % 4], k, True) for k in seeds])
            sweeps = [CrossedSweep(k, FAMILIES[k % 4], **settings) for k in seeds]
            for i, factor in enumerate(FACTORS):
                if factor < 1:
                    continue
                level = np.mean([np.exp(s.curve(s.params()[-1:] * factor)).mean() for s in sweeps])
                s = sweeps[0]
                u = np.log(s.params())
                design = Design(s.folds, s.seeds, len(u), s.subjects)
                family = Family(s.arch, s.arms, u[0], u[-1], u[-1] + np.log(factor), ((u[0], 1.0),))
                told = predict(design, [family], known(s, float(level)))
                right = np.mean([o["right"][i] for o in out])
                regret = np.array([o["regret"][i] for o in out])
                cells = [name, f"x{factor:g}", f"{told['p_right']:.2f}", f"{right:.2f}"]
                cells += [f"{told['regret_bpm']:.3f}"]
                cells += [f"{regret.mean():.3f} +- {regret.std() / len(regret) ** 0.5:.3f}", str(len(out))]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
