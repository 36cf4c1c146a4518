"""How much of a grid does an answer need? Finished worlds, replayed by several ways of spending the compute.

    python tests/benchmarks/economy.py --worlds 50 --first 1000
    python tests/benchmarks/economy.py --sweep sweeps/quickstart --max-params 60000 --folds 1

Ways: `next_step` (ours); whole points of the grid in random order; Tune's AsyncHyperBandScheduler (ASHA), a
scheduler a fold, since folds differ by people, which is kinder than it is used; a V-optimal design of whole
points, chosen by their shapes alone; `suggest` in rounds. A teacher is paid for by the first
student that needs it. Every way's answer is read off its points by the same belief, and must be a student of
which a point is trained. It is right when its true error is within 0.1 BPM of that of the whole grid's
answer.

Prints, for each way, the share of worlds that are right by share of the grid's cost, teachers included, and
the cost from which on 95 % of them are.
"""

import argparse
import json
import sys
import time
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from economy_ways import SLOTS, WAYS, Replay
from economy_worlds import World, cell_of, recorded, simulated

from orchestrator.answers.economy.step import next_step
from orchestrator.answers.economy.students import students_of

NEAR_BPM = 0.1
GOAL = 0.95
OURS_UNTIL = 0.5  # share of the grid's cost at which our way's replay ends; its last answer stands
SHARES = (0.04, 0.06, 0.08, 0.10, 0.15, 0.20, 0.25, 0.30, 0.40, 0.60, 0.80, 1.0)


def play(world: World, way: str, seed: int, most: float = 1.0) -> list[tuple[float, float]]:
    """(share of the grid's cost, true error of the answer in BPM) at SHARES, of a way of WAYS."""
    replay, out = Replay(world), []
    steps = WAYS[way](replay, seed)
    for share in (s for s in SHARES if s <= most):
        before = replay.share
        while replay.share < share - 1e-9 and next(steps, "over") is None:
            pass
        if before == replay.share and out:
            out.append((share, out[-1][1]))
        else:
            out.append((replay.share, replay.off(next_step(replay.known()).belief["advised"])))
    return out


def ours(
    world: World, seed: int, most: float, target: float | None = None
) -> tuple[list[tuple[float, float]], list[dict[str, Any]]]:
    """The same of `next_step`, and what it believed at each step."""
    replay, out, said = Replay(world), list[tuple[float, float]](), list[dict[str, Any]]()
    while True:
        step = next_step(replay.known(target), seed)
        out.append((replay.share, replay.off(step.belief["advised"])))
        said.append(step.belief | {"stop": step.stop})
        if step.stop or replay.share > most:
            return out, said
        for id, until in step.train[:SLOTS]:
            replay.train(id, until)


def whole_grid(world: World) -> float:
    """True error of the answer after all of the grid, BPM."""
    replay = Replay(world)
    for p in world.points:
        replay.train(p.id, world.epochs[p.id])
    return replay.off(next_step(replay.known()).belief["advised"])


def at(shares: tuple[float, ...], path: list[tuple[float, float]]) -> list[float]:
    """What a path of (share, error) says at each share: the last answer that cost no more."""
    return [next((e for s, e in reversed(path) if s <= share + 1e-6), np.inf) for share in shares]


def judge(job: tuple[World | int, int, tuple[str, ...], float]) -> dict[str, Any]:
    """Errors above the grid's answer, BPM, by way and share; the regret our way said, and when."""
    made, seed, ways, most = job
    world = simulated(made) if isinstance(made, int) else made
    best = whole_grid(world)
    least = min(np.exp(v) for key, v in world.truth.items() if key in _admitted(world))
    out: dict[str, Any] = {"world": world.name, "grid": best - least, "ways": {}}
    start = time.process_time()
    path, said = ours(world, seed, min(most, OURS_UNTIL))
    out["step_s"] = (time.process_time() - start) / max(len(said), 1)
    shares = tuple(s for s in SHARES if s <= most)
    out["ways"]["ours"] = [e - best for e in at(shares, path)]
    out["said"] = [
        (s, b["regret_bpm"], e - least) for (s, e), b in zip(path, said, strict=True) if b["advised"]
    ]
    for way in ways:
        path = play(world, way, seed, most)
        out["ways"][way] = [e - best for e in at(shares, path)]
    return out


