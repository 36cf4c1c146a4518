"""Time of fitting and of asking as groups grow, in CPU seconds of one core.

    python tests/benchmarks/laws.py
    python tests/benchmarks/laws.py --results 10000

A group is one arm: 8 sizes x 3 seeds, 400 bootstrap draws. `query` is the whole command in a fresh process,
interpreter and imports included. With --results, a sweep of that many results is asked instead: its arms are
copies of a few fitted ones, since only the size of laws.json matters to a query.
"""

import argparse
import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.laws import fit_law
from orchestrator.laws.document import make_document
from orchestrator.laws.simulate import FakeSweep

GROUPS = (1, 5, 20)
STRATEGIES = ("scratch", "hard", "soft", "dkd", "feature")


def sweep(groups: int) -> FakeSweep:
    """A sweep of so many arms."""
    archs = ("resnet1d", "mlp") if groups >= 2 * len(STRATEGIES) else ("resnet1d",)
    strategies = STRATEGIES[: max(1, groups // len(archs))]
    teachers = max(1, groups // (len(archs) * len(strategies)))
    return FakeSweep(archs=archs, strategies=strategies, teachers=tuple(f"T{i}" for i in range(teachers)))


def grown(document: dict[str, Any], results: int) -> dict[str, Any]:
    """The document with copies of its arms, until it holds so many runs."""
    runs = sum(len(arm["runs"]) for arm in document["arms"])
    arms = []
    for n in range(-(-results // runs)):
        for arm in copy.deepcopy(document["arms"]):
            for run in arm["runs"]:
                run["id"] = f"{run['id']}-{n}"
            arms.append(arm | {"key": f"{arm['key']} copy {n}", "strategy_args": {"temperature": float(n)}})
    return document | {"arms": arms}


def query_seconds(document: dict[str, Any]) -> tuple[float, float, float]:
    """CPU and wall seconds of `kdsweep query` with two limits, and MB of laws.json."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "points").mkdir()
        file = Path(folder) / "laws.json"
        file.write_text(json.dumps(document, separators=(",", ":")))
        command = [sys.executable, "-m", "orchestrator.commands.main", "query", folder]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [*command, "--max-params", "20000", "--max-flash-kb", "70", "--json"],
            check=True,
            capture_output=True,
        )
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return cpu, wall, file.stat().st_size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=int, help="Only ask, a sweep of so many results.")
    options = parser.parse_args()
    if options.results:
        document = grown(make_document("few", sweep(5).results(0), {}), options.results)
        cpu, wall, size = query_seconds(document)
        print(f"{options.results} results, {len(document['arms'])} arms, laws.json {size:.1f} MB: ", end="")
        print(f"query {cpu:.2f} s of CPU, {wall:.2f} s of wall")
        return
    print("| groups | runs | fit, s | fit a group, s | query, s | laws.json, MB |\n|---|---|---|---|---|---|")
    for groups in GROUPS:
        results = sweep(groups).results(0)
        started = time.process_time()
        document = make_document("bench", results, {})
        fit = time.process_time() - started
        cpu, _, size = query_seconds(document)
        arms, runs = len(document["arms"]), sum(len(a["runs"]) for a in document["arms"])
        print(f"| {arms} | {runs} | {fit:.1f} | {fit / arms:.2f} | {cpu:.2f} | {size:.2f} |", flush=True)
    sizes = np.geomspace(1e2, 1e6, 200)
    errors = (4 + 60 * sizes**-0.4) * np.exp(0.02 * np.random.default_rng(0).standard_normal(200))
    started = time.process_time()
    fit_law(sizes, errors)
    print(f"\none curve of 200 sizes: {time.process_time() - started:.2f} s")


if __name__ == "__main__":
    main()
