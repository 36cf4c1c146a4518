"""Laws on public learning curves: error against training-set size, extrapolated 2 and 4 times.

    pip download --no-deps lcdb==0.1.0 && tar xzf lcdb-0.1.0.tar.gz
    python tests/benchmarks/public_curves.py lcdb-0.1.0/lcdb/database-accuracy.csv

LCDB (Mohr et al., ECML PKDD 2022): scikit-learn learners on OpenML data. One learner is drawn for each
data set of 2,000 samples or more, so that curves are independent; sizes from 64 to a quarter of the largest
are seen. Both the mean over the repetitions and a single one are judged, the latter as noisy as a sweep with
one seed. The curves stay outside the project.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.laws import fit_law
from orchestrator.laws.forms import Array

FACTORS = (2.0, 4.0)
SMALLEST, LARGEST_AT_LEAST = 64, 2_000


def curves(file: Path) -> Iterator[tuple[str, Array, Array]]:
    """("mean" | "one", sizes, errors) of one learner a data set."""
    columns = ["openmlid", "learner", "size_train", "outer_seed", "inner_seed", "score_test"]
    table = pd.read_csv(file, usecols=columns)
    table["error"] = 1 - table.score_test
    rng = np.random.default_rng(0)
    for _, of_data in table.groupby("openmlid"):
        able = [(t, m) for _, t in of_data.groupby("learner") if len(m := _means(t)) >= 9]
        able = [(t, m) for t, m in able if m.index.max() >= LARGEST_AT_LEAST]
        if not able:
            continue
        chosen, means = able[int(rng.permutation(len(able))[0])]
        means = means[means.index >= SMALLEST]
        first = chosen[
            (chosen.outer_seed == chosen.outer_seed.min()) & (chosen.inner_seed == chosen.inner_seed.min())
        ]
        one = first.set_index("size_train").error.reindex(means.index)
        for kind, errors in (("mean", means), ("one", one)):
            known = errors.dropna()
            yield kind, known.index.to_numpy(float), known.to_numpy(float)


def _means(runs: pd.DataFrame) -> pd.Series:
    """Mean error by size, where most of the repetitions are there."""
    by_size = runs.groupby("size_train").error.agg(["mean", "count"])
    return by_size["mean"][by_size["count"] >= 0.6 * by_size["count"].max()]


def judge(sizes: Array, errors: Array) -> list[tuple[float, float, float, float, bool]] | None:
    """For each factor: |ln error|, that of repeating the last value, half-width, Winkler score, hit."""
    seen = sizes <= sizes.max() / 4 * 1.01
    if len(sizes) < 9 or seen.sum() < 5 or (errors <= 0).any():
        return None
    last = sizes[seen].max()
    ahead = [int(np.argmin(np.abs(np.log(sizes / (last * f))))) for f in FACTORS]
    if ahead[0] == ahead[1] or sizes[ahead[1]] / last < 3:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        law = fit_law(sizes[seen], errors[seen])
        median, low, high = (np.log(v) for v in law.predict(sizes[ahead]))
    observed, before = np.log(errors[ahead]), np.log(errors[seen][-1])
    outside = np.maximum(np.maximum(low - observed, observed - high), 0)
    return [
        (
            abs(float(median[j] - observed[j])),
            abs(float(before - observed[j])),
            float(high[j] - low[j]) / 2,
            float(high[j] - low[j] + 20 * outside[j]),
            bool(outside[j] == 0),
        )
        for j in range(len(FACTORS))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    found: dict[str, list[list[tuple[float, float, float, float, bool]]]] = {"mean": [], "one": []}
    for kind, sizes, errors in curves(parser.parse_args().file):
        if rows := judge(sizes, errors):
            found[kind].append(rows)
    print("| curves | n | coverage x2, x4 | error | of the last value | half-width | Winkler |")
    print("|---|---|---|---|---|---|---|")
    for kind, rows_of in found.items():
        out = np.array(rows_of, dtype=float)  # (curves, factors, 5)
        median = np.median(out, axis=0)
        cells = [
            kind,
            str(len(out)),
            " / ".join(f"{v:.2f}" for v in out[..., 4].mean(0)),
            *(" / ".join(f"{100 * v:.1f} %" for v in median[:, j]) for j in (0, 1, 2)),
            " / ".join(f"{v:.2f}" for v in out[..., 3].mean(0)),
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