def _admitted(world: World) -> set[tuple[Any, ...]]:
    who = students_of(world.points, world.question)
    ids = {id for id, c in zip(who.ids, who.cell, strict=True) if who.cells.fits[c]}
    return {cell_of(p) for p in world.points if p.id in ids}


def settled(rows: np.ndarray, shares: tuple[float, ...]) -> float | None:
    """The share of the cost from which on GOAL of the worlds are right; None if that isn't reached."""
    right = (rows <= NEAR_BPM + 1e-9).mean(0) >= GOAL
    wrong = np.flatnonzero(~right)
    first = int(wrong.max()) + 1 if len(wrong) else 0
    return shares[first] if first < len(shares) else None


def table(found: list[dict[str, Any]], most: float) -> str:
    """The table of the README."""
    shares = tuple(s for s in SHARES if s <= most)
    shown = [s for s in (0.04, 0.06, 0.10, 0.15, 0.20, 0.30, 0.40, 0.60, 0.80, 1.0) if s <= most]
    lines = ["| way | " + " | ".join(f"{s:.0%}" for s in shown) + " | 95 % right from |"]
    lines.append("|---" * (len(shown) + 2) + "|")
    for way in found[0]["ways"]:
        rows = np.array([f["ways"][way] for f in found])
        right = (rows <= NEAR_BPM + 1e-9).mean(0)
        cost = settled(rows, shares)
        cells = [f"{right[shares.index(s)]:.2f}" for s in shown]
        lines.append(f"| {way} | " + " | ".join(cells) + f" | {f'{cost:.1%}' if cost else f'> {most:.0%}'} |")
    return "\n".join(lines)


def stops(found: list[dict[str, Any]], target: float) -> str:
    """When regret <= target was said with probability 0.9 first, and how often that was so."""
    first = [next(((s, e) for s, q, e in f["said"] if q <= target), None) for f in found]
    stopped = [f for f in first if f]
    if not stopped:
        return f"regret <= {target:g} BPM was never said"
    cost, off = np.array(stopped).T
    when = (
        f"after {np.median(cost):.1%} of the grid's cost (median), in {len(stopped)} of {len(found)} worlds"
    )
    held = f"was so in {(off <= target).mean():.2f} of them"
    return f"regret <= {target:g} BPM (probability 0.9) was said {when}, and {held}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--worlds", type=int, default=50, help="simulated ones")
    parser.add_argument("--first", type=int, default=1000, help="seed of the first; 0 to 99 were tuned on")
    parser.add_argument("--sweep", type=Path, help="a finished sweep's directory instead")
    parser.add_argument("--folds", type=int, help="of a world made of the sweep")
    parser.add_argument("--planned", action="store_true", help="a sweep's costs as its plan has them")
    parser.add_argument("--max-params", type=float, default=60_000)
    parser.add_argument("--seeds", type=int, default=1, help="replays of each world")
    parser.add_argument("--most", type=float, default=1.0, help="share of the grid's cost at which to end")
    parser.add_argument("--ways", default="random,ASHA,V-optimal", help="and: suggest, which is slow")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    worlds: list[World | int] = list(range(options.first, options.first + options.worlds))
    if options.sweep:
        question = {"max_params": options.max_params}
        worlds = list(recorded(options.sweep, question, options.folds, options.planned))
    ways = tuple(way for way in options.ways.split(",") if way)
    jobs = [(w, s, ways, options.most) for w in worlds for s in range(options.seeds)]
    if options.processes > 1:
        with Pool(options.processes) as pool:
            found = pool.map(judge, jobs, chunksize=1)
    else:
        found = [judge(job) for job in jobs]
    print(f"{len(found)} replays, right: within {NEAR_BPM} BPM of the whole grid's answer\n", file=sys.stderr)
    print(table(found, options.most), file=sys.stderr)
    grid = np.array([f["grid"] for f in found])
    print(f"\nthe grid's own answer is {grid.mean():.3f} BPM above the best there is", file=sys.stderr)
    for target in (0.1, 0.2, 0.4):
        print(stops(found, target), file=sys.stderr)
    print(f"a step takes {np.mean([f['step_s'] for f in found]):.3f} s", file=sys.stderr)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
