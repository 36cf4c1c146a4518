"""Is a claim found where there is none, and is one found where there is? Simulated paired comparisons.

    python tests/benchmarks/claims_validity.py --sweeps 400

Prints the tables of orchestrator/answers/CLAIMS.md (2 minutes of one core). Effects of people and the noise
are heavy-tailed (t with 3 degrees of freedom); a pair of runs has a luck of its own over all its people.
"""

import argparse

import numpy as np

from orchestrator.answers.claims import LEAST_PERCENT, percent
from orchestrator.laws.paired import effect

DESIGNS = {  # people of each data set, cells (sizes x seeds) a fold, folds
    "18 people, 4 runs, 1 fold": {"people": (10, 8), "cells": 4, "folds": 1},
    "18 people, 12 runs, 1 fold": {"people": (10, 8), "cells": 12, "folds": 1},
    "2 and 12 people, 6 runs, 1 fold": {"people": (2, 12), "cells": 6, "folds": 1},
    "43 people, 1 run a fold, 5 folds": {"people": (10, 8, 25), "cells": 1, "folds": 5},
    "43 people, 4 runs a fold, 5 folds": {"people": (10, 8, 25), "cells": 4, "folds": 5},
    "43 people, 12 runs a fold, 5 folds": {"people": (10, 8, 25), "cells": 12, "folds": 5},
}
# People who hardly differ and many runs: only so is 1 % told from nothing.
ALIKE = {"people": (20, 20, 20), "cells": 16, "folds": 5, "runs": 0.02, "own": 0.02, "noise": 0.05}


def table(generator, people, cells, folds, true=0.0, runs=0.03, own=0.1, noise=0.1):
    """Differences of ln error, (subjects, cells), and the data sets of the subjects.

    runs, own, noise: standard deviations of a pair of runs, of a subject, and of the two together.
    """
    n, columns = sum(people), cells * folds
    strata = np.repeat([f"D{k}" for k in range(len(people))], people)

    def heavy(*shape):
        return generator.standard_t(3, shape) / np.sqrt(3)

    values = true + own * heavy(n, 1) + runs * generator.standard_normal((1, columns))
    values += noise * heavy(n, columns)
    fold_of_subject = np.concatenate([generator.permutation(np.arange(k) % folds) for k in people])
    values[fold_of_subject[:, None] != np.repeat(np.arange(folds), cells)] = np.nan
    return values, strata


def validity(sweeps, true=0.0, **design):
    """Shares of sweeps: an effect is found at 0.05; the 90 % interval holds the truth; "equivalent".

    What is equivalent is not also found.
    """
    generator = np.random.default_rng(1)
    found, held, equal = [], [], []
    for k in range(sweeps):
        e = effect(*table(generator, true=true, **design), rng=k)
        low, high = e.interval()
        equal.append(max(percent(-low), percent(high)) <= LEAST_PERCENT)
        found.append(e.p() < 0.05 and not equal[-1])
        held.append(low <= true <= high)
    return np.mean(found), np.mean(held), np.mean(equal)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=400)
    sweeps = parser.parse_args().sweeps
    print("| design | noise of a run | found, none there | interval holds | finds 5 % | finds 10 % |")
    print("|---|---|---|---|---|---|")
    for name, design in DESIGNS.items():
        for runs in (0.03, 0.06):
            none, held, _ = validity(sweeps, runs=runs, **design)
            five, ten = (validity(sweeps, true, runs=runs, **design)[0] for true in (-0.05, -0.1))
            print(f"| {name} | {runs:.0%} | {none:.3f} | {held:.3f} | {five:.2f} | {ten:.2f} |")
    print("\n| true difference | supported or contradicted | equivalent |\n|---|---|---|")
    for true in (0.0, 0.005, LEAST_PERCENT / 100, 0.02, 0.05):
        found, _, equal = validity(sweeps, -np.log1p(true), **ALIKE)
        print(f"| {true:.1%} | {found:.3f} | {equal:.3f} |")


if __name__ == "__main__":
    main()
