"""What finished points and earlier runs say of the plan's estimated costs."""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from orchestrator.space.plan import Plan
from orchestrator.store.store import Store
from orchestrator.words import duration

# From `kdsweep run` of the quickstart to its first training step: Ray 4.0 s, workers 2.9 s, on 2 quiet cores
# (tests/benchmarks/README.md).
START_S = 7.0


def cost_scale(plan: Plan, store: Store) -> tuple[float, str]:
    """What to multiply the plan's costs by, and where that comes from: finished points, if there are any."""
    cost = {p.id: p.cost_s for p in plan.points}
    ratios = [r["train_seconds"] / cost[r["id"]] for r in store.figures() if r["id"] in cost]
    if ratios:
        return median(ratios), f"{len(ratios)} finished points"
    return 1.0, "a rule of thumb for one CPU core"


def startup(ledger: Iterable[Mapping[str, Any]]) -> tuple[float, str]:
    """Seconds from the start of a run here to its first training step, and where that comes from."""
    took = [entry["startup_s"] for entry in ledger if entry["event"] == "end" and entry.get("startup_s")]
    if took:
        return float(median(took)), f"as in {len(took)} earlier runs"
    return START_S, "as measured on 2 cores"


def with_startup(seconds: float, startup_s: float) -> str:
    """A time that includes starting, in words; how much of it that is, where it is most.

    >>> with_startup(19.0, 17.7), with_startup(7200.0, 18.0)
    ('about 19 s, of which 18 s are start-up', 'about 2 h 00 min')
    """
    text = f"about {duration(seconds)}"
    return f"{text}, of which {duration(startup_s)} are start-up" if startup_s > seconds / 2 else text
